// Package bundle reads and writes the archives in which an AtomixOS device takes a
// configuration with the files of its containers: a tar in gzip or zstd with config.toml
// and files/ at its top. It accepts what the device's validator accepts.
package bundle

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"imgtool/image/fault"
	"imgtool/image/seed"
)

// The device's limits, in bytes but for MaxMembers.
const (
	MaxTar     = 256 << 20 // the unpacked tar, with its padding
	MaxMembers = 4096      // files and directories
	MaxMember  = 64 << 20  // a file

	maxWindow = 128 << 20 // of zstd
	maxDepth  = 100       // directories of a path; the device has no such limit
)

// Limits are lower limits than an AtomixOS device has. The zero value is the device's own limits.
type Limits struct {
	Document int64  // bytes of config.toml; 0 is seed.MaxUpload, and MaxMember in a bundle
	Window   uint64 // bytes of a zstd window; 0 is 128 MiB
	Depth    int    // parts of a path; 0 is 100
}

func (l Limits) window() uint64 { return cmp.Or(l.Window, maxWindow) }

var (
	gzipNames = []string{".tar.gz", ".tgz"}
	zstdNames = []string{".tar.zst", ".tar.zstd", ".tzst"}
)

func hasSuffix(name string, suffixes []string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(name, s) })
}

// IsName reports whether a bundle can have this file name.
func IsName(name string) bool { return hasSuffix(name, gzipNames) || hasSuffix(name, zstdNames) }

// CorruptError reports an archive that is damaged, truncated or not an archive.
type CorruptError struct{ Err error }

func (e *CorruptError) Error() string { return "the archive is corrupt: " + e.Err.Error() }
func (e *CorruptError) Unwrap() error { return e.Err }
func (e *CorruptError) Kind() string  { return fault.Corrupt }

// Info describes a bundle or a plain document.
type Info struct {
	Format  string       `json:"format"` // toml, tar.gz or tar.zst
	Members int          `json:"members"`
	Files   int          `json:"files"` // regular files below files/
	Size    int64        `json:"size"`  // bytes unpacked
	Config  *seed.Config `json:"-"`     // nil if the document has faults
}

// Check checks a bundle or a plain document as the device's API does. name is the file name
// it is sent under, and may be empty. Only config.toml is unpacked, into memory. The faults are
// the faults of the document. The error is a *CorruptError if the archive is damaged.
func Check(name string, r io.Reader) (*Info, []seed.Fault, error) {
	return Limits{}.Check(name, r)
}

// Check is the function [Check] with lower limits.
func (l Limits) Check(name string, r io.Reader) (*Info, []seed.Fault, error) {
	in := bufio.NewReaderSize(&limitedReader{r: r, left: seed.MaxUpload, message: "the file has more than 32 MiB; the device takes up to 32 MiB"}, 64<<10)
	head, err := in.Peek(512)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	if format := formatOf(name, head); format != "" {
		r, closeReader, err := l.decompress(format, in)
		if err != nil {
			return nil, nil, l.archiveError(err)
		}
		defer closeReader()
		return l.checkArchive(&Info{Format: format}, r)
	}
	for _, other := range []struct{ name, magic string }{{"xz", "\xfd7zXZ\x00"}, {"bzip2", "BZh"}, {"zip", "PK\x03\x04"}} {
		if bytes.HasPrefix(head, []byte(other.magic)) {
			return nil, nil, fmt.Errorf("the device does not take %s; a bundle is a tar in gzip or zstd", other.name)
		}
	}
	if len(head) > 262 && string(head[257:262]) == "ustar" {
		return nil, nil, errors.New("the device does not take a plain tar; a bundle is a tar in gzip or zstd")
	}
	text, err := l.readDocument(in)
	if err != nil {
		return nil, nil, err
	}
	b := &Info{Format: "toml", Members: 1, Size: int64(len(text))}
	var faults []seed.Fault
	b.Config, faults = seed.Check(text)
	return b, faults, nil
}

func (l Limits) checkArchive(b *Info, r io.Reader) (*Info, []seed.Fault, error) {
	in := &limitedReader{r: r, left: MaxTar, message: "the archive has more than 256 MiB unpacked; the device takes up to 256 MiB"}
	known := map[string]bool{} // whether a path is a directory
	var text []byte
	found := false
	err := l.each(in, func(name string, isDir bool, t io.Reader) (err error) {
		b.Members++
		known[name] = isDir
		if name == "config.toml" {
			found = true
			if text, err = l.readDocument(t); err != nil {
				return l.archiveError(err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	// Data after the end of the tar counts towards the limit, and the checksum at the end
	// of the compressed stream is verified.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return nil, nil, l.archiveError(err)
	}
	if b.Size = MaxTar - in.left; b.Size == 0 {
		return nil, nil, &CorruptError{errors.New("it is empty")}
	}
	if !found {
		return nil, nil, errors.New("the archive has no config.toml at its top")
	}
	for name, isDir := range known {
		if !isDir && strings.HasPrefix(name, "files/") {
			b.Files++
		}
	}
	var faults []seed.Fault
	b.Config, faults = seed.Check(text)
	return b, faults, nil
}

// Unpack calls put with config.toml and each file of a bundle or document that [Check]
// accepted, by its clean path. A path can occur more than once: the last one counts.
func (l Limits) Unpack(name string, r io.Reader, put func(path string, r io.Reader) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return err
	}
	format := formatOf(name, head)
	if format == "" {
		return put("config.toml", in)
	}
	u, closeReader, err := l.decompress(format, in)
	if err != nil {
		return l.archiveError(err)
	}
	defer closeReader()
	return l.each(u, func(path string, isDir bool, r io.Reader) error {
		if isDir {
			return nil
		}
		return put(path, r)
	})
}

// each calls f with the clean path and the content of each member of an archive.
func (l Limits) each(r io.Reader, f func(path string, isDir bool, r io.Reader) error) error {
	known, n := members{}, 0
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil && !errors.Is(err, tar.ErrInsecurePath):
			return l.archiveError(err)
		case h.Typeflag == tar.TypeXGlobalHeader:
			continue
		}
		if n++; n > MaxMembers {
			return fmt.Errorf("the archive has more than %d members; the device takes up to %d", MaxMembers, MaxMembers)
		}
		path, err := known.add(h, cmp.Or(l.Depth, maxDepth))
		if err != nil {
			return err
		}
		if err := f(path, path == "." || known[path], t); err != nil {
			return err
		}
	}
}

// formatOf returns the format of a bundle, by its name or else by its first bytes; "" if it
// is not a bundle.
func formatOf(name string, head []byte) string {
	switch {
	case hasSuffix(name, gzipNames) || bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return "tar.gz"
	case hasSuffix(name, zstdNames) || bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		return "tar.zst"
	}
	return ""
}

func (l Limits) decompress(format string, in *bufio.Reader) (r io.Reader, closeReader func(), err error) {
	if format == "tar.gz" {
		return &gzipReader{in: in}, func() {}, nil
	}
	d, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(l.window()))
	if err != nil {
		return nil, nil, err
	}
	return d, d.Close, nil
}

// readDocument reads config.toml.
func (l Limits) readDocument(r io.Reader) ([]byte, error) {
	most := cmp.Or(l.Document, MaxMember)
	return io.ReadAll(&limitedReader{r: r, left: most, message: fmt.Sprintf("config.toml has more than %d KiB; the device takes up to %d KiB", most>>10, most>>10)})
}

// limitError reports that a limit was exceeded; the archive is not damaged.
type limitError string

func (e limitError) Error() string { return string(e) }

func (l Limits) archiveError(err error) error {
	var limit limitError
	if errors.As(err, &limit) {
		return limit
	}
	switch {
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return fmt.Errorf("the archive needs a zstd window of more than %d MiB, the largest that the device supports; compress it without --long", l.window()>>20)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("it ends too early")
	case errors.Is(err, tar.ErrHeader):
		err = errors.New("what it holds is not a tar, or a header in it is damaged")
	}
	return &CorruptError{err}
}
