// Package swap makes Linux swap areas, as mkswap does. It reads none.
package swap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"imgtool/image"
)

const (
	page     = 4096
	minPages = 10 // Linux takes no less
	headOff  = 1024
	version  = 1

	labelSize = 16 // with a zero byte
	magic     = "SWAPSPACE2"
)

// New returns a swap area of size bytes for machines with pages of 4096 bytes;
// what is beyond the last whole page is not used. The label has up to 15 bytes.
// Only the first page is content: nothing reads the rest before it is written.
func New(size int64, uuid [16]byte, label string) (*image.Image, error) {
	pages := size / page
	if pages < minPages || pages-1 > math.MaxUint32 {
		return nil, fmt.Errorf("a swap area of %d bytes cannot be: it has %d to %d", size, minPages*page, (int64(math.MaxUint32)+1)*page)
	}
	if len(label) >= labelSize || strings.IndexByte(label, 0) >= 0 {
		return nil, fmt.Errorf("the label %q is longer than %d bytes, or has a zero byte", label, labelSize-1)
	}
	// union swap_header of include/linux/swap.h: the version, the last page, the
	// number of bad pages, UUID, label; at the end of the page what it is.
	b := make([]byte, page)
	for i, v := range []uint32{version, uint32(pages - 1), 0} {
		binary.LittleEndian.PutUint32(b[headOff+4*i:], v)
	}
	copy(b[headOff+12:], uuid[:])
	copy(b[headOff+28:], label)
	copy(b[page-len(magic):], magic)
	return image.New(size, image.Extent{Name: "swap header", Content: bytes.NewReader(b)})
}
