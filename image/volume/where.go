package volume

import (
	"context"
	"io"
	"sync/atomic"

	"imgtool/image"
	"imgtool/image/gpt"
	"imgtool/image/tree"
)

// Where is what a byte of an image belongs to.
type Where struct {
	Partition string // name or number; empty outside of partitions
	File      string // path in its file system, without a slash at the start
	FileOff   int64  // offset in the file, or -1 if it is not known, as in a compressed file system
	Metadata  bool   // it is of the file system, and of no file
}

// WhereIs returns the partition and file that a byte of an image belongs to, by reading the files
// of the partition until one of them needs that byte. If ctx ends before, the file is not known.
func WhereIs(ctx context.Context, img *image.Image, parts []gpt.Part, off int64) Where {
	w := Where{FileOff: -1}
	for _, p := range parts {
		if off < p.Off || off >= p.Off+p.Len {
			continue
		}
		w.Partition = PartName(p)
		r := &watched{r: img, at: off}
		fs, err := ReadFS(io.NewSectionReader(r, p.Off, p.Len), p.Len)
		w.Metadata = fs != nil && r.hit.Load()
		if err != nil || fs == nil || fs.Tree == nil {
			continue
		}
		if path, fileOff, ok := r.fileAt(ctx, fs.Tree); ok {
			w.File, w.FileOff, w.Metadata = path, fileOff, false
		}
	}
	return w
}

// watched notices when a byte is read.
type watched struct {
	r    io.ReaderAt
	at   int64
	hit  atomic.Bool
	from atomic.Int64 // start of the read that had the byte
	n    atomic.Int64 // its length
}

func (w *watched) ReadAt(p []byte, off int64) (int, error) {
	if off <= w.at && w.at < off+int64(len(p)) {
		w.hit.Store(true)
		w.from.Store(off)
		w.n.Store(int64(len(p)))
	}
	return w.r.ReadAt(p, off)
}

// fileAt returns the file with the byte, and the offset of the byte in it or -1.
func (w *watched) fileAt(ctx context.Context, t *tree.Tree) (path string, off int64, ok bool) {
	buf := make([]byte, 1<<20)
	for path, n := range t.All() {
		if n.Type() != tree.Regular || n.Content == nil {
			continue
		}
		for at := int64(0); at < n.Size(); at += int64(len(buf)) {
			if ctx.Err() != nil {
				return "", 0, false
			}
			b := buf[:min(int64(len(buf)), n.Size()-at)]
			w.hit.Store(false)
			n.Content.ReadAt(b, at)
			if w.hit.Load() {
				return path, w.narrow(n.Content, at, int64(len(b))), true
			}
		}
	}
	return "", 0, false
}

// narrow returns the offset in a file of the byte, which is in n bytes from an offset on, or -1
// if more is read for each byte of the file, because it is compressed.
func (w *watched) narrow(c image.Content, from, n int64) int64 {
	one := make([]byte, 1)
	read := func(at int64) (exact bool) {
		w.hit.Store(false)
		c.ReadAt(one, at)
		return w.hit.Load() && w.n.Load() == 1
	}
	// A read of a byte reads just that byte of the image. In a file of several extents, the
	// byte is where a read of it hits.
	const block = 512
	buf := make([]byte, block)
	for at := from; at < from+n; at += block {
		b := buf[:min(block, from+n-at)]
		w.hit.Store(false)
		c.ReadAt(b, at)
		if !w.hit.Load() {
			continue
		}
		guess := at + w.at - w.from.Load()
		if guess >= from && guess < from+n && read(guess) {
			return guess
		}
		return -1
	}
	return -1
}
