package compose

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/bmap"
	"imgtool/image/fat"
	"imgtool/image/hostfile"
	"imgtool/image/progress"
	"imgtool/image/volume"
)

// SaveSeed puts a seed into an image file, or removes it, and reads it back. The file is
// replaced as a whole; the manifest and block map beside it are kept up to date. An image
// that is compressed in a format other than imgtool's own is refused.
func SaveSeed(ctx context.Context, path string, opt SeedOptions) error {
	// The manifest is beside the target of a symbolic link.
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if err := hostfile.CheckOutput(path); err != nil {
		return err
	}
	s, err := volume.Open(path, volume.Options{Reporter: opt.Reporter})
	if err != nil {
		return err
	}
	defer s.Close()
	if s.Opened() == nil {
		return fmt.Errorf("%s: a seed cannot be put into a file without random access: give an .img or .img.zst", path)
	}
	e, err := EditSeed(s, opt)
	if err != nil {
		return err
	}
	if e.Steps == nil {
		e.ReportUnchanged(opt)
		return nil
	}
	if err := e.save(ctx, opt.Reporter); err != nil {
		return err
	}
	return e.CheckSaved(opt)
}

// ReportUnchanged reports that there is nothing to do.
func (e *SeedEdit) ReportUnchanged(opt SeedOptions) {
	if e.want == nil {
		opt.Reporter.Infof("%s: nothing to do: it has no seed", e.source.Name)
	} else {
		opt.Reporter.Infof("%s: nothing to do: it has this seed already", e.source.Name)
	}
}

// CheckSaved opens the image or disk again, reads the seed, and reports the result. It is
// an error if the seed is another than it should be.
func (e *SeedEdit) CheckSaved(opt SeedOptions) error {
	s, err := volume.Open(e.source.Name, volume.Options{Reporter: opt.Reporter})
	if err != nil {
		return err
	}
	defer s.Close()
	got, err := ReadSeed(s, opt.Board)
	switch {
	case err != nil:
		return err
	case !same(got, e.want):
		return &image.MismatchError{Name: s.Name + ": seed", Want: fmt.Sprintf("%d bytes", len(e.want)), Got: fmt.Sprintf("%d other bytes", len(got))}
	case got == nil:
		opt.Reporter.Infof("%s: the seed is removed", s.Name)
	default:
		opt.Reporter.Infof("%s: the seed of %d bytes is in it, and read back", s.Name, len(got))
	}
	return nil
}

func (e *SeedEdit) save(ctx context.Context, r progress.Reporter) error {
	s := e.source
	if s.Manifest == nil && s.Format == artifact.Raw {
		return e.patch(ctx)
	}
	err := artifact.ErrStream
	if s.Manifest != nil {
		region, content, fault := e.region()
		if fault != nil {
			return s.Wrap(fault)
		}
		dropped := false
		dropped, err = artifact.Replace(ctx, s.Name, s.File, s.Opened(), artifact.Replacement{Region: region, Content: content})
		if dropped {
			r.Warnf("%s: its signature was removed, because the image has changed: sign it again", s.Name)
		}
	}
	if errors.Is(err, artifact.ErrStream) {
		return fmt.Errorf("%s: a seed can be put into an .img, and into an .img.zst that imgtool made", s.Name)
	}
	return err
}

// patch changes a raw image without a manifest, and the block map beside it. The image must match
// its block map, because the new one has new checksums of all ranges.
func (e *SeedEdit) patch(ctx context.Context) error {
	s := e.source
	if err := s.Check(ctx); err != nil {
		return err
	}
	blockMap := s.BlockMap()
	var text []byte
	if blockMap != "" {
		after, err := e.overlay()
		if err != nil {
			return err
		}
		sums, err := image.Sum(ctx, after, nil)
		if err != nil {
			return err
		}
		text = bmap.Encode(after.Size(), sums.Pieces.Entries)
	}
	if err := artifact.Patch(ctx, s.Name, s.File, slices.Concat(e.Steps...)); err != nil || blockMap == "" {
		return err
	}
	return artifact.WriteBeside(blockMap, text)
}

// region returns the boot partition after the change with what is around it, up to the
// next multiples of [image.PieceSize], and where that is.
func (e *SeedEdit) region() (image.Span, *image.Image, error) {
	img, part := e.source.Image, e.boot.part
	boot, err := e.partition()
	if err != nil {
		return image.Span{}, nil, err
	}
	region := image.Span{Off: part.Off / image.PieceSize * image.PieceSize}
	region.Len = min(img.Size(), (part.Off+part.Len+image.PieceSize-1)/image.PieceSize*image.PieceSize) - region.Off
	around := image.Subtract([]image.Span{region}, []image.Span{{Off: part.Off, Len: part.Len}})
	extents := []image.Extent{{Name: part.Name, Off: part.Off, Content: boot}}
	for x := range img.Extents() {
		for _, s := range around {
			if from, to := max(x.Off, s.Off), min(x.End(), s.End()); from < to {
				extents = append(extents, image.Extent{Name: x.Name, Off: from, Content: io.NewSectionReader(x.Content, from-x.Off, to-from)})
			}
		}
	}
	content, err := image.New(img.Size(), extents...)
	return region, content, err
}

// partition returns the boot partition after the change in the form in which a build
// makes it: its files and directories are content. It is an error if the manifest lists
// content that belongs to no file, which would be lost.
func (e *SeedEdit) partition() (*image.Image, error) {
	part := e.boot.part
	before, err := e.boot.fs.Image(part.Len)
	if err != nil {
		return nil, volume.Unreadable(part.Name, err)
	}
	var listed, known []image.Span
	for _, x := range e.source.Manifest.Entries {
		if x.Off >= part.Off && x.Off < part.Off+part.Len {
			listed = append(listed, image.Span{Off: x.Off, Len: x.Len})
		}
	}
	for x := range before.Extents() {
		known = append(known, image.Span{Off: part.Off + x.Off, Len: x.Size()})
	}
	if lost := image.Subtract(listed, known); len(lost) > 0 {
		return nil, corrupt("%s: its manifest lists %d bytes at %d, where %s has no file", part.Name, lost[0].Len, lost[0].Off, part.Name)
	}
	over, err := e.overlay()
	if err != nil {
		return nil, err
	}
	after, err := fat.Open(io.NewSectionReader(over, part.Off, part.Len))
	if err != nil {
		return nil, err
	}
	return after.Image(part.Len)
}
