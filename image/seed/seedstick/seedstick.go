// Package seedstick makes the image of a seed stick: a USB stick from which an AtomixOS device
// takes its configuration on its first boot.
package seedstick

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"github.com/google/uuid"

	"imgtool/image"
	"imgtool/image/fat"
	"imgtool/image/gpt"
	"imgtool/layouts"
)

const (
	partitionStart = 1 << 20
	partitionSize  = 64 << 20 // holds the largest seed; large enough for FAT16, which all systems read
)

// New returns a disk with one FAT partition that contains the seed. A device finds it by its
// label, or by its partition name, which differs from the names of the device's own partitions.
// The partition type makes Windows and macOS mount it. Identifiers are derived from the seed;
// the files get the time, in Unix seconds.
func New(seed []byte, time int64) (*image.Image, error) {
	derive := func(name string) []byte {
		sum := sha256.Sum256(append([]byte("imgtool seed stick "+name+"\x00"), seed...))
		return sum[:]
	}
	guid := func(name string) string {
		u := uuid.UUID(derive(name)[:16])
		u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // version 8 of RFC 9562
		return strings.ToUpper(u.String())
	}
	volume, err := fat.New(partitionSize, fat.Options{Label: "SEED", Serial: binary.LittleEndian.Uint32(derive("fat")), Time: time},
		[]fat.File{{Path: "config.toml", Content: bytes.NewReader(seed)}})
	if err != nil {
		return nil, err
	}
	table := &gpt.Table{GUID: guid("disk"), Size: partitionStart + partitionSize + 1<<20, FirstUsable: partitionStart, Parts: []gpt.Part{
		{Number: 1, Name: "seed", Type: layouts.Types["microsoft"], GUID: guid("partition"), Off: partitionStart, Len: partitionSize}}}
	extents, err := table.Extents()
	if err != nil {
		return nil, err
	}
	return image.New(table.Size, append(extents, image.Extent{Name: "seed", Off: partitionStart, Content: volume})...)
}
