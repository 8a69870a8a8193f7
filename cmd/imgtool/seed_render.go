package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/image/sanitize"
	"imgtool/image/seed"
)

func newSeedRenderCommand(u *ui) *cobra.Command {
	var opt seedOptions
	cmd := &cobra.Command{
		Use:   "render FILE",
		Short: "Show the files that a device makes of a seed",
		Long: `Show the files that a device writes below /data/config when it takes a config.toml or a
bundle, byte for byte. Files of the bundle are left out.

With --values and --unit FILE is a template; the output contains the unit's values.`,
		Example: `  imgtool seed render config.toml
  imgtool seed render --values units.csv --unit W123 seed.toml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.file = args[0]
			return runSeedRender(opt, u)
		},
	}
	opt.addFlags(cmd)
	return cmd
}

func runSeedRender(opt seedOptions, u *ui) error {
	v, err := opt.verdict(u)
	if err != nil {
		return err
	}
	if !v.OK {
		return v.Faulty()
	}
	v.Warn(u.warn)
	files := v.Config.Render()
	if u.json {
		return u.print(files)
	}
	for i, f := range files {
		if i > 0 {
			u.printf("\n")
		}
		text := f.Text
		if !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		if err := u.text(fmt.Sprintf("==> /data/config/%s <==\n%s", sanitize.Line(f.Path), text)); err != nil {
			return err
		}
	}
	return nil
}

func newSeedSchemaCommand(u *ui) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print a JSON Schema of config.toml, for editors",
		Long: `Print a JSON Schema (draft 2020-12) of config.toml, for editors that complete and check TOML
with a schema. It has fewer rules than imgtool seed check.`,
		Example: `  imgtool seed schema > atomixos.schema.json`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, args []string) error { return u.write(seed.Schema()) },
	}
}
