// Package swap makes Linux swap areas, as mkswap(8) does.
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
	minPages = 10 // the least that mkswap accepts
	headOff  = 1024

	labelSize = 16 // including a zero byte
	magic     = "SWAPSPACE2"
)

// New returns a swap area of size bytes for machines with pages of 4096 bytes. Bytes after
// the last whole page are not used. The label has up to 15 bytes. Only the first page has
// content: Linux writes other pages before it reads them.
func New(size int64, uuid [16]byte, label string) (*image.Image, error) {
	pages := size / page
	if pages < minPages || pages-1 > math.MaxUint32 {
		return nil, fmt.Errorf("a swap area has %d to %d bytes, not %d", minPages*page, (int64(math.MaxUint32)+1)*page, size)
	}
	if len(label) >= labelSize || strings.IndexByte(label, 0) >= 0 {
		return nil, fmt.Errorf("the label %q has %d bytes and may have %d, without zero bytes", label, len(label), labelSize-1)
	}
	// union swap_header of linux/swap.h: version, last page, number of bad pages, UUID and
	// label at byte 1024, and the magic at the end of the page.
	b := make([]byte, page)
	for i, v := range []uint32{1, uint32(pages - 1), 0} {
		binary.LittleEndian.PutUint32(b[headOff+4*i:], v)
	}
	copy(b[headOff+12:], uuid[:])
	copy(b[headOff+28:], label)
	copy(b[page-len(magic):], magic)
	return image.New(size, image.Extent{Name: "swap header", Content: bytes.NewReader(b)})
}
