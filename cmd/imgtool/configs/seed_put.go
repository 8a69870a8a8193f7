package configs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/flash/deploy"
	"imgtool/flash/disk"
	"imgtool/image/compose"
	"imgtool/image/volume"
)

type reseedOptions struct {
	target string // image or disk
	seed   option.Seed
	board  string
	stall  time.Duration
}

func newSeedPutCommand(u *ui) *cobra.Command {
	var opt reseedOptions
	cmd := &cobra.Command{
		Use:   "put IMAGE|DISK SEED",
		Short: "Put a seed into an image or onto a flashed disk",
		Long: `Put a seed into the boot partition of an image (.img or .img.zst), or of a disk that was
flashed and has not booted yet. The file system is changed in place: all other files keep
their bytes. The manifest is updated; removing the seed from an image that imgtool built
restores the former bytes.

The manifest records where the board takes its seed. Images that others made, such as
AtomixOS's own, have no manifest: an .img is accepted, and the board is recognised by the
name and number of the boot partition, or named with --board.`,
		Example: `  imgtool seed put x.img.zst config.toml
  imgtool seed put --board rock64 atomixos-25.11.img config.toml
  imgtool seed put /dev/sdX config.toml
  imgtool seed put --values units.csv --unit W123 /dev/sdX seed.toml`,
		SuggestFor: []string{"add", "set", "insert", "inject", "write"},
		Args:       usage.Operands("image or disk", "seed"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.target, opt.seed.File = args[0], args[1]
			return runReseed(cmd.Context(), opt, u)
		},
	}
	opt.seed.AddFlags(cmd)
	option.AddBoard(cmd, &opt.board)
	option.AddStall(cmd, &opt.stall)
	return cmd
}

func newSeedRmCommand(u *ui) *cobra.Command {
	var opt reseedOptions
	cmd := &cobra.Command{
		Use:        "rm IMAGE|DISK",
		Short:      "Remove the seed from an image or a flashed disk",
		Example:    "  imgtool seed rm x.img.zst",
		SuggestFor: []string{"remove", "delete", "del", "unset"},
		Args:       usage.Operands("image or disk"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.target = args[0]
			return runReseed(cmd.Context(), opt, u)
		},
	}
	option.AddBoard(cmd, &opt.board)
	option.AddStall(cmd, &opt.stall)
	return cmd
}

// reseeded is the result of putting a seed with --json, or of removing it.
type reseeded struct {
	Image string `json:"image,omitempty"`
	Disk  string `json:"disk,omitempty"`
	Seed  string `json:"seed,omitempty"` // absent: it was removed
	Unit  string `json:"unit,omitempty"`
}

// runReseed puts a seed into an image file or onto a disk, or removes it if none is given.
func runReseed(ctx context.Context, opt reseedOptions, u *ui) error {
	if err := option.CheckStall(opt.stall); err != nil {
		return err
	}
	if err := volume.CheckLocal(opt.target); err != nil {
		return err
	}
	err := deploy.Permit(ctx, []string{opt.target}, true)
	if err != nil {
		return err
	}
	seed := compose.SeedOptions{Reporter: u}
	if opt.seed.Given() {
		if seed.Seed, err = opt.seed.Read(); err != nil {
			return err
		}
	}
	if seed.Board, err = option.Board(opt.board); err != nil {
		return err
	}
	info, err := os.Stat(opt.target)
	if errors.Is(err, fs.ErrNotExist) {
		return deploy.NoDisk(opt.target)
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		if err := deploy.SaveSeed(ctx, opt.target, seed, option.Deploying(u, true, opt.stall)); err != nil || !u.JSON {
			return err
		}
		return u.Print(reseeded{Disk: opt.target, Seed: opt.seed.File, Unit: opt.seed.Unit})
	}
	// The file may be in use as a disk.
	if d, err := deploy.Find(opt.target); err != nil {
		return err
	} else if err := d.Check(disk.Need{}); err != nil {
		return err
	}
	if err := compose.SaveSeed(ctx, opt.target, seed); err != nil || !u.JSON {
		return err
	}
	return u.Print(reseeded{Image: opt.target, Seed: opt.seed.File, Unit: opt.seed.Unit})
}

func newSeedGetCommand(u *ui) *cobra.Command {
	var board string
	cmd := &cobra.Command{
		Use:        "get IMAGE|DISK",
		Short:      "Print the seed of an image or a disk",
		Example:    "  imgtool seed get x.img.zst > config.toml",
		SuggestFor: []string{"cat", "export", "extract", "read"},
		Args:       usage.Operands("image or disk"),
		RunE:       func(cmd *cobra.Command, args []string) error { return runSeedGet(args[0], board, u) },
	}
	option.AddBoard(cmd, &board)
	return cmd
}

func runSeedGet(path, board string, u *ui) error {
	asked, err := option.Board(board)
	if err != nil {
		return err
	}
	s, err := volume.Open(path, volume.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	seed, err := compose.ReadSeed(s, asked)
	if err == nil && seed == nil {
		err = fmt.Errorf("%s: it has no seed", path)
	}
	if err != nil {
		return err
	}
	return u.Write(seed)
}
