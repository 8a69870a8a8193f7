// Package uboot writes and reads script images of U-Boot: a legacy uImage header of 64 bytes,
// a table of lengths and the text of the script.
package uboot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Fields of the legacy header, see include/image.h of U-Boot.
const (
	magic      = 0x27051956
	headerSize = 64

	osLinux    = 5
	archARM64  = 22
	typeScript = 6
	compNone   = 0
)

// MaxScript is the number of bytes of boot.scr that U-Boot's boot method for RAUC reads.
const MaxScript = 64 << 10

// Script returns the image of a boot script for arm64, as mkimage -A arm64 -T script -C none
// makes it. The time is in seconds since 1970.
func Script(text string, time int64) ([]byte, error) {
	if len(text) == 0 {
		return nil, errors.New("the boot script is empty")
	}
	payload := make([]byte, 8, 8+len(text))
	binary.BigEndian.PutUint32(payload, uint32(len(text))) // a list of lengths, with 0 at the end
	payload = append(payload, text...)
	if n := headerSize + len(payload); n > MaxScript {
		return nil, fmt.Errorf("the boot script has %d bytes; U-Boot reads at most %d", n, MaxScript)
	}

	h := make([]byte, headerSize, headerSize+len(payload))
	be := binary.BigEndian
	be.PutUint32(h[0:], magic)
	be.PutUint32(h[8:], uint32(time))
	be.PutUint32(h[12:], uint32(len(payload)))
	be.PutUint32(h[24:], crc32.ChecksumIEEE(payload))
	h[28], h[29], h[30], h[31] = osLinux, archARM64, typeScript, compNone
	be.PutUint32(h[4:], crc32.ChecksumIEEE(h)) // with zero in its own field
	return append(h, payload...), nil
}

// ParseScript returns the text of a script image. It checks both checksums.
func ParseScript(b []byte) (string, error) {
	be := binary.BigEndian
	if len(b) < headerSize || be.Uint32(b) != magic {
		return "", errors.New("not a U-Boot image: the magic number is missing")
	}
	h := append([]byte(nil), b[:headerSize]...)
	want := be.Uint32(h[4:])
	clear(h[4:8])
	if got := crc32.ChecksumIEEE(h); got != want {
		return "", fmt.Errorf("the header's CRC is %08x, not %08x", got, want)
	}
	if h[30] != typeScript {
		return "", fmt.Errorf("a U-Boot image of type %d, not a script (%d)", h[30], typeScript)
	}
	n := int64(be.Uint32(h[12:]))
	if n > int64(len(b)-headerSize) {
		return "", fmt.Errorf("cut short: %d bytes of %d", len(b)-headerSize, n)
	}
	payload := b[headerSize : headerSize+n]
	if got, want := crc32.ChecksumIEEE(payload), be.Uint32(h[24:]); got != want {
		return "", fmt.Errorf("the script's CRC is %08x, not %08x", got, want)
	}
	if len(payload) < 8 {
		return "", errors.New("the list of scripts is cut short")
	}
	first := int64(be.Uint32(payload))
	for at := int64(4); ; at += 4 {
		if at+4 > n {
			return "", errors.New("the list of scripts does not end")
		}
		if be.Uint32(payload[at:]) == 0 {
			if first > n-at-4 {
				return "", fmt.Errorf("the script has %d bytes, and only %d follow the list", first, n-at-4)
			}
			return string(payload[at+4 : at+4+first]), nil
		}
	}
}
