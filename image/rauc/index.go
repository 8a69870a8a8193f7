package rauc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"

	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/verity"
)

// sums are the SHA-256 of a file and, on request, of each of its blocks, as RAUC has them in
// a block hash index.
type sums struct {
	file  string
	index []byte
}

// maxIndex is the largest number of blocks that RAUC accepts.
const maxIndex = 1<<27 - 1

// CheckIndex reports a size for which RAUC makes no index.
func CheckIndex(size int64) error {
	if size <= 0 || size%verity.BlockSize != 0 || size/verity.BlockSize > maxIndex {
		return fault.New(fault.Input, "it has %d bytes, and RAUC makes a %s only of a multiple of %d", size, BlockHashIndex, verity.BlockSize)
	}
	return nil
}

// sum reads c.
func sum(ctx context.Context, c image.Content, index bool, p image.Progress) (*sums, error) {
	s := &sums{}
	if index {
		if err := CheckIndex(c.Size()); err != nil {
			return nil, err
		}
		s.index = make([]byte, 0, c.Size()/verity.BlockSize*sha256.Size)
	}
	h := sha256.New()
	r := image.NewReader(ctx, io.NewSectionReader(c, 0, c.Size()), p)
	for b := make([]byte, 256*verity.BlockSize); ; {
		n, err := io.ReadFull(r, b)
		if err == io.EOF {
			break
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return nil, err
		}
		h.Write(b[:n])
		for at := 0; index && at < n; at += verity.BlockSize {
			block := sha256.Sum256(b[at : at+verity.BlockSize])
			s.index = append(s.index, block[:]...)
		}
	}
	s.file = hex.EncodeToString(h.Sum(nil))
	return s, nil
}
