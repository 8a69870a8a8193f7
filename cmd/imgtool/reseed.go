package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"imgtool/boards"
	"imgtool/flash/deploy"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/seed/seedfile"
	"imgtool/image/volume"
)

// addBoardFlag adds --board to a command that looks for the seed of an image or a disk.
func addBoardFlag(cmd *cobra.Command, board *string) {
	cmd.Flags().StringVar(board, "board", "", "a board's name, or the path of its definition, where there is no manifest that has it")
}

// askedBoard is the board of a flag, or nil.
func askedBoard(name string) (*boards.Board, error) {
	if name == "" {
		return nil, nil
	}
	return boards.Load(name)
}

// reseed puts a seed into an image file or onto a disk, or takes it away: nil.
func reseed(ctx context.Context, path string, want *seedfile.Seed, board *boards.Board, u *ui) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return deploy.NoDisk(path)
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return reseedDisk(ctx, path, want, board, u)
	}
	// The manifest is beside the file itself, not beside a link to it.
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return err
	}
	if dev, err := deploy.Find(path); err != nil {
		return err
	} else if err := dev.Check(disk.Need{}); err != nil {
		return err
	}
	// The changed image takes its place.
	if err := hostfile.CheckOutput(path); err != nil {
		return err
	}
	pic, err := volume.Open(path, u.opening())
	if err != nil {
		return err
	}
	defer pic.Close()
	if pic.Opened() == nil {
		return fmt.Errorf("%s: a seed cannot be put into a file that is read from front to back only: give an .img or .img.zst", path)
	}
	e, err := prepareSeed(pic.Image, pic.Manifest, want, board, u)
	if err != nil {
		return named(path, err)
	}
	if e.steps == nil {
		u.Infof("%s: nothing to do: it is so already", path)
		return nil
	}
	if err := e.save(ctx, path, pic); err != nil {
		return err
	}
	if _, err := os.Stat(artifact.BmapPath(path)); err == nil && pic.Manifest == nil {
		u.Warnf("%s is of the image before: bmaptool would refuse what changed", artifact.BmapPath(path))
	}
	return e.checkLanded(path, board, u)
}

// save replaces an image file by one with the change.
func (e *seedEdit) save(ctx context.Context, path string, pic *volume.Source) error {
	if pic.Manifest == nil && pic.Format == artifact.Raw {
		return artifact.Patch(ctx, path, pic.File, slices.Concat(e.steps...))
	}
	err := artifact.ErrStream
	if pic.Manifest != nil {
		volume, fault := e.volume(pic.Image, pic.Manifest)
		if fault != nil {
			return fmt.Errorf("%s: %w", path, fault)
		}
		content, fault := image.New(pic.Image.Size(), image.Extent{Name: e.part.Name, Off: e.part.Off, Content: volume})
		if fault != nil {
			return fault
		}
		err = artifact.Replace(ctx, path, pic.File, pic.Opened(), artifact.Replacement{Region: image.Span{Off: e.part.Off, Len: e.part.Len}, Content: content})
	}
	if errors.Is(err, artifact.ErrStream) {
		return fmt.Errorf("%s: a seed can be put into an .img, and an .img.zst that imgtool made", path)
	}
	return err
}

// badSeedError is a seed the device would refuse; it names its file itself.
type badSeedError struct{ error }

func (e *badSeedError) Unwrap() error { return e.error }

// named puts a name before an error that has none.
func named(name string, err error) error {
	if errors.As(err, new(*badSeedError)) {
		return err
	}
	// It names the file, and the byte.
	if unread, ok := errors.AsType[*hostfile.ReadError](err); ok {
		return fault.WithHint(unread, "the medium that the image is on cannot be read there: copy the image to another one, or make it anew")
	}
	return fmt.Errorf("%s: %w", name, err)
}

// seedOf is the seed of an image file or a disk, read anew; nil if there is none.
func seedOf(path string, board *boards.Board) ([]byte, error) {
	pic, err := volume.Open(path, volume.Options{})
	if err != nil {
		return nil, err
	}
	defer pic.Close()
	if pic.Image == nil {
		return nil, fmt.Errorf("%s: a seed cannot be read from a file that is read from front to back only: give an .img, .img.zst or a disk", path)
	}
	v, err := findBootVolume(pic.Image, pic.Manifest, board)
	if err == nil {
		var text []byte
		if text, err = v.text(); err == nil {
			return text, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", path, err)
}

func (e *seedEdit) checkLanded(path string, board *boards.Board, u *ui) error {
	got, err := seedOf(path, board)
	switch {
	case err != nil:
		return err
	case e.want == nil && got == nil:
		u.Infof("%s: the seed is taken out", path)
		return nil
	case e.want != nil && got != nil && bytes.Equal(got, e.want):
		u.Infof("%s: the seed of %d bytes is in it, and read back", path, len(got))
		return nil
	}
	return &image.MismatchError{Name: path + ": seed", Want: "another", Got: fmt.Sprintf("%d bytes", len(got))}
}

// reseedDisk changes the boot partition of a disk that is not in use.
func reseedDisk(ctx context.Context, path string, want *seedfile.Seed, board *boards.Board, u *ui) error {
	dev, err := deploy.Find(path)
	if err != nil {
		return err
	}
	if err := dev.Check(disk.Need{SectorSize: 512}); err != nil {
		return err
	}
	t, err := disk.Open(dev)
	if err != nil {
		return err
	}
	defer t.Close()
	e, err := prepareSeed(t, nil, want, board, u)
	if err != nil {
		return named(path, err)
	}
	if e.steps == nil {
		u.Infof("%s: nothing to do: it is so already", path)
		return nil
	}
	for _, step := range e.steps {
		if err := writeStep(ctx, t, step); err != nil {
			return fault.WithHint(fmt.Errorf("%s: %w", path, err), "%s may be half-written: run it again, or repair it with fsck.fat -a", e.part.Name)
		}
	}
	if err := t.Reread(); err != nil {
		u.Warnf("%s", err.Error())
	}
	if err := t.Named(); err != nil {
		return err
	}
	if err := t.Close(); err != nil {
		return err
	}
	return e.checkLanded(path, board, u)
}

// writeStep writes patches to a disk, in whole blocks, flushes, and reads them back.
func writeStep(ctx context.Context, t *disk.Target, patches []image.Extent) error {
	m, err := image.New(t.Size(), patches...)
	if err != nil {
		return err
	}
	var blocks []image.Extent
	for s := range m.Spans() {
		blocks = append(blocks, image.Extent{Name: "disk", Off: s.Off, Content: io.NewSectionReader(t, s.Off, s.Len)})
	}
	there, err := image.New(t.Size(), blocks...)
	if err != nil {
		return err
	}
	over, err := there.Overlay(patches...)
	if err != nil {
		return err
	}
	written, err := image.Write(ctx, t, over.Chunks(image.PieceSize), nil)
	if err == nil {
		err = t.Sync()
	}
	if err == nil {
		err = image.Verify(ctx, t, written, nil)
	}
	return err
}

// withSeed is the image with a seed in it, composed as it is read.
func withSeed(p *volume.Source, want *seedfile.Seed, board *boards.Board, u *ui) (*volume.Source, error) {
	if p.Image == nil {
		return nil, fault.New(fault.Usage, "%s is a pipe, and cannot be seeded while it is written: give a file, or build with --seed", p.Name)
	}
	e, err := prepareSeed(p.Image, p.Manifest, want, board, u)
	if err != nil {
		return nil, named(p.Name, err)
	}
	if e.steps == nil {
		return p, nil
	}
	seeded := *p
	if seeded.Image, err = e.overlay(p.Image); err != nil {
		return nil, err
	}
	if p.Manifest != nil {
		m := *p.Manifest
		m.Entries, m.Pieces = nil, nil
		seeded.Manifest = &m
	}
	return &seeded, nil
}

func newSeedPutCommand(u *ui) *cobra.Command {
	var opt seedOptions
	var board string
	cmd := &cobra.Command{
		Use:   "put IMAGE|DISK SEED",
		Short: "Put a seed into an image or onto a flashed disk",
		Long: `Put a seed into the boot partition of an image (.img or .img.zst) or of a disk that was
flashed and has not booted yet. The file system is changed in place: all other files
stay as they are, to the byte. The manifest is kept up; taking the seed out of an image
that imgtool built gives back what was there.

An image that others made, such as AtomixOS's own, has no manifest: it may be an .img, and
the board is told by the name and number of the boot partition, or by --board.`,
		Example: `  imgtool seed put x.img.zst config.toml
  imgtool seed put --board rock64 atomixos-25.11.img config.toml
  imgtool seed put /dev/sdX config.toml
  imgtool seed put --values units.csv --unit W123 /dev/sdX seed.toml`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.file = args[1]
			want, err := opt.read()
			if err != nil {
				return err
			}
			asked, err := askedBoard(board)
			if err != nil {
				return err
			}
			return reseed(cmd.Context(), args[0], want, asked, u)
		},
	}
	opt.addFlags(cmd)
	addBoardFlag(cmd, &board)
	return cmd
}

func newSeedGetCommand(u *ui) *cobra.Command {
	var board string
	cmd := &cobra.Command{
		Use:     "get IMAGE|DISK",
		Short:   "Print the seed of an image or a disk",
		Example: "  imgtool seed get x.img.zst > config.toml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asked, err := askedBoard(board)
			if err != nil {
				return err
			}
			seed, err := seedOf(args[0], asked)
			if err != nil {
				return err
			}
			if seed == nil {
				return fmt.Errorf("%s: there is no seed in it", args[0])
			}
			return u.write(seed)
		},
	}
	addBoardFlag(cmd, &board)
	return cmd
}

func newSeedRmCommand(u *ui) *cobra.Command {
	var board string
	cmd := &cobra.Command{
		Use:     "rm IMAGE|DISK",
		Short:   "Take the seed out of an image or a flashed disk",
		Example: "  imgtool seed rm x.img.zst",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asked, err := askedBoard(board)
			if err != nil {
				return err
			}
			return reseed(cmd.Context(), args[0], nil, asked, u)
		},
	}
	addBoardFlag(cmd, &board)
	return cmd
}

// seeded reads a seed and puts it into an image. board is the one that was given, or
// nil.
func seeded(pic *volume.Source, opt seedOptions, board *boards.Board, u *ui) (*volume.Source, error) {
	want, err := opt.read()
	if err != nil {
		return nil, err
	}
	p, err := withSeed(pic, want, board, u)
	if err != nil {
		return nil, err
	}
	units := *p
	units.Unit = opt.unit
	return &units, nil
}
