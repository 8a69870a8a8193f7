package sums

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"imgtool/image/tree"
)

// Digest is a SHA-256 of all that is in t, in hexadecimal: paths, metadata, which
// paths are one file, and what is in them. It does not depend on where the tree came
// from. It comes with the checksums that it is made of, whose blocks have BlockSize
// bytes: opt.Block is not used.
func Digest(ctx context.Context, t *tree.Tree, opt Options) (string, *Checksums, error) {
	opt.Block = BlockSize
	sums, err := Compute(ctx, t, opt)
	if err != nil {
		return "", nil, err
	}
	all := sha256.New()
	first := map[*tree.Inode]string{} // path of each node
	var rec []byte
	str := func(s string) {
		rec = binary.AppendUvarint(rec, uint64(len(s)))
		rec = append(rec, s...)
	}
	str("imgtool tree 2")
	for path, n := range t.All() {
		str(path)
		// What is one file with an earlier path has nothing else to say.
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

// append adds what a file holds to a record: where it has zeros, and the hashes of
// the rest. A hole and zeros that are written out are the same.
func (f *File) append(rec []byte) []byte {
	var runs []zeroRun
	if f.zeros != nil {
		runs = f.zeros.runs
	}
	rec = binary.AppendUvarint(rec, uint64(len(runs)))
	for _, r := range runs {
		rec = binary.AppendVarint(binary.AppendVarint(rec, r.first), r.n)
	}
	for i := range f.sums {
		rec = append(rec, f.sums[i].sum[:]...)
	}
	return rec
}
