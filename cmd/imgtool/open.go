package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/compress"
	"imgtool/image/hostfile"
	"imgtool/image/partition"
)

// picture is an image that was opened, wherever it comes from.
type picture struct {
	name     string             // of the file, or "standard input"
	img      *image.Image       // nil if it comes from front to back only
	stream   *artifact.Streamed // the other way
	manifest *artifact.Manifest // nil if it has none
	format   artifact.Format
	file     *os.File // nil for standard input
	holes    func(context.Context) error
	unit     string           // whose it is, if it was made one unit's
	opened   *artifact.Opened // as it lies in the file
	plain    *image.Image     // img, if that is file byte for byte: holes of the file are its own
}

func (p *picture) Close() {
	if p.file != nil {
		p.file.Close()
	}
}

// chunks is the content, each checked against the manifest if there is one.
func (p *picture) chunks() iter.Seq2[image.Chunk, error] {
	if p.img != nil {
		return p.img.Chunks(image.PieceSize)
	}
	return p.stream.Chunks()
}

// openPicture opens an image file, or standard input as "-". Length, index and
// manifest are checked.
func openPicture(path string, stdin io.Reader) (*picture, error) {
	if path == "-" {
		s, err := artifact.Stream(hostfile.NewReader("standard input", stdin), nil)
		if err != nil {
			return nil, named("standard input", err)
		}
		return &picture{name: "standard input", stream: s, manifest: s.Manifest, format: s.Format}, nil
	}
	f, err := hostfile.OpenDisk(path)
	if kind, ok := errors.AsType[*hostfile.KindError](err); ok {
		if kind.Kind == "a pipe" {
			return nil, hint(err, "give an image from a pipe as -")
		}
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	p := &picture{name: path, file: f}
	if err := p.open(path); err != nil {
		f.Close()
		return nil, named(path, err)
	}
	return p, nil
}

func (p *picture) open(path string) (err error) {
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if info.Mode()&fs.ModeDevice != 0 {
		if size, err = p.file.Seek(0, io.SeekEnd); err != nil {
			return err
		}
	}
	var sidecar *artifact.Manifest
	var unfit error // the sidecar, which is not needed where one is inside
	if b, err := hostfile.ReadFile(artifact.ManifestPath(path), artifact.MaxManifest); err == nil {
		if sidecar, err = artifact.ParseManifest(b); err != nil {
			unfit = corrupt("%s: %w", artifact.ManifestPath(path), err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		unfit = err
	}
	defer func() {
		if err == nil && p.manifest == nil {
			err = unfit
		}
	}()
	file := hostfile.NewReaderAt(path, p.file)
	o, err := artifact.Open(io.NewSectionReader(file, 0, size), sidecar)
	if err == nil {
		p.img, p.manifest, p.format, p.opened = o.Image, o.Manifest, o.Format, o
		if o.Format == artifact.Raw && o.Manifest == nil {
			p.plain = o.Image
		}
		p.holes = func(ctx context.Context) error {
			if !info.Mode().IsRegular() {
				return o.Holes(ctx, nil)
			}
			return o.Holes(ctx, func(off int64) int64 { return nextData(p.file, off, size) })
		}
		return nil
	}
	if !errors.Is(err, artifact.ErrStream) {
		return err
	}
	if p.stream, err = artifact.Stream(io.NewSectionReader(file, 0, size), sidecar); err != nil {
		return err
	}
	p.manifest, p.format = p.stream.Manifest, p.stream.Format
	return nil
}

// nextData is where a file of size bytes has something at or after an offset, as
// far as the file system tells.
func nextData(f *os.File, off, size int64) int64 {
	at, err := f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size
	case err != nil:
		return off
	}
	return at
}

// seek makes an image that comes from front to back one that can be read
// anywhere, in a scratch file if it must.
func (p *picture) seek(ctx context.Context, u *ui) error {
	if p.img != nil {
		return nil
	}
	f, err := compress.NewScratch("", &u.unpacked)
	if err != nil {
		return fmt.Errorf("%s: unpacking it: %w", p.name, err)
	}
	err = p.unpack(ctx, f, u)
	if err != nil {
		f.Close()
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// unpack makes a scratch file what is read.
func (p *picture) unpack(ctx context.Context, f *compress.Scratch, u *ui) error {
	var total int64
	if p.manifest != nil {
		total = p.manifest.Size
	}
	chunks := p.stream.Chunks()
	if p.manifest == nil {
		chunks = asTheTableSays(chunks, &u.unpacked)
	} else if total > u.unpacked.Limit() {
		return &compress.TooLargeError{Size: total, Max: u.unpacked.Limit()}
	}
	m, err := image.Write(ctx, f, sparse(chunks), u.phases("unpacking", total))
	if err != nil {
		if large := new(*compress.TooLargeError); errors.As(err, large) {
			return *large
		}
		if errors.As(err, new(*image.WriteError)) {
			return fmt.Errorf("unpacking it: %w", err)
		}
		return err
	}
	size := m.Size
	if p.manifest != nil {
		size = p.manifest.Size
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	o, err := artifact.Open(io.NewSectionReader(f.File(), 0, size), p.manifest)
	if err != nil {
		return err
	}
	p.Close()
	p.img, p.file = o.Image, f.File()
	if p.manifest == nil {
		p.plain = o.Image
	}
	return nil
}

// beyond is how much an image may have after the end of the disk that its partition
// table is for: some are rounded up.
const beyond = 64 << 20

// asTheTableSays ends in an error where the partition table of an image is for a disk
// larger than the budget, or data other than zeros follow well after the end of that
// disk, unless the user said how much may be unpacked.
func asTheTableSays(chunks iter.Seq2[image.Chunk, error], b *compress.Budget) iter.Seq2[image.Chunk, error] {
	return func(yield func(image.Chunk, error) bool) {
		limit := b.Limit()
		end := int64(math.MaxInt64)
		for c, err := range chunks {
			if err == nil && c.Off == 0 {
				if size := partition.DiskSize(bytes.NewReader(c.Data)); size > limit {
					yield(image.Chunk{}, &compress.TooLargeError{Size: size, Max: limit})
					return
				} else if size > 0 && b.Max == 0 {
					end = size + beyond
				}
			}
			if err == nil && c.Off >= end && len(bytes.TrimLeft(c.Data, "\x00")) > 0 {
				yield(image.Chunk{}, fmt.Errorf("its partition table is for a disk of %d bytes, but more data follow at byte %d; unpack all the same with --max-unpacked", end-beyond, c.Off))
				return
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

// sparse leaves out the zeros at the start of a chunk, all but its last byte.
func sparse(chunks iter.Seq2[image.Chunk, error]) iter.Seq2[image.Chunk, error] {
	return func(yield func(image.Chunk, error) bool) {
		for c, err := range chunks {
			if err == nil && len(c.Data) > 0 {
				first := slices.IndexFunc(c.Data, func(b byte) bool { return b != 0 })
				if first < 0 {
					first = len(c.Data) - 1
				}
				c = image.Chunk{Off: c.Off + int64(first), Data: c.Data[first:]}
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

// newestImage is the latest image in out/. how is how another is named.
func newestImage(how string) (string, error) {
	var newest string
	var latest fs.FileInfo
	for _, pattern := range []string{"out/*.img", "out/*.img.zst", "out/*.img.xz", "out/*.img.gz", "out/*.simg"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			if info, err := os.Stat(f); err == nil && info.Mode().IsRegular() && (latest == nil || info.ModTime().After(latest.ModTime())) {
				newest, latest = f, info
			}
		}
	}
	if newest == "" {
		return "", usagef("there is no image in out/: say which with %s, or build one with imgtool build", how)
	}
	return newest, onlyOne(newest, how)
}

// onlyOne refuses an image that is one of several of its build: which is meant, a
// disk does not say.
func onlyOne(path, how string) error {
	of := func(path string) *artifact.Manifest {
		b, err := hostfile.ReadFile(artifact.ManifestPath(path), artifact.MaxManifest)
		if err != nil {
			return nil
		}
		m, err := artifact.ParseManifest(b)
		if err != nil {
			return nil
		}
		return m
	}
	m := of(path)
	if m == nil {
		return nil
	}
	all := []string{path}
	files, _ := filepath.Glob(artifact.ManifestPath(filepath.Join(filepath.Dir(path), "*")))
	for _, f := range files {
		other := strings.TrimSuffix(f, artifact.ManifestPath(""))
		if o := of(other); o != nil && o.BuildID == m.BuildID && o.Board == m.Board && o.Medium != m.Medium {
			all = append(all, other)
		}
	}
	if len(all) == 1 {
		return nil
	}
	slices.Sort(all)
	return usagef("the newest build in out/ has several images, %s: say which with %s", strings.Join(all, ", "), how)
}
