package configs

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image/sanitize"
	"imgtool/image/seed"
	"imgtool/image/seed/seedfile"
)

func newSeedCheckCommand(u *ui) *cobra.Command {
	var opt option.Seed
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Report all faults of a seed, a bundle or a template",
		Long: `Check a config.toml, or a bundle (.tar.zst, .tar.gz), as the device does, and print all
faults, each with its line. FILE may be - for standard input. Exit status 3 if the device would
refuse it, 6 if a bundle is damaged. With --values FILE is a template, checked for all units or
for --unit; lines refer to the template, and values are not printed.`,
		Example: `  imgtool seed check config.toml
  imgtool seed check --json config.tar.zst
  imgtool seed check --values units.csv seed.toml`,
		SuggestFor: []string{"validate", "verify", "lint", "test"},
		Args:       usage.Operands("seed"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if opt.File = args[0]; opt.Values != "" && opt.Unit == "" {
				return runSeedCheckUnits(opt, u)
			}
			return runSeedCheck(opt, u)
		},
	}
	opt.AddFlags(cmd)
	return cmd
}

func runSeedCheck(opt option.Seed, u *ui) error {
	v, err := opt.Verdict(u)
	if err != nil {
		return err
	}
	if u.JSON {
		return errors.Join(u.Print(v), v.Refused())
	}
	for _, f := range v.Faults {
		u.Printf("%s:%v\n", v.Name, f)
	}
	v.Warn(u.Warn)
	if v.OK {
		u.Infof("%s: the device takes it", v.Name)
	}
	return v.Refused()
}

func runSeedCheckUnits(opt option.Seed, u *ui) error {
	if opt.File == "-" {
		return option.ErrSeedPipe
	}
	all, err := seedfile.CheckUnits(opt.File, opt.Values)
	if err != nil {
		return err
	}
	if u.JSON {
		return errors.Join(u.Print(all), all.Refused())
	}
	all.Each(func(fault string) { u.Printf("%s\n", fault) }, u.Warn)
	if all.OK {
		u.Infof("%s: the device takes it for each of %d units", opt.File, len(all.Units))
	}
	return all.Refused()
}

func newSeedRenderCommand(u *ui) *cobra.Command {
	var opt option.Seed
	cmd := &cobra.Command{
		Use:   "render FILE",
		Short: "Show the files that a device makes of a seed",
		Long: `Show the files that a device writes below /data/config when it takes a config.toml or a
bundle, byte for byte. Files of the bundle are left out. With --values and --unit FILE is a
template; the output contains the unit's values.`,
		Example: `  imgtool seed render config.toml
  imgtool seed render --values units.csv --unit W123 seed.toml`,
		SuggestFor: []string{"show", "files", "print"},
		Args:       usage.Operands("seed"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.File = args[0]
			return runSeedRender(opt, u)
		},
	}
	opt.AddFlags(cmd)
	return cmd
}

func runSeedRender(opt option.Seed, u *ui) error {
	v, err := opt.Valid(u)
	if err != nil {
		return err
	}
	files := v.Config.Render()
	if u.JSON {
		return u.Print(files)
	}
	for i, f := range files {
		if i > 0 {
			u.Printf("\n")
		}
		if err := u.Text(fmt.Sprintf("==> /data/config/%s <==\n%s\n", sanitize.Line(f.Path), strings.TrimSuffix(f.Text, "\n"))); err != nil {
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
		Args:    usage.None(""),
		RunE:    func(cmd *cobra.Command, args []string) error { return u.WriteJSON(seed.Schema()) },
	}
}
