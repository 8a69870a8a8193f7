package compose

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/build/job"
	"imgtool/image/fat"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/partition"
	"imgtool/image/progress"
	"imgtool/image/seed"
	"imgtool/image/seed/seedfile"
	"imgtool/image/volume"
)

// SeedOptions are how a seed is put into an image.
type SeedOptions struct {
	Seed     *seedfile.Seed // nil: the seed is removed
	Board    *boards.Board  // nil: the board in the manifest, or a built-in board
	Reporter progress.Reporter
}

// SeedEdit is a change of the boot partition of an image or disk.
type SeedEdit struct {
	// Steps are the parts of the image that change, in the order in which a disk is
	// written so that the file system is valid after each. There are none if the
	// image is as it should be.
	Steps [][]image.Extent

	source *volume.Source
	boot   *bootPartition
	want   []byte // the seed as the device gets it; nil: none
}

// EditSeed prepares putting a seed into an image or disk with random access, or removing
// it. Nothing is written. Errors name the image, or the seed if it is invalid.
func EditSeed(s *volume.Source, opt SeedOptions) (*SeedEdit, error) {
	if s.IsBundle() {
		return nil, fault.New(fault.Input, "%s is an update bundle, which all devices of a kind install: a seed is for one of them, and is put into a disk image", s.Name)
	}
	boot, err := findBoot(s.Image, s.Manifest, opt.Board)
	if err != nil {
		return nil, s.Wrap(err)
	}
	e := &SeedEdit{source: s, boot: boot}
	if opt.Seed != nil {
		warn := func(text string) { opt.Reporter.Warnf("%s", text) }
		if e.want, err = opt.Seed.Check(boot.place.Format, warn); err != nil {
			return nil, err
		}
		if b := boot.place.SlotB; b != "" && slices.ContainsFunc(boot.table.Parts, func(p gpt.Part) bool { return p.Name == b }) {
			return nil, s.Wrap(fault.New(fault.Refused, "the device would ignore the seed: it takes a seed only on the first boot after a flash, which it recognises by there being no %s", b))
		}
	}
	old, err := boot.text()
	if err == nil && !same(old, e.want) {
		err = e.edit()
	}
	return e, s.Wrap(err)
}

// same compares two seeds, of which nil is none.
func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// ReadSeed returns the seed of an image or disk, or nil if it has none. board may be nil.
func ReadSeed(s *volume.Source, board *boards.Board) ([]byte, error) {
	if s.Image == nil {
		return nil, fmt.Errorf("%s: a seed cannot be read from a file without random access: give an .img, .img.zst or a disk", s.Name)
	}
	boot, err := findBoot(s.Image, s.Manifest, board)
	if err != nil {
		return nil, s.Wrap(err)
	}
	text, err := boot.text()
	return text, s.Wrap(err)
}

// WithSeed returns the image with a seed in it.
func WithSeed(s *volume.Source, opt SeedOptions) (*volume.Source, error) {
	if s.Image == nil {
		return nil, fault.New(fault.Usage, "%s is a pipe, and cannot be seeded while it is written: give a file, or build with --seed", s.Name)
	}
	e, err := EditSeed(s, opt)
	if err != nil {
		return nil, err
	}
	if e.Steps == nil {
		return s, nil
	}
	seeded := *s
	if seeded.Image, err = e.overlay(); err != nil {
		return nil, s.Wrap(err)
	}
	if s.Manifest != nil {
		m := *s.Manifest
		m.Entries, m.Pieces = nil, nil
		seeded.Manifest = &m
	}
	return &seeded, nil
}

// bootPartition is the partition of an image that takes a seed.
type bootPartition struct {
	place seedPlace
	part  gpt.Part
	table *partition.Table
	fs    *fat.FS
	seed  *fat.File // nil: none
}

// findBoot finds the boot partition by the name and number that the board gives it. If the
// board is not known, all built-in boards that match must agree.
func findBoot(r io.ReaderAt, m *artifact.Manifest, board *boards.Board) (*bootPartition, error) {
	table, err := partition.Read(r, 0)
	if err != nil {
		return nil, fmt.Errorf("its partition table: %w", err)
	}
	places, err := seedPlaces(m, board)
	if err != nil {
		return nil, err
	}
	var b *bootPartition
	for _, place := range places {
		for _, part := range table.Parts {
			switch {
			case part.Name != place.Partition || part.Number != place.Number:
			case b == nil:
				b = &bootPartition{place: place, part: part, table: table}
			case part.Number != b.part.Number || place.Path != b.place.Path || place.Format != b.place.Format:
				return nil, fault.New(fault.Usage, "it may be for %s or for %s, which take seeds in different places or formats: name the board with --board", b.place.board, place.board)
			}
		}
	}
	if b == nil {
		return nil, fmt.Errorf("it has no boot partition that takes a seed: %s", expected(places))
	}
	b.fs, err = fat.Open(io.NewSectionReader(r, b.part.Off, b.part.Len))
	if err == nil {
		var f fat.File
		if f, err = b.fs.Open(b.place.Path); err == nil {
			b.seed = &f
		} else if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return nil, volume.Unreadable(b.part.Name, err)
	}
	return b, nil
}

// text returns the seed, or nil without one.
func (b *bootPartition) text() ([]byte, error) {
	if b.seed == nil {
		return nil, nil
	}
	if b.seed.Size() > seed.MaxUpload {
		return nil, corrupt("%s: the seed has %d bytes; the device takes up to %d", b.part.Name, b.seed.Size(), int64(seed.MaxUpload))
	}
	text := make([]byte, b.seed.Size())
	_, err := image.ReadFull(b.seed, text, 0)
	return text, err
}

func (e *SeedEdit) edit() error {
	b := e.boot
	name := b.part.Name
	editor, err := b.fs.Edit(b.part.Len)
	if errors.As(err, new(*fat.DirtyError)) {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err != nil {
		return fault.WithHint(volume.Unreadable(name, err), "fsck.fat shows what is wrong with %s, and fsck.fat -a repairs it", name)
	}
	if e.want == nil {
		err = editor.Remove(b.seed.Path)
	} else {
		when := b.fs.Time
		if when == 0 { // it has no label
			if when, _, err = job.SourceDate(); err != nil {
				return err
			}
		}
		err = editor.Put(fat.File{Path: b.place.Path, Content: bytes.NewReader(e.want)}, when)
	}
	if errors.As(err, new(*fat.FullError)) {
		err = fmt.Errorf("%w: the seed is too large for it", err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	change, err := editor.Change()
	if err != nil {
		return volume.Unreadable(name, err)
	}
	for _, step := range change.Steps {
		var placed []image.Extent
		for _, x := range step {
			placed = append(placed, image.Extent{Name: name + "/" + x.Name, Off: b.part.Off + x.Off, Content: x.Content})
		}
		e.Steps = append(e.Steps, placed)
	}
	return nil
}

func (e *SeedEdit) overlay() (*image.Image, error) {
	return e.source.Image.Overlay(slices.Concat(e.Steps...)...)
}
