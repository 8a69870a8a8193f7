package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/gpt"
	"imgtool/image/hostfile"
	"imgtool/image/partition"
	"imgtool/image/volume"
)

// beginning reads at any offset near the start of what comes from front to back. What
// it took is in chunks.
type beginning struct {
	next   func() (image.Chunk, error, bool)
	chunks []image.Chunk
	end    int64
	fault  error // of next
}

func (b *beginning) ReadAt(p []byte, off int64) (int, error) {
	want := off + int64(len(p))
	for b.end < want && want <= maxHead && b.fault == nil {
		c, err, ok := b.next()
		if b.fault = err; err != nil || !ok {
			break
		}
		b.chunks = append(b.chunks, c)
		b.end = c.Off + int64(len(c.Data))
	}
	if b.fault != nil {
		return 0, b.fault
	}
	clear(p)
	for _, c := range b.chunks {
		if from := max(off, c.Off); from < min(want, c.Off+int64(len(c.Data))) {
			copy(p[from-off:], c.Data[from-c.Off:])
		}
	}
	if n := min(int64(len(p)), max(0, b.end-off)); n < int64(len(p)) {
		return int(n), io.EOF
	}
	return len(p), nil
}

// readTable reads the partition table, and refuses one that no disk can have.
func (p *plan) readTable(r io.ReaderAt) (err error) {
	p.table, err = partition.Read(r, 0)
	switch {
	case errors.Is(err, partition.ErrNone):
		return corrupt("it is no disk image: it starts with no partition table")
	case errors.As(err, new(*gpt.UnsupportedError)), errors.As(err, new(*artifact.CorruptError)), errors.As(err, new(*fs.PathError)), errors.As(err, new(*hostfile.ReadError)):
		return err
	case err != nil:
		return corrupt("its partition table is damaged: %w", err)
	case len(p.table.Parts) == 0:
		return corrupt("it is no disk image: its partition table has no partitions")
	}
	magic := make([]byte, 5) // ECMA-119, 8.4: of the first volume descriptor, in sector 16 of 2048 bytes
	if n, err := r.ReadAt(magic, 16*2048+1); n < len(magic) && err != io.EOF && err != nil {
		return err
	}
	p.disc = string(magic) == "CD001"
	// The first block is written last, in one piece.
	p.start = min(max(p.table.Start(), image.Block), maxHead)
	if p.table.GPT == nil {
		return nil
	}
	for _, s := range p.table.Spans() {
		for _, part := range p.table.Parts {
			if part.Off < s.End() && s.Off < part.Off+part.Len {
				return corrupt("its partition %s, bytes %d to %d, overlaps the partition table, bytes %d to %d", volume.PartName(part), part.Off, part.Off+part.Len, s.Off, s.End())
			}
		}
	}
	return nil
}

// measure finds out how large the disk must be for an image without a manifest.
func (p *plan) measure() error {
	if img := p.pic.Image; img != nil {
		if g := p.movable(); g != nil && img.Size() > g.Size {
			end, err := lastData(img, g.Size, image.Span{})
			if err != nil {
				return err
			}
			p.dataEnd = end
		}
		p.ended(img.Size())
		return nil
	}
	if total := p.pic.Total; total > 0 {
		p.ended(total)
		return nil
	}
	p.size = p.table.End()
	if g := p.movable(); g != nil && p.pic.File == nil {
		p.size = g.Size // what comes through the pipe is not known
	} else if g != nil {
		p.size = g.End() + g.TailLen()
	}
	return nil
}

// lastData is where the last byte other than zero at or after an offset ends, one
// span aside, and 0 if there is none.
func lastData(img *image.Image, from int64, but image.Span) (int64, error) {
	buf := make([]byte, image.PieceSize)
	for end := img.Size(); end > from; {
		b := buf[:min(end-from, int64(len(buf)))]
		end -= int64(len(b))
		if _, err := img.ReadAt(b, end); err != nil && err != io.EOF {
			return 0, err
		}
		if from, to := max(end, but.Off), min(end+int64(len(b)), but.End()); from < to {
			clear(b[from-end : to-end])
		}
		if n := len(bytes.TrimRight(b, "\x00")); n > 0 {
			return end + int64(n), nil
		}
	}
	return 0, nil
}

// ended notes that the image ends at a byte, and what is unusual about that.
func (p *plan) ended(end int64) {
	p.end = end
	if p.pic.Manifest != nil {
		return
	}
	g := p.movable()
	p.size = max(end, p.table.End())
	if g != nil {
		p.size = max(g.End()+g.TailLen(), min(end, g.Size), p.dataEnd)
	}
	missing := p.missing(end)
	switch {
	case len(missing) > 0:
		var parts []string
		for _, part := range p.table.Parts {
			if part.Off+part.Len > end {
				parts = append(parts, volume.PartName(part))
			}
		}
		p.note(fmt.Sprintf("the image ends at byte %d, and its partition table has partitions up to byte %d (%s): the rest of them is written as zeros",
			end, p.table.End(), list(parts)))
	case g != nil && end < g.Size:
		p.note(fmt.Sprintf("the image ends at byte %d, and its partition table is for a disk of %d bytes: it has no backup partition table, which is made anew", end, g.Size))
	case g != nil && p.dataEnd > g.Size:
		p.note(fmt.Sprintf("the image has data behind its backup partition table, up to byte %d: they are written as well", p.dataEnd))
	}
}

func list(names []string) string {
	const few = 4
	if len(names) > few {
		names = append(names[:few:few], fmt.Sprintf("and %d more", len(names)-few))
	}
	var b bytes.Buffer
	for i, name := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(name)
	}
	return b.String()
}

// note keeps what is unusual about the image.
func (p *plan) note(text string) {
	p.noting.Lock()
	defer p.noting.Unlock()
	if !slices.Contains(p.notes, text) {
		p.notes = append(p.notes, text)
	}
}

// tell warns of what is unusual about the image and was not said before.
func (p *plan) tell(u *ui) {
	p.noting.Lock()
	defer p.noting.Unlock()
	for ; p.told < len(p.notes); p.told++ {
		u.warn(p.pic.Name + ": " + p.notes[p.told])
	}
}

// missing is what the partitions have behind the end of an image without a manifest.
func (p *plan) missing(end int64) []image.Span {
	if p.pic.Manifest != nil {
		return nil
	}
	var spans []image.Span
	for _, part := range p.table.Parts {
		if from := max(part.Off, end, p.start); from < part.Off+part.Len {
			spans = append(spans, image.Span{Off: from, Len: part.Off + part.Len - from})
		}
	}
	return image.Subtract(spans, nil)
}

// body is the content of the image from start on, without the backup table, and zeros
// for what partitions have behind its end.
func (p *plan) body() iter.Seq2[image.Chunk, error] { return p.withoutBackup(p.whole(p.rest)) }

// rest is the content of the image from start on.
func (p *plan) rest(yield func(image.Chunk, error) bool) {
	for _, c := range p.first {
		if !yield(c, nil) {
			return
		}
	}
	for {
		c, err, ok := p.next()
		if err != nil {
			yield(image.Chunk{}, p.pic.Wrap(err))
			return
		}
		if !ok || !yield(c, nil) {
			return
		}
	}
}

// whole adds zeros to an image that ends before its last partition does.
func (p *plan) whole(chunks iter.Seq2[image.Chunk, error]) iter.Seq2[image.Chunk, error] {
	return func(yield func(image.Chunk, error) bool) {
		var held image.Chunk // the last is filled up to a whole block
		end := int64(0)
		if n := len(p.head); n > 0 {
			end = p.head[n-1].Off + int64(len(p.head[n-1].Data))
		}
		for c, err := range chunks {
			if len(held.Data) > 0 && !yield(held, nil) {
				return
			}
			if held = c; err != nil {
				yield(image.Chunk{}, err)
				return
			}
			end = c.Off + int64(len(c.Data))
		}
		if p.pic.Image != nil {
			end = p.pic.Image.Size()
		}
		missing := p.missing(end)
		if len(missing) > 0 && missing[0].Off == held.Off+int64(len(held.Data)) {
			n := min(-missing[0].Off&(image.Block-1), missing[0].Len)
			held.Data = append(slices.Clip(held.Data), make([]byte, n)...)
			missing[0] = image.Span{Off: missing[0].Off + n, Len: missing[0].Len - n}
		}
		if len(held.Data) > 0 && !yield(held, nil) {
			return
		}
		for _, s := range missing {
			for s.Len > 0 {
				n := min(s.Len, image.PieceSize-s.Off%image.PieceSize)
				if !yield(image.Chunk{Off: s.Off, Data: make([]byte, n)}, nil) {
					return
				}
				s = image.Span{Off: s.Off + n, Len: s.Len - n}
			}
		}
		p.ended(end)
	}
}

// backup is where the image has its backup table, or nothing.
func (p *plan) backup() image.Span {
	if g := p.movable(); g != nil {
		return g.Backup()
	}
	return image.Span{}
}

// movable is the GPT of an image if it is fitted to the disk, else nil. An image of an
// optical disc is not changed: it may have a checksum of all its bytes.
func (p *plan) movable() *gpt.Table {
	if p.disc {
		return nil
	}
	return p.table.GPT
}

// withoutBackup takes the backup table out of the content.
func (p *plan) withoutBackup(chunks iter.Seq2[image.Chunk, error]) iter.Seq2[image.Chunk, error] {
	if p.movable() == nil {
		return chunks
	}
	at, free := p.backup(), p.table.End()
	return func(yield func(image.Chunk, error) bool) {
		p.tail = make([]byte, at.Len)
		for c, err := range chunks {
			if err != nil {
				yield(c, err)
				return
			}
			before, rest := cut(c, at.Off)
			inside, after := cut(rest, at.End())
			if len(inside.Data) > 0 {
				copy(p.tail[inside.Off-at.Off:], inside.Data)
			}
			for _, c := range []image.Chunk{before, after} {
				_, c2 := cut(c, free)
				if n := len(bytes.TrimRight(c2.Data, "\x00")); n > 0 {
					p.dataEnd = max(p.dataEnd, c2.Off+int64(n))
				}
				if len(c.Data) > 0 && !yield(c, nil) {
					return
				}
			}
		}
	}
}

// fits is an error if the partitions of the image do not fit on a disk of size bytes.
// Of an image that can be read anywhere it finds out what is at its end.
func (p *plan) fits(size int64) error {
	g, img := p.movable(), p.pic.Image
	if g == nil {
		return nil
	}
	fitted, err := g.Fit(size)
	if err != nil || img == nil {
		return err
	}
	p.tail = make([]byte, g.TailLen())
	if _, err := img.ReadAt(p.tail, p.backup().Off); err != nil && err != io.EOF {
		return err
	}
	if at := fitted.Size - g.TailLen(); at != p.backup().Off && at < img.Size() {
		end, err := lastData(img, at, p.backup())
		p.dataEnd = max(p.dataEnd, end)
		return err
	}
	return nil
}

// onto is the body for a disk of size bytes: without the zeros an image has where the
// backup table goes or the disk ends.
func (p *plan) onto(size int64, body iter.Seq2[image.Chunk, error]) iter.Seq2[image.Chunk, error] {
	g := p.movable()
	if g == nil {
		return body
	}
	end := size / g.Sector * g.Sector
	return func(yield func(image.Chunk, error) bool) {
		for c, err := range body {
			if err != nil {
				yield(c, err)
				return
			}
			parts := []image.Chunk{c}
			if before, after := cut(c, end-g.TailLen()); len(bytes.TrimRight(after.Data, "\x00")) == 0 {
				// A regular file may end within a sector.
				_, last := cut(after, end)
				last, _ = cut(last, size)
				parts = []image.Chunk{before, last}
			}
			for _, c := range parts {
				if len(c.Data) > 0 && !yield(c, nil) {
					return
				}
			}
		}
	}
}

// ends is what is before start and at the end of a disk of size bytes, after the body
// was read: the table fitted to the disk, its backup, and everything else as it is.
// A disk that has data where its backup table would go keeps the table of the image.
func (p *plan) ends(size int64) (before, after []image.Chunk, err error) {
	before = slices.Clone(p.head)
	g := p.movable()
	if g == nil {
		return before, nil, nil
	}
	fitted, err := g.Fit(size)
	if err != nil {
		return nil, nil, err
	}
	old, at := p.backup(), fitted.Size-g.TailLen()
	if p.dataEnd > at {
		p.note(fmt.Sprintf("the image has data up to byte %d, where the backup partition table of a disk of %d bytes goes: the partition table stays as it is in the image", p.dataEnd, size))
	}
	there := p.tail[:max(0, min(old.Len, p.end-old.Off, size-old.Off))]
	if p.dataEnd > at || fitted.Size == g.Size && g.IsTail(p.tail) {
		return before, []image.Chunk{{Off: old.Off, Data: there}}, nil
	}
	// The old backup is content like all else, unless a manifest says what content is.
	if c, _ := cut(image.Chunk{Off: old.Off, Data: there}, at); p.pic.Manifest == nil && len(c.Data) > 0 {
		after = append(after, c)
	}
	patch(before, 0, g.FitMBR(p.headBytes(0, 512), fitted))
	patch(before, g.Sector, fitted.Header())
	return before, append(after, image.Chunk{Off: at, Data: fitted.Tail()}), nil
}

// headBytes is n bytes of the head.
func (p *plan) headBytes(off, n int64) []byte {
	b := make([]byte, n)
	for _, c := range p.head {
		if from := max(off, c.Off); from < min(off+n, c.Off+int64(len(c.Data))) {
			copy(b[from-off:], c.Data[from-c.Off:])
		}
	}
	return b
}

// patch puts b at an offset into chunks, in new memory.
func patch(chunks []image.Chunk, off int64, b []byte) {
	for i, c := range chunks {
		if from := max(off, c.Off); from < min(off+int64(len(b)), c.Off+int64(len(c.Data))) {
			chunks[i].Data = slices.Clone(c.Data)
			copy(chunks[i].Data[from-c.Off:], b[from-off:])
		}
	}
}
