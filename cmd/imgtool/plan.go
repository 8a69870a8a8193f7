package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/compress"
	"imgtool/image/partition"
	"imgtool/image/volume"
)

// plan is an image on its way to a disk: its head is in memory, its table is known, and
// the rest is still to come.
type plan struct {
	pic   *volume.Source
	board string // the board the image is for by --board, if it has no manifest
	table *partition.Table
	start int64         // where the head ends, at the first partition or before
	size  int64         // the least the disk must have, in bytes, as far as that is known
	head  []image.Chunk // what is before start
	first []image.Chunk // what was read of the rest

	tail    []byte // what the image has where its backup table should be, after body was read
	disc    bool   // it is of an optical disc as well
	end     int64  // of the image, as far as known
	dataEnd int64  // where what is behind the last partition ends, zeros and tail aside, as far as known

	noting sync.Mutex
	notes  []string // what is unusual about the image
	told   int      // how many of them were said

	record *record // what the in-progress record says
	next   func() (image.Chunk, error, bool)
	Close  func()
}

// maxHead bounds what is kept of an image in memory.
const maxHead = 64 << 20

func corrupt(format string, args ...any) error {
	return &artifact.CorruptError{Err: fmt.Errorf(format, args...)}
}

// newPlan reads an image up to its first partition.
func newPlan(pic *volume.Source) (*plan, error) {
	p := &plan{pic: pic}
	p.next, p.Close = iter.Pull2(pic.Chunks())
	if err := p.read(); err != nil {
		p.Close()
		return nil, pic.Wrap(err)
	}
	return p, nil
}

func (p *plan) read() error {
	begin := &beginning{next: p.next}
	var r io.ReaderAt = begin
	if p.pic.Image != nil {
		r = p.pic.Image
	}
	head := make([]byte, 64<<10)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return cmp.Or(begin.fault, err)
	}
	if err := artifact.Foreign(p.pic.Format, head[:n]); err != nil {
		return err
	}
	if err := p.readTable(r); err != nil {
		return cmp.Or(begin.fault, err)
	}
	if m := p.pic.Manifest; m != nil {
		p.size, p.end = m.Size, m.Size
		if p.table.GPT != nil && p.table.GPT.Size != m.Size {
			return corrupt("its partition table is for a disk of %d bytes, its manifest says %d", p.table.GPT.Size, m.Size)
		}
		if p.pic.Image != nil && p.pic.Image.Size() < m.Size {
			return corrupt("it is cut short: %d bytes of the %d its manifest says", p.pic.Image.Size(), m.Size)
		}
	} else if err := p.measure(); err != nil {
		return err
	}
	for _, c := range begin.chunks {
		p.divide(c)
	}
	for len(p.first) == 0 {
		c, err, ok := p.next()
		if err != nil || !ok {
			return err
		}
		p.divide(c)
	}
	return nil
}

// divide keeps a chunk, what is before start apart from the rest.
func (p *plan) divide(c image.Chunk) {
	before, after := cut(c, p.start)
	if len(before.Data) > 0 {
		p.head = append(p.head, before)
	}
	if len(after.Data) > 0 {
		p.first = append(p.first, after)
	}
}

// cut divides a chunk at a byte of the image.
func cut(c image.Chunk, at int64) (before, after image.Chunk) {
	n := min(max(at-c.Off, 0), int64(len(c.Data)))
	return image.Chunk{Off: c.Off, Data: c.Data[:n:n]}, image.Chunk{Off: c.Off + n, Data: c.Data[n:]}
}

// bodySize is how much body gives, 0 if that is not known.
func (p *plan) bodySize() (n int64) {
	count := func(off, size int64) {
		n += max(0, off+size-max(off, p.start))
	}
	switch {
	case p.pic.Image != nil:
		for s := range p.pic.Image.Spans() {
			count(s.Off, s.Len)
		}
		for _, s := range p.missing(p.pic.Image.Size()) {
			count(s.Off, s.Len)
		}
	case p.pic.Manifest != nil:
		for _, e := range p.pic.Manifest.Pieces {
			count(e.Off, e.Len)
		}
	case p.pic.Total > 0:
		count(0, p.pic.Total)
	}
	return n
}

// need is what the image asks of a disk.
func (p *plan) need() disk.Need {
	n := disk.Need{Size: p.size, SectorSize: 512}
	if p.table != nil {
		n.SectorSize = int(p.table.Sector)
	}
	if p.pic.FillPartition() != nil && p.pic.Image != nil {
		n.Size = 0 // it is made to fit
	}
	if m := p.pic.Manifest; m != nil {
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
	if err := p.fits(size); err != nil {
		return flash.Job{}, err
	}
	j := flash.Job{Body: p.onto(size, p.body()), BodySize: p.bodySize()}
	j.Wipe = p.wipes(size)
	j.Size = size
	if img := p.pic.Image; img != nil {
		j.Again = func(s image.Span) ([]byte, error) {
			b := make([]byte, s.Len)
			// Zeros are written behind the end of an image that its table says is longer.
			if n, err := img.ReadAt(b, s.Off); n < len(b) && err != io.EOF {
				return nil, err
			}
			return b, nil
		}
	}
	p.record = &record{Size: p.size, Unit: p.pic.Unit}
	if m := p.pic.Manifest; m != nil {
		p.record.Board, p.record.BuildID = m.Board, m.BuildID
	}
	if p.start >= recordOff+image.Block {
		j.Record, j.RecordOff = p.record.encode(), recordOff
	}
	j.Head = func() ([]image.Chunk, error) {
		before, after, err := p.ends(size)
		return append(before, after...), err
	}
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
	for _, part := range p.table.Parts {
		add(part.Off, part.Len)
	}
	if m := p.pic.Manifest; m != nil {
		for _, part := range m.Partitions {
			if part.Late {
				add(part.Off, part.Len)
			}
		}
	}
	whole, sector := spans[:0], p.table.Sector
	for _, s := range spans {
		end := min(s.End(), size) / sector * sector
		if s.Off = max(0, s.Off) / sector * sector; s.Off < end {
			whole = append(whole, image.Span{Off: s.Off, Len: end - s.Off})
		}
	}
	return image.Subtract(whole, p.content())
}

// content is where the body is known to be, in whole sectors.
func (p *plan) content() []image.Span {
	var spans []image.Span
	keep := func(off, length int64) {
		end := (off + length) / p.table.Sector * p.table.Sector
		if start := max(off, p.start); start < end {
			spans = append(spans, image.Span{Off: start, Len: end - start})
		}
	}
	switch {
	case p.pic.Image != nil:
		for s := range p.pic.Image.Spans() {
			keep(s.Off, s.Len)
		}
		for _, s := range p.missing(p.pic.Image.Size()) {
			keep(s.Off, s.Len)
		}
	case p.pic.Manifest != nil:
		for _, e := range p.pic.Manifest.Pieces {
			keep(e.Off, e.Len)
		}
	}
	return image.Subtract(spans, []image.Span{p.backup()})
}

// expected is everything a disk of size bytes should hold.
func (p *plan) expected(size int64) (iter.Seq2[image.Chunk, error], error) {
	if err := p.fits(size); err != nil {
		return nil, err
	}
	chunks := func(list []image.Chunk) iter.Seq2[image.Chunk, error] {
		return func(yield func(image.Chunk, error) bool) {
			for _, c := range list {
				if !yield(c, nil) {
					return
				}
			}
		}
	}
	ends := func(yield func(image.Chunk, error) bool) {
		before, after, err := p.ends(size)
		if err != nil {
			yield(image.Chunk{}, err)
			return
		}
		chunks(append(before, after...))(yield)
	}
	if p.pic.Image == nil {
		// The ends depend on what the image has behind its last partition.
		return joined(p.onto(size, p.body()), ends), nil
	}
	before, after, err := p.ends(size)
	return joined(chunks(before), p.onto(size, p.body()), chunks(after)), err
}

// joined is one sequence after the other, up to the first error.
func joined(all ...iter.Seq2[image.Chunk, error]) iter.Seq2[image.Chunk, error] {
	return func(yield func(image.Chunk, error) bool) {
		for _, chunks := range all {
			for c, err := range chunks {
				if !yield(c, err) || err != nil {
					return
				}
			}
		}
	}
}

// seekFor is seek for an image file that goes to disks, of which disk is the smallest. If
// the scratch file cannot be had, the image is read through, and stays a stream.
func seekFor(ctx context.Context, p *volume.Source, dev *disk.Disk, u *ui) error {
	if err := p.Check(ctx); err != nil {
		return err
	}
	if err := p.Restart(); err != nil {
		return p.Wrap(err)
	}
	fits := func(c volume.Chunks) volume.Chunks {
		if p.FillPartition() != nil { // it is made to fit
			return c
		}
		return upTo(c, dev)
	}
	err := p.Unpack(ctx, fits)
	var room *compress.ScratchError
	var large *compress.TooLargeError
	if !errors.As(err, &room) && !(errors.As(err, &large) && u.unpacked.Max == 0) {
		return err
	}
	u.endPhase()
	u.warn(fmt.Sprintf("%s is read twice, once to check it and once to write it, without a scratch file: %v", p.Name, err))
	return p.ReadThrough(ctx, fits)
}

// upTo ends in an error where an image has more bytes than a disk.
func upTo(chunks volume.Chunks, dev *disk.Disk) volume.Chunks {
	return func(yield func(image.Chunk, error) bool) {
		for c, err := range chunks {
			if end := c.Off + int64(len(c.Data)); err == nil && end > dev.Size {
				c, err = image.Chunk{}, &disk.RefusedError{Disk: dev.Path, Reason: fmt.Sprintf("%d bytes is too small: the image needs at least %d when unpacked: use a larger disk", dev.Size, end)}
			}
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

// unpacked is an image file that comes from front to back as one that was checked and can
// be read anywhere, if there is room for that, and its plan.
func unpacked(ctx context.Context, pic *volume.Source, units []*unit, need disk.Need, u *ui) (*volume.Source, *plan, error) {
	var names []string
	smallest := units[0].disk
	for _, n := range units {
		if names = append(names, n.disk.Path); n.disk.Size < smallest.Size {
			smallest = n.disk
		}
	}
	if err := seekFor(ctx, pic, smallest, u); err != nil {
		return nil, nil, err
	}
	pic, err := pic.WithoutHoles(names)
	if err != nil {
		return nil, nil, err
	}
	p, err := newPlan(pic)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range units {
		now := p.need()
		now.Fixed, now.Serial = need.Fixed, need.Serial
		if err := n.disk.Check(now); err != nil {
			p.Close()
			return nil, nil, err
		}
	}
	return pic, p, nil
}

// readThrough reads the rest of an image from a pipe for its errors.
func (p *plan) readThrough(ctx context.Context, units []*unit, u *ui) error {
	progress := u.phases("checking", p.bodySize())
	defer u.endPhase()
	for c, err := range p.body() {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		for _, n := range units {
			if end := c.Off + int64(len(c.Data)); end > n.disk.Size {
				return &disk.RefusedError{Disk: n.disk.Path, Reason: fmt.Sprintf("%d bytes is too small: the image needs at least %d: use a larger disk", n.disk.Size, end)}
			}
		}
		progress.Add(int64(len(c.Data)))
	}
	p.pic.ReportTrailing()
	return nil
}
