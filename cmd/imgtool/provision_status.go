package main

import (
	"context"

	"github.com/spf13/cobra"

	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/seed"
	"imgtool/image/seed/provision"
)

func newProvisionStatusCommand(u *ui) *cobra.Command {
	opt := &provisionOptions{}
	return opt.command(&cobra.Command{
		Use:   "status ADDRESS",
		Short: "Show whether a device is up and has a configuration",
		Long: `Show whether a device is up and has a configuration, and with --seed whether it is that
configuration, for which the device requires the signature of an admin. Exit status 0: it is up
and has the configuration; 8: the configuration differs; 9: the device does not answer.`,
		Example: `  imgtool provision status 172.20.30.1 --wait 5m
  imgtool provision status 172.20.30.1 --seed config.toml`,
	}, 1, "config.toml or bundle that it should have", func(ctx context.Context) error { return runProvisionStatus(ctx, opt, u) })
}

func runProvisionStatus(ctx context.Context, opt *provisionOptions, u *ui) error {
	var p *provision.Payload
	var want *seed.Config
	connect := opt.connect
	if opt.seed.given() {
		var err error
		if p, err = opt.payload(u); err != nil {
			return err
		}
		want, connect = p.Config, opt.connectConfidential
	}
	c, err := connect(ctx, p, u)
	if err != nil {
		return err
	}
	s, err := c.Status(ctx, want, opt.keys(ctx, want, u))
	if err != nil {
		return opt.hint(err)
	}
	state, words := "provisioned", "up, and has a configuration"
	switch {
	case s.Fresh:
		state, words = "fresh", "up, and waits for its first configuration"
	case s.Same:
		words = "up, and has the configuration of " + opt.seed.file
	case want != nil:
		words = "up, and has another configuration than " + opt.seed.file
	}
	if want == nil && c.Device != "" {
		words += " (device " + c.Device + ")"
	}
	if u.json {
		result := map[string]any{"address": c.URL(), "state": state}
		if c.Device != "" {
			result["device"] = c.Device
		}
		if want != nil {
			result["same"] = s.Same
		}
		err = u.print(result)
	} else {
		err = u.printf("%s: %s\n", c.URL(), words)
	}
	if err == nil && want != nil && !s.Same {
		err = fault.New(fault.Mismatch, "%s: %s", c.URL(), words)
	}
	return err
}

func newProvisionValidateCommand(u *ui) *cobra.Command {
	opt := &provisionOptions{}
	return opt.command(&cobra.Command{
		Use:   "validate ADDRESS --seed FILE",
		Short: "Make a device check a configuration without applying it",
		Long: `Make a device check a config.toml or a bundle without applying it. The device does so for its
admins only, so that a device without a configuration refuses; imgtool seed check needs no
device. Exit status 4 if the device refuses it.`,
		Example: `  imgtool provision validate 172.20.30.1 --seed config.toml`,
	}, 1, "config.toml or bundle to check", func(ctx context.Context) error { return runProvisionValidate(ctx, opt, u) })
}

func runProvisionValidate(ctx context.Context, opt *provisionOptions, u *ui) error {
	p, err := opt.payload(u)
	if err != nil {
		return err
	}
	c, err := opt.connectConfidential(ctx, p, u)
	if err != nil {
		return err
	}
	return opt.hint(c.WithKey(ctx, opt.keys(ctx, p.Config, u), func(key *provision.Key) error {
		warnings, err := c.Validate(ctx, p.Name, p.Body, key)
		if err != nil {
			return err
		}
		if u.json {
			return u.print(map[string]any{"ok": true, "address": c.URL(), "warnings": append([]string{}, warnings...)})
		}
		for _, w := range warnings {
			u.warn(w)
		}
		u.Infof("%s would take %s", c.URL(), opt.seed.file)
		return nil
	}))
}

func newProvisionExportCommand(u *ui) *cobra.Command {
	opt := &provisionOptions{}
	cmd := &cobra.Command{
		Use:     "export ADDRESS",
		Short:   "Print the configuration of a device",
		Long:    `Print the config.toml of a device. The device requires the signature of an admin. Files of a bundle are not included.`,
		Example: `  imgtool provision export 172.20.30.1 -o config.toml`,
	}
	cmd.Flags().StringVarP(&opt.output, "output", "o", "", "file to write (default: standard output)")
	return opt.command(cmd, 1, "", func(ctx context.Context) error { return runProvisionExport(ctx, opt, u) })
}

func runProvisionExport(ctx context.Context, opt *provisionOptions, u *ui) error {
	toFile := opt.output != "" && opt.output != "-"
	if toFile {
		if err := hostfile.CheckOutput(opt.output); err != nil {
			return err
		}
	}
	c, err := opt.connectConfidential(ctx, nil, u)
	if err != nil {
		return err
	}
	return opt.hint(c.WithKey(ctx, opt.keys(ctx, nil, u), func(key *provision.Key) error {
		config, err := c.Export(ctx, key)
		if err != nil {
			return err
		}
		if !toFile {
			return u.write(config)
		}
		if err := writeNew(opt.output, config, 0o600); err != nil {
			return err
		}
		u.Infof("%s: %s", opt.output, image.FormatSize(int64(len(config))))
		return nil
	}))
}
