package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"

	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/compress"
	"imgtool/image/partition"
)

// seek makes an image that comes from front to back one that can be read anywhere, in a
// scratch file if it must.
func (p *picture) seek(ctx context.Context, u *ui) error {
	if p.img != nil {
		return nil
	}
	check := func(chunks chunks) chunks { return chunks }
	if p.manifest == nil {
		check = func(c chunks) chunks { return asTheTableSays(c, &u.unpacked) }
	}
	return p.unpackWith(ctx, u, check)
}

// seekFile is seek for an image from a file. One from a pipe stays as it is.
func (p *picture) seekFile(ctx context.Context, u *ui) error {
	if p.file == nil {
		return nil
	}
	return p.seek(ctx, u)
}

type chunks = iter.Seq2[image.Chunk, error]

// seekFor is seek for an image file that goes to disks, of which disk is the smallest. If
// the scratch file cannot be had, the image is read through, and stays a stream.
func (p *picture) seekFor(ctx context.Context, dev *disk.Disk, u *ui) error {
	if err := p.check(ctx, u); err != nil {
		return err
	}
	if err := p.restart(); err != nil {
		return named(p.name, err)
	}
	fits := func(c chunks) chunks {
		if p.filling() != nil { // it is made to fit
			return c
		}
		return upTo(c, dev)
	}
	err := p.unpackWith(ctx, u, fits)
	var room *compress.ScratchError
	var large *compress.TooLargeError
	if !errors.As(err, &room) && !(errors.As(err, &large) && u.unpacked.Max == 0) {
		return err
	}
	u.endPhase()
	u.warn(fmt.Sprintf("%s is read twice, once to check it and once to write it, without a scratch file: %v", p.name, err))
	return p.readThrough(ctx, u, fits)
}

// readThrough reads a stream from a file for its errors and its length, and begins it
// anew.
func (p *picture) readThrough(ctx context.Context, u *ui, through func(chunks) chunks) error {
	if err := p.restart(); err != nil {
		return named(p.name, err)
	}
	end := int64(0)
	progress := u.phases("checking", p.length())
	for c, err := range through(p.stream.Chunks()) {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return named(p.name, err)
		}
		end = c.Off + int64(len(c.Data))
		progress.Add(int64(len(c.Data)))
	}
	u.endPhase()
	p.sayTrailing(u)
	if p.total = end; p.manifest != nil {
		p.total = p.manifest.Size
	}
	if err := p.restart(); err != nil {
		return named(p.name, err)
	}
	return nil
}

// length is how many bytes a stream has, 0 if that is not known.
func (p *picture) length() int64 {
	switch {
	case p.manifest != nil:
		return p.manifest.Size
	case p.beside.bmap != nil:
		return p.beside.bmap.Size
	}
	return p.total
}

// sayTrailing warns of bytes behind the end of a stream that was read.
func (p *picture) sayTrailing(u *ui) {
	if p.stream != nil && p.stream.Trailing > 0 {
		u.warn(fmt.Sprintf("%s: %d bytes behind the end of the %s data are ignored", p.name, p.stream.Trailing, p.stream.Format))
	}
}

// unpackWith unpacks a stream into a scratch file, through a check.
func (p *picture) unpackWith(ctx context.Context, u *ui, check func(chunks) chunks) error {
	f, err := compress.NewScratch("", &u.unpacked)
	if err != nil {
		return fmt.Errorf("%s: unpacking it: %w", p.name, err)
	}
	if err = p.unpack(ctx, f, u, check); err != nil {
		f.Close()
		return named(p.name, err)
	}
	return nil
}

// unpack makes a scratch file what is read.
func (p *picture) unpack(ctx context.Context, f *compress.Scratch, u *ui, check func(chunks) chunks) error {
	total := p.length()
	if total > u.unpacked.Limit() {
		return &compress.TooLargeError{Size: total, Max: u.unpacked.Limit()}
	}
	m, err := image.Write(ctx, f, sparse(check(p.stream.Chunks())), u.phases("unpacking", total))
	if err != nil {
		if large := new(*compress.TooLargeError); errors.As(err, large) {
			return *large
		}
		if errors.As(err, new(*image.WriteError)) {
			return fmt.Errorf("unpacking it: %w", err)
		}
		return p.explain(err)
	}
	u.endPhase()
	p.sayTrailing(u)
	size := m.Size
	if p.manifest != nil {
		size = p.manifest.Size
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	o, err := artifact.Open(io.NewSectionReader(f.File(), 0, size), p.manifest)
	if err != nil {
		return err
	}
	p.Close()
	p.img, p.file = o.Image, f.File()
	if p.manifest == nil {
		p.plain = o.Image
		return p.useBmap()
	}
	return nil
}

// beyond is how much an image may have after the end of the disk that its partition
// table is for: some are rounded up.
const beyond = 64 << 20

// asTheTableSays ends in an error where the partition table of an image is for a disk
// larger than the budget, or data other than zeros follow well after the end of that
// disk, unless the user said how much may be unpacked.
func asTheTableSays(chunks chunks, b *compress.Budget) chunks {
	return func(yield func(image.Chunk, error) bool) {
		limit := b.Limit()
		end := int64(math.MaxInt64)
		for c, err := range chunks {
			if err == nil && c.Off == 0 {
				if size := partition.DiskSize(bytes.NewReader(c.Data)); size > limit {
					yield(image.Chunk{}, &compress.TooLargeError{Size: size, Max: limit})
					return
				} else if size > 0 && b.Max == 0 {
					end = size + beyond
				}
			}
			if err == nil && c.Off >= end && len(bytes.TrimLeft(c.Data, "\x00")) > 0 {
				yield(image.Chunk{}, fmt.Errorf("its partition table is for a disk of %d bytes, but more data follow at byte %d; unpack all the same with --max-unpacked", end-beyond, c.Off))
				return
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

// upTo ends in an error where an image has more bytes than a disk.
func upTo(chunks chunks, dev *disk.Disk) chunks {
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
func unpacked(ctx context.Context, pic *picture, units []*unit, need disk.Need, u *ui) (*picture, *plan, error) {
	var names []string
	smallest := units[0].disk
	for _, n := range units {
		if names = append(names, n.disk.Path); n.disk.Size < smallest.Size {
			smallest = n.disk
		}
	}
	if err := pic.seekFor(ctx, smallest, u); err != nil {
		return nil, nil, err
	}
	pic, err := pic.withoutHoles(names)
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
	p.pic.sayTrailing(u)
	return nil
}
