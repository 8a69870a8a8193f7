package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/partition"
	"imgtool/image/volume"
)

// headReader reads at any offset near the start of a stream, and keeps the chunks.
type headReader struct {
	next   func() (image.Chunk, error, bool)
	chunks []image.Chunk
	end    int64 // of the chunks
	err    error // of next
}

func (h *headReader) ReadAt(p []byte, off int64) (int, error) {
	want := off + int64(len(p))
	for h.end < want && want <= maxHead && h.err == nil {
		c, err, ok := h.next()
		if h.err = err; err != nil || !ok {
			break
		}
		h.chunks = append(h.chunks, c)
		h.end = c.Off + int64(len(c.Data))
	}
	if h.err != nil {
		return 0, h.err
	}
	copyChunks(p, off, h.chunks)
	if n := min(int64(len(p)), max(0, h.end-off)); n < int64(len(p)) {
		return int(n), io.EOF
	}
	return len(p), nil
}

// copyChunks fills p with the content of chunks from an offset on, and zeros in between.
func copyChunks(p []byte, off int64, chunks []image.Chunk) {
	clear(p)
	for _, c := range chunks {
		if from := max(off, c.Off); from < min(off+int64(len(p)), c.Off+int64(len(c.Data))) {
			copy(p[from-off:], c.Data[from-c.Off:])
		}
	}
}

// readTable reads the partition table, and refuses it if no disk can have it.
func (p *Plan) readTable(r io.ReaderAt) (err error) {
	p.table, err = partition.Read(r, 0)
	switch {
	case errors.Is(err, partition.ErrNone):
		return corrupt("it is no disk image: it starts with no partition table")
	case fault.Kind(err) != "", errors.As(err, new(*gpt.UnsupportedError)), errors.As(err, new(*fs.PathError)):
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
	p.optical = string(magic) == "CD001"
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

// measure finds the size of the disk that an image without a manifest needs.
func (p *Plan) measure() error {
	if img := p.src.Image; img != nil {
		if g := p.movable(); g != nil && img.Size() > g.Size {
			end, err := lastData(img, g.Size, image.Span{})
			if err != nil {
				return err
			}
			p.dataEnd = end
		}
		p.setEnd(img.Size())
		return nil
	}
	if total := p.src.Total; total > 0 {
		p.setEnd(total)
		return nil
	}
	p.size = p.table.End()
	if g := p.movable(); g != nil && p.src.File == nil {
		p.size = g.Size // the length of a pipe is not known
	} else if g != nil {
		p.size = g.End() + g.TailLen()
	}
	return nil
}

// lastData returns where the last non-zero byte at or after an offset ends, apart from a
// span, or 0 if all are zero.
func lastData(img *image.Image, from int64, except image.Span) (int64, error) {
	buf := make([]byte, image.PieceSize)
	for end := img.Size(); end > from; {
		b := buf[:min(end-from, int64(len(buf)))]
		end -= int64(len(b))
		if _, err := img.ReadAt(b, end); err != nil && err != io.EOF {
			return 0, err
		}
		if from, to := max(end, except.Off), min(end+int64(len(b)), except.End()); from < to {
			clear(b[from-end : to-end])
		}
		if n := len(bytes.TrimRight(b, "\x00")); n > 0 {
			return end + int64(n), nil
		}
	}
	return 0, nil
}

// setEnd sets the size of the image, and notes what is unusual about it.
func (p *Plan) setEnd(end int64) {
	p.end = end
	if p.src.Manifest != nil {
		return
	}
	g := p.movable()
	p.size = max(end, p.table.End())
	if g != nil {
		p.size = max(g.End()+g.TailLen(), min(end, g.Size), p.dataEnd)
	}
	switch {
	case len(p.missing(end)) > 0:
		var parts []string
		for _, part := range p.table.Parts {
			if part.Off+part.Len > end {
				parts = append(parts, volume.PartName(part))
			}
		}
		p.note("the image ends at byte %d, and its partition table has partitions up to byte %d (%s): the rest of them is written as zeros",
			end, p.table.End(), list(parts, 4))
	case g != nil && end < g.Size:
		p.note("the image ends at byte %d, and its partition table is for a disk of %d bytes: it has no backup partition table, so one is made", end, g.Size)
	case g != nil && p.dataEnd > g.Size:
		p.note("the image has data after its backup partition table, up to byte %d: they are written as well", p.dataEnd)
	}
}

// list joins names, and counts those after the first n.
func list(names []string, n int) string {
	if len(names) > n {
		names = append(names[:n:n], fmt.Sprintf("and %d more", len(names)-n))
	}
	return strings.Join(names, ", ")
}

// missing returns what the partitions of an image without a manifest have after its end.
func (p *Plan) missing(end int64) []image.Span {
	if p.src.Manifest != nil {
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

// movable returns the GPT of an image if it is fitted to the disk, else nil. The image of an
// optical disc is not changed, as it may have a checksum of all its bytes.
func (p *Plan) movable() *gpt.Table {
	if p.optical {
		return nil
	}
	return p.table.GPT
}

// backup returns where the image has its backup table, or an empty span.
func (p *Plan) backup() image.Span {
	if g := p.movable(); g != nil {
		return g.Backup()
	}
	return image.Span{}
}

// fits returns an error if the partitions do not fit on a disk of size bytes. With random
// access it also reads the end of the image.
func (p *Plan) fits(size int64) error {
	g, img := p.movable(), p.src.Image
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
