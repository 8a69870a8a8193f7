// Package zip opens images in zip archives.
package zip

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"imgtool/image"
	"imgtool/image/fault"
)

// Magic begins a zip archive.
const Magic = "PK\x03\x04"

// imageNames has the suffixes of image files, in lower case.
var imageNames = []string{".img", ".raw", ".wic", ".iso", ".bin", ".simg", ".sdcard", ".hddimg", ".dd", ".zst", ".xz", ".gz", ".bz2", ".lz4"}

// Open opens the only image in a zip archive. others has the names of the other files.
func Open(r image.Content) (in io.Reader, others []string, err error) {
	z, err := zip.NewReader(r, r.Size())
	if err != nil {
		return nil, nil, fault.New(fault.Corrupt, "the zip archive is damaged or cut short: %w", err)
	}
	var files []*zip.File
	for _, f := range z.File {
		base := path.Base(f.Name)
		if f.Mode().IsRegular() && !strings.HasSuffix(f.Name, "/") && !strings.HasPrefix(f.Name, "__MACOSX/") && base != ".DS_Store" {
			files = append(files, f)
		}
	}
	images := files
	if len(files) > 1 {
		images = slices.DeleteFunc(slices.Clone(files), func(f *zip.File) bool {
			return !slices.ContainsFunc(imageNames, func(end string) bool { return strings.HasSuffix(strings.ToLower(f.Name), end) })
		})
	}
	names := func(files []*zip.File) (names []string) {
		for _, f := range files {
			names = append(names, f.Name)
		}
		return names
	}
	const unpack = "unpack it with unzip"
	switch {
	case len(files) == 0:
		return nil, nil, errors.New("the zip archive is empty")
	case len(images) != 1:
		return nil, nil, fmt.Errorf("the zip archive has %d files, and %d of them may be images: %.400s: %s", len(files), len(images), strings.Join(names(files), ", "), unpack)
	}
	f := images[0]
	if f.Flags&1 != 0 {
		return nil, nil, fmt.Errorf("%s in the zip archive is encrypted: %s", f.Name, unpack)
	}
	rc, err := f.Open()
	if errors.Is(err, zip.ErrAlgorithm) {
		return nil, nil, fmt.Errorf("%s in the zip archive is compressed with method %d; 0 (stored) and 8 (deflate) are supported: %s", f.Name, f.Method, unpack)
	}
	if err != nil {
		return nil, nil, fault.New(fault.Corrupt, "%s in the zip archive: %w", f.Name, err)
	}
	return &reader{rc, f.Name}, slices.DeleteFunc(names(files), func(name string) bool { return name == f.Name }), nil
}

// reader makes errors of a damaged archive errors of the kind [fault.Corrupt].
type reader struct {
	r    io.Reader
	name string
}

func (z *reader) Read(p []byte) (int, error) {
	n, err := z.r.Read(p)
	if errors.Is(err, zip.ErrChecksum) || errors.Is(err, zip.ErrFormat) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fault.New(fault.Corrupt, "%s in the zip archive is damaged: %w", z.name, err)
	}
	return n, err
}
