package sums

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"imgtool/image/tree"
)

// Digest returns the SHA-256, in hexadecimal, of everything in t: paths, metadata,
// contents, and which paths are hard links of one file. It does not depend on where the
// tree came from. It also returns the checksums that it was computed from; their blocks
// have BlockSize bytes, and opt.Block is ignored.
func Digest(ctx context.Context, t *tree.Tree, opt Options) (string, *Checksums, error) {
	opt.Block = BlockSize
	sums, err := Compute(ctx, t, opt)
	if err != nil {
		return "", nil, err
	}
	all := sha256.New()
	first := map[*tree.Inode]string{} // the first path of each inode
	var rec []byte
	str := func(s string) {
		rec = binary.AppendUvarint(rec, uint64(len(s)))
		rec = append(rec, s...)
	}
	str("imgtool tree 2")
	for path, n := range t.All() {
		str(path)
		if n.Type() != tree.Dir {
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
			rec = sums.Of(n).append(rec)
		}
		all.Write(rec)
		rec = rec[:0]
	}
	all.Write(rec)
	return hex.EncodeToString(all.Sum(nil)), sums, nil
}

// append encodes f: its runs of zeros, and the checksums of the other blocks. Holes and
// written zeros are encoded alike.
func (f *File) append(rec []byte) []byte {
	rec = binary.AppendUvarint(rec, uint64(len(f.zeros)))
	for _, r := range f.zeros {
		rec = binary.AppendVarint(binary.AppendVarint(rec, r.first), r.n)
	}
	for i := range f.sums {
		rec = append(rec, f.sums[i].sum[:]...)
	}
	return rec
}
