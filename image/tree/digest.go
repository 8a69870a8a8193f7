package tree

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"

	"imgtool/image"
)

// digestBlock is how many zeros in a row, at a multiple of that, are counted and
// not hashed.
const digestBlock = 1 << 20

// Digest is a SHA-256 of all that is in the tree, in hexadecimal: paths,
// metadata, which paths are one file, and what is in them. It does not depend on
// where the tree came from. Progress is told of the bytes read from files.
func (t *Tree) Digest(ctx context.Context, p image.Progress) (string, error) {
	all := sha256.New()
	buf := make([]byte, digestBlock)
	first := map[*Inode]string{} // path of each node
	var rec []byte
	str := func(s string) {
		rec = binary.AppendUvarint(rec, uint64(len(s)))
		rec = append(rec, s...)
	}
	str("imgtool tree 1")
	for path, n := range t.All() {
		str(path)
		// What is one file with an earlier path has nothing else to say.
		if n.Type() != Dir {
			if same, ok := first[n]; ok {
				rec = append(rec, 'l')
				str(same)
				continue
			}
			first[n] = path
		}
		rec = append(rec, 'n')
		for _, v := range []uint32{n.Mode, n.UID, n.GID, n.Major, n.Minor} {
			rec = binary.AppendUvarint(rec, uint64(v))
		}
		rec = binary.AppendVarint(rec, n.ModTime)
		str(n.Target)
		rec = binary.AppendUvarint(rec, uint64(len(n.Xattrs)))
		for _, x := range n.Xattrs {
			str(x.Name)
			str(x.Value)
		}
		rec = binary.AppendVarint(rec, n.Size())
		if n.Size() > 0 {
			sum, err := sumOf(ctx, n.Content, buf, p)
			if err != nil {
				return "", fmt.Errorf("reading %s: %w", path, err)
			}
			rec = append(rec, sum...)
		}
		all.Write(rec)
		rec = rec[:0]
	}
	all.Write(rec)
	return hex.EncodeToString(all.Sum(nil)), nil
}

// sumOf is a SHA-256 of what is in a file. That of one with blocks of zeros is over
// the rest and where they are, so that a hole as large as a disk costs nothing and
// one that was filled with zeros is the same file.
func sumOf(ctx context.Context, c image.Content, buf []byte, p image.Progress) ([]byte, error) {
	h := sha256.New()
	var holes []image.Span
	hole := func(off, n int64) {
		if i := len(holes) - 1; i >= 0 && holes[i].End() == off {
			holes[i].Len += n
		} else {
			holes = append(holes, image.Span{Off: off, Len: n})
		}
	}
	for off := int64(0); off < c.Size(); {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		if n := image.Hole(c, off) / digestBlock * digestBlock; n > 0 {
			hole(off, n)
			off += n
			p.Add(n)
			continue
		}
		part := buf[:min(int64(len(buf)), c.Size()-off)]
		if k, err := c.ReadAt(part, off); k < len(part) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("at byte %d: %w", off+int64(k), err)
		}
		if len(part) == digestBlock && isZero(part) {
			hole(off, digestBlock)
		} else {
			h.Write(part)
		}
		off += int64(len(part))
		p.Add(int64(len(part)))
	}
	sum := h.Sum(nil)
	if holes == nil {
		return sum, nil
	}
	h.Reset()
	for _, s := range holes {
		binary.Write(h, binary.LittleEndian, s)
	}
	h.Write(sum)
	return h.Sum(nil), nil
}
