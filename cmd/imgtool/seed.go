package main

import (
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/usage"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/seed/seedfile"
)

func newSeedCommand(u *ui) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "seed",
		Short: "Check and make seed configurations of AtomixOS, and put them into images",
		Long: `Check and make seed configurations of AtomixOS, and put them into images: a config.toml,
alone or in a bundle with the files that its containers use. A device reads the seed it was
flashed with only once.`,
		Example: `  imgtool seed new > config.toml
  imgtool seed check config.toml`,
		SuggestFor: []string{"config", "configuration", "configure"},
		Args:       usage.None(""),
	}
	cmd.AddCommand(newSeedCheckCommand(u), newSeedRenderCommand(u), newSeedSchemaCommand(u), newSeedNewCommand(u), newSeedBundleCommand(u),
		newSeedPutCommand(u), newSeedGetCommand(u), newSeedRmCommand(u), newSeedStickCommand(u))
	return cmd
}

// seedOptions select a seed: a file, or a template and the row of a unit in a table of values.
type seedOptions struct {
	file, values, unit string
}

func (o *seedOptions) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.values, "values", "", "CSV `FILE` with the values of each unit; the seed is a template with @{COLUMN}")
	cmd.Flags().StringVar(&o.unit, "unit", "", "`NAME` of the unit in the first column of --values")
}

func (o seedOptions) given() bool { return o != seedOptions{} }

// read reads a seed for an image or a stick. It does not check it.
func (o seedOptions) read() (*seedfile.Seed, error) {
	switch {
	case o.file == "":
		return nil, fault.New(fault.Usage, "--values and --unit fill in a template: pass it with --seed")
	case o.unit != "" && o.values == "":
		return nil, fault.New(fault.Usage, "--unit is a row of a table: pass the table with --values")
	case o.values != "" && o.unit == "":
		return nil, fault.New(fault.Usage, "name a unit of %s: --unit NAME", o.values)
	case o.file == "-":
		return nil, errSeedPipe
	case o.values != "":
		return seedfile.ReadUnit(o.file, o.values, o.unit)
	}
	return seedfile.Read(o.file)
}

var errSeedPipe = fault.New(fault.Usage, "the seed must be a file, not a pipe")

// verdict reads and checks a seed, which may also be a bundle or come from standard input.
func (o seedOptions) verdict(u *ui) (*seedfile.Verdict, error) {
	if o.values == "" && o.unit == "" {
		return seedfile.ReadVerdict(o.file, u.In)
	}
	s, err := o.read()
	if err != nil {
		return nil, err
	}
	return s.Verdict(), nil
}

// valid is verdict for a seed that must have no faults. It prints the warnings.
func (o seedOptions) valid(u *ui) (*seedfile.Verdict, error) {
	v, err := o.verdict(u)
	if err != nil {
		return nil, err
	}
	if v.OK {
		v.Warn(u.Warn)
	}
	return v, v.Faulty()
}

// writeNew writes a file with mode 0600 completely or not at all. Only regular files are replaced.
func writeNew(path string, data []byte) error {
	if err := hostfile.CheckOutput(path); err != nil {
		return err
	}
	path, err := hostfile.Target(path)
	if err != nil {
		return err
	}
	return renameio.WriteFile(path, data, 0o600, renameio.WithTempDir(filepath.Dir(path)))
}
