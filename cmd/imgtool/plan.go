package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

	"imgtool/flash"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/gpt"
)

// plan is an image on its way to a disk: what lies before its first partition is
// in memory, its table is known, and the rest is still to come.
type plan struct {
	pic   *picture
	table *gpt.Table    // nil: an MBR
	start int64         // of the first partition
	size  int64         // of the image, in bytes; for an MBR from a pipe, what is known of it
	least int64         // what its partition table speaks of, in bytes
	head  []image.Chunk // what lies before start
	first []image.Chunk // what was read of the rest

	record *record // what the in-progress record says
	next   func() (image.Chunk, error, bool)
	Close  func()
}

// maxHead bounds what is kept of an image: what lies before its first partition.
const maxHead = 64 << 20

func corrupt(format string, args ...any) error {
	return &artifact.CorruptError{Err: fmt.Errorf(format, args...)}
}

// newPlan reads an image up to its first partition.
func newPlan(pic *picture) (*plan, error) {
	p := &plan{pic: pic}
	p.next, p.Close = iter.Pull2(pic.chunks())
	if err := p.read(); err != nil {
		p.Close()
		return nil, named(pic.name, err)
	}
	return p, nil
}

func (p *plan) read() error {
	c, err, ok := p.next()
	if err != nil {
		return err
	}
	if !ok || c.Off != 0 {
		return corrupt("it is no disk image: there is nothing at its start")
	}
	p.table, err = gpt.Read(bytes.NewReader(c.Data))
	switch {
	case err == nil:
		p.start, p.size = p.table.Start(), p.table.Size
		p.least = p.size
		switch {
		case len(p.table.Parts) == 0:
			return corrupt("it has a partition table without partitions")
		case p.start < gpt.HeadSize:
			return corrupt("its first partition starts at byte %d, inside of the partition table, which ends at %d", p.start, gpt.HeadSize)
		case p.table.End() > p.size-gpt.TailSize:
			return corrupt("its last partition ends at byte %d, inside of the backup table, which starts at %d", p.table.End(), p.size-gpt.TailSize)
		}
	case !errors.Is(err, gpt.ErrNone):
		return corrupt("its partition table is damaged: %w", err)
	case len(c.Data) < 512 || c.Data[510] != 0x55 || c.Data[511] != 0xAA:
		return corrupt("it is no disk image: it starts with no partition table")
	default:
		if p.start, p.least, err = mbr(c.Data); err != nil {
			return err
		}
		// What lies behind the last partition is content all the same.
		if p.size = p.least; p.pic.img != nil {
			p.size = max(p.size, p.pic.img.Size())
		}
	}
	if m := p.pic.manifest; m != nil {
		if p.table != nil && p.size != m.Size {
			return corrupt("its partition table is for a disk of %d bytes, its manifest says %d", p.size, m.Size)
		}
		p.size = m.Size
	}
	if p.pic.img != nil && p.pic.img.Size() < p.least {
		return corrupt("it is cut short: %d bytes of the %d its partition table speaks of", p.pic.img.Size(), p.least)
	}
	if p.start > maxHead {
		return fmt.Errorf("its first partition starts at byte %d; up to %d can be kept in memory", p.start, int64(maxHead))
	}
	for {
		before, after := cut(c, p.start)
		if len(before.Data) > 0 {
			p.head = append(p.head, before)
		}
		if len(after.Data) > 0 {
			p.first = append(p.first, after)
			return nil
		}
		if c, err, ok = p.next(); err != nil || !ok {
			return err
		}
	}
}

// mbr reads where the first partition of an old table starts and the last ends,
// in bytes.
func mbr(sector []byte) (start, end int64, err error) {
	list, err := mbrParts(sector)
	for i, p := range list {
		if i == 0 || p.Off < start {
			start = p.Off
		}
		end = max(end, p.Off+p.Len)
	}
	return start, end, err
}

// cut divides a chunk at a byte of the image.
func cut(c image.Chunk, at int64) (before, after image.Chunk) {
	n := min(max(at-c.Off, 0), int64(len(c.Data)))
	return image.Chunk{Off: c.Off, Data: c.Data[:n:n]}, image.Chunk{Off: c.Off + n, Data: c.Data[n:]}
}

// body is the content of the partitions. An image that ends early is found when
// it ends.
func (p *plan) body() iter.Seq2[image.Chunk, error] {
	// The backup table goes to the end of the disk, not of the image.
	limit := int64(math.MaxInt64)
	if p.table != nil {
		limit = p.size - gpt.TailSize
	}
	return func(yield func(image.Chunk, error) bool) {
		seen := p.start
		give := func(c image.Chunk) bool {
			seen = max(seen, c.Off+int64(len(c.Data)))
			c, _ = cut(c, limit)
			return len(c.Data) == 0 || yield(c, nil)
		}
		for _, c := range p.first {
			if !give(c) {
				return
			}
		}
		for {
			c, err, ok := p.next()
			if err != nil {
				yield(image.Chunk{}, named(p.pic.name, err))
				return
			}
			if !ok {
				break
			}
			if !give(c) {
				return
			}
		}
		// With a manifest the length was checked.
		if p.pic.manifest == nil && seen < p.least {
			yield(image.Chunk{}, fmt.Errorf("%s: %w", p.pic.name, corrupt("it is cut short: %d bytes of the %d its partition table speaks of", seen, p.least)))
		}
	}
}

// bodySize is how much body gives, 0 if that is not known.
func (p *plan) bodySize() (n int64) {
	count := func(off, size int64) {
		n += max(0, min(off+size, p.size)-max(off, p.start))
	}
	switch {
	case p.pic.img != nil:
		for s := range p.pic.img.Spans() {
			count(s.Off, s.Len)
		}
	case p.pic.manifest != nil:
		for _, e := range p.pic.manifest.Pieces {
			count(e.Off, e.Len)
		}
	}
	return n
}

// ends is what lies before the first partition and at the end of a disk of size
// bytes: the table fitted to it, its backup, and everything else as it is.
func (p *plan) ends(size int64) (before, after []image.Chunk, err error) {
	m, err := p.endImage(size)
	if err != nil {
		return nil, nil, err
	}
	for c, err := range m.Chunks(image.PieceSize) {
		if err != nil {
			return nil, nil, err
		}
		// Chunks are rounded out to blocks, partitions need not be.
		first, rest := cut(c, p.start)
		if len(first.Data) > 0 {
			before = append(before, first)
		}
		if _, rest = cut(rest, size/512*512-gpt.TailSize); len(rest.Data) > 0 && p.table != nil {
			after = append(after, rest)
		}
	}
	return before, after, nil
}

func (p *plan) endImage(size int64) (*image.Image, error) {
	var extents []image.Extent
	tableEnd := int64(0)
	if p.table != nil {
		fitted, err := p.table.Fit(size)
		if err != nil {
			return nil, err
		}
		tables, err := fitted.Extents()
		if err != nil {
			return nil, err
		}
		// The MBR is the image's own: it may have boot code, a signature, and entries
		// beside the protective one, which alone knows how large the disk is.
		head := make([]byte, gpt.HeadSize)
		if _, err := tables[0].ReadAt(head, 0); err != nil {
			return nil, err
		}
		protective := slices.Clone(head[446:462])
		copy(head[:512], p.head[0].Data)
		for at := 446; at < 510; at += 16 {
			if whole := min(p.table.Size/512-1, math.MaxUint32); head[at+4] == 0xEE && int64(binary.LittleEndian.Uint32(head[at+12:])) == whole {
				copy(head[at+12:at+16], protective[12:])
			}
		}
		tables[0].Content = bytes.NewReader(head)
		extents, tableEnd = tables, gpt.HeadSize
	}
	for _, c := range p.head {
		_, c = cut(c, tableEnd)
		extents = append(extents, image.Extent{Name: "head", Off: c.Off, Content: bytes.NewReader(c.Data)})
	}
	return image.New(size, extents...)
}

// need is what the image asks of a disk.
func (p *plan) need() flash.Need {
	n := flash.Need{Size: p.size, SectorSize: 512}
	if p.pic.filling() != nil && p.pic.img != nil {
		n.Size = 0 // it is made to fit
	}
	if m := p.pic.manifest; m != nil {
		n.Floor, n.Who, n.Exact = m.Floor, m.Board, m.Disk
	}
	return n
}

// record is what lies on a disk while it is flashed.
type record struct {
	Board   string `json:"board,omitempty"`
	BuildID string `json:"build_id,omitempty"`
	Unit    string `json:"unit,omitempty"`
	Size    int64  `json:"size"` // of the image, in bytes
}

const recordMagic = "imgtool: flash in progress\n"

func (r *record) encode() []byte {
	text, err := json.Marshal(r)
	if err != nil {
		panic("internal error: " + err.Error())
	}
	return append(append([]byte(recordMagic), text...), '\n')
}

// sameBoard says whether a block of a disk is the record of an image for the same
// board and of the same size.
func sameBoard(block []byte, r *record) bool {
	text, ok := bytes.CutPrefix(block, []byte(recordMagic))
	line, _, _ := bytes.Cut(text, []byte("\n"))
	var there record
	return ok && json.Unmarshal(line, &there) == nil && there.Board == r.Board && there.Size == r.Size
}

// Where the in-progress record lies: behind the first block, which holds the
// table's header, and before any partition.
const recordOff = image.Block

// job is what is written to a disk of size bytes.
func (p *plan) job(size int64) (flash.Job, error) {
	before, after, err := p.ends(size)
	if err != nil {
		return flash.Job{}, err
	}
	j := flash.Job{Body: p.body(), BodySize: p.bodySize()}
	j.Wipe = p.wipes(size)
	j.Size = size
	if img := p.pic.img; img != nil {
		j.Again = func(s image.Span) ([]byte, error) {
			b := make([]byte, s.Len)
			if n, err := img.ReadAt(b, s.Off); n < len(b) {
				return nil, err
			}
			return b, nil
		}
	}
	p.record = &record{Size: p.size, Unit: p.pic.unit}
	if m := p.pic.manifest; m != nil {
		p.record.Board, p.record.BuildID = m.Board, m.BuildID
	}
	if p.start >= recordOff+image.Block {
		j.Record, j.RecordOff = p.record.encode(), recordOff
	}
	j.Head = func() ([]image.Chunk, error) { return append(before, after...), nil }
	return j, nil
}

// wipes is where on a disk of size bytes something old could be taken for a table
// or a file system, and the image has nothing to write: before the first
// partition, at the end of the disk, and in every partition, those the device
// will make included.
func (p *plan) wipes(size int64) []image.Span {
	const (
		kib = 1 << 10
		mib = 1 << 20
	)
	spans := []image.Span{{Off: 0, Len: p.start}, {Off: size - 2*mib, Len: 2 * mib}}
	add := func(off, length int64) {
		if length <= 0 {
			length = size - off
		}
		// Nearly all lie in the first 68 KiB or the last 512; the copies of a LUKS2
		// header and of a btrfs superblock, and a VMFS volume's, further in.
		spans = append(spans, image.Span{Off: off, Len: min(length, mib+64*kib)},
			image.Span{Off: off + max(0, length-mib), Len: min(length, mib)})
		for _, at := range []int64{2 * mib, 4 * mib, 64*mib + 64*kib} {
			if at+4*kib <= length {
				spans = append(spans, image.Span{Off: off + at, Len: 4 * kib})
			}
		}
	}
	if p.table != nil {
		for _, part := range p.table.Parts {
			add(part.Off, part.Len)
		}
	}
	if m := p.pic.manifest; m != nil {
		for _, part := range m.Partitions {
			if part.Late {
				add(part.Off, part.Len)
			}
		}
	}
	whole := spans[:0]
	for _, s := range spans {
		end := min(s.End(), size) / 512 * 512
		if s.Off = max(0, s.Off) / 512 * 512; s.Off < end {
			whole = append(whole, image.Span{Off: s.Off, Len: end - s.Off})
		}
	}
	return image.Subtract(whole, p.content())
}

// content is where the body is known to lie.
func (p *plan) content() []image.Span {
	var spans []image.Span
	keep := func(off, length int64) {
		if start := max(off, p.start); start < off+length && p.table != nil {
			spans = append(spans, image.Span{Off: start, Len: min(off+length, p.size-gpt.TailSize) - start})
		}
	}
	switch {
	case p.pic.img != nil:
		for s := range p.pic.img.Spans() {
			keep(s.Off, s.Len)
		}
	case p.pic.manifest != nil:
		for _, e := range p.pic.manifest.Pieces {
			keep(e.Off, e.Len)
		}
	}
	return spans
}

// expected is everything a disk of size bytes should hold, in order.
func (p *plan) expected(size int64) (iter.Seq2[image.Chunk, error], error) {
	before, after, err := p.ends(size)
	if err != nil {
		return nil, err
	}
	return func(yield func(image.Chunk, error) bool) {
		for _, c := range before {
			if !yield(c, nil) {
				return
			}
		}
		for c, err := range p.body() {
			if !yield(c, err) || err != nil {
				return
			}
		}
		for _, c := range after {
			if !yield(c, nil) {
				return
			}
		}
	}, nil
}
