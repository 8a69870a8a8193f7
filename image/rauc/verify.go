package rauc

import (
	"bytes"
	"context"
	"crypto/x509"
	"io"
	"strings"
	"time"

	"imgtool/image"
	"imgtool/image/cms"
	"imgtool/image/fault"
	"imgtool/image/verity"
)

// Trust is what a bundle is checked against.
type Trust struct {
	Keyring    []*x509.Certificate // empty: the signer is not checked
	Purpose    cms.Purpose
	Time       time.Time // at which the certificates must be valid
	Compatible string    // of the device; empty: not checked
}

// Verify checks a bundle as RAUC does before it installs it, and besides the hash of every
// image and its index: the signature, whether the signer is trusted, the compatible string,
// the hash tree. Encrypted parts, and images in a store of casync, cannot be checked.
func (b *Bundle) Verify(ctx context.Context, t Trust, phases image.Phases) error {
	if b.Manifest == nil || b.Format == Crypt {
		return fault.New(fault.Input, "it is encrypted for its devices (format %s): nothing in it can be checked without a device's key", Crypt)
	}
	payload := io.NewSectionReader(b.r, 0, b.Payload)
	content := b.Signed()
	if content != nil {
		content = image.NewReader(ctx, content, phases.Start("checking the signature", b.Payload))
	}
	if err := b.Signature.Verify(content); err != nil {
		return err
	}
	if len(t.Keyring) > 0 {
		if err := b.Signature.Trust(t.Keyring, t.Time, t.Purpose); err != nil {
			return err
		}
	}
	if n := len(b.Signature.Signatures); n != 1 {
		return fault.New(fault.Corrupt, "it has %d signatures, and RAUC accepts only one", n)
	}
	if err := b.Manifest.Refused(); err != nil {
		return fault.New(fault.Corrupt, "%w", err)
	}
	if t.Compatible != "" && t.Compatible != b.Manifest.Compatible {
		return fault.New(fault.WrongBoard, "it is for devices that are compatible with %q, not with %q", b.Manifest.Compatible, t.Compatible)
	}
	if b.Format == Verity {
		hashes := io.NewSectionReader(b.r, b.Payload, b.Manifest.Hashes)
		if err := verity.Verify(ctx, payload, hashes, verity.Root{Hash: *b.Manifest.Root, Salt: b.Manifest.Salt}, phases.Start("checking the hash tree", b.Payload)); err != nil {
			return err
		}
	}
	return b.verifyImages(ctx, phases)
}

// Unchecked returns the names of the images in a store of casync.
func (b *Bundle) Unchecked() (names []string) {
	for _, i := range b.Manifest.Images {
		if i.Casync() {
			names = append(names, i.Name())
		}
	}
	return names
}

func (b *Bundle) verifyImages(ctx context.Context, phases image.Phases) error {
	if err := b.CheckFiles(); err != nil {
		return err
	}
	total := int64(0)
	for _, i := range b.Manifest.Images {
		if !i.Casync() {
			total += i.Size
		}
	}
	p := phases.Start("checking the images", total)
	for _, i := range b.Manifest.Images {
		if i.File == "" || i.Casync() {
			continue
		}
		c, err := b.File(i.File)
		if err != nil {
			return err
		}
		index := i.Index()
		s, err := sum(ctx, c, index != "", p)
		if err != nil {
			return fault.New(fault.Corrupt, "%s: %w", i.File, err)
		}
		if s.file != strings.ToLower(i.SHA256) {
			return fault.New(fault.Corrupt, "%s has the SHA-256 %s, and the manifest says %s", i.File, s.file, i.SHA256)
		}
		if index == "" {
			continue
		}
		stored, err := b.File(index)
		if err != nil {
			return err
		}
		have := make([]byte, min(stored.Size(), int64(len(s.index))))
		if _, err := image.ReadFull(stored, have, 0); err != nil {
			return fault.New(fault.Corrupt, "%s: %w", index, err)
		}
		if stored.Size() != int64(len(s.index)) || !bytes.Equal(have, s.index) {
			return fault.New(fault.Corrupt, "%s does not have the hashes of the blocks of %s", index, i.File)
		}
	}
	return nil
}
