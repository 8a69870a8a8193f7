package deploy

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/foreign"
	"imgtool/image/partition"
	"imgtool/image/progress"
	"imgtool/image/volume"
)

// Plan is an image on its way to disks. Its head, which is everything before the first
// partition, is in memory. The rest is its body, which is read while it is written.
type Plan struct {
	src   *volume.Source
	board string // the board it is assumed to be for, if it has no manifest
	table *partition.Table
	start int64         // end of the head
	head  []image.Chunk // content of the head
	first []image.Chunk // content of the body that was read together with the head

	// In bytes. They may grow while a stream is read.
	size    int64 // least size of a disk
	end     int64 // size of the image
	dataEnd int64 // end of the data after the last partition, apart from zeros and the backup table

	tail    []byte // content of the image where its backup table belongs; known after the body was read
	optical bool   // it is the image of an optical disc as well (ISO 9660)

	mu       sync.Mutex
	notes    []string // what is unusual about the image
	reported int      // how many of the notes were reported

	next  func() (image.Chunk, error, bool)
	close func()
}

// maxHead limits how many bytes of an image are kept in memory.
const maxHead = 64 << 20

func corrupt(format string, args ...any) error { return fault.New(fault.Corrupt, format, args...) }

// NewPlan reads an image up to its first partition. The source must stay open until Close.
func NewPlan(src *volume.Source) (*Plan, error) {
	p := &Plan{src: src}
	p.next, p.close = iter.Pull2(src.Chunks())
	if err := p.read(); err != nil {
		p.close()
		return nil, src.Wrap(err)
	}
	return p, nil
}

// Close stops reading the image. The source stays open.
func (p *Plan) Close() { p.close() }

// Source returns the image.
func (p *Plan) Source() *volume.Source { return p.src }

// Size returns the least size of a disk in bytes. It may grow while a stream is read.
func (p *Plan) Size() int64 { return p.size }

func (p *Plan) read() error {
	begin := &headReader{next: p.next}
	var r io.ReaderAt = begin
	if p.src.Image != nil {
		r = p.src.Image
	}
	if p.src.IsBundle() {
		return fault.New(fault.Input, "it is an update bundle, not a disk image: install it on the device with rauc install")
	}
	head := make([]byte, 64<<10)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return cmp.Or(begin.err, err)
	}
	if err := foreign.Check(p.src.Format, head[:n]); err != nil {
		return err
	}
	if err := p.readTable(r); err != nil {
		return cmp.Or(begin.err, err)
	}
	if m := p.src.Manifest; m != nil {
		p.size, p.end = m.Size, m.Size
		if p.table.GPT != nil && p.table.GPT.Size != m.Size {
			return corrupt("its partition table is for a disk of %d bytes, its manifest says %d", p.table.GPT.Size, m.Size)
		}
		if p.src.Image != nil && p.src.Image.Size() < m.Size {
			return corrupt("it is cut short: it has %d bytes, its manifest says %d", p.src.Image.Size(), m.Size)
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

// divide keeps a chunk: its part before start as head, the rest as body.
func (p *Plan) divide(c image.Chunk) {
	before, after := cut(c, p.start)
	if len(before.Data) > 0 {
		p.head = append(p.head, before)
	}
	if len(after.Data) > 0 {
		p.first = append(p.first, after)
	}
}

func cut(c image.Chunk, at int64) (before, after image.Chunk) {
	n := min(max(at-c.Off, 0), int64(len(c.Data)))
	return image.Chunk{Off: c.Off, Data: c.Data[:n:n]}, image.Chunk{Off: c.Off + n, Data: c.Data[n:]}
}

// note keeps what is unusual about the image until [Plan.Report].
func (p *Plan) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.notes, text) {
		p.notes = append(p.notes, text)
	}
}

// Report warns of what is unusual about the image and was not reported before.
func (p *Plan) Report(r progress.Reporter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ; p.reported < len(p.notes); p.reported++ {
		r.Warnf("%s: %s", p.src.Name, p.notes[p.reported])
	}
}

// contentSpans are where the body has content; none for a stream without a manifest.
func (p *Plan) contentSpans() (spans []image.Span) {
	switch {
	case p.src.Image != nil:
		spans = slices.AppendSeq(p.missing(p.src.Image.Size()), p.src.Image.Spans())
	case p.src.Manifest != nil:
		for _, e := range p.src.Manifest.Pieces {
			spans = append(spans, image.Span{Off: e.Off, Len: e.Len})
		}
	}
	return spans
}

// BodySize returns the number of bytes of the body, 0 if it is not known.
func (p *Plan) BodySize() (n int64) {
	spans := p.contentSpans()
	if p.src.Image == nil && p.src.Manifest == nil && p.src.Total > 0 {
		spans = []image.Span{{Len: p.src.Total}}
	}
	for _, s := range spans {
		n += max(0, s.End()-max(s.Off, p.start))
	}
	return n
}

// ExpectedSize returns the number of bytes of [Plan.Expected], 0 if it is not known.
func (p *Plan) ExpectedSize() int64 {
	if n := p.BodySize(); n > 0 {
		return n + p.start
	}
	return 0
}

// Need returns what the image requires of a disk.
func (p *Plan) Need() disk.Need {
	n := Need(p.src)
	n.SectorSize = int(p.table.Sector)
	if p.src.Manifest == nil {
		n.Size = p.size
	}
	return n
}

// Need returns what an image requires of a disk according to its manifest.
func Need(src *volume.Source) disk.Need {
	n := disk.Need{SectorSize: 512}
	if m := src.Manifest; m != nil {
		n.Size, n.Floor, n.Who, n.Exact = m.Size, m.Floor, m.Board, m.Disk
	}
	if src.FillPartition() != nil && src.Image != nil {
		n.Size = 0 // it is made to fit
	}
	return n
}

// Job returns the content for a disk of size bytes, and how it is written.
func (p *Plan) Job(size int64) (flash.Job, error) {
	if err := p.fits(size); err != nil {
		return flash.Job{}, err
	}
	j := flash.Job{Body: p.onto(size, p.body()), BodySize: p.BodySize(), Wipe: p.wipes(size), Size: size, Loader: p.head}
	if img := p.src.Image; img != nil {
		j.Again = func(s image.Span) ([]byte, error) {
			b := make([]byte, s.Len)
			// Partitions that end after the image are filled with zeros.
			if n, err := img.ReadAt(b, s.Off); n < len(b) && err != io.EOF {
				return nil, err
			}
			return b, nil
		}
	}
	if p.start >= recordOff+image.Block {
		j.Record, j.RecordOff = p.record().encode(), recordOff
	}
	j.Head = func() ([]image.Chunk, error) {
		before, after, err := p.ends(size)
		return append(before, after...), err
	}
	return j, nil
}

// wipes returns where on a disk of size bytes old data could be taken for a partition table
// or a file system, and the image has no content: before the first partition, at the end of
// the disk, and in every partition, also if the device makes it later.
func (p *Plan) wipes(size int64) []image.Span {
	const kib, mib = 1 << 10, 1 << 20
	spans := []image.Span{{Off: 0, Len: p.start}, {Off: size - 2*mib, Len: 2 * mib}}
	add := func(off, length int64) {
		if length <= 0 {
			length = size - off
		}
		// Nearly all signatures are in the first 68 KiB or the last 512 bytes; the copies of a
		// LUKS2 header and of a btrfs superblock, and a VMFS volume's, are further in.
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
	for _, part := range p.src.Late() {
		add(part.Off, part.Len)
	}
	whole, sector := spans[:0], p.table.Sector
	for _, s := range spans {
		end := min(s.End(), size) / sector * sector
		if s.Off = max(0, s.Off) / sector * sector; s.Off < end {
			whole = append(whole, image.Span{Off: s.Off, Len: end - s.Off})
		}
	}
	return image.Subtract(whole, p.wholeSectors())
}

// wholeSectors returns the sectors that the body is known to fill, without the backup table.
func (p *Plan) wholeSectors() (spans []image.Span) {
	for _, s := range p.contentSpans() {
		end := s.End() / p.table.Sector * p.table.Sector
		if start := max(s.Off, p.start); start < end {
			spans = append(spans, image.Span{Off: start, Len: end - start})
		}
	}
	return image.Subtract(spans, []image.Span{p.backup()})
}

// Expected returns everything that a disk of size bytes should hold.
func (p *Plan) Expected(size int64) (volume.Chunks, error) {
	if err := p.fits(size); err != nil {
		return nil, err
	}
	if p.src.Image != nil {
		before, after, err := p.ends(size)
		return join(sequence(before), p.onto(size, p.body()), sequence(after)), err
	}
	// Both ends depend on what the image has after its last partition, so they come last.
	ends := func(yield func(image.Chunk, error) bool) {
		before, after, err := p.ends(size)
		if err != nil {
			yield(image.Chunk{}, err)
			return
		}
		sequence(append(before, after...))(yield)
	}
	return join(p.onto(size, p.body()), ends), nil
}

func sequence(list []image.Chunk) volume.Chunks {
	return func(yield func(image.Chunk, error) bool) {
		for _, c := range list {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// join returns one sequence after the other, up to the first error.
func join(all ...volume.Chunks) volume.Chunks {
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

// ReadThrough reads the body for its errors, and refuses an image that has more bytes than
// a disk. After that the plan of a stream is used up.
func (p *Plan) ReadThrough(ctx context.Context, disks []*disk.Disk, r progress.Reporter) error {
	checked := r.Phase("checking", p.BodySize())
	defer r.EndPhase()
	chunks := p.body()
	for _, d := range disks {
		chunks = upTo(chunks, d)
	}
	for c, err := range chunks {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		checked.Add(int64(len(c.Data)))
	}
	p.src.ReportTrailing()
	return nil
}

// upTo ends in an error if an image has more bytes than a disk.
func upTo(chunks volume.Chunks, d *disk.Disk) volume.Chunks {
	return mapped(chunks, func(c image.Chunk) ([]image.Chunk, error) {
		if end := c.Off + int64(len(c.Data)); end > d.Size {
			return nil, &disk.RefusedError{Disk: d.Path, Reason: fmt.Sprintf("%d bytes is too small: the image needs at least %d when unpacked: use a larger disk", d.Size, end)}
		}
		return []image.Chunk{c}, nil
	})
}
