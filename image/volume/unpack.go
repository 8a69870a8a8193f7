package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/compress"
	"imgtool/image/partition"
)

// Chunks are parts of an image from front to back.
type Chunks = iter.Seq2[image.Chunk, error]

// Seek gives a stream random access by unpacking it into a scratch file. An image that
// has no manifest and more data than its partition table covers is an error.
func (s *Source) Seek(ctx context.Context) error {
	if s.Image != nil {
		return nil
	}
	through := func(c Chunks) Chunks { return c }
	if s.IsURL() {
		s.opt.Reporter.Infof("%s: it can only be read from front to back, so all of it is fetched, and unpacked into a scratch file", s.Name)
	}
	if s.Manifest == nil {
		through = func(c Chunks) Chunks { return limitByTable(c, s.opt.Scratch) }
	}
	return s.Unpack(ctx, through)
}

// SeekFile is [Source.Seek] for a stream from a file; standard input stays a stream.
func (s *Source) SeekFile(ctx context.Context) error {
	if s.File == nil && s.remote == nil {
		return nil
	}
	return s.Seek(ctx)
}

// Sequential makes an image a stream if it would be decompressed to check it, and again to
// read it, or if it is on a server and has a block map, whose ranges are checked in order. It
// reports whether it did.
func (s *Source) Sequential() (bool, error) {
	mapped := s.IsURL() && s.BlockMap() != "" && s.Manifest == nil
	if s.opened == nil || !s.opened.Unpacks() && !mapped {
		return false, nil
	}
	s.Image, s.opened = nil, nil
	return true, s.Wrap(s.Restart())
}

// ReadThrough reads the stream of a file to its end for its errors and its length, and
// begins it again. The chunks pass through a filter.
func (s *Source) ReadThrough(ctx context.Context, through func(Chunks) Chunks) error {
	if err := s.Restart(); err != nil {
		return s.Wrap(err)
	}
	end := int64(0)
	progress := s.phase("checking")
	for c, err := range through(s.stream.Chunks()) {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return s.Wrap(err)
		}
		end = c.Off + int64(len(c.Data))
		progress.Add(int64(len(c.Data)))
	}
	s.opt.Reporter.EndPhase()
	s.ReportTrailing()
	if s.Total = end; s.Manifest != nil {
		s.Total = s.Manifest.Size
	}
	return s.Wrap(s.Restart())
}

// length returns how many bytes a stream has, 0 if that is not known.
func (s *Source) length() int64 {
	switch {
	case s.Manifest != nil:
		return s.Manifest.Size
	case s.beside.bmap != nil:
		return s.beside.bmap.Size
	}
	return s.Total
}

// ReportTrailing warns of bytes after the end of a stream that was read.
func (s *Source) ReportTrailing() {
	if s.stream != nil && s.stream.Trailing > 0 {
		s.opt.Reporter.Warnf("%s: %d bytes after the end of the %s data are ignored", s.Name, s.stream.Trailing, s.stream.Format)
	}
}

// Unpack unpacks a stream into a scratch file. The chunks pass through a filter.
func (s *Source) Unpack(ctx context.Context, through func(Chunks) Chunks) error {
	f, err := compress.NewScratch("", s.opt.Scratch)
	if err != nil {
		return fmt.Errorf("%s: unpacking it: %w", s.Name, err)
	}
	if err = s.unpack(ctx, f, through); err != nil {
		f.Close()
	}
	return s.Wrap(err)
}

func (s *Source) unpack(ctx context.Context, f *compress.Scratch, through func(Chunks) Chunks) error {
	total := s.length()
	if limit := s.opt.Scratch.Limit(); total > limit {
		return &compress.TooLargeError{Size: total, Max: limit}
	}
	chunks := SkipZeros(through(s.stream.Chunks()), s.phase("unpacking"))
	end, err := s.writeTo(ctx, f, chunks)
	if err != nil {
		if large, ok := errors.AsType[*compress.TooLargeError](err); ok {
			return large
		}
		if errors.As(err, new(*image.WriteError)) {
			return fmt.Errorf("unpacking it: %w", err)
		}
		return s.explain(err)
	}
	s.opt.Reporter.EndPhase()
	s.ReportTrailing()
	size := end
	if s.Manifest != nil {
		size = s.Manifest.Size
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	o, err := artifact.Open(io.NewSectionReader(f.File(), 0, size), s.Manifest)
	if err != nil {
		return err
	}
	s.Close()
	s.Image, s.File = o.Image, f.File()
	if s.Manifest == nil {
		s.plain = o.Image
	}
	return s.useBmap()
}

// writeTo writes chunks to a scratch file, and returns the offset of their end.
func (s *Source) writeTo(ctx context.Context, f *compress.Scratch, chunks Chunks) (end int64, err error) {
	for c, err := range chunks {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return 0, err
		}
		if _, err := f.WriteAt(c.Data, c.Off); err != nil {
			return 0, &image.WriteError{Off: c.Off, Err: err}
		}
		end = c.Off + int64(len(c.Data))
	}
	return end, nil
}

// SkipZeros cuts the zeros off the start of each chunk, all but the last byte, so that a
// file that is written has holes there. Progress includes the zeros.
func SkipZeros(chunks Chunks, p image.Progress) Chunks {
	return func(yield func(image.Chunk, error) bool) {
		for c, err := range chunks {
			p.Add(int64(len(c.Data)))
			if err == nil && len(c.Data) > 0 {
				first := min(image.LeadingZeros(c.Data), len(c.Data)-1)
				c = image.Chunk{Off: c.Off + int64(first), Data: c.Data[first:]}
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

// slack is how much data may follow the end of the disk that a partition table is for:
// some builders round sizes up.
const slack = 64 << 20

// limitByTable ends in an error if the partition table of an image is for a disk larger
// than the budget, or if non-zero data follow the end of that disk by more than slack. If
// the user set a budget, the budget alone counts.
func limitByTable(chunks Chunks, b *compress.Budget) Chunks {
	return func(yield func(image.Chunk, error) bool) {
		limit := b.Limit()
		end := int64(math.MaxInt64)
		for c, err := range chunks {
			if err == nil && c.Off == 0 {
				if size := partition.DiskSize(bytes.NewReader(c.Data)); size > limit {
					yield(image.Chunk{}, &compress.TooLargeError{Size: size, Max: limit})
					return
				} else if size > 0 && (b == nil || b.Max == 0) {
					end = size + slack
				}
			}
			if err == nil && c.Off >= end && !image.IsZero(c.Data) {
				yield(image.Chunk{}, fmt.Errorf("its partition table is for a disk of %d bytes, but more data follow at byte %d; unpack all the same with --max-unpacked", end-slack, c.Off))
				return
			}
			if !yield(c, err) {
				return
			}
		}
	}
}
