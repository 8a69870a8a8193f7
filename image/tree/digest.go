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

// Digest is a SHA-256 of all that is in the tree, in hexadecimal: paths,
// metadata, which paths are one file, and what is in them. It does not depend on
// where the tree came from. Progress is told of the bytes read from files.
func (t *Tree) Digest(ctx context.Context, p image.Progress) (string, error) {
	all, file := sha256.New(), sha256.New()
	buf := make([]byte, 1<<20)
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
		file.Reset()
		for off := int64(0); off < n.Size(); {
			if err := ctx.Err(); err != nil {
				return "", context.Cause(ctx)
			}
			part := buf[:min(int64(len(buf)), n.Size()-off)]
			k, err := n.Content.ReadAt(part, off)
			if k < len(part) {
				if err == nil || err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return "", fmt.Errorf("reading %s at %d: %w", path, off+int64(k), err)
			}
			file.Write(part)
			off += int64(k)
			if p != nil {
				p(int64(k))
			}
		}
		if n.Size() > 0 {
			rec = file.Sum(rec)
		}
		all.Write(rec)
		rec = rec[:0]
	}
	all.Write(rec)
	return hex.EncodeToString(all.Sum(nil)), nil
}
