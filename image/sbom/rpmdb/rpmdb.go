// Package rpmdb lists the packages in a database of rpm(8), in each of its three formats: SQLite,
// ndb and Berkeley DB. It reads what it needs of them and writes nothing.
package rpmdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Package is an installed package.
type Package struct {
	Name, Version, Release, Arch string
	Epoch                        int64 // -1 if it has none
	SourceRPM, License           string
	Vendor, URL                  string
}

// Files are the names of the database in the directory of rpm's databases, in each format.
var Files = []string{"rpmdb.sqlite", "Packages.db", "Packages"}

// Read returns the packages in a database, in its order. The format is detected from its content.
func Read(r io.ReaderAt, size int64) ([]Package, error) {
	db := &file{r, size}
	head, err := db.at(0, min(size, 4096))
	if err != nil {
		return nil, err
	}
	var blobs func(*file, []byte, func([]byte) error) error
	switch {
	case bytes.HasPrefix(head, []byte("SQLite format 3\x00")):
		blobs = sqlite
	case bytes.HasPrefix(head, []byte("RpmP")):
		blobs = ndb
	case isBerkeley(head):
		blobs = berkeley
	default:
		return nil, errors.New("not a database of rpm")
	}
	var all []Package
	total := int64(0)
	err = blobs(db, head, func(header []byte) error {
		// Each header is in the file once.
		if total += int64(len(header)); total > size {
			return fmt.Errorf("damaged: the headers of %d packages are larger than the file of %d bytes", len(all)+1, size)
		}
		p, err := parseHeader(header)
		if err == nil {
			all = append(all, p)
		}
		return err
	})
	return all, err
}

// file is a database file.
type file struct {
	r    io.ReaderAt
	size int64
}

// at returns n bytes at an offset.
func (f *file) at(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off > f.size || n > f.size-off {
		return nil, fmt.Errorf("damaged: %d bytes at byte %d are outside of the %d bytes of the file", n, off, f.size)
	}
	b := make([]byte, n)
	if _, err := f.r.ReadAt(b, off); err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}

// The tags of a header that are read, and their types. See rpm's docs/manual/tags.md.
const (
	tagName, tagVersion, tagRelease, tagEpoch = 1000, 1001, 1002, 1003
	tagVendor, tagLicense, tagURL, tagArch    = 1011, 1014, 1020, 1022
	tagSourceRPM                              = 1044
	typeInt32, typeString, typeI18N           = 4, 6, 9
)

// parseHeader parses the header of a package: the number of entries and the size of the data,
// entries of 16 bytes, and the data. See rpm's docs/manual/format_header.md.
func parseHeader(b []byte) (Package, error) {
	p := Package{Epoch: -1}
	if len(b) < 8 {
		return p, fmt.Errorf("damaged: a package header of %d bytes", len(b))
	}
	entries, length := int64(binary.BigEndian.Uint32(b)), int64(binary.BigEndian.Uint32(b[4:]))
	if int64(len(b)) < 8+16*entries+length {
		return p, fmt.Errorf("damaged: a package header of %d bytes has %d entries and %d bytes of data", len(b), entries, length)
	}
	data := b[8+16*entries:]
	for e := b[8 : 8+16*entries]; len(e) > 0; e = e[16:] {
		tag, kind, off := binary.BigEndian.Uint32(e), binary.BigEndian.Uint32(e[4:]), int64(binary.BigEndian.Uint32(e[8:]))
		to := map[uint32]*string{tagName: &p.Name, tagVersion: &p.Version, tagRelease: &p.Release, tagVendor: &p.Vendor, tagLicense: &p.License,
			tagURL: &p.URL, tagArch: &p.Arch, tagSourceRPM: &p.SourceRPM}[tag]
		switch {
		case to != nil && (kind == typeString || kind == typeI18N) && off < int64(len(data)):
			text, _, _ := bytes.Cut(data[off:], []byte{0})
			*to = string(text)
		case tag == tagEpoch && kind == typeInt32 && off+4 <= int64(len(data)):
			p.Epoch = int64(binary.BigEndian.Uint32(data[off:]))
		}
	}
	if p.Name == "" || p.Version == "" || p.Release == "" {
		return p, fmt.Errorf("damaged: package %.60q has no name, version or release", p.Name)
	}
	return p, nil
}
