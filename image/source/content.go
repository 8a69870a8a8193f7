package source

import (
	"crypto/sha256"
	"encoding/hex"
	"io"

	"imgtool/image"
)

// NewFile returns content as a file. It reads all of it for the digest.
func NewFile(c image.Content, origin string) (*File, error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(c, 0, c.Size())); err != nil {
		return nil, err
	}
	return &File{Content: c, SHA256: hex.EncodeToString(h.Sum(nil)), Origin: origin}, nil
}
