package tarfs

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"imgtool/image"
)

// maxSparse is the size of the largest sparse file that is accepted: a header of a few
// bytes can claim any size.
var maxSparse int64 = 16 << 40

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

// sparseMap is the map of a sparse file while it is read from in.
type sparseMap struct {
	in   io.ReaderAt
	size int64
	runs []image.Segment
}

// readSparse reads the map of a sparse file from in. It returns the runs of data in the
// file and the offset of the next header.
func readSparse(in io.ReaderAt, hdr *header) ([]image.Segment, int64, error) {
	at, end, stored := hdr.data, hdr.data+padded(hdr.stored), hdr.stored
	s := &sparseMap{in: in, size: hdr.size}
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
		if r.Len > left {
			return nil, 0, fmt.Errorf("a sparse file has more data than the %d bytes that are stored", stored)
		}
		r.Off, at, left = at, at+r.Len, left-r.Len
		if r.Len > 0 {
			data = append(data, r)
		}
	}
	if left > 0 {
		return nil, 0, fmt.Errorf("a sparse file has %d stored bytes that are not in its map", left)
	}
	return slices.Clone(data), end, nil
}

func (s *sparseMap) add(at, n string) error {
	a, err1 := strconv.ParseInt(at, 10, 64)
	b, err2 := strconv.ParseInt(n, 10, 64)
	if err1 != nil || err2 != nil {
		return errHeader
	}
	return s.run(a, b)
}

func (s *sparseMap) run(at, n int64) error {
	before := int64(0)
	if len(s.runs) > 0 {
		last := s.runs[len(s.runs)-1]
		before = last.At + last.Len
	}
	if at < before || n < 0 || n > s.size-at {
		return errHeader
	}
	s.runs = append(s.runs, image.Segment{At: at, Len: n})
	return nil
}

// listedMap reads the map of versions 0.0 and 0.1, in the records of an extended header:
// alternating offsets and lengths, and the number of pairs.
func (s *sparseMap) listedMap(records map[string]string) error {
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
func (s *sparseMap) oldMap(main []byte, at int64) (int64, error) {
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
func (s *sparseMap) mapBefore(at, stored int64) (int64, error) {
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
