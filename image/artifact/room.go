package artifact

import (
	"crypto/sha256"
	"io"
	"runtime"
	"sync"

	"imgtool/image"
)

// Room is a raw image file that has begun: what is written to it where the image will
// have it need not be written again. What is written in order is hashed behind the
// writer, piece by piece.
type Room struct {
	p *pending

	to   int64 // where what was written last ends
	next int64 // where the piece begins that is hashed next, if it is written in order

	bufs    chan []byte // one for each piece that is hashed at once
	hashing sync.WaitGroup
	mu      sync.Mutex
	sums    map[int64]*[sha256.Size]byte // of pieces, by where they begin
}

// NewRoom is room for what Save will write to path, or nil: with another format, or where
// the file would be seen before it is whole. Close is to be called.
func NewRoom(path string) *Room {
	if format, err := FormatOf(path); err != nil || format != Raw {
		return nil
	}
	p, err := newPending(path)
	if err != nil {
		return nil
	}
	if p.named != nil {
		p.Cleanup()
		return nil
	}
	r := &Room{p: p, bufs: make(chan []byte, min(runtime.GOMAXPROCS(0), 4)), sums: map[int64]*[sha256.Size]byte{}}
	for range cap(r.bufs) {
		r.bufs <- nil
	}
	return r
}

// WriteAt is for one goroutine at a time.
func (r *Room) WriteAt(b []byte, off int64) (int, error) {
	r.mu.Lock()
	for at := off / image.PieceSize * image.PieceSize; at < off+int64(len(b)); at += image.PieceSize {
		delete(r.sums, at)
	}
	r.mu.Unlock()
	if off != r.to {
		r.next = (off + image.PieceSize - 1) / image.PieceSize * image.PieceSize
	}
	n, err := r.p.WriteAt(b, off)
	for r.to = off + int64(n); r.next+image.PieceSize <= r.to; r.next += image.PieceSize {
		r.hash(r.next)
	}
	return n, err
}

// hash has the piece at a byte hashed. Of one that is written to again, the hash is
// forgotten.
func (r *Room) hash(at int64) {
	sum := new([sha256.Size]byte)
	r.mu.Lock()
	r.sums[at] = sum
	r.mu.Unlock()
	buf := <-r.bufs
	r.hashing.Go(func() {
		defer func() { r.bufs <- buf }()
		if buf == nil {
			buf = make([]byte, 256<<10)
		}
		h := sha256.New()
		if _, err := io.CopyBuffer(h, io.NewSectionReader(r.p, at, image.PieceSize), buf); err != nil {
			// Who reads it next will say so.
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.sums[at] == sum {
				delete(r.sums, at)
			}
			return
		}
		h.Sum(sum[:0])
	})
}

// sum is the hash of a piece, once all is written, if it was made.
func (r *Room) sum(piece image.Span) (sum [sha256.Size]byte, ok bool) {
	if r == nil || piece.Len != image.PieceSize {
		return sum, false
	}
	r.hashing.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if made := r.sums[piece.Off]; made != nil {
		return *made, true
	}
	return sum, false
}

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
