package main

import (
	"context"

	"github.com/spf13/cobra"

	"imgtool/image/seed/provision"
)

func newProvisionValidateCommand(u *ui) *cobra.Command {
	var opt provisionOptions
	cmd := &cobra.Command{
		Use:   "validate ADDRESS --seed FILE",
		Short: "Make a device check a configuration without applying it",
		Long: `Make a device check a config.toml or a bundle without applying it. The device does so for its
admins only, so that a device without a configuration refuses; imgtool seed check needs no
device. Exit status 4 if the device refuses it.`,
		Example: `  imgtool provision validate 172.20.30.1 --seed config.toml`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.address = args[0]
			return runProvisionValidate(cmd.Context(), opt, u)
		},
	}
	opt.addFlags(cmd, "config.toml or bundle to check")
	return cmd
}

func runProvisionValidate(ctx context.Context, opt provisionOptions, u *ui) error {
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
			u.Warnf("%s", w)
		}
		u.Infof("%s would take %s", c.URL(), opt.seed.file)
		return nil
	}))
}
