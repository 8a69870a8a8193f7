// Package rauc makes, reads and checks update bundles of RAUC.
//
// A bundle has, in this order: a squashfs with the manifest and the images, except in the
// format plain the hash tree of the squashfs for dm-verity, a CMS signature, and the size of
// the signature in 8 bytes, big-endian. In the formats verity and crypt the signature
// contains the manifest, with the root of the hash tree; in the format plain it is of the
// squashfs. See https://rauc.readthedocs.io/en/latest/reference.html, "Bundle Formats".
package rauc

import (
	"encoding/binary"
	"io"

	"imgtool/image"
	"imgtool/image/cms"
	"imgtool/image/fault"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
	"imgtool/image/verity"
)

const (
	sizeField = 8

	// RAUC refuses larger signatures, unless a device is configured otherwise.
	maxSignature = 64 << 10
	maxManifest  = 1 << 20
)

// Suffix is the end of the names of bundles.
const Suffix = ".raucb"

// Bundle is an open bundle. Nothing is checked but its structure; see [Bundle.Verify].
type Bundle struct {
	Manifest  *Manifest // nil for the format crypt
	Format    string
	Signature *cms.Message
	Tree      *tree.Tree // of the payload; nil for the format crypt

	Payload int64 // size in bytes of the squashfs, or of what is encrypted
	r       io.ReaderAt
	end     int64 // of payload and hash tree
}

// Is reports whether r, which has size bytes, is a bundle: it ends with a signature and its
// size.
func Is(r io.ReaderAt, size int64) bool {
	signature, _, err := readSignature(r, size)
	return err == nil && cms.Is(signature)
}

// readSignature returns the signature at the end of a bundle, and its offset.
func readSignature(r io.ReaderAt, size int64) (signature []byte, at int64, err error) {
	if size < verity.BlockSize {
		return nil, 0, fault.New(fault.Corrupt, "%d bytes are too few for a bundle", size)
	}
	var field [sizeField]byte
	if _, err := image.ReadFull(r, field[:], size-sizeField); err != nil {
		return nil, 0, err
	}
	n := binary.BigEndian.Uint64(field[:])
	if n == 0 || n > maxSignature || int64(n) > size-sizeField {
		return nil, 0, fault.New(fault.Corrupt, "its last 8 bytes say that the signature has %d bytes; it must have 1 to %d", n, min(maxSignature, size-sizeField))
	}
	signature, at = make([]byte, n), size-sizeField-int64(n)
	_, err = image.ReadFull(r, signature, at)
	return signature, at, err
}

// Open opens a bundle of size bytes.
func Open(r io.ReaderAt, size int64) (*Bundle, error) {
	signature, end, err := readSignature(r, size)
	if err != nil {
		return nil, err
	}
	b := &Bundle{r: r, end: end, Payload: end}
	if b.Signature, err = cms.Parse(signature); err != nil {
		return nil, err
	}
	if b.Signature.Encrypted {
		b.Format = Crypt
		return b, nil
	}
	if b.Signature.Detached {
		return b, b.openPlain()
	}
	if b.Manifest, err = parseSigned(b.Signature.Content); err != nil {
		return nil, err
	}
	b.Format = b.Manifest.Format
	b.Payload -= b.Manifest.Hashes
	if b.Payload <= 0 || b.Payload%verity.BlockSize != 0 || verity.TreeSize(b.Payload) != b.Manifest.Hashes {
		return nil, fault.New(fault.Corrupt, "the manifest says that the hash tree has %d bytes; that does not fit the %d bytes before the signature", b.Manifest.Hashes, end)
	}
	if b.Format == Crypt { // an encrypted payload whose signature was decrypted
		return b, nil
	}
	return b, b.openTree()
}

func parseSigned(text []byte) (*Manifest, error) {
	m, err := ParseManifest(text)
	switch {
	case err != nil:
		return nil, fault.New(fault.Corrupt, "the manifest in the signature: %w", err)
	case m.Format == Plain || m.Root == nil:
		return nil, fault.New(fault.Corrupt, "the manifest in the signature has the format %s and no root of a hash tree", m.Format)
	}
	return m, nil
}

// openPlain reads the manifest of the format plain.
func (b *Bundle) openPlain() error {
	b.Format = Plain
	if err := b.openTree(); err != nil {
		return err
	}
	n := b.Tree.Lookup(ManifestName)
	if n == nil || n.Type() != tree.Regular || n.Content == nil || n.Size() > maxManifest {
		return fault.New(fault.Corrupt, "it has no file %s", ManifestName)
	}
	text, err := image.Head(n.Content, n.Size())
	if err != nil {
		return fault.New(fault.Corrupt, "%s: %w", ManifestName, err)
	}
	if b.Manifest, err = ParseManifest(text); err != nil {
		return fault.New(fault.Corrupt, "%s: %w", ManifestName, err)
	}
	if b.Manifest.Format != Plain {
		return fault.New(fault.Corrupt, "%s says that the format is %s, and the signature that it is %s", ManifestName, b.Manifest.Format, Plain)
	}
	return nil
}

func (b *Bundle) openTree() error {
	fs, err := squashfs.Open(io.NewSectionReader(b.r, 0, b.Payload), b.Payload)
	if err == nil {
		b.Tree, err = fs.Tree()
	}
	if err != nil {
		return fault.New(fault.Corrupt, "the squashfs in it: %w", err)
	}
	return nil
}

// File returns a file of the bundle.
func (b *Bundle) File(name string) (image.Content, error) {
	if b.Tree == nil {
		return nil, fault.New(fault.Input, "%s is encrypted", name)
	}
	n := b.Tree.Lookup(name)
	switch {
	case n == nil || n.Type() != tree.Regular:
		return nil, fault.New(fault.Corrupt, "the manifest names the file %s, which is not in the bundle", name)
	case n.Content == nil:
		return image.Zeros(0), nil
	}
	return n.Content, nil
}

// Signed returns what the signature is of if that is not in the signature itself, else nil.
func (b *Bundle) Signed() io.Reader {
	if !b.Signature.Detached {
		return nil
	}
	return io.NewSectionReader(b.r, 0, b.Payload)
}

// CheckFiles reports a file that the manifest names and that is missing or has another size.
func (b *Bundle) CheckFiles() error {
	for _, i := range b.Manifest.Images {
		if i.File == "" {
			continue
		}
		c, err := b.File(i.File)
		if err == nil && !i.Casync() && c.Size() != i.Size {
			err = fault.New(fault.Corrupt, "%s has %d bytes, and the manifest says %d", i.File, c.Size(), i.Size)
		}
		if err == nil && !i.Casync() && i.Index() != "" {
			_, err = b.File(i.Index())
		}
		if err != nil {
			return err
		}
	}
	if b.Manifest.HookFile != "" {
		_, err := b.File(b.Manifest.HookFile)
		return err
	}
	return nil
}
