package artifact

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"

	"imgtool/image"
	"imgtool/image/bmap"
	"imgtool/image/pending"
	"imgtool/image/simg"
)

// ManifestPath returns the path of the manifest beside an image file.
func ManifestPath(path string) string { return path + ".manifest.json" }

// BmapPath returns the path of the block map beside an image file.
func BmapPath(path string) string { return path + ".bmap" }

// Save is [Options.Save] with phases and no other options.
func Save(ctx context.Context, path string, img *image.Image, m *Manifest, phases image.Phases) error {
	_, err := Options{Phases: phases}.Save(ctx, path, img, m)
	return err
}

// Options are how an image is saved.
type Options struct {
	Phases      image.Phases
	ImageSHA256 bool       // the manifest has the SHA-256 of the whole image
	Documents   []Document // attached to the image, and beside it

	// Raw is the file at the path of a raw image, or nil. It has the content of the image in
	// the ranges Written already.
	Raw     *RawFile
	Written []image.Span
}

// Document is a document about an image, of which the image's checksum is a part.
type Document struct {
	Name   string // of the attachment
	Encode func(Subject) []byte
}

// Subject is what a document describes.
type Subject struct {
	File    string // the name of the file with SHA256; without a SHA256, of the image
	SHA256  string // may be empty
	Content string // see [Manifest.Content]
}

// Saved describes an image that was saved.
type Saved struct {
	SHA256 string // of the file; empty for a raw image if nothing asked for it
}

// Save writes an image in the format that the suffix of path asks for, and its manifest,
// block map and documents beside it. It fills in the hashes of the manifest. If path is a
// symbolic link, the target of the link is replaced. The files get their names when they are
// complete; after an error none is left.
//
// A document inside an .img.zst cannot have the checksum of the file that it is in. It has that
// of the decompressed image if it is known. The document beside the file has that of the file.
func (o Options) Save(ctx context.Context, path string, img *image.Image, m *Manifest) (Saved, error) {
	format, err := FormatOf(path)
	if err != nil {
		return Saved{}, err
	}
	if o.Raw == nil {
		if o.Raw, err = CreateRaw(path); err != nil {
			return Saved{}, err
		}
		defer o.Raw.Close()
	}
	slices.SortFunc(o.Documents, func(a, b Document) int { return cmp.Compare(a.Name, b.Name) })
	s := &saver{Options: o, format: format, img: img, m: m}
	return s.save(ctx, o.Raw.out)
}

type saver struct {
	Options
	format Format
	img    *image.Image
	m      *Manifest
	done   image.Progress
	whole  hash.Hash // of the image; nil if nothing asks for it
	sum    string    // of the file, if it is known
}

func (s *saver) save(ctx context.Context, out *pending.File) (Saved, error) {
	private := s.m.Private
	if private {
		if err := out.Chmod(0o600); err != nil {
			return Saved{}, fmt.Errorf("%s: %w", out.Path, err)
		}
	}
	s.done = s.Phases.Start("writing", s.img.ContentSize())
	err := s.write(ctx, out.File)
	if err == nil {
		err = s.hash(ctx, out.File)
	}
	if err != nil {
		return Saved{}, fmt.Errorf("%s: %w", out.Path, err)
	}
	files := s.documents(out.Path)
	return Saved{s.sum}, commit(out, append(sidecars(out.Path, s.m), files...), func(path string) (*pending.Access, error) {
		if private && !slices.ContainsFunc(files, func(f sidecar) bool { return f.path == path }) {
			return &pending.Access{Mode: 0o600, UID: os.Geteuid(), GID: os.Getegid()}, nil
		}
		return nil, nil
	})
}

func (s *saver) write(ctx context.Context, f *os.File) error {
	if s.ImageSHA256 {
		s.whole = sha256.New()
	}
	switch s.format {
	case Raw:
		return s.raw(ctx, f)
	case Sparse:
		return s.sparse(ctx, f)
	}
	return s.compressed(ctx, f)
}

// hash sets the SHA-256 of the file, and that of an image whose bytes were not hashed while they
// were compressed. A raw file is hashed only if something asks for it: SHA-256 cannot skip
// holes, so it may take longer than the build.
func (s *saver) hash(ctx context.Context, f *os.File) error {
	var err error
	if s.sum == "" && (s.format != Raw || s.ImageSHA256 || len(s.Documents) > 0) {
		if s.sum, err = s.digest(ctx, f); err != nil {
			return err
		}
	}
	switch {
	case !s.ImageSHA256 || s.m.ImageSHA256 != "" && s.m.ImageSHA256 != unknownSHA256:
	case s.format == Raw:
		s.m.ImageSHA256 = s.sum
	default:
		s.m.ImageSHA256, err = s.digest(ctx, s.img)
	}
	return err
}

func (s *saver) digest(ctx context.Context, r io.ReaderAt) (string, error) {
	size := s.img.Size()
	if f, ok := r.(*os.File); ok {
		info, err := f.Stat()
		if err != nil {
			return "", err
		}
		size = info.Size()
	}
	h := sha256.New()
	_, err := io.CopyBuffer(h, image.NewReader(ctx, io.NewSectionReader(r, 0, size), s.Phases.Start("hashing", size)), make([]byte, 1<<20))
	return hex.EncodeToString(h.Sum(nil)), err
}

// documents returns the documents beside the image. Those beside an .img.zst are not the ones
// inside, which the manifest lists.
func (s *saver) documents(path string) (files []sidecar) {
	for _, d := range s.Documents {
		text := d.Encode(Subject{filepath.Base(path), s.sum, s.m.Content()})
		files = append(files, sidecar{AttachmentPath(path, d.Name), text})
		if s.format != Zstd {
			s.m.Documents = append(s.m.Documents, DocumentSum{d.Name, hexSum(text)})
		}
	}
	return files
}

// sidecars returns the files beside an image that follow from its manifest.
func sidecars(path string, m *Manifest) []sidecar {
	return []sidecar{{BmapPath(path), bmap.Encode(m.Size, m.Pieces)}, {ManifestPath(path), m.Encode()}}
}

// commit writes the files beside an image, and gives all files their names. accessFor returns
// the access of a file beside it, or nil for the default.
func commit(out *pending.File, beside []sidecar, accessFor func(path string) (*pending.Access, error)) error {
	// The image is last: when it is visible, so are the files that belong to it.
	var files []*pending.File
	for _, s := range beside {
		f, err := s.create(accessFor)
		if err != nil {
			return err
		}
		defer f.Cleanup()
		files = append(files, f)
	}
	for _, f := range append(files, out) {
		if err := f.Commit(); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
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
func (s sidecar) create(accessFor func(path string) (*pending.Access, error)) (*pending.File, error) {
	f, err := pending.Create(s.path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	a, err := accessFor(s.path)
	if err == nil && a != nil {
		err = f.SetAccess(a)
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
	sums, err := image.WriteSum(ctx, &skipWriter{f, s.Written}, s.img, s.done)
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
	m.ImageSHA256, m.Documents, m.text = "", nil, nil
}
