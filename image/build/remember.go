package build

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"imgtool/image"
	"imgtool/image/cache"
	"imgtool/image/compress"
	"imgtool/image/squashfs"
)

// likeCache as the value of --like names the last build of the board in the cache.
const likeCache = "cache"

// The cache remembers the squashfs of the last build of each board as a record: its size, and the
// entries of the cache whose data it consists of. The cache has blocks under the keys by which the
// squashfs is written, and everything else, such as tables, under the hash of the data.
const recordMagic = "imgtool squashfs 1\n"

// maxPiece is the most data of one entry: the size of the largest blocks.
const maxPiece = 1 << 20

// maxPieces limits a record to the size of an entry of the cache. With blocks of 128 KiB they are
// more than 40 GiB.
const maxPieces = 400_000

// noKey is the key of zeros, which are not in the cache.
var noKey [sha256.Size]byte

// record describes a squashfs in the cache.
type record struct {
	size   int64
	pieces []squashfs.Placed // from byte 0 on, without gaps; zeros have no key
}

// Remember stores in the cache, if the squashfs was made with it, what --like cache needs of it.
func (r *Result) Remember(blocks *cache.Dir) {
	if r.last != nil {
		blocks.Put(r.lastKey, r.last.encode())
	}
}

// lastKey returns the key of the record of the last build.
func (b *builder) lastKey() [sha256.Size]byte {
	layout := ""
	for _, m := range b.Board.Media {
		layout += " " + m.LayoutName
	}
	return sha256.Sum256(fmt.Appendf(nil, "last build 1\n%s%s %s", b.Board.Name, layout, b.Profile))
}

// encode returns the bytes of a record.
func (r *record) encode() []byte {
	out := bytes.NewBufferString(recordMagic)
	binary.Write(out, binary.LittleEndian, r.size)
	for _, p := range r.pieces {
		binary.Write(out, binary.LittleEndian, uint32(p.Len))
		out.Write(p.Key[:])
	}
	return out.Bytes()
}

// decodeRecord returns nil for what is no record.
func decodeRecord(data []byte) *record {
	data, ok := bytes.CutPrefix(data, []byte(recordMagic))
	const head, piece = 8, 4 + sha256.Size
	if !ok || len(data) < head || (len(data)-head)%piece != 0 {
		return nil
	}
	r := &record{size: int64(binary.LittleEndian.Uint64(data))}
	at := int64(0)
	for data := range slices.Chunk(data[head:], piece) {
		n := int64(binary.LittleEndian.Uint32(data))
		if n > maxPiece {
			return nil
		}
		r.pieces = append(r.pieces, squashfs.Placed{Off: at, Len: n, Key: [sha256.Size]byte(data[4:])})
		at += n
	}
	if at != r.size {
		return nil
	}
	return r
}

// remember puts a squashfs of size bytes into the cache, which has the blocks in placed already, and
// returns its record, or nil if it has too many pieces.
func (b *builder) remember(c io.ReaderAt, size int64, placed []squashfs.Placed) (*record, error) {
	if b.last != nil {
		for _, p := range b.last.pieces {
			if p.Key != noKey && p.Off+p.Len <= size && b.unchanged(c, p) {
				placed = append(placed, p)
			}
		}
	}
	slices.SortStableFunc(placed, func(a, b squashfs.Placed) int { return cmp.Compare(a.Off, b.Off) })
	r := &record{size: size}
	for _, p := range placed {
		if p.Off < r.end() {
			continue
		}
		if err := b.rememberRest(r, c, p.Off); err != nil {
			return nil, err
		}
		r.pieces = append(r.pieces, p)
	}
	if err := b.rememberRest(r, c, size); err != nil || len(r.pieces) > maxPieces {
		return nil, err
	}
	return r, nil
}

// rememberRest adds to a record what is from its end up to another one.
func (b *builder) rememberRest(r *record, c io.ReaderAt, end int64) error {
	for at := r.end(); at < end; at = r.end() {
		data := make([]byte, min(end-at, maxPiece))
		if _, err := image.ReadFull(c, data, at); err != nil {
			return err
		}
		p := squashfs.Placed{Off: at, Len: int64(len(data))}
		if !image.IsZero(data) {
			h := sha256.New()
			io.WriteString(h, "part of a squashfs 1\n")
			h.Write(data)
			p.Key = [sha256.Size]byte(h.Sum(nil))
			if b.Cache.Get(nil, p.Key) == nil {
				b.Cache.Put(p.Key, data)
			}
		}
		r.pieces = append(r.pieces, p)
	}
	return nil
}

// end returns where the pieces so far end.
func (r *record) end() int64 {
	if len(r.pieces) == 0 {
		return 0
	}
	last := r.pieces[len(r.pieces)-1]
	return last.Off + last.Len
}

// unchanged reports whether the cache has what is at a place.
func (b *builder) unchanged(c io.ReaderAt, p squashfs.Placed) bool {
	want := b.Cache.Get(nil, p.Key)
	got := make([]byte, p.Len)
	_, err := image.ReadFull(c, got, p.Off)
	return err == nil && want != nil && bytes.Equal(got, want)
}

// openLast returns the squashfs of the last build in the cache. It returns nil, and warns, if that
// is not there.
func (b *builder) openLast() (io.ReaderAt, int64, error) {
	r := decodeRecord(b.Cache.Get(nil, b.lastKey()))
	if r == nil {
		b.Warn(fmt.Sprintf("--like cache: the cache has no earlier build of %s: the squashfs is laid out without one", b.Board.Name))
		return nil, 0, nil
	}
	f, err := compress.NewScratch(b.TempDir, b.Volume.Scratch)
	if err != nil {
		return nil, 0, err
	}
	b.result.scratch = append(b.result.scratch, f)
	for _, p := range r.pieces {
		data := make([]byte, p.Len)
		if p.Key != noKey {
			data = b.Cache.Get(data, p.Key)
		}
		if int64(len(data)) != p.Len {
			b.Warn(fmt.Sprintf("--like cache: parts of the last build of %s are no longer in the cache: the squashfs is laid out without it", b.Board.Name))
			return nil, 0, nil
		}
		if _, err := f.WriteAt(data, p.Off); err != nil {
			return nil, 0, err
		}
	}
	b.last = r
	return f, r.size, nil
}
