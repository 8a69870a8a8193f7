package tarfs

import (
	"bytes"
	"fmt"
	"io"
	"iter"
	"sort"
	"strconv"
	"strings"

	"imgtool/image"
)

// maxSparse is the size of the largest sparse file that is accepted: a header of a few
// bytes can claim any size.
var maxSparse int64 = 16 << 40

// archive is a tar that contents are read from.
type archive struct{ io.ReaderAt }

// span is a file that is stored in one piece.
type span struct {
	in        *archive
	off, size int64
}

func (s *span) Size() int64 { return s.size }

func (s *span) ReadAt(p []byte, off int64) (int, error) {
	return io.NewSectionReader(s.in, s.off, s.size).ReadAt(p, off)
}

// sparse is a file with zeros between runs of data.
type sparse struct {
	in   *archive
	size int64
	runs []run
}

// run is n bytes at offset at of a file; off is their offset in the tar.
type run struct{ at, off, n int64 }

func (s *sparse) Size() int64 { return s.size }

// next returns the index of the run at off, or of the next run.
func (s *sparse) next(off int64) int {
	return sort.Search(len(s.runs), func(i int) bool { return s.runs[i].at+s.runs[i].n > off })
}

// Hole implements [image.Sparse].
func (s *sparse) Hole(off int64) int64 {
	end := s.size
	if i := s.next(off); i < len(s.runs) {
		end = s.runs[i].at
	}
	return max(0, end-off)
}

// Runs lists the runs of data for [image.Runs].
func (s *sparse) Runs() iter.Seq[image.Span] {
	return func(yield func(image.Span) bool) {
		for _, r := range s.runs {
			if !yield(image.Span{Off: r.at, Len: r.n}) {
				return
			}
		}
	}
}

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("reading at %d: negative offset", off)
	}
	if off >= s.size {
		return 0, io.EOF
	}
	var short error
	if int64(len(p)) > s.size-off {
		p, short = p[:s.size-off], io.EOF
	}
	n := 0
	for i := s.next(off); n < len(p); i++ {
		at := off + int64(n)
		end := s.size
		if i < len(s.runs) {
			end = s.runs[i].at
		}
		if at < end {
			zeros := p[n:min(int64(len(p)), int64(n)+end-at)]
			clear(zeros)
			n += len(zeros)
			at += int64(len(zeros))
		}
		if n == len(p) {
			break
		}
		r := s.runs[i]
		part := p[n:min(int64(len(p)), int64(n)+r.at+r.n-at)]
		k, err := s.in.ReadAt(part, r.off+at-r.at)
		n += k
		if k < len(part) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
	}
	return n, short
}

// readSparse reads the map of a sparse file. It returns the file and the offset of the
// next header.
func readSparse(in *archive, hdr *header) (*sparse, int64, error) {
	at, end, stored := hdr.data, hdr.data+padded(hdr.stored), hdr.stored
	s := &sparse{in: in, size: hdr.size}
	var left int64 // stored bytes that no run has yet
	switch {
	case hdr.kind == tarGNUSparse:
		maps, err := s.oldMap(hdr.main, at)
		if err != nil {
			return nil, 0, err
		}
		at, end, left = at+maps, end+maps, stored
	case hdr.version == "1.0":
		maps, err := s.mapBefore(at, stored)
		if err != nil {
			return nil, 0, err
		}
		at, left = at+maps, stored-maps
	default:
		if err := s.listedMap(hdr.records); err != nil {
			return nil, 0, err
		}
		left = stored
	}
	data := s.runs[:0]
	for _, r := range s.runs {
		if r.n > left {
			return nil, 0, fmt.Errorf("a sparse file has more data than the %d bytes that are stored", stored)
		}
		r.off, at, left = at, at+r.n, left-r.n
		if r.n > 0 {
			data = append(data, r)
		}
	}
	if left > 0 {
		return nil, 0, fmt.Errorf("a sparse file has %d stored bytes that are not in its map", left)
	}
	s.runs = append([]run(nil), data...)
	return s, end, nil
}

func (s *sparse) add(at, n string) error {
	a, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return errHeader
	}
	b, err := strconv.ParseInt(n, 10, 64)
	if err != nil {
		return errHeader
	}
	return s.run(a, b)
}

func (s *sparse) run(at, n int64) error {
	before := int64(0)
	if len(s.runs) > 0 {
		last := s.runs[len(s.runs)-1]
		before = last.at + last.n
	}
	if at < before || n < 0 || n > s.size-at {
		return errHeader
	}
	s.runs = append(s.runs, run{at: at, n: n})
	return nil
}

// listedMap reads the map of versions 0.0 and 0.1, in the records of an extended header:
// alternating offsets and lengths, and the number of pairs.
func (s *sparse) listedMap(records map[string]string) error {
	text, want := records["GNU.sparse.map"], int64(-1)
	if n := records["GNU.sparse.numblocks"]; n != "" {
		var err error
		if want, err = strconv.ParseInt(n, 10, 64); err != nil {
			return errHeader
		}
	}
	for text != "" {
		var at, n string
		var ok bool
		if at, text, ok = strings.Cut(text, ","); !ok {
			return errHeader
		}
		n, text, _ = strings.Cut(text, ",")
		if err := s.add(at, n); err != nil {
			return err
		}
	}
	if want >= 0 && int64(len(s.runs)) != want {
		return errHeader
	}
	return nil
}

// oldMap reads the map of the old GNU format: four runs are in the header, and 21 in each
// block from offset at on. It returns the length of these blocks.
func (s *sparse) oldMap(main []byte, at int64) (int64, error) {
	runs, more := main[386:482], main[482] != 0
	for b, length := make([]byte, block), int64(0); ; length += block {
		for ; len(runs) >= 24 && runs[0] != 0; runs = runs[24:] {
			at, err := number(runs[:12])
			if err != nil {
				return 0, err
			}
			n, err := number(runs[12:24])
			if err != nil {
				return 0, err
			}
			if err := s.run(at, n); err != nil {
				return 0, err
			}
		}
		if !more {
			return length, nil
		}
		if _, err := image.ReadFull(s.in, b, at+length); err != nil {
			return 0, err
		}
		runs, more = b[:504], b[504] != 0
	}
}

// mapBefore reads the map of version 1.0, which precedes the data: lines with the number
// of runs and their offsets and lengths, padded to whole blocks. It returns the length of
// the map, which is at most stored.
func (s *sparse) mapBefore(at, stored int64) (int64, error) {
	var rest []byte
	length := int64(0)
	line := func() (string, error) {
		for {
			if l, after, ok := bytes.Cut(rest, []byte("\n")); ok {
				rest = after
				return string(l), nil
			}
			if length >= stored {
				return "", errHeader
			}
			b := make([]byte, block)
			if _, err := image.ReadFull(s.in, b, at+length); err != nil {
				return "", err
			}
			rest, length = append(rest, b...), length+block
		}
	}
	l, err := line()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(l, 10, 64)
	if err != nil || n < 0 {
		return 0, errHeader
	}
	for range n {
		a, err := line()
		if err != nil {
			return 0, err
		}
		b, err := line()
		if err != nil {
			return 0, err
		}
		if err := s.add(a, b); err != nil {
			return 0, err
		}
	}
	return length, nil
}
