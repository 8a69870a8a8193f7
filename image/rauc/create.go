package rauc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"imgtool/image"
	"imgtool/image/cms"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
	"imgtool/image/verity"
)

// Options are how a bundle is made.
type Options struct {
	Manifest Manifest                 // without sizes, hashes and format
	Images   map[string]image.Content // by the name of the file
	Hook     image.Content            // the file with the hooks; nil: none
	Signer   cms.Signer
	Squashfs squashfs.Options // of the payload; ModTime is the time of all files
}

// File is a file that is written and read back.
type File interface {
	io.ReaderAt
	io.WriterAt
}

// Create makes a bundle of the format verity from byte 0 of f, which is empty, and returns
// its manifest and size. The same options give the same bytes: the salt of the hash tree
// is derived from the manifest. That needs no secret, as it only makes the hashes of two
// bundles different.
func Create(ctx context.Context, f File, opt Options, phases image.Phases) (*Manifest, int64, error) {
	m := opt.Manifest
	m.Format, m.Images = Verity, append([]Image(nil), m.Images...)
	if err := m.Check(); err != nil {
		return nil, 0, err
	}
	files := tree.New(opt.Squashfs.ModTime)
	put := func(name string, mode uint32, c image.Content) error {
		return files.Put(name, &tree.Inode{Mode: tree.Regular | mode, ModTime: opt.Squashfs.ModTime, Content: c})
	}
	if err := opt.hash(ctx, &m, put, phases); err != nil {
		return nil, 0, err
	}
	if opt.Hook != nil {
		if err := put(m.HookFile, 0o755, opt.Hook); err != nil {
			return nil, 0, err
		}
	}
	if err := put(ManifestName, 0o644, bytes.NewReader(m.Encode())); err != nil {
		return nil, 0, err
	}
	size, err := opt.writePayload(ctx, f, files, phases)
	if err != nil {
		return nil, 0, err
	}
	if size <= verity.BlockSize {
		return nil, 0, fmt.Errorf("the images are too small: their squashfs has %d bytes, and RAUC takes bundles only from %d on", size, 2*verity.BlockSize)
	}
	salt := sha256.Sum256(m.Encode())
	root, err := verity.Write(ctx, io.NewOffsetWriter(f, size), io.NewSectionReader(f, 0, size), salt[:], phases.Start("hashing", size))
	if err != nil {
		return nil, 0, err
	}
	m.Root, m.Salt, m.Hashes = &root, salt[:], verity.TreeSize(size)
	signature, err := opt.Signer.Sign(m.Encode())
	if err != nil {
		return nil, 0, err
	}
	if len(signature) > maxSignature {
		return nil, 0, fmt.Errorf("the signature has %d bytes with its certificates, and RAUC accepts %d", len(signature), maxSignature)
	}
	end := binary.BigEndian.AppendUint64(signature, uint64(len(signature)))
	size += m.Hashes
	_, err = f.WriteAt(end, size)
	return &m, size + int64(len(end)), err
}

// prefetched is the unit in which the kernel reads the lowest level of a hash tree, from a multiple
// of it on (prefetch_cluster of dm_verity).
const prefetched = 256 << 10

// writePayload writes the squashfs of the bundle and returns its size. An image that is a squashfs
// is stored as it is, because a device that has most of its blocks reads the others at multiples of
// 4 KiB. If that takes few bytes, zeros follow, so that the kernel does not read the end of the
// squashfs with the hash tree.
func (opt *Options) writePayload(ctx context.Context, f File, files *tree.Tree, phases image.Phases) (int64, error) {
	total, stored := int64(0), map[*tree.Inode]bool{}
	for _, n := range files.All() {
		total += n.Size()
		if n.Content != nil {
			_, err := squashfs.Open(n.Content, n.Size())
			stored[n] = err == nil
		}
	}
	opt.Squashfs.Stored = func(n *tree.Inode) bool { return stored[n] }
	size, err := squashfs.Write(ctx, f, files, opt.Squashfs, phases.Start("compressing", total))
	if err != nil {
		return 0, err
	}
	if gap := -size & (prefetched - 1); gap <= size/256 {
		_, err = f.WriteAt(make([]byte, gap), size)
		size += gap
	}
	return size, err
}

// hash computes the hashes of the images, and puts them and their indexes into the payload.
func (opt *Options) hash(ctx context.Context, m *Manifest, put func(string, uint32, image.Content) error, phases image.Phases) error {
	total := int64(0)
	for _, c := range opt.Images {
		total += c.Size()
	}
	p := phases.Start("hashing", total)
	for n := range m.Images {
		i := &m.Images[n]
		c := opt.Images[i.File]
		if c == nil {
			return fmt.Errorf("internal error: %s has no content", i.File)
		}
		s, err := sum(ctx, c, i.Index() != "", p)
		if err != nil {
			return fmt.Errorf("%s: %w", i.File, err)
		}
		i.Size, i.SHA256 = c.Size(), s.file
		if err := put(i.File, 0o644, c); err != nil {
			return err
		}
		if i.Index() != "" {
			if err := put(i.Index(), 0o644, bytes.NewReader(s.index)); err != nil {
				return err
			}
		}
	}
	return nil
}
