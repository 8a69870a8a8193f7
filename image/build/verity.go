package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/verity"
)

// align returns n rounded up to blocks of a hash tree.
func align(n int64) int64 { return (n + verity.BlockSize - 1) / verity.BlockSize * verity.BlockSize }

// protected returns the most data that fit in a partition of size bytes together with their hash
// tree.
func protected(size int64) int64 {
	size -= size % verity.BlockSize
	data := size
	for data > 0 && data+verity.BlockSize+verity.TreeSize(data) > size {
		data -= align(data + verity.BlockSize + verity.TreeSize(data) - size)
	}
	return max(data, 0)
}

// protect returns a file system followed by the superblock of its hash tree and the tree, and
// sets b.verity. The tree is kept in memory: it takes a 127th of the size of the data.
func (b *builder) protect(ctx context.Context, c image.Content) (image.Content, error) {
	size := align(c.Size())
	data, err := image.New(size, image.Extent{Name: "data", Content: c})
	if err != nil {
		return nil, err
	}
	// It is the same for all builds of a board, so that an update changes only hashes of blocks that
	// changed.
	salt := sha256.Sum256([]byte("imgtool verity salt " + b.Board.Name))
	tree := make(memory, verity.TreeSize(size))
	root, err := verity.Write(ctx, tree, io.NewSectionReader(data, 0, size), salt[:], b.Phases.Start("hash tree", size))
	if err != nil {
		return nil, err
	}
	super, err := verity.Superblock{UUID: b.uuid("verity"), Salt: salt[:], Blocks: size / verity.BlockSize}.Encode()
	if err != nil {
		return nil, err
	}
	b.verity = &artifact.Verity{RootHash: hex.EncodeToString(root[:]), HashOffset: size}
	whole := append(slices.Clip(super), tree...)
	return image.New(size+int64(len(whole)), image.Extent{Name: "data", Content: c}, image.Extent{Name: "hash tree", Off: size, Content: strings.NewReader(string(whole))})
}

// memory is a tree that is being written.
type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(m)) {
		return 0, io.ErrShortWrite
	}
	return copy(m[off:], p), nil
}

// verityArgs returns the kernel's arguments with which systemd, or the starter's initrd, checks
// the root file system (systemd-veritysetup-generator(8)), with a space before them. The root hash
// is zero until the tree is made.
func (b *builder) verityArgs() string {
	if !b.Board.Verity {
		return ""
	}
	v := artifact.Verity{RootHash: strings.Repeat("0", 64)}
	if b.verity != nil {
		v = *b.verity
	}
	const dev = "${root_disk}${distro_rootpart}"
	return fmt.Sprintf(" roothash=%s systemd.verity_root_data=%s systemd.verity_root_hash=%s systemd.verity_root_options=hash-offset=%d,panic-on-corruption", v.RootHash, dev, dev, v.HashOffset)
}

// remakeBoot replaces the boot partitions among the extents by such with the root hash.
func (b *builder) remakeBoot(d *disk, extents []image.Extent) error {
	for _, p := range d.placed.Parts {
		if p.Content != "boot" || p.Deferred || b.parts[d.Name+"/"+p.Name] != nil {
			continue
		}
		v, err := b.bootVolume(p)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(extents, func(e image.Extent) bool { return e.Off == p.Off })
		extents[i].Content = v
	}
	return nil
}
