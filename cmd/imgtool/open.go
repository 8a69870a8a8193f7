package main

import (
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
)

// picture is an image that was opened, wherever it comes from.
type picture struct {
	name     string             // of the file, or "standard input"
	img      *image.Image       // nil if it comes from front to back only
	stream   *artifact.Streamed // the other way
	manifest *artifact.Manifest // nil if it has none
	format   artifact.Format
	file     *os.File         // its file, or the scratch file with what was unpacked; nil for standard input
	source   fs.FileInfo      // of its file, nil for standard input
	unit     string           // whose it is, if it was made one unit's
	opened   *artifact.Opened // as it is in the file
	plain    *image.Image     // img, if that is file byte for byte: holes of the file are its own
	size     int64            // of the file
	total    int64            // of a stream that was read through, in bytes, or 0
	beside   beside
	board    string // that it is to be for, if it does not say for which it is
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
			return nil, fault.WithHint(err, "give an image from a pipe as -")
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
	p.source, p.size = info, info.Size()
	if info.Mode()&fs.ModeDevice != 0 {
		if p.size, err = p.file.Seek(0, io.SeekEnd); err != nil {
			return err
		}
	}
	p.beside = findBeside(path)
	if err = p.load(); err != nil {
		return err
	}
	if p.manifest == nil && p.beside.unfit == nil && info.Mode().IsRegular() {
		if found, err := p.searchManifest(path); err != nil {
			return err
		} else if found {
			err = p.load()
			return p.explain(err)
		}
	}
	if p.manifest == nil && p.beside.unfit != nil {
		return p.beside.unfit
	}
	if p.manifest == nil {
		return p.useBmap()
	}
	return nil
}

// contents are the bytes of the file.
func (p *picture) contents() *io.SectionReader {
	return io.NewSectionReader(hostfile.NewReaderAt(p.name, p.file), 0, p.size)
}

// load opens what is in the file with the manifest beside it, if there is one.
func (p *picture) load() error {
	o, err := artifact.Open(p.contents(), p.beside.manifest)
	if err == nil {
		p.img, p.manifest, p.format, p.opened = o.Image, o.Manifest, o.Format, o
		if o.Format == artifact.Raw && o.Manifest == nil {
			p.plain = o.Image
		}
		return nil
	}
	if !errors.Is(err, artifact.ErrStream) {
		return err
	}
	return p.restart()
}

// restart begins a stream from a file anew.
func (p *picture) restart() (err error) {
	if p.stream, err = artifact.StreamFile(p.contents(), p.beside.manifest, p.beside.bmap); err != nil {
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
		return "", fault.New(fault.Usage, "there is no image in out/: say which with %s, or build one with imgtool build", how)
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
	return fault.New(fault.Usage, "the newest build in out/ has several images, %s: say which with %s", strings.Join(all, ", "), how)
}
