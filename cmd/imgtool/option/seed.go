package option

import (
	"context"

	"github.com/spf13/cobra"

	"imgtool/boards"
	"imgtool/image/compose"
	"imgtool/image/fault"
	"imgtool/image/seed/seedfile"
	"imgtool/image/volume"
)

// Seed selects a seed: a file, or a template and the row of a unit in a table of values.
type Seed struct {
	File, Values, Unit string
}

func (o *Seed) AddFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.Values, "values", "", "CSV `FILE` with the values of each unit; the seed is a template with @{COLUMN}")
	cmd.Flags().StringVar(&o.Unit, "unit", "", "`NAME` of the unit in the first column of --values")
}

func (o Seed) Given() bool { return o != Seed{} }

// Read reads a seed for an image or a stick. It does not check it.
func (o Seed) Read() (*seedfile.Seed, error) {
	switch {
	case o.File == "":
		return nil, fault.New(fault.Usage, "--values and --unit fill in a template: pass it with --seed")
	case o.Unit != "" && o.Values == "":
		return nil, fault.New(fault.Usage, "--unit is a row of a table: pass the table with --values")
	case o.Values != "" && o.Unit == "":
		return nil, fault.New(fault.Usage, "name a unit of %s: --unit NAME", o.Values)
	case o.File == "-":
		return nil, ErrSeedPipe
	case o.Values != "":
		return seedfile.ReadUnit(o.File, o.Values, o.Unit)
	}
	return seedfile.Read(o.File)
}

var ErrSeedPipe = fault.New(fault.Usage, "the seed must be a file, not a pipe")

// Verdict reads and checks a seed, which may also be a bundle or come from standard input.
func (o Seed) Verdict(u *ui) (*seedfile.Verdict, error) {
	if o.Values == "" && o.Unit == "" {
		return seedfile.ReadVerdict(o.File, u.In)
	}
	s, err := o.Read()
	if err != nil {
		return nil, err
	}
	return s.Verdict(), nil
}

// Valid is Verdict for a seed that must have no faults. It prints the warnings.
func (o Seed) Valid(u *ui) (*seedfile.Verdict, error) {
	v, err := o.Verdict(u)
	if err != nil {
		return nil, err
	}
	if v.OK {
		v.Warn(u.Warn)
	}
	return v, v.Faulty()
}

// In returns an image with the seed in it, or the image itself if no seed is given. board may be
// nil.
func (o Seed) In(ctx context.Context, src *volume.Source, board *boards.Board, u *ui) (*volume.Source, error) {
	if !o.Given() {
		return src, nil
	}
	if err := src.SeekFile(ctx); err != nil {
		return nil, err
	}
	seed, err := o.Read()
	if err != nil {
		return nil, err
	}
	if src, err = compose.WithSeed(src, compose.SeedOptions{Seed: seed, Board: board, Reporter: u}); err != nil {
		return nil, err
	}
	unit := *src
	unit.Unit = o.Unit
	return &unit, nil
}
