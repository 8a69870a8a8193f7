//go:build !linux && !darwin

package disk

import (
	"errors"
	"os"
)

// Open opens a regular file for writing.
func Open(d *Disk) (*Target, error) {
	if err := d.Check(Need{}); err != nil {
		return nil, err
	}
	return openFile(d, os.O_RDWR)
}

// OpenRead opens a regular file for reading.
func OpenRead(d *Disk) (*Target, error) { return openFile(d, os.O_RDONLY) }

func openFile(d *Disk, flags int) (*Target, error) {
	if !d.File {
		return nil, &RefusedError{d.Path, errOther.Error()}
	}
	f, err := os.OpenFile(d.Path, flags, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = d.sameFile(info)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Target{disk: *d, f: f, cached: f, opened: info, align: 1}, nil
}

func (t *Target) present() error { return nil }

// Reread does nothing: a regular file has no partitions.
func (t *Target) Reread() error { return nil }

func (t *Target) flush() error { return t.f.Sync() }

// errNoMedium is an error that regular files do not have.
var errNoMedium = errors.New("no medium")

func dropCache(*os.File) {}
