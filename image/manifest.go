package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
)

// Manifest lists the content of an image with hashes.
type Manifest struct {
	Size    int64   `json:"size"`    // of the image, in bytes
	Entries []Entry `json:"extents"` // in order
}

// Entry describes an extent or a chunk of an image.
type Entry struct {
	Name   string `json:"name,omitempty"`
	Off    int64  `json:"offset"`
	Len    int64  `json:"length"`
	SHA256 string `json:"sha256"` // lower hex
}

// sum is a chunk with its SHA-256.
type sum struct {
	Chunk
	sha256 [sha256.Size]byte
}

func summed(chunks iter.Seq2[Chunk, error]) iter.Seq2[sum, error] {
	return func(yield func(sum, error) bool) {
		for c, err := range chunks {
			if !yield(sum{c, sha256.Sum256(c.Data)}, err) {
				return
			}
		}
	}
}

// Checksums has the hashes of the extents of an image, split at piece boundaries, and of
// its pieces of PieceSize bytes. A hash that was not computed yet is zeros.
type Checksums struct {
	Extents, Pieces *Manifest

	first []int // for each piece, the index of the first extent in or after it
}

// NewChecksums returns the checksums of m with no hash computed.
func NewChecksums(m *Image) *Checksums {
	t := &Checksums{Extents: &Manifest{Size: m.size}, Pieces: &Manifest{Size: m.size}}
	none := hex.EncodeToString(make([]byte, sha256.Size))
	for e := range m.Extents() {
		for off := e.Off; off < e.End(); {
			n := min(e.End()-off, PieceSize-off%PieceSize)
			t.Extents.Entries = append(t.Extents.Entries, Entry{e.Name, off, n, none})
			off += n
		}
	}
	extent := 0
	for s := range m.Pieces(PieceSize) {
		t.Pieces.Entries = append(t.Pieces.Entries, Entry{"", s.Off, s.Len, none})
		t.first = append(t.first, extent)
		for extent < len(t.Extents.Entries) && t.Extents.Entries[extent].Off < s.End() {
			extent++
		}
	}
	return t
}

// Piece returns a writer that hashes piece i. It must be given all bytes of the piece in
// order. Several pieces may be written at once.
func (t *Checksums) Piece(i int) io.Writer {
	return &pieceHash{piece: &t.Pieces.Entries[i], extents: t.Extents.Entries[t.first[i]:], at: t.Pieces.Entries[i].Off, whole: sha256.New(), part: sha256.New()}
}

// pieceHash hashes a piece and each extent in it.
type pieceHash struct {
	piece       *Entry
	extents     []Entry // from the first that is not done
	at          int64
	whole, part hash.Hash
}

func (h *pieceHash) Write(b []byte) (int, error) {
	from, to := h.at, h.at+int64(len(b))
	h.at = to
	h.whole.Write(b)
	if to == h.piece.Off+h.piece.Len {
		h.piece.SHA256 = hex.EncodeToString(h.whole.Sum(nil))
	}
	for len(h.extents) > 0 && h.extents[0].Off < to {
		e := &h.extents[0]
		end := e.Off + e.Len
		// An extent of a whole piece has the hash of the piece.
		if e.Len < h.piece.Len {
			h.part.Write(b[max(e.Off-from, 0):min(end-from, int64(len(b)))])
		}
		if end > to {
			break
		}
		if e.SHA256 = h.piece.SHA256; e.Len < h.piece.Len {
			e.SHA256 = hex.EncodeToString(h.part.Sum(nil))
			h.part.Reset()
		}
		h.extents = h.extents[1:]
	}
	return len(b), nil
}

// Sum reads the image once and returns the checksums of its extents and pieces.
func Sum(ctx context.Context, m *Image, p Progress) (*Checksums, error) {
	return WriteSum(ctx, nil, m, p)
}

// WriteSum is like [Sum], and writes what it reads to w unless w is nil: several pieces
// at once, in any order.
func WriteSum(ctx context.Context, w io.WriterAt, m *Image, p Progress) (*Checksums, error) {
	t := NewChecksums(m)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	var mu sync.Mutex // for p
	var next atomic.Int64
	// More workers do not make a disk faster.
	for range min(runtime.GOMAXPROCS(0), 4) {
		workers.Go(func() {
			buf := make([]byte, 256<<10) // fits into the cache of a processor
			for i := int(next.Add(1)) - 1; i < len(t.Pieces.Entries) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := t.writePiece(w, m, i, buf); err != nil {
					cancel(err)
					return
				}
				mu.Lock()
				p.Add(t.Pieces.Entries[i].Len)
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	return t, context.Cause(ctx)
}

// writePiece hashes piece i, and writes it to w unless w is nil.
func (t *Checksums) writePiece(w io.WriterAt, m *Image, i int, buf []byte) error {
	e := t.Pieces.Entries[i]
	h := t.Piece(i)
	for at := int64(0); at < e.Len; at += int64(len(buf)) {
		c := Chunk{e.Off + at, buf[:min(int64(len(buf)), e.Len-at)]}
		if _, err := m.ReadAt(c.Data, c.Off); err != nil && err != io.EOF {
			return err
		}
		h.Write(c.Data)
		if err := c.write(w); err != nil {
			return err
		}
	}
	return nil
}

// write writes a chunk to w, unless w is nil.
func (c Chunk) write(w io.WriterAt) error {
	if w == nil {
		return nil
	}
	n, err := w.WriteAt(c.Data, c.Off)
	if err == nil && n < len(c.Data) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return &WriteError{c.Off + int64(n), err}
	}
	return nil
}

// Verify reads every entry of m from r, one piece ahead of hashing, and
// compares its hash. The first entry that differs gives a [MismatchError] of the whole
// entry.
func Verify(ctx context.Context, r io.ReaderAt, m *Manifest, p Progress) error {
	h := sha256.New()
	for c, err := range ahead(ctx, read(r, m)) {
		if err != nil {
			return err
		}
		h.Write(c.data)
		p.Add(int64(len(c.data)))
		if !c.last {
			continue
		}
		e := m.Entries[c.entry]
		if got := hex.EncodeToString(h.Sum(nil)); got != e.SHA256 {
			return &MismatchError{Name: e.Name, Off: e.Off, Len: e.Len, Want: "SHA-256 " + e.SHA256, Got: "SHA-256 " + got}
		}
		h.Reset()
	}
	return nil
}

type part struct {
	entry int
	data  []byte
	last  bool // of the entry
}

// read reads the entries piece by piece, into two buffers in turn.
func read(r io.ReaderAt, m *Manifest) iter.Seq2[part, error] {
	buf, next := make([]byte, PieceSize), make([]byte, PieceSize)
	return func(yield func(part, error) bool) {
		for i, e := range m.Entries {
			for at := int64(0); ; {
				data := buf[:min(int64(len(buf)), e.Len-at)]
				if n, err := ReadFull(r, data, e.Off+at); err != nil {
					yield(part{}, fmt.Errorf("reading back at byte %d: %w", e.Off+at+int64(n), err))
					return
				}
				at += int64(len(data))
				if !yield(part{i, data, at == e.Len}, nil) {
					return
				}
				if buf, next = next, buf; at == e.Len {
					break
				}
			}
		}
	}
}

// Compare compares the data of r with the chunks. The first run of bytes that
// differs gives a [MismatchError] with its exact range.
func Compare(ctx context.Context, r io.ReaderAt, chunks iter.Seq2[Chunk, error], p Progress) error {
	buf := make([]byte, PieceSize)
	for c, err := range ahead(ctx, chunks) {
		if err != nil {
			return err
		}
		for len(c.Data) > 0 {
			got := buf[:min(len(buf), len(c.Data))]
			if n, err := ReadFull(r, got, c.Off); err != nil {
				return fmt.Errorf("reading back at byte %d: %w", c.Off+int64(n), err)
			}
			want := c.Data[:len(got)]
			if !bytes.Equal(want, got) {
				return mismatch(c.Off, want, got)
			}
			p.Add(int64(len(got)))
			c = Chunk{c.Off + int64(len(got)), c.Data[len(got):]}
		}
	}
	return nil
}

func mismatch(off int64, want, got []byte) *MismatchError {
	i := 0
	for want[i] == got[i] {
		i++
	}
	j := i
	for j < len(want) && want[j] != got[j] {
		j++
	}
	show := func(b []byte) string { return hex.EncodeToString(b[i:min(j, i+16)]) }
	return &MismatchError{Off: off + int64(i), Len: int64(j - i), Want: show(want), Got: show(got)}
}

// MismatchError describes the first range that was not read back as it was written.
// Want and Got are the first differing bytes in hex, or the hashes of an entry.
type MismatchError struct {
	Name      string
	Off, Len  int64
	Want, Got string

	// Where it is, if that is known.
	Place           string // a clause such as "boot-a/config.toml differs from its byte 7 on"
	Partition, File string
	FileOff         int64 // in File; -1 if it is not known
}

func (e *MismatchError) Error() string {
	name, place := "", ""
	if e.Place != "" {
		place = e.Place + ": "
	}
	if e.Name != "" {
		name = " (" + e.Name + ")"
	}
	unit := "bytes differ"
	if e.Len == 1 {
		unit = "byte differs"
	}
	return fmt.Sprintf("%sat byte %d%s %d %s: expected %s, got %s", place, e.Off, name, e.Len, unit, e.Want, e.Got)
}

func (e *MismatchError) Kind() string { return "mismatch" }
