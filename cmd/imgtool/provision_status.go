package main

import (
	"context"

	"github.com/spf13/cobra"

	"imgtool/image/fault"
	"imgtool/image/seed"
	"imgtool/image/seed/provision"
)

func newProvisionStatusCommand(u *ui) *cobra.Command {
	var opt provisionOptions
	cmd := &cobra.Command{
		Use:   "status ADDRESS",
		Short: "Show whether a device is up and has a configuration",
		Long: `Show whether a device is up and has a configuration, and with --seed whether it is that
configuration, for which the device requires the signature of an admin. Exit status 0: it is up
and has the configuration; 8: the configuration differs; 9: the device does not answer.`,
		Example: `  imgtool provision status 172.20.30.1 --wait 5m
  imgtool provision status 172.20.30.1 --seed config.toml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.address = args[0]
			return runProvisionStatus(cmd.Context(), opt, u)
		},
	}
	opt.addFlags(cmd, "config.toml or bundle that it should have")
	return cmd
}

func runProvisionStatus(ctx context.Context, opt provisionOptions, u *ui) error {
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
	words := "up, and has a configuration"
	switch {
	case s.Fresh:
		words = "up, and waits for its first configuration"
	case s.Same:
		words = "up, and has the configuration of " + opt.seed.file
	case want != nil:
		words = "up, and has another configuration than " + opt.seed.file
	}
	if want == nil && c.Device != "" {
		words += " (device " + c.Device + ")"
	}
	if u.json {
		result := map[string]any{"address": c.URL(), "state": map[bool]string{true: "fresh", false: "provisioned"}[s.Fresh]}
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
