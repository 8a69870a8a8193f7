package rpmdb

import (
	"encoding/binary"
	"fmt"
)

// ndb calls blob for every package of an ndb database: a header of 32 bytes and slots of 16 bytes,
// which fill some pages, and headers of packages anywhere behind them. All numbers are little
// endian. See rpm's lib/backend/ndb/rpmpkg.c.
func ndb(f *file, head []byte, blob func([]byte) error) error {
	const pageSize, slotSize, blockSize = 4096, 16, 16
	if len(head) < 32 {
		return fmt.Errorf("damaged: cut short")
	}
	if version := binary.LittleEndian.Uint32(head[4:]); version != 0 {
		return fmt.Errorf("version %d of the ndb format is not supported, only 0", version)
	}
	slots, err := f.at(0, int64(binary.LittleEndian.Uint32(head[12:]))*pageSize)
	if err != nil {
		return err
	}
	for at := 32; at+slotSize <= len(slots); at += slotSize {
		s := slots[at : at+slotSize]
		if string(s[:4]) != "Slot" {
			return fmt.Errorf("damaged: no slot at byte %d", at)
		}
		index, off := binary.LittleEndian.Uint32(s[4:]), int64(binary.LittleEndian.Uint32(s[8:]))*blockSize
		if index == 0 {
			continue // free
		}
		h, err := f.at(off, 16)
		if err != nil {
			return err
		}
		if string(h[:4]) != "BlbS" || binary.LittleEndian.Uint32(h[4:]) != index {
			return fmt.Errorf("damaged: package %d is not at byte %d", index, off)
		}
		b, err := f.at(off+16, int64(binary.LittleEndian.Uint32(h[12:])))
		if err == nil {
			err = blob(b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
