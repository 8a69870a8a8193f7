package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/boards"
	"imgtool/flash"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/build"
	"imgtool/image/fat"
	"imgtool/image/gpt"
	"imgtool/image/seed"
)

// bootVolume is the boot partition that takes a seed, of an image or a disk.
type bootVolume struct {
	board *boards.Board
	part  gpt.Part
	fat   *fat.FS
	files []fat.File
	seed  *fat.File // one of files, or nil
}

// errNoSeedHere is an image or disk that no board takes a seed from.
var errNoSeedHere = errors.New("it has no boot partition that takes a seed")

// findBootVolume looks for it by the board the manifest names, or any.
func findBootVolume(ctx context.Context, r io.ReaderAt, m *artifact.Manifest) (*bootVolume, error) {
	table, err := gpt.Read(r)
	if err != nil {
		return nil, fmt.Errorf("its partition table: %w", err)
	}
	for _, name := range boards.Names() {
		b, err := boards.Get(name)
		if err != nil {
			return nil, err
		}
		if m != nil && m.Board != b.Name || b.Seed.Path == "" {
			continue
		}
		for _, medium := range b.Media {
			for _, p := range medium.Placing.Partitions {
				if p.Content != "boot" || p.Slot != "a" {
					continue
				}
				for _, part := range table.Parts {
					if part.Name != p.Name || part.Number != p.Number {
						continue
					}
					v := &bootVolume{board: b, part: part}
					return v, v.open(ctx, r)
				}
			}
		}
	}
	if m != nil && !slices.ContainsFunc(table.Parts, func(p gpt.Part) bool { return strings.HasPrefix(p.Name, "boot") }) {
		if b, err := boards.Get(m.Board); err == nil && b.Seed.Path == "" {
			return nil, b.NoSeed()
		}
	}
	return nil, errNoSeedHere
}

func (v *bootVolume) open(ctx context.Context, r io.ReaderAt) (err error) {
	inside := io.NewSectionReader(r, v.part.Off, v.part.Len)
	if v.fat, err = fat.Open(inside); err == nil {
		v.files, err = v.fat.Files()
	}
	if err != nil {
		return corrupt("%s: %w", v.part.Name, err)
	}
	for i, f := range v.files {
		if strings.EqualFold(f.Path, v.board.Seed.Path) {
			v.seed = &v.files[i]
		}
	}
	return nil
}

// hasSlotB says whether there is a second boot partition.
func (v *bootVolume) hasSlotB(r io.ReaderAt) (string, bool) {
	table, err := gpt.Read(r)
	if err != nil {
		return "", false
	}
	for _, medium := range v.board.Media {
		for _, p := range medium.Placing.Partitions {
			for _, part := range table.Parts {
				if p.Content == "boot" && p.Slot == "b" && part.Name == p.Name {
					return p.Name, true
				}
			}
		}
	}
	return "", false
}

// with is the file system with another seed; nil is none. The one that is there is
// made anew first and compared, so that what is done can be undone to the byte.
func (v *bootVolume) with(ctx context.Context, r io.ReaderAt, text []byte) (*image.Image, error) {
	same, err := v.fat.Remake(v.files)
	if err == nil {
		err = image.Compare(ctx, io.NewSectionReader(r, v.part.Off, v.part.Len), same.Chunks(image.PieceSize), nil)
	}
	if errors.As(err, new(*image.MismatchError)) {
		return nil, fmt.Errorf("%s was changed since it was made (%v): the seed cannot be put in without losing that: build or flash it anew", v.part.Name, err)
	}
	if err != nil {
		return nil, err
	}
	var files []fat.File
	for _, f := range v.files {
		if v.seed == nil || f.Path != v.seed.Path {
			files = append(files, f)
		}
	}
	// The last one, as in a build.
	if text != nil {
		files = append(files, fat.File{Path: v.board.Seed.Path, Content: bytes.NewReader(text)})
	}
	made, err := v.fat.Remake(files)
	if errors.As(err, new(*fat.FullError)) {
		err = fmt.Errorf("%s: %w: the seed is too large for it", v.part.Name, err)
	}
	return made, err
}

// alone is the boot partition in an image of size bytes with nothing else.
func (v *bootVolume) alone(size int64, volume *image.Image) (*image.Image, error) {
	return image.New(size, image.Extent{Name: v.part.Name, Off: v.part.Off, Content: volume})
}

// reseed puts a seed into an image file or onto a disk, or takes it away: nil.
func reseed(ctx context.Context, path string, want *build.Seed, u *ui) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &noDiskError{path, err}
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return reseedDisk(ctx, path, want, u)
	}
	pic, err := openPicture(path, nil)
	if err != nil {
		return err
	}
	defer pic.Close()
	if pic.opened == nil {
		return fmt.Errorf("%s: a seed cannot be put into a file that is read from front to back only: give an .img or .img.zst", path)
	}
	v, made, text, err := prepareSeed(ctx, pic.img, pic.manifest, want, u)
	if err != nil {
		return named(path, err)
	}
	if made == nil {
		u.say("%s: nothing to do: it is so already", path)
		return nil
	}
	content, err := v.alone(pic.img.Size(), made)
	if err != nil {
		return err
	}
	err = artifact.Replace(ctx, path, pic.file, pic.opened, image.Span{Off: v.part.Off, Len: v.part.Len}, content, nil)
	if errors.Is(err, artifact.ErrStream) {
		return fmt.Errorf("%s: a seed can be put into an .img, and an .img.zst that imgtool made", path)
	}
	if err != nil {
		return err
	}
	return checkSeedLanded(path, text, u)
}

// badSeedError is a seed the device would refuse; it names its file itself.
type badSeedError struct{ error }

func (e *badSeedError) Unwrap() error { return e.error }

// named puts a name before an error that has none.
func named(name string, err error) error {
	if errors.As(err, new(*badSeedError)) {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// prepareSeed is the boot partition, what is to be in it, nil if that is there, and
// the seed as the device gets it.
func prepareSeed(ctx context.Context, r io.ReaderAt, m *artifact.Manifest, want *build.Seed, u *ui) (*bootVolume, *image.Image, []byte, error) {
	v, err := findBootVolume(ctx, r, m)
	if err != nil {
		return nil, nil, nil, err
	}
	var text []byte
	if want != nil {
		if text, err = want.Check(v.board.Seed.Format, u.warn); err != nil {
			return nil, nil, nil, &badSeedError{err}
		}
	}
	if name, ok := v.hasSlotB(r); ok && want != nil {
		return nil, nil, nil, &flash.RefusedError{Disk: "the seed", Reason: fmt.Sprintf("the device would ignore it: it takes a seed only on the first boot after a flash, and knows that boot by there being no %s", name)}
	}
	old, err := v.text()
	if err != nil {
		return nil, nil, nil, err
	}
	if (old == nil) == (want == nil) && bytes.Equal(old, text) {
		return v, nil, text, nil
	}
	made, err := v.with(ctx, r, text)
	return v, made, text, err
}

// text is the seed that is there, or nil.
func (v *bootVolume) text() ([]byte, error) {
	if v.seed == nil {
		return nil, nil
	}
	if v.seed.Size() > seed.MaxUpload {
		return nil, corrupt("%s: the seed has %d bytes; the device takes up to %d", v.part.Name, v.seed.Size(), int64(seed.MaxUpload))
	}
	b := make([]byte, v.seed.Size())
	if _, err := v.seed.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}

// seedOf is the seed of an image file or a disk, read anew; nil if there is none.
func seedOf(ctx context.Context, path string) ([]byte, error) {
	pic, err := openPicture(path, nil)
	if err != nil {
		return nil, err
	}
	defer pic.Close()
	if pic.img == nil {
		return nil, fmt.Errorf("%s: a seed cannot be read from a file that is read from front to back only: give an .img, .img.zst or a disk", path)
	}
	v, err := findBootVolume(ctx, pic.img, pic.manifest)
	if err == nil {
		var text []byte
		if text, err = v.text(); err == nil {
			return text, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", path, err)
}

func checkSeedLanded(path string, want []byte, u *ui) error {
	got, err := seedOf(context.Background(), path)
	switch {
	case err != nil:
		return err
	case want == nil && got == nil:
		u.say("%s: the seed is taken out", path)
		return nil
	case want != nil && bytes.Equal(got, want):
		u.say("%s: the seed of %d bytes is in it, and read back", path, len(got))
		return nil
	}
	return &image.MismatchError{Name: path + ": seed", Want: "another", Got: fmt.Sprintf("%d bytes", len(got))}
}

// reseedDisk changes the boot partition of a disk that nobody uses. What is no
// content any more is zeroed.
func reseedDisk(ctx context.Context, path string, want *build.Seed, u *ui) error {
	disk, err := findDisk(path)
	if err != nil {
		return err
	}
	if err := disk.Check(flash.Need{SectorSize: 512}); err != nil {
		return err
	}
	t, err := flash.Open(disk)
	if err != nil {
		return err
	}
	defer t.Close()
	v, made, text, err := prepareSeed(ctx, t, nil, want, u)
	if err != nil {
		return named(path, err)
	}
	if made == nil {
		u.say("%s: nothing to do: it is so already", path)
		return nil
	}
	old, err := v.fat.Remake(v.files)
	if err != nil {
		return err
	}
	// What the device could still find of a seed that was taken out.
	stale := image.Subtract(spansOf(old, v.part.Off), spansOf(made, v.part.Off))
	extents := []image.Extent{{Name: v.part.Name, Off: v.part.Off, Content: made}}
	content, err := image.New(t.Size(), extents...)
	if err != nil {
		return err
	}
	var wipe []image.Extent
	for _, s := range stale {
		wipe = append(wipe, image.Extent{Name: "stale", Off: s.Off, Content: image.Zeros(s.Len)})
	}
	zeros, err := image.New(t.Size(), wipe...)
	if err != nil {
		return err
	}
	for _, part := range []*image.Image{content, zeros} {
		m, err := image.Write(ctx, t, part.Chunks(image.PieceSize), nil)
		if err == nil {
			err = t.Sync()
		}
		if err == nil {
			err = image.Verify(ctx, t, m, nil)
		}
		if err != nil {
			return hint(fmt.Errorf("%s: %w", path, err), "the boot partition may be half-written: run it again")
		}
	}
	if err := t.Reread(); err != nil {
		u.warn(err.Error())
	}
	if err := t.Close(); err != nil {
		return err
	}
	return checkSeedLanded(path, text, u)
}

func spansOf(m *image.Image, base int64) (spans []image.Span) {
	for s := range m.Spans() {
		spans = append(spans, image.Span{Off: base + s.Off, Len: s.Len})
	}
	return spans
}

// withSeed is the image with a seed in it, composed as it is read.
func (p *picture) withSeed(ctx context.Context, want *build.Seed, u *ui) (*picture, error) {
	if p.img == nil {
		return nil, usagef("%s is read from front to back only, and cannot be seeded while it is written: give an .img or .img.zst, or build with --seed", p.name)
	}
	v, made, _, err := prepareSeed(ctx, p.img, p.manifest, want, u)
	if err != nil {
		return nil, named(p.name, err)
	}
	if made == nil {
		return p, nil
	}
	end := v.part.Off + v.part.Len
	extents := []image.Extent{{Name: v.part.Name, Off: v.part.Off, Content: made}}
	for e := range p.img.Extents() {
		if n := min(e.End(), v.part.Off) - e.Off; n > 0 {
			extents = append(extents, image.Extent{Name: e.Name, Off: e.Off, Content: io.NewSectionReader(e.Content, 0, n)})
		}
		if skip := max(0, end-e.Off); skip < e.Size() {
			extents = append(extents, image.Extent{Name: e.Name, Off: e.Off + skip, Content: io.NewSectionReader(e.Content, skip, e.Size()-skip)})
		}
	}
	img, err := image.New(p.img.Size(), extents...)
	if err != nil {
		return nil, err
	}
	seeded := *p
	seeded.img = img
	if p.manifest != nil {
		m := *p.manifest
		m.Entries, m.Pieces = nil, nil
		seeded.manifest = &m
	}
	return &seeded, nil
}

func newSeedPutCommand(u *ui) *cobra.Command {
	var opt seedOptions
	cmd := &cobra.Command{
		Use:   "put IMAGE|DISK SEED",
		Short: "Put a seed into an image or onto a flashed disk",
		Long: `Put a seed into the boot partition of an image (.img or .img.zst) or of a disk that was
flashed and has not booted yet. Everything else stays as it is, to the byte; taking the
seed out again gives back what was there. The manifest is kept up.`,
		Example: `  imgtool seed put x.img.zst config.toml
  imgtool seed put /dev/sdX config.toml
  imgtool seed put --values units.csv --unit W123 /dev/sdX seed.toml`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.file = args[1]
			want, err := opt.read()
			if err != nil {
				return err
			}
			return reseed(cmd.Context(), args[0], want, u)
		},
	}
	opt.addFlags(cmd)
	return cmd
}

func newSeedGetCommand(u *ui) *cobra.Command {
	return &cobra.Command{
		Use:     "get IMAGE|DISK",
		Short:   "Print the seed of an image or a disk",
		Example: "  imgtool seed get x.img.zst > config.toml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			seed, err := seedOf(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if seed == nil {
				return fmt.Errorf("%s: there is no seed in it", args[0])
			}
			_, err = u.out.Write(seed)
			return err
		},
	}
}

func newSeedRmCommand(u *ui) *cobra.Command {
	return &cobra.Command{
		Use:     "rm IMAGE|DISK",
		Short:   "Take the seed out of an image or a flashed disk",
		Example: "  imgtool seed rm x.img.zst",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return reseed(cmd.Context(), args[0], nil, u)
		},
	}
}

// seeded reads a seed and puts it into an image.
func seeded(ctx context.Context, pic *picture, opt seedOptions, u *ui) (*picture, error) {
	want, err := opt.read()
	if err != nil {
		return nil, err
	}
	p, err := pic.withSeed(ctx, want, u)
	if err != nil {
		return nil, err
	}
	units := *p
	units.unit = opt.unit
	return &units, nil
}
