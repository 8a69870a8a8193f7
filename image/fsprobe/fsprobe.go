// Package fsprobe recognizes file systems by their superblocks, so that users recognize their
// disks. It reads a few blocks and checks nothing: what it returns is for display only.
package fsprobe

import (
	"bytes"
	"encoding/binary"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"

	"imgtool/image"
)

// Info is what the superblock of a file system says.
type Info struct {
	Kind  string // such as "FAT32"; "" if it is not known
	Label string
	Used  int64 // bytes in use, or -1 if they are not known
}

// String returns a clause such as `FAT32 "HOLIDAY", 3.20 GiB used`, or "" for the zero Kind.
func (i Info) String() string {
	text := i.Kind
	if i.Label != "" {
		text += " " + strconv.Quote(i.Label)
	}
	if i.Used >= 0 && i.Kind != "" {
		text += ", " + image.FormatSize(i.Used) + " used"
	}
	return text
}

var le, be = binary.LittleEndian, binary.BigEndian

// kinds are the file systems by the magic numbers in their superblocks. probe gets the bytes
// from off on and may read more.
var kinds = []struct {
	name     string
	magic    string
	magicOff int64
	off      int64 // of the superblock
	probe    func(r io.ReaderAt, b []byte, i *Info)
}{
	{"LUKS", "LUKS\xba\xbe", 0, 0, func(_ io.ReaderAt, b []byte, i *Info) { // LUKS2 On-Disk Format, 2.1
		if be.Uint16(b[6:]) == 2 {
			i.Label = text(b[24:72])
		}
	}},
	{"squashfs", "hsqs", 0, 0, func(_ io.ReaderAt, b []byte, i *Info) { i.Used = int64(le.Uint64(b[40:])) }},
	{"XFS", "XFSB", 0, 0, func(_ io.ReaderAt, b []byte, i *Info) { // struct xfs_dsb of fs/xfs
		i.Label = text(b[108:120])
		i.Used = int64(be.Uint64(b[8:])-be.Uint64(b[144:])) * int64(be.Uint32(b[4:]))
	}},
	{"exFAT", "EXFAT   ", 3, 0, exFAT},
	{"NTFS", "NTFS    ", 3, 0, nil},
	{"swap", "SWAPSPACE2", 4086, 1024, func(_ io.ReaderAt, b []byte, i *Info) { i.Label = text(b[28:44]) }},
	{"ext4", "\x53\xef", 1024 + 56, 1024, ext},
	{"f2fs", "\x10\x20\xf5\xf2", 1024, 1024, func(_ io.ReaderAt, b []byte, i *Info) { i.Label = utf16Text(b[124:636]) }},
	{"erofs", "\xe2\xe1\xf5\xe0", 1024, 1024, func(_ io.ReaderAt, b []byte, i *Info) { i.Label = text(b[64:80]) }},
	{"HFS+", "H+", 1024, 1024, nil},
	{"APFS", "NXSB", 32, 0, nil},
	{"btrfs", "_BHRfS_M", 64<<10 + 64, 64 << 10, func(_ io.ReaderAt, b []byte, i *Info) { // struct btrfs_super_block
		i.Label, i.Used = text(b[299:555]), int64(le.Uint64(b[120:]))
	}},
	{"ISO 9660", "CD001", 32<<10 + 1, 32 << 10, func(_ io.ReaderAt, b []byte, i *Info) { i.Label = text(b[40:72]) }},
	{"LVM", "LVM2 001", 512 + 24, 512, nil},
	{"FAT", "\x55\xaa", 510, 0, fatFS},
}

// Probe returns what kind of file system r has. The Kind is empty if it knows none, or if r
// cannot be read.
func Probe(r io.ReaderAt) Info {
	head := make([]byte, 68<<10)
	n, _ := r.ReadAt(head, 0)
	head = head[:n]
	for _, k := range kinds {
		if n < int(k.off)+1024 || !bytes.HasPrefix(head[min(int(k.magicOff), n):], []byte(k.magic)) {
			continue
		}
		i := Info{Kind: k.name, Used: -1}
		if k.probe != nil {
			k.probe(r, head[k.off:k.off+1024], &i)
		}
		if i.Kind != "" {
			return i
		}
	}
	return Info{Used: -1}
}

// ext reads struct ext4_super_block of fs/ext4/ext4.h.
func ext(_ io.ReaderAt, b []byte, i *Info) {
	i.Label = text(b[120:136])
	compat, incompat := le.Uint32(b[92:]), le.Uint32(b[96:])
	blocks, free := int64(le.Uint32(b[4:])), int64(le.Uint32(b[12:]))
	if incompat&0x80 != 0 { // 64bit
		blocks, free = blocks|int64(le.Uint32(b[336:]))<<32, free|int64(le.Uint32(b[344:]))<<32
	}
	if shift := le.Uint32(b[24:]); shift <= 6 && free <= blocks {
		i.Used = (blocks - free) << (10 + shift)
	}
	switch {
	case incompat&0x240 != 0: // extents, flex_bg
	case compat&4 != 0:
		i.Kind = "ext3"
	default:
		i.Kind = "ext2"
	}
}

// exFAT reads the main boot sector, and the label in the first cluster of the root directory
// (exFAT File System Specification, 3.1 and 7.3).
func exFAT(r io.ReaderAt, b []byte, i *Info) {
	sectorShift, clusterShift := b[108], b[109]
	if sectorShift > 12 || clusterShift > 25-sectorShift {
		return
	}
	cluster := int64(1) << (sectorShift + clusterShift)
	if used := b[112]; used <= 100 {
		i.Used = int64(le.Uint32(b[92:])) * cluster / 100 * int64(used)
	}
	root := int64(le.Uint32(b[88:]))<<sectorShift + (int64(le.Uint32(b[96:]))-2)*cluster
	entries := make([]byte, min(cluster, 4096))
	if _, err := image.ReadFull(r, entries, root); err != nil {
		return
	}
	for e := range chunks(entries, 32) {
		if n := 2 * int(e[1]); e[0] == 0x83 && n <= 22 {
			i.Label = utf16Text(e[2 : 2+n])
		}
	}
}

// fatFS reads the BIOS parameter block (fatgen103). Kind is set to "" if it is not a FAT.
func fatFS(r io.ReaderAt, b []byte, i *Info) {
	sector, cluster := int64(le.Uint16(b[11:])), int64(b[13])
	reserved, fats := int64(le.Uint16(b[14:])), int64(b[16])
	rootEntries := int64(le.Uint16(b[17:]))
	total, fatLen := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	kind32 := fatLen == 0
	if kind32 {
		fatLen = int64(le.Uint32(b[36:]))
	}
	if sector < 512 || sector > 4096 || sector&(sector-1) != 0 || cluster == 0 || cluster&(cluster-1) != 0 || reserved == 0 || fats == 0 || fats > 2 || fatLen == 0 {
		i.Kind = ""
		return
	}
	root := reserved + fats*fatLen
	count := (total - root - (rootEntries*32+sector-1)/sector) / cluster
	if count <= 0 {
		i.Kind = ""
		return
	}
	label, free := text(b[43:54]), int64(-1)
	dir, dirLen := root*sector, rootEntries*32
	switch {
	case kind32:
		i.Kind, label, free = "FAT32", text(b[71:82]), infoFree(r, int64(le.Uint16(b[48:]))*sector)
		dir, dirLen = (root+(int64(le.Uint32(b[44:]))-2)*cluster)*sector, cluster*sector
	case count < 4085:
		i.Kind = "FAT12"
	default:
		i.Kind, free = "FAT16", fat16Free(r, reserved*sector, count)
	}
	if free >= 0 && free <= count {
		i.Used = (count - free) * cluster * sector
	}
	if label == "NO NAME" {
		label = ""
	}
	i.Label = label
	entries := make([]byte, min(dirLen, 64<<10))
	if _, err := image.ReadFull(r, entries, dir); err != nil {
		return
	}
	for e := range chunks(entries, 32) {
		switch {
		case e[0] == 0:
			return
		case e[0] != 0xE5 && e[11]&0x3f == 8: // ATTR_VOLUME_ID
			i.Label = text(e[:11])
			return
		}
	}
}

// infoFree returns the free clusters that the FSInfo sector says, or -1.
func infoFree(r io.ReaderAt, off int64) int64 {
	b := make([]byte, 512)
	if _, err := image.ReadFull(r, b, off); err != nil || string(b[:4]) != "RRaA" || le.Uint32(b[488:]) == 0xffffffff {
		return -1
	}
	return int64(le.Uint32(b[488:]))
}

// fat16Free counts the free clusters in the first table of a FAT16, or returns -1.
func fat16Free(r io.ReaderAt, off, count int64) (free int64) {
	if count > 65524 { // more than a FAT16 has
		return -1
	}
	table := make([]byte, 2*(count+2))
	if _, err := image.ReadFull(r, table, off); err != nil {
		return -1
	}
	for e := range chunks(table[4:], 2) {
		if e[0] == 0 && e[1] == 0 {
			free++
		}
	}
	return free
}

func chunks(b []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for ; len(b) >= n && yield(b[:n]); b = b[n:] {
		}
	}
}

// text returns the characters before the first NUL, without spaces at the end.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.TrimRight(strings.ToValidUTF8(string(b), "?"), " ")
}

func utf16Text(b []byte) string {
	var units []uint16
	for e := range chunks(b, 2) {
		if units = append(units, le.Uint16(e)); units[len(units)-1] == 0 {
			units = units[:len(units)-1]
			break
		}
	}
	return string(utf16.Decode(units))
}
