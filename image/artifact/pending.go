package artifact

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"imgtool/image"
)

// pending is a file on its way to its name. Where the system can, it has none before:
// of a program that is killed, nothing is left.
type pending struct {
	*os.File
	path  string
	named *renameio.PendingFile // nil if it has none
}

// Room is a raw image file that has begun: what is written to it where the image will
// have it need not be written again.
type Room struct{ p *pending }

// NewRoom is room for what Save will write to path, or nil: with another format, or where
// the file would be seen before it is whole. Close is to be called.
func NewRoom(path string) *Room {
	if format, err := FormatOf(path); err != nil || format != Raw {
		return nil
	}
	if p, err := newPending(path); err == nil && p.named == nil {
		return &Room{p}
	} else if err == nil {
		p.Cleanup()
	}
	return nil
}

func (r *Room) WriteAt(b []byte, off int64) (int, error) { return r.p.WriteAt(b, off) }

func (r *Room) ReadAt(b []byte, off int64) (int, error) { return r.p.ReadAt(b, off) }

// Close gives up what was not saved.
func (r *Room) Close() {
	if r != nil {
		r.p.Cleanup()
	}
}

// has says whether an extent is in the file already.
func (r *Room) has(e image.Extent) bool {
	s, ok := e.Content.(*io.SectionReader)
	if !ok || r == nil {
		return false
	}
	of, off, _ := s.Outer()
	return of == io.ReaderAt(r) && off == e.Off
}

// newPending is one in the folder of the file, not in TMPDIR. Cleanup is to be called.
func newPending(path string) (*pending, error) {
	if f := openUnnamed(path); f != nil {
		return &pending{f, path, nil}, nil
	}
	named, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithPermissions(0o644))
	if err != nil {
		return nil, err
	}
	return &pending{named.File, path, named}, nil
}

// Commit gives the file its name in the place of what had it. After a power cut the
// name has the one or the other, and all of it.
func (p *pending) Commit() error {
	if p.named != nil {
		return p.named.CloseAtomicallyReplace()
	}
	if err := handOver(p.File); err != nil {
		return err
	}
	// A link takes no name that another file has.
	dir, base := filepath.Split(p.path)
	for {
		name := fmt.Sprintf("%s.%s%d", dir, base, rand.Uint64())
		err := link(p.File, name)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			if err = os.Rename(name, p.path); err != nil {
				os.Remove(name)
			}
		}
		return errors.Join(err, p.Close())
	}
}

// Cleanup takes away what was not committed.
func (p *pending) Cleanup() {
	if p.named != nil {
		p.named.Cleanup()
		return
	}
	p.Close()
}
