package deploy

import (
	"bytes"
	"slices"

	"imgtool/image"
	"imgtool/image/volume"
)

// body returns the content of the image from start on, without the backup table.
func (p *Plan) body() volume.Chunks { return p.withoutBackup(p.padded(p.rest())) }

// all returns the content of the image. It can be called once, and instead of body.
func (p *Plan) all() volume.Chunks { return join(sequence(p.head), p.rest()) }

// rest returns the content of the image from start on.
func (p *Plan) rest() volume.Chunks {
	return join(sequence(p.first), func(yield func(image.Chunk, error) bool) {
		for {
			c, err, ok := p.next()
			if err != nil {
				c, err = image.Chunk{}, p.src.Wrap(err)
			}
			if !ok && err == nil || !yield(c, err) || err != nil {
				return
			}
		}
	})
}

// padded adds zeros to an image that ends before its last partition does.
func (p *Plan) padded(chunks volume.Chunks) volume.Chunks {
	return func(yield func(image.Chunk, error) bool) {
		var held image.Chunk // the last chunk, which is filled up to a whole block
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
		if p.src.Image != nil {
			end = p.src.Image.Size()
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
			for off := s.Off; off < s.End(); {
				n := min(s.End()-off, image.PieceSize-off%image.PieceSize)
				if !yield(image.Chunk{Off: off, Data: make([]byte, n)}, nil) {
					return
				}
				off += n
			}
		}
		p.setEnd(end)
	}
}

// withoutBackup takes the backup table out of the content, and keeps it as the tail.
func (p *Plan) withoutBackup(chunks volume.Chunks) volume.Chunks {
	if p.movable() == nil {
		return chunks
	}
	at, free := p.backup(), p.table.End()
	return func(yield func(image.Chunk, error) bool) {
		p.tail = make([]byte, at.Len)
		mapped(chunks, func(c image.Chunk) ([]image.Chunk, error) {
			before, rest := cut(c, at.Off)
			inside, after := cut(rest, at.End())
			if len(inside.Data) > 0 {
				copy(p.tail[inside.Off-at.Off:], inside.Data)
			}
			for _, c := range []image.Chunk{before, after} {
				_, behind := cut(c, free)
				if n := len(bytes.TrimRight(behind.Data, "\x00")); n > 0 {
					p.dataEnd = max(p.dataEnd, behind.Off+int64(n))
				}
			}
			return []image.Chunk{before, after}, nil
		})(yield)
	}
}

// mapped returns the parts that f makes of each chunk, up to the first error.
func mapped(chunks volume.Chunks, f func(image.Chunk) ([]image.Chunk, error)) volume.Chunks {
	return func(yield func(image.Chunk, error) bool) {
		for c, err := range chunks {
			var parts []image.Chunk
			if err == nil {
				parts, err = f(c)
			}
			if err != nil {
				yield(image.Chunk{}, err)
				return
			}
			for _, c := range parts {
				if len(c.Data) > 0 && !yield(c, nil) {
					return
				}
			}
		}
	}
}

// onto returns a body for a disk of size bytes: without the zeros that the image has where
// the backup table goes, and after the end of the disk.
func (p *Plan) onto(size int64, body volume.Chunks) volume.Chunks {
	g := p.movable()
	if g == nil {
		return body
	}
	end := size / g.Sector * g.Sector
	return mapped(body, func(c image.Chunk) ([]image.Chunk, error) {
		before, after := cut(c, end-g.TailLen())
		if len(bytes.TrimRight(after.Data, "\x00")) > 0 {
			return []image.Chunk{c}, nil
		}
		// A regular file may end within a sector.
		_, last := cut(after, end)
		last, _ = cut(last, size)
		return []image.Chunk{before, last}, nil
	})
}

// ends returns what goes before start and to the end of a disk of size bytes: the head with
// the partition table fitted to the disk, and the backup table. The body must have been
// read. If the image has data where the backup table of the disk belongs, its own table stays.
func (p *Plan) ends(size int64) (before, after []image.Chunk, err error) {
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
		p.note("the image has data up to byte %d, where the backup partition table of a disk of %d bytes goes: the partition table stays as it is in the image", p.dataEnd, size)
	}
	tail := p.tail[:max(0, min(old.Len, p.end-old.Off, size-old.Off))]
	if p.dataEnd > at || fitted.Size == g.Size && g.IsTail(p.tail) {
		return before, []image.Chunk{{Off: old.Off, Data: tail}}, nil
	}
	// Without a manifest that says what content is, the old backup table is content too.
	if c, _ := cut(image.Chunk{Off: old.Off, Data: tail}, at); p.src.Manifest == nil && len(c.Data) > 0 {
		after = append(after, c)
	}
	mbr := make([]byte, 512)
	copyChunks(mbr, 0, p.head)
	patch(before, 0, g.FitMBR(mbr, fitted))
	patch(before, g.Sector, fitted.Header())
	return before, append(after, image.Chunk{Off: at, Data: fitted.Tail()}), nil
}

// patch overwrites the content of chunks at an offset, in new memory.
func patch(chunks []image.Chunk, off int64, b []byte) {
	for i, c := range chunks {
		if from := max(off, c.Off); from < min(off+int64(len(b)), c.Off+int64(len(c.Data))) {
			chunks[i].Data = slices.Clone(c.Data)
			copy(chunks[i].Data[from-c.Off:], b[from-off:])
		}
	}
}
