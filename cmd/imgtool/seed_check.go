package main

import (
	"errors"

	"github.com/spf13/cobra"

	"imgtool/image/seed/seedfile"
)

func newSeedCheckCommand(u *ui) *cobra.Command {
	var opt seedOptions
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Report all faults of a seed, a bundle or a template",
		Long: `Check a config.toml, or a bundle (.tar.zst, .tar.gz), as the device does, and print all
faults, each with its line. A bundle is not unpacked. FILE may be - for standard input. Exit
status 3 if the device would refuse it, 6 if a bundle is damaged.

With --values FILE is a template, and the documents of all units are checked, or of one with
--unit. Lines are those of the template; values are not printed.`,
		Example: `  imgtool seed check config.toml
  imgtool seed check --json config.tar.zst
  imgtool seed check --values units.csv seed.toml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if opt.file = args[0]; opt.values != "" && opt.unit == "" {
				return runSeedCheckUnits(opt, u)
			}
			return runSeedCheck(opt, u)
		},
	}
	opt.addFlags(cmd)
	return cmd
}

func runSeedCheck(opt seedOptions, u *ui) error {
	v, err := opt.verdict(u)
	if err != nil {
		return err
	}
	if u.json {
		return errors.Join(u.print(v), v.Refused())
	}
	for _, f := range v.Faults {
		u.printf("%s:%v\n", v.Name, f)
	}
	v.Warn(u.warn)
	if v.OK {
		u.Infof("%s: the device takes it", v.Name)
	}
	return v.Refused()
}

func runSeedCheckUnits(opt seedOptions, u *ui) error {
	if err := opt.checkFile(); err != nil {
		return err
	}
	all, err := seedfile.CheckUnits(opt.file, opt.values)
	if err != nil {
		return err
	}
	if u.json {
		return errors.Join(u.print(all), all.Refused())
	}
	all.Each(func(fault string) { u.printf("%s\n", fault) }, u.warn)
	if all.OK {
		u.Infof("%s: the device takes it for each of %d units", opt.file, len(all.Units))
	}
	return all.Refused()
}
