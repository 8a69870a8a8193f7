package artifact

import (
	"context"
	"fmt"
	"os"

	"imgtool/image"
	"imgtool/image/simg"
)

// ManifestPath returns the path of the manifest beside an image file.
func ManifestPath(path string) string { return path + ".manifest.json" }

// BmapPath returns the path of the block map beside an image file.
func BmapPath(path string) string { return path + ".bmap" }

// Save writes an image in the format that the suffix of path asks for, and its manifest
// and block map beside it. It fills in the hashes of the manifest. If path is a symbolic
// link, the target of the link is replaced. The files get their names when they are
// complete; after an error none is left.
func Save(ctx context.Context, path string, img *image.Image, m *Manifest, phases image.Phases) error {
	format, err := FormatOf(path)
	if err != nil {
		return err
	}
	out, err := newPending(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer out.Cleanup()
	return save(ctx, out, &saver{format: format, img: img, m: m, phases: phases})
}

type saver struct {
	format  Format
	img     *image.Image
	m       *Manifest
	phases  image.Phases
	written []image.Span // ranges that a raw file has already
	done    image.Progress
}

func save(ctx context.Context, out *pending, s *saver) error {
	path := out.path
	private := s.m != nil && s.m.Private
	if private {
		if err := out.Chmod(0o600); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	s.done = s.phases.Start("writing", s.img.ContentSize())
	var err error
	switch s.format {
	case Raw:
		err = s.raw(ctx, out.File)
	case Sparse:
		err = s.sparse(ctx, out.File)
	default:
		err = s.compressed(ctx, out.File)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return commit(out, s.m, func(string) (*access, error) {
		if private {
			return &access{mode: 0o600, uid: os.Geteuid(), gid: os.Getegid()}, nil
		}
		return nil, nil
	})
}

// commit writes the manifest and block map of an image, unless m is nil, and gives all
// files their names. accessFor returns the access of the manifest or block map, or nil for
// the default.
func commit(out *pending, m *Manifest, accessFor func(path string) (*access, error)) error {
	// The image is last: when it is visible, so are the files that belong to it.
	var files []*pending
	if m != nil {
		for _, s := range []sidecar{{BmapPath(out.path), EncodeBmap(m.Size, m.Pieces)}, {ManifestPath(out.path), m.Encode()}} {
			f, err := s.create(accessFor)
			if err != nil {
				return err
			}
			defer f.Cleanup()
			files = append(files, f)
		}
	}
	for _, f := range append(files, out) {
		if err := f.Commit(); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return nil
}

// sidecar is a file beside an image.
type sidecar struct {
	path string
	data []byte
}

// create writes the file. The caller must call Cleanup.
func (s sidecar) create(accessFor func(path string) (*access, error)) (*pending, error) {
	f, err := newPending(s.path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	a, err := accessFor(s.path)
	if err == nil && a != nil {
		err = f.setAccess(a)
	}
	if err == nil {
		_, err = f.Write(s.data)
	}
	if err != nil {
		f.Cleanup()
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return f, nil
}

func (s *saver) raw(ctx context.Context, f *os.File) error {
	if err := f.Truncate(s.img.Size()); err != nil {
		return err
	}
	sums, err := image.WriteSum(ctx, &skipWriter{f, s.written}, s.img, s.done)
	if err != nil {
		return err
	}
	s.m.fill(sums)
	return nil
}

func (s *saver) sparse(ctx context.Context, f *os.File) error {
	sums, err := image.Sum(ctx, s.img, s.done)
	if err != nil {
		return err
	}
	s.m.fill(sums)
	return simg.Write(f, s.img)
}

// fill sets the hashes of the manifest.
func (m *Manifest) fill(sums *image.Checksums) {
	m.Version, m.Manifest, m.Pieces = 1, *sums.Extents, sums.Pieces.Entries
}
