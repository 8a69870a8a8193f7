package fat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

const (
	mib = 1 << 20

	sector    = 512
	entrySize = 32
	rootSlots = 512     // of the root directory of FAT16
	maxSlots  = 1 << 16 // of any directory

	media        = 0xf8 // not removable
	firstCluster = 2
	endOfChain   = 0x0fffffff

	// The number of clusters determines the kind of a file system. For FAT16 mkfs.vfat
	// keeps a distance of two from the minimum.
	minClusters16 = 4087
	minFAT16      = 4085
	maxClusters16 = 65524
	maxClusters32 = 0x0ffffff5

	infoSector   = 1
	backupSector = 6
)

// geometry is the geometry that mkfs.vfat chooses. Lengths are in sectors.
type geometry struct {
	bits     int // of a table entry: 16 or 32
	sectors  int64
	track    int64
	heads    int64
	cluster  int64
	reserved int64
	table    int64 // of each of the two tables
	clusters int64
}

func (g geometry) clusterSize() int64 { return g.cluster * sector }
func (g geometry) rootOff() int64     { return (g.reserved + 2*g.table) * sector }

// dataOff returns the offset of cluster 2.
func (g geometry) dataOff() int64 {
	if g.bits == 16 {
		return g.rootOff() + rootSlots*entrySize
	}
	return g.rootOff()
}

func (g geometry) clusterOff(n int64) int64 {
	return g.dataOff() + (n-firstCluster)*g.clusterSize()
}

func choose(size int64) (geometry, error) {
	if size < 0 || size%sector != 0 {
		return geometry{}, fmt.Errorf("invalid size %d of a FAT file system: it must be a multiple of %d", size, sector)
	}
	sectors := size / sector
	if sectors > 1<<32-1 {
		return geometry{}, fmt.Errorf("invalid size %d of a FAT file system: it has up to %d bytes", size, int64(1<<32-1)*sector)
	}
	// Whole tracks only, as in mkfs.vfat: up to 31 KiB at the end are unused.
	g := geometry{bits: 16}
	g.track, g.heads = tracks(sectors)
	g.sectors = sectors / g.track * g.track

	if size > 512*mib {
		g.bits, g.cluster = 32, 8
		for most := int64(8 << 30); size > most && g.cluster < 64; most *= 2 {
			g.cluster *= 2
		}
		g.divide(32)
		return g, nil
	}
	// If clusters of 4 sectors are too few for FAT16, mkfs.vfat makes FAT12. We use
	// smaller clusters instead.
	for _, g.cluster = range []int64{4, 8, 16, 2, 1} {
		g.divide(1)
		if g.clusters >= minClusters16 && g.clusters <= maxClusters16 {
			return g, nil
		}
	}
	return geometry{}, fmt.Errorf("invalid size %d of a FAT16 file system: it needs 2.2 MiB", size)
}

// divide computes the lengths that follow from the size of a cluster. Everything before
// the first cluster is aligned to that size.
func (g *geometry) divide(reserved int64) {
	width := int64(g.bits / 8)
	g.reserved = roundUp(reserved, g.cluster)
	rest := g.sectors - (g.dataOff()-g.rootOff())/sector - g.reserved
	// A cluster takes its sectors and an entry in both tables, which have two entries
	// more than there are clusters.
	n := max(0, rest*sector+2*2*width) / (g.clusterSize() + 2*width)
	g.table = roundUp(ceil((n+firstCluster)*width, sector), g.cluster)
	g.clusters = max(0, rest-2*g.table) / g.cluster
}

// tracks returns the sectors per track and the heads that the SD File System Specification
// recommends for a size.
func tracks(sectors int64) (track, heads int64) {
	for _, row := range [][3]int64{{4, 16, 2}, {16, 32, 2}, {32, 32, 4}, {128, 32, 8}, {256, 32, 16}, {504, 63, 16}, {1008, 63, 32}, {2016, 63, 64}, {4032, 63, 128}} {
		if sectors*sector <= row[0]*mib {
			return row[1], row[2]
		}
	}
	return 63, 255
}

// boot is the start of the boot sector (fatgen103, Boot Sector and BPB Structure).
type boot struct {
	Jump       [3]byte
	OEM        [8]byte
	SectorSize uint16
	Cluster    uint8 // in sectors
	Reserved   uint16
	Tables     uint8
	RootSlots  uint16
	Sectors16  uint16 // 0: see Sectors32
	Media      uint8
	Table16    uint16 // in sectors; 0: FAT32
	Track      uint16
	Heads      uint16
	Hidden     uint32
	Sectors32  uint32
}

// boot32 follows it in FAT32.
type boot32 struct {
	Table32 uint32
	Flags   uint16
	Version uint16
	Root    uint32 // first cluster
	Info    uint16 // sector
	Backup  uint16 // sector
	_       [12]byte
}

// bootEnd follows in all kinds.
type bootEnd struct {
	Drive     uint8
	State     uint8 // bit 0: in use by Linux, or not unmounted
	Signature uint8
	Serial    uint32
	Label     [11]byte
	Kind      [8]byte
}

// notMirrored in boot32.Flags means that only the table whose number is in the low bits is
// in use.
const notMirrored = 0x80

// reservedSectors returns everything before the tables: the boot sector, and in FAT32
// FSInfo and a copy of both.
func (g geometry) reservedSectors(label [11]byte, serial uint32, next int64) *bytes.Reader {
	b := boot{
		OEM:        [8]byte([]byte("MSWIN4.1")), // what the specification asks for
		SectorSize: sector,
		Cluster:    uint8(g.cluster),
		Reserved:   uint16(g.reserved),
		Tables:     2,
		Media:      media,
		Track:      uint16(g.track),
		Heads:      uint16(g.heads),
	}
	if g.sectors < 1<<16 {
		b.Sectors16 = uint16(g.sectors)
	} else {
		b.Sectors32 = uint32(g.sectors)
	}
	if g.bits == 16 {
		b.RootSlots = rootSlots
		b.Table16 = uint16(g.table)
	}
	// Firmware that executes the sector continues with the next disk: int 18h, then hlt in
	// a loop.
	code := []byte{0xcd, 0x18, 0xf4, 0xeb, 0xfd}
	codeOff := binary.Size(boot{}) + binary.Size(bootEnd{})
	if g.bits == 32 {
		codeOff += binary.Size(boot32{})
	}
	b.Jump = [3]byte{0xeb, byte(codeOff - 2), 0x90}

	var s bytes.Buffer
	put(&s, b)
	if g.bits == 32 {
		put(&s, boot32{Table32: uint32(g.table), Root: firstCluster, Info: infoSector, Backup: backupSector})
	}
	put(&s, bootEnd{Drive: 0x80, Signature: 0x29, Serial: serial, Label: label, Kind: [8]byte([]byte(fmt.Sprintf("FAT%d   ", g.bits)))})
	s.Write(code)

	all := make([]byte, g.reserved*sector)
	copy(all, s.Bytes())
	copy(all[sector-2:], "\x55\xaa")
	if g.bits == 32 {
		info := all[infoSector*sector:][:sector]
		copy(info, "RRaA")
		copy(info[484:], "rrAa")
		binary.LittleEndian.PutUint32(info[488:], uint32(g.clusters-(next-firstCluster))) // free
		binary.LittleEndian.PutUint32(info[492:], uint32(next-1))                         // last in use
		copy(info[510:], "\x55\xaa")
		copy(all[backupSector*sector:], all[:2*sector])
	}
	return bytes.NewReader(all)
}

// put appends v, a struct of fixed size.
func put(b *bytes.Buffer, v any) {
	if err := binary.Write(b, binary.LittleEndian, v); err != nil {
		panic("fat: internal error: " + err.Error())
	}
}

var noName = [11]byte([]byte("NO NAME    "))

// checkLabel returns the label in its on-disk form.
func checkLabel(label string) ([11]byte, error) {
	if len(label) > 11 {
		return noName, fmt.Errorf("the label %q has %d characters: FAT has room for 11", label, len(label))
	}
	for _, r := range label {
		if r < ' ' || r >= 0x7f || strings.ContainsRune(`*?.,;:/\|+=<>[]"`, r) {
			return noName, fmt.Errorf("the label %q has the character %q, which FAT does not allow in a label", label, r)
		}
	}
	if strings.HasPrefix(label, " ") {
		return noName, fmt.Errorf("the label %q starts with a space", label)
	}
	field := noName
	if label != "" {
		copy(field[:], fmt.Sprintf("%-11s", strings.ToUpper(label)))
	}
	return field, nil
}
