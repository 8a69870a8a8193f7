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
	"slices"

	"imgtool/image/parallel"
)

// Manifest is the shadow of an image in text.
type Manifest struct {
	Size    int64   `json:"size"`    // of the image, in bytes
	Entries []Entry `json:"extents"` // in order
}

// Entry is one extent, or one chunk, of an image.
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

func (m *Manifest) add(s sum) {
	m.Entries = append(m.Entries, Entry{"", s.Off, int64(len(s.Data)), hex.EncodeToString(s.sha256[:])})
	m.Size = max(m.Size, s.Off+int64(len(s.Data)))
}

// Tally is an image's leaves, cut where its pieces of PieceSize are, and these pieces,
// with their hashes as far as they are known: that of one that is not is zeros.
type Tally struct {
	Leaves, Pieces *Manifest

	first []int // of each piece: the first leaf that is in it, or after it
}

// NewTally knows no hash.
func NewTally(m *Image) *Tally {
	t := &Tally{Leaves: &Manifest{Size: m.size}, Pieces: &Manifest{Size: m.size}}
	none := hex.EncodeToString(make([]byte, sha256.Size))
	for e := range m.Extents() {
		for off := e.Off; off < e.End(); {
			n := min(e.End()-off, PieceSize-off%PieceSize)
			t.Leaves.Entries = append(t.Leaves.Entries, Entry{e.Name, off, n, none})
			off += n
		}
	}
	leaf := 0
	for s := range m.Pieces(PieceSize) {
		t.Pieces.Entries = append(t.Pieces.Entries, Entry{"", s.Off, s.Len, none})
		t.first = append(t.first, leaf)
		for leaf < len(t.Leaves.Entries) && t.Leaves.Entries[leaf].Off < s.End() {
			leaf++
		}
	}
	return t
}

// Piece takes piece i from its first byte to its last. Several pieces may be taken at
// once.
func (t *Tally) Piece(i int) io.Writer {
	return &pieceHash{piece: &t.Pieces.Entries[i], leaves: t.Leaves.Entries[t.first[i]:], at: t.Pieces.Entries[i].Off, whole: sha256.New(), part: sha256.New()}
}

// pieceHash hashes a piece, and each leaf in it.
type pieceHash struct {
	piece       *Entry
	leaves      []Entry // those that are not done, and others
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
	for len(h.leaves) > 0 && h.leaves[0].Off < to {
		e := &h.leaves[0]
		end := e.Off + e.Len
		// Most are all of a piece, and hashed by now.
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
		h.leaves = h.leaves[1:]
	}
	return len(b), nil
}

// Sum reads the image once and hashes its leaves and the pieces of PieceSize it is
// written in.
func Sum(ctx context.Context, m *Image, p Progress) (*Tally, error) {
	return WriteSum(ctx, nil, m, p)
}

// WriteSum is Sum that writes what it reads to w, unless w is nil: several pieces at
// once, in any order.
func WriteSum(ctx context.Context, w io.WriterAt, m *Image, p Progress) (*Tally, error) {
	// In steps that a processor's cache holds.
	const step = 256 << 10
	type slot struct {
		piece int
		buf   []byte
	}
	// A disk is no faster for more.
	workers := min(runtime.GOMAXPROCS(0), 4)
	slots := make([]slot, workers+2)
	t := NewTally(m)
	next := 0
	fill := func(s *slot) bool {
		s.piece = next
		next++
		return s.piece < len(t.Pieces.Entries)
	}
	work := func(s *slot) error {
		e := t.Pieces.Entries[s.piece]
		if s.buf == nil {
			s.buf = make([]byte, step)
		}
		h := t.Piece(s.piece)
		for at := int64(0); at < e.Len; at += step {
			c := Chunk{e.Off + at, s.buf[:min(step, e.Len-at)]}
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
	take := func(s *slot) error {
		p.Add(t.Pieces.Entries[s.piece].Len)
		return nil
	}
	return t, parallel.Map(ctx, slots, fill, slices.Repeat([]func(*slot) error{work}, workers), take)
}

// write writes a chunk to w, unless that is nil.
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

// Verify reads every entry of m from r, one piece ahead of hashing it, and
// compares its hash. The first that differs is a *MismatchError of the whole
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

// part is a piece of an entry as it was read.
type part struct {
	entry int
	data  []byte
	last  bool // of the entry
}

// read reads the entries piece by piece, each into the memory of the one before
// the last.
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

// Compare reads from r what the chunks hold. The first run of bytes that
// differs is a *MismatchError that names exactly these.
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

// MismatchError is the first place where what was read is not what was written.
// Want and Got are the first differing bytes in hex, or the hashes of the whole.
type MismatchError struct {
	Name      string
	Off, Len  int64
	Want, Got string
}

func (e *MismatchError) Error() string {
	name := ""
	if e.Name != "" {
		name = " (" + e.Name + ")"
	}
	unit := "bytes differ"
	if e.Len == 1 {
		unit = "byte differs"
	}
	return fmt.Sprintf("at byte %d%s %d %s: expected %s, got %s", e.Off, name, e.Len, unit, e.Want, e.Got)
}

// Kind is "mismatch", as in package [imgtool/image/fault].
func (e *MismatchError) Kind() string { return "mismatch" }
