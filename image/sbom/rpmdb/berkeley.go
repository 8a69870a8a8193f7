package rpmdb

import (
	"encoding/binary"
	"fmt"
)

// The magic number of a hash database of Berkeley DB, at byte 12, and the types of its pages.
const (
	hashMagic              = 0x061561
	pageHashUnsorted       = 2
	pageHash               = 13
	pageOverflow           = 7
	itemOffPage, hashStart = 3, 26
)

func isBerkeley(head []byte) bool {
	return len(head) >= 512 && (binary.LittleEndian.Uint32(head[12:]) == hashMagic || binary.BigEndian.Uint32(head[12:]) == hashMagic)
}

// berkeley calls blob for every package of a hash database of Berkeley DB: pages with keys and
// values in turn. Headers of packages are so long that they are on overflow pages; the short value
// of the key 0 is not a package. See dbinc/db_page.h of Berkeley DB.
func berkeley(f *file, head []byte, blob func([]byte) error) error {
	var order binary.ByteOrder = binary.LittleEndian
	if order.Uint32(head[12:]) != hashMagic {
		order = binary.BigEndian
	}
	size := int64(order.Uint32(head[20:]))
	if size < 512 || size > 65536 {
		return fmt.Errorf("damaged: pages of %d bytes", size)
	}
	for number := int64(1); (number+1)*size <= f.size; number++ {
		b, err := f.at(number*size, size)
		if err != nil {
			return err
		}
		if b[25] != pageHash && b[25] != pageHashUnsorted {
			continue
		}
		for i := range int64(order.Uint16(b[20:])) {
			slot := hashStart + 2*i
			if slot+2 > size {
				return fmt.Errorf("damaged: page %d has more entries than space", number)
			}
			at := int64(order.Uint16(b[slot:]))
			if i%2 == 0 || at+12 > size || b[at] != itemOffPage {
				continue
			}
			header, err := overflow(f, order, size, int64(order.Uint32(b[at+4:])), int64(order.Uint32(b[at+8:])))
			if err == nil {
				err = blob(header)
			}
			if err != nil {
				return fmt.Errorf("page %d: %w", number, err)
			}
		}
	}
	return nil
}

// overflow returns n bytes of a chain of overflow pages.
func overflow(f *file, order binary.ByteOrder, size, number, n int64) ([]byte, error) {
	if n > f.size {
		return nil, fmt.Errorf("damaged: a value of %d bytes in a file of %d", n, f.size)
	}
	all := make([]byte, 0, n)
	for int64(len(all)) < n {
		b, err := f.at(number*size, size)
		if err != nil {
			return nil, err
		}
		used := int64(order.Uint16(b[22:]))
		if b[25] != pageOverflow || used == 0 || used > size-hashStart {
			return nil, fmt.Errorf("damaged: page %d is not an overflow page", number)
		}
		all = append(all, b[hashStart:hashStart+min(used, n-int64(len(all)))]...)
		number = int64(order.Uint32(b[16:]))
	}
	return all, nil
}
