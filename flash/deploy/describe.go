package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/gpt"
	"imgtool/image/partition"
)

// record is on a disk while an image is written to it.
type record struct {
	Board   string `json:"board,omitempty"`
	BuildID string `json:"build_id,omitempty"`
	Unit    string `json:"unit,omitempty"`
	Size    int64  `json:"size"` // of the image, in bytes
}

const recordMagic = "imgtool: flash in progress\n"

// recordOff is the offset of the record: after the first block, which holds the header of
// the partition table, and before any partition.
const recordOff = image.Block

func (p *Plan) record() *record {
	r := &record{Size: p.size, Unit: p.src.Unit}
	if m := p.src.Manifest; m != nil {
		r.Board, r.BuildID = m.Board, m.BuildID
	}
	return r
}

func (r *record) encode() []byte {
	text, err := json.Marshal(r)
	if err != nil {
		panic("deploy: internal error: " + err.Error())
	}
	return append(append([]byte(recordMagic), text...), '\n')
}

// isFor reports whether a block of a disk is a record for the same board and size of image.
func (r *record) isFor(block []byte) bool {
	text, ok := bytes.CutPrefix(block, []byte(recordMagic))
	line, _, _ := bytes.Cut(text, []byte("\n"))
	var other record
	return ok && json.Unmarshal(line, &other) == nil && other.Board == r.Board && other.Size == r.Size
}

// similar returns a clause that says why only what differs is written to a disk: it has the
// partitions of the image, or was about to get them. Otherwise it returns "".
func (p *Plan) similar(d *disk.Disk) string {
	t, err := disk.OpenRead(d)
	if err != nil {
		return ""
	}
	defer t.Close()
	block := make([]byte, image.Block)
	if n, _ := t.ReadAt(block, recordOff); n == len(block) && p.record().isFor(block) {
		return "was not written completely: the flash continues, and what is there already is only compared"
	}
	table, err := partition.Read(t, sectorSize(d))
	if err != nil || (table.GPT == nil) != (p.table.GPT == nil) || len(table.Parts) < len(p.table.Parts) {
		return ""
	}
	same := slices.EqualFunc(p.table.Parts, table.Parts[:len(p.table.Parts)], func(a, b gpt.Part) bool {
		return a.Name == b.Name && a.Off == b.Off && a.Len == b.Len && a.Type == b.Type
	})
	if !same {
		return ""
	}
	return "has the partitions of the image: it is compared, and what differs is written"
}

// sectorSize returns the sector size of a disk, 0 for a regular file, which may have any.
func sectorSize(d *disk.Disk) int64 {
	if d.File {
		return 0
	}
	return int64(d.SectorSize)
}

// Describe returns a line that identifies the image.
func (p *Plan) Describe() string {
	size := image.FormatSize(p.size)
	switch m := p.src.Manifest; {
	case m != nil:
		return fmt.Sprintf("%s (%s build %s, %s)", p.src.Name, m.Board, m.BuildID, size)
	case p.board != "":
		return fmt.Sprintf("%s (%s, and not known to be for %s: it has no manifest)", p.src.Name, size, p.board)
	}
	return fmt.Sprintf("%s (%s)", p.src.Name, size)
}
