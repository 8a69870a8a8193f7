package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"imgtool/boards"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/build"
	"imgtool/image/fat"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/partition"
	"imgtool/image/seed"
	"imgtool/image/seed/seedfile"
	"imgtool/image/volume"
)

// bootVolume is the boot partition that takes a seed, of an image or a disk.
type bootVolume struct {
	board *boards.Board
	part  gpt.Part
	table *partition.Table
	fat   *fat.FS
	seed  *fat.File // nil: there is none
}

// seedBoards are the boards whose boot partition is looked for: the one that was asked
// for, the one the manifest names, or all that come with imgtool.
func seedBoards(m *artifact.Manifest, asked *boards.Board) ([]*boards.Board, error) {
	if asked != nil {
		switch {
		case m != nil && m.Board != asked.Name:
			return nil, fault.New(fault.WrongBoard, "it is an image for %s, and the board is %s", m.Board, asked.Name)
		case asked.Seed.Path == "":
			return nil, asked.NoSeed()
		}
		return []*boards.Board{asked}, nil
	}
	var found []*boards.Board
	for _, name := range boards.Names() {
		b, err := boards.Get(name)
		if err != nil {
			return nil, err
		}
		if b.Seed.Path != "" && (m == nil || m.Board == b.Name) {
			found = append(found, b)
		}
	}
	if len(found) == 0 {
		if b, err := boards.Get(m.Board); err == nil {
			return nil, b.NoSeed()
		}
		return nil, fmt.Errorf("it is an image for %s, and no board of that name that comes with imgtool takes a seed: if the board's definition is a file of yours, pass it with --board", m.Board)
	}
	return found, nil
}

// bootParts are the boot partitions of a slot that a board may have.
func bootParts(b *boards.Board, slot string) (parts []gpt.Part) {
	for _, medium := range b.Media {
		for _, p := range medium.Layout.Partitions {
			if p.Content == "boot" && p.Slot == slot {
				parts = append(parts, gpt.Part{Number: p.Number, Name: p.Name})
			}
		}
	}
	return parts
}

// findBootVolume finds the boot partition that takes a seed by its name and number. An
// image without a manifest does not say for which board it is: then all boards that
// would take it must mean the same place.
func findBootVolume(r io.ReaderAt, m *artifact.Manifest, asked *boards.Board) (*bootVolume, error) {
	table, err := partition.Read(r, 0)
	if err != nil {
		return nil, fmt.Errorf("its partition table: %w", err)
	}
	all, err := seedBoards(m, asked)
	if err != nil {
		return nil, err
	}
	var found []*bootVolume
	var wanted []string
	for _, b := range all {
		for _, p := range bootParts(b, "a") {
			wanted = append(wanted, fmt.Sprintf("%s has it as partition %d with the name %s", b.Name, p.Number, p.Name))
			for _, part := range table.Parts {
				if part.Name == p.Name && part.Number == p.Number {
					found = append(found, &bootVolume{board: b, part: part, table: table})
				}
			}
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("it has no boot partition that takes a seed: %s", strings.Join(wanted, "; "))
	}
	v := found[0]
	for _, other := range found[1:] {
		if other.part.Number != v.part.Number || other.board.Seed != v.board.Seed {
			return nil, fault.New(fault.Usage, "it may be for %s or for %s, which take their seeds in different places or forms: say which with --board", v.board.Name, other.board.Name)
		}
	}
	return v, v.open(r)
}

func (v *bootVolume) open(r io.ReaderAt) (err error) {
	if v.fat, err = fat.Open(io.NewSectionReader(r, v.part.Off, v.part.Len)); err != nil {
		return volume.Unreadable(v.part.Name, err)
	}
	f, err := v.fat.Open(v.board.Seed.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return volume.Unreadable(v.part.Name, err)
	default:
		v.seed = &f
	}
	return nil
}

// slotB is the name of a second boot partition, if there is one.
func (v *bootVolume) slotB() string {
	for _, p := range bootParts(v.board, "b") {
		for _, part := range v.table.Parts {
			if part.Name == p.Name {
				return part.Name
			}
		}
	}
	return ""
}

// text is the seed that is there, or nil.
func (v *bootVolume) text() ([]byte, error) {
	if v.seed == nil {
		return nil, nil
	}
	if v.seed.Size() > seed.MaxUpload {
		return nil, fault.New(fault.Corrupt, "%s: the seed has %d bytes; the device takes up to %d", v.part.Name, v.seed.Size(), int64(seed.MaxUpload))
	}
	b := make([]byte, v.seed.Size())
	if _, err := v.seed.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}

// seedEdit is what becomes of a boot partition.
type seedEdit struct {
	*bootVolume
	want  []byte           // the seed as the device gets it; nil: none
	steps [][]image.Extent // what changes, at its place in the image; nil: nothing does
}

// prepareSeed looks whether a seed can be put into an image or a disk, or with nil taken
// out of it.
func prepareSeed(r io.ReaderAt, m *artifact.Manifest, want *seedfile.Seed, asked *boards.Board, u *ui) (*seedEdit, error) {
	v, err := findBootVolume(r, m, asked)
	if err != nil {
		return nil, err
	}
	e := &seedEdit{bootVolume: v}
	if want != nil {
		if e.want, err = want.Check(v.board.Seed.Format, u.warn); err != nil {
			return nil, &badSeedError{err}
		}
		if b := v.slotB(); b != "" {
			return nil, &disk.RefusedError{Disk: "the seed", Reason: fmt.Sprintf("the device would ignore it: it takes a seed only on the first boot after a flash, and knows that boot by there being no %s", b)}
		}
	}
	old, err := v.text()
	if err != nil {
		return nil, err
	}
	if (old == nil) == (want == nil) && bytes.Equal(old, e.want) {
		return e, nil
	}
	return e, e.edit(want != nil)
}

// edit changes the file system.
func (e *seedEdit) edit(put bool) error {
	name := e.part.Name
	editor, err := e.fat.Edit(e.part.Len)
	if errors.As(err, new(*fat.DirtyError)) {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err != nil {
		return fault.WithHint(volume.Unreadable(name, err), "fsck.fat shows what is wrong with %s, and fsck.fat -a repairs it", name)
	}
	if put {
		when := e.fat.Time
		if when == 0 { // it has no label
			if when, _, err = build.SourceDate(); err != nil {
				return err
			}
		}
		err = editor.Put(fat.File{Path: e.board.Seed.Path, Content: bytes.NewReader(e.want)}, when)
	} else {
		err = editor.Remove(e.seed.Path)
	}
	if errors.As(err, new(*fat.FullError)) {
		return fmt.Errorf("%s: %w: the seed is too large for it", name, err)
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
			placed = append(placed, image.Extent{Name: name + "/" + x.Name, Off: e.part.Off + x.Off, Content: x.Content})
		}
		e.steps = append(e.steps, placed)
	}
	return nil
}

// overlay is an image with the change in it.
func (e *seedEdit) overlay(img *image.Image) (*image.Image, error) {
	var all []image.Extent
	for _, step := range e.steps {
		all = append(all, step...)
	}
	return img.Overlay(all...)
}

// volume is the boot partition after the change as an image that was built has it: what
// is in its files and directories is content. Content of the manifest that is elsewhere
// would be lost, and is an error.
func (e *seedEdit) volume(img *image.Image, m *artifact.Manifest) (*image.Image, error) {
	before, err := e.fat.Image(e.part.Len)
	if err != nil {
		return nil, volume.Unreadable(e.part.Name, err)
	}
	var content, known []image.Span
	for _, x := range m.Entries {
		if x.Off >= e.part.Off && x.Off < e.part.Off+e.part.Len {
			content = append(content, image.Span{Off: x.Off, Len: x.Len})
		}
	}
	for x := range before.Extents() {
		known = append(known, image.Span{Off: e.part.Off + x.Off, Len: x.Size()})
	}
	if lost := image.Subtract(content, known); len(lost) > 0 {
		return nil, fault.New(fault.Corrupt, "%s: its manifest has %d bytes at %d, where %s has no file", e.part.Name, lost[0].Len, lost[0].Off, e.part.Name)
	}
	over, err := e.overlay(img)
	if err != nil {
		return nil, err
	}
	after, err := fat.Open(io.NewSectionReader(over, e.part.Off, e.part.Len))
	if err != nil {
		return nil, err
	}
	return after.Image(e.part.Len)
}
