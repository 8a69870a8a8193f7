package gpt

import (
	"encoding/binary"
	"io"
)

// DiskSize is how large the disk is that the partition table in the first bytes of r,
// a GPT or an MBR, is for: of an MBR, up to the end of its last partition. It is 0
// where there is no table, or one with a fault.
func DiskSize(r io.ReaderAt) int64 {
	if t, err := Read(r); err == nil {
		return t.Size
	}
	mbr := make([]byte, sector)
	if n, _ := r.ReadAt(mbr, 0); n < len(mbr) || mbr[510] != 0x55 || mbr[511] != 0xaa {
		return 0
	}
	end := int64(0)
	for e := mbr[446:510]; len(e) > 0; e = e[16:] {
		first, count := binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])
		switch {
		case e[0]&0x7f != 0, e[4] == 0xee: // boot code of a file system without a table; a damaged GPT
			return 0
		case e[4] != 0:
			end = max(end, (int64(first)+int64(count))*sector)
		}
	}
	return end
}
