package main

import (
	"context"

	"github.com/spf13/cobra"

	"imgtool/image"
	"imgtool/image/hostfile"
	"imgtool/image/seed/provision"
)

type provisionExportOptions struct {
	provisionOptions
	output string
}

func newProvisionExportCommand(u *ui) *cobra.Command {
	var opt provisionExportOptions
	cmd := &cobra.Command{
		Use:     "export ADDRESS",
		Short:   "Print the configuration of a device",
		Long:    `Print the config.toml of a device. The device requires the signature of an admin. Files of a bundle are not included.`,
		Example: `  imgtool provision export 172.20.30.1 -o config.toml`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.address = args[0]
			return runProvisionExport(cmd.Context(), opt, u)
		},
	}
	opt.addFlags(cmd, "")
	cmd.Flags().StringVarP(&opt.output, "output", "o", "", "file to write (default: standard output)")
	return cmd
}

func runProvisionExport(ctx context.Context, opt provisionExportOptions, u *ui) error {
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
