// Package volume opens images wherever they are, and what is in them.
//
// A [Source] is an image file of any format, a disk, or standard input. The manifest
// or block map beside a file is found and used. Formats that can only be read from
// front to back are unpacked into a scratch file when something needs random access.
//
// A [Place] names a partition or file inside an image, as IMAGE:PARTITION/PATH. Opened,
// it gives the partition's bytes or its [FileSystem]. Nothing is mounted.
package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"
	"sync/atomic"

	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/compress"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/oci"
	"imgtool/image/progress"
	"imgtool/image/remote"
)

// Options are how sources are opened.
type Options struct {
	Stdin    io.Reader         // read for the name "-"
	Scratch  *compress.Budget  // limits scratch files; nil: the default limit
	Reporter progress.Reporter // nil: nothing is reported
	Context  context.Context   // of all reads from a server; nil: they do not end early
	Count    func(n int64)     // is called with the number of bytes that came from a server; may be nil

	// SHA256, in hexadecimal, or a line of the file SHA256SUMS beside the image if Sums is set,
	// is compared with the file before anything else is read.
	SHA256 string
	Sums   bool

	Registry oci.Options // of images in registries

	// Spool copies standard input, what a server sends from front to back only, and the image in a
	// zip archive into a scratch file first: the signature is at the end of the file.
	Spool bool
}

func (o Options) context() context.Context { return cmp.Or(o.Context, context.Background()) }

// Source is an open image file, disk or stream.
//
// Image is nil for a stream, which can be read once from front to back; see [Source.Seek].
type Source struct {
	Name     string // of the file, or "standard input"
	Image    *image.Image
	Manifest *artifact.Manifest // nil if it has none
	Format   artifact.Format
	File     *os.File    // the file, or its unpacked scratch file; nil for standard input and images in memory
	Info     fs.FileInfo // of the original file; nil for standard input and images in memory
	Unit     string      // the unit whose per-unit data was added, or ""
	Total    int64       // length in bytes of a stream that was read through, or 0
	Archive  bool        // File was unpacked from a zip archive

	opt      Options
	remote   *remote.File // nil unless it is from a server; File is nil or a scratch file then
	registry *oci.Image   // nil unless that is a registry
	others   []string     // the names of other files in the archive
	stream   *artifact.Streamed
	position *atomic.Int64    // in the file, of the stream
	opened   *artifact.Opened // as it is in the file
	plain    *image.Image     // Image, if that is File byte for byte: holes of the file are its own
	size     int64            // of the file
	beside   beside
	signed   []byte // the manifest that was checked with its signatures; nil: it was not
}

// FromImage returns a source for an image in memory. m may be nil.
func FromImage(name string, img *image.Image, m *artifact.Manifest) *Source {
	return &Source{Name: name, Image: img, Manifest: m, opt: Options{Reporter: progress.Discard}}
}

// Open opens an image file or disk, or standard input as "-". The length, index and
// manifest are checked, the content is not; see [Source.Check].
func Open(path string, opt Options) (*Source, error) {
	if opt.Reporter == nil {
		opt.Reporter = progress.Discard
	}
	if path == "-" {
		const name = "standard input"
		if opt.Stdin == nil {
			return nil, fault.New(fault.Usage, "standard input cannot be used here: give a file")
		}
		if opt.SHA256 != "" || opt.Sums || opt.Spool {
			s := &Source{Name: name, opt: opt}
			if err := s.spoolStdin(opt.context(), opt.Stdin); err != nil {
				s.Close()
				return nil, wrap(name, err)
			}
			return s, nil
		}
		s, err := artifact.Stream(hostfile.NewReader(name, opt.Stdin), nil)
		if err != nil {
			return nil, wrap(name, err)
		}
		return &Source{Name: name, Manifest: s.Manifest, Format: s.Format, opt: opt, stream: s}, nil
	}
	if remote.IsURL(path) {
		return openURL(path, opt)
	}
	if oci.IsReference(path) {
		return openOCI(path, opt)
	}
	f, err := hostfile.OpenDisk(path)
	if kind, ok := errors.AsType[*hostfile.KindError](err); ok && kind.Kind == "a pipe" {
		return nil, fault.WithHint(err, "give an image from a pipe as -")
	}
	if info, statErr := os.Stat(path); errors.Is(err, fs.ErrPermission) && statErr == nil && info.Mode()&fs.ModeDevice != 0 {
		f, err = disk.OpenDevice(path)
	}
	if scheme, _, ok := strings.Cut(path, "://"); ok && errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Input, "%s: images at URLs of %s cannot be read, only with http, https and oci: download it, and name the file", remote.Name(path), scheme)
	}
	if err != nil {
		return nil, err
	}
	s := &Source{Name: path, File: f, opt: opt}
	if err := s.open(); err != nil {
		f.Close()
		return nil, s.Wrap(err)
	}
	return s, nil
}

func (s *Source) open() error {
	info, err := s.File.Stat()
	if err != nil {
		return err
	}
	s.Info, s.size = info, info.Size()
	if s.IsDisk() {
		if s.size, err = s.File.Seek(0, io.SeekEnd); err != nil {
			return err
		}
	}
	if s.opt.SHA256 != "" || s.opt.Sums {
		if err := s.checkSum(s.opt.context()); err != nil {
			return err
		}
	}
	s.beside = findBeside(s.Name)
	if err := s.load(); err != nil {
		return err
	}
	if s.Manifest == nil && s.beside.manifestErr == nil && info.Mode().IsRegular() {
		if found, err := s.searchManifest(); err != nil {
			return err
		} else if found {
			return s.explain(s.load())
		}
	}
	if s.Manifest == nil && s.beside.manifestErr != nil {
		return s.beside.manifestErr
	}
	return s.useBmap()
}

// IsDisk reports whether the image is read directly from a block device.
func (s *Source) IsDisk() bool {
	if s.File == nil {
		return false
	}
	info, err := s.File.Stat()
	return err == nil && info.Mode()&fs.ModeDevice != 0
}

// Close closes the file. It does not close standard input.
func (s *Source) Close() error {
	if s.stream != nil {
		s.stream.Close()
	}
	if s.remote != nil {
		s.remote.Close()
	}
	if s.File == nil {
		return nil
	}
	return s.File.Close()
}

// Chunks returns the content, verified against the manifest if there is one. That of
// a stream can be read once.
func (s *Source) Chunks() iter.Seq2[image.Chunk, error] {
	if s.Image != nil {
		return s.Image.Chunks(image.PieceSize)
	}
	return s.stream.Chunks()
}

// Opened returns the image as it is in its file, or nil for a stream and an image that
// was unpacked.
func (s *Source) Opened() *artifact.Opened { return s.opened }

// FillPartition returns the partition that takes the rest of the disk, or nil.
func (s *Source) FillPartition() *artifact.Partition {
	if s.Manifest == nil {
		return nil
	}
	for i := range s.Manifest.Partitions {
		if part := &s.Manifest.Partitions[i]; part.Fill {
			return part
		}
	}
	return nil
}

// BuildID returns the build ID in the manifest, or "".
func (s *Source) BuildID() string {
	if s.Manifest == nil {
		return ""
	}
	return s.Manifest.BuildID
}

func (s *Source) contents() *io.SectionReader {
	if s.IsURL() {
		return io.NewSectionReader(s.remote, 0, s.size)
	}
	return io.NewSectionReader(hostfile.NewReaderAt(s.Name, s.File), 0, s.size)
}

// load opens the image in the file, with the manifest beside it if there is one.
func (s *Source) load() error {
	if s.IsURL() && !s.remote.Ranges() {
		return s.Restart()
	}
	if s.opt.Spool && !s.Archive {
		if err := s.openArchive(); err != nil {
			return err
		}
	}
	o, err := artifact.Open(s.contents(), s.beside.manifest)
	if errors.Is(err, artifact.ErrStream) {
		return s.Restart()
	}
	if err != nil {
		return err
	}
	s.Image, s.Manifest, s.Format, s.opened = o.Image, o.Manifest, o.Format, o
	if o.Format == artifact.Raw && o.Manifest == nil && s.File != nil {
		s.plain = o.Image
	}
	return nil
}

// positioned keeps where it was read last.
type positioned struct {
	image.Content
	at *atomic.Int64
}

func (p positioned) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.Content.ReadAt(b, off)
	p.at.Store(off + int64(n))
	return n, err
}

// phase begins a phase that reads the stream of a file. If the length of the content is not known,
// the progress is that in the file.
func (s *Source) phase(name string) image.Progress {
	if total := cmp.Or(s.length(), s.stream.Claimed); total > 0 || s.position == nil || s.size < 0 {
		return s.opt.Reporter.Phase(name, total)
	}
	p, last := s.opt.Reporter.Phase(name, s.size), int64(0)
	return func(int64) {
		if now := s.position.Load(); now > last {
			p.Add(now - last)
			last = now
		}
	}
}

// Restart begins the stream of a file again.
func (s *Source) Restart() error {
	if s.stream != nil {
		s.stream.Close()
	}
	stream, err := s.restart()
	if err != nil {
		return err
	}
	s.stream = stream
	s.Manifest, s.Format = s.stream.Manifest, s.stream.Format
	return s.checkSigned()
}

func (s *Source) restart() (*artifact.Streamed, error) {
	if s.IsURL() && !s.remote.Ranges() {
		r, err := s.remote.Stream(s.opt.context(), 0)
		if err != nil {
			return nil, err
		}
		return artifact.Stream(r, s.beside.manifest)
	}
	s.Plan(nil)
	s.position = new(atomic.Int64)
	var all image.Content = s.contents()
	if b := s.beside.bmap; b != nil && s.IsURL() && s.Format == artifact.Raw && b.Size == s.size {
		var err error
		if all, err = b.Image(all); err != nil { // nothing else is fetched
			return nil, err
		}
	}
	return artifact.StreamFile(positioned{all, s.position}, s.beside.manifest, s.beside.bmap)
}

// Wrap adds the name of the source to an error that does not contain it yet.
func (s *Source) Wrap(err error) error { return wrap(s.Name, err) }

func wrap(name string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*hostfile.ReadError](err); ok {
		return fault.WithHint(e, "the medium that the image is on cannot be read there: copy the image to another one, or build it again")
	}
	return fmt.Errorf("%s: %w", name, err)
}

func corrupt(format string, args ...any) error { return fault.New(fault.Corrupt, format, args...) }
