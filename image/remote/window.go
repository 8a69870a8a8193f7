package remote

import (
	"errors"
	"io"
	"slices"

	"imgtool/image"
)

const (
	// minWindow is the least number of bytes that are requested at a time: less does not
	// take less time.
	minWindow = 64 << 10
	// maxWindow is the largest number of bytes that are requested ahead of a sequential read
	// without a plan, and the most that is read at a time.
	maxWindow = 4 << 20
	// cacheSize is the number of bytes that are kept.
	cacheSize = 32 << 20
)

// Plan announces the only parts of the file that will be read. Neighbours are requested
// together, and nothing else is requested until the next Plan. Without spans there is no plan.
func (f *File) Plan(spans []image.Span) {
	var plan []span
	for _, s := range slices.SortedFunc(slices.Values(spans), func(a, b image.Span) int { return int(min(1, max(-1, a.Off-b.Off))) }) {
		if n := len(plan); n > 0 {
			// A request takes about as long as some bytes.
			last := &plan[n-1]
			if s.Off-last.end <= min(minWindow, (last.end-last.off)/16) {
				last.end = max(last.end, s.End())
				continue
			}
		}
		plan = append(plan, span{s.Off, s.End()})
	}
	f.reading.Lock()
	defer f.reading.Unlock()
	f.closeWindow()
	f.plan = plan
}

var errRanges = errors.New("the server does not send ranges of the file")

// ReadAt reads at an offset. It needs Ranges.
func (f *File) ReadAt(p []byte, off int64) (n int, err error) {
	if !f.Ranges() {
		return 0, errRanges
	}
	f.reading.Lock()
	defer f.reading.Unlock()
	want := p[:max(0, min(int64(len(p)), f.size-off))]
	for n < len(want) {
		at := off + int64(n)
		if k := f.cache.read(want[n:], at); k > 0 {
			n += k
			continue
		}
		if err := f.fill(at, int64(len(want)-n)); err != nil {
			return n, err
		}
	}
	f.last = off + int64(n)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// fill reads bytes from an offset on into the cache, at least one. need is the number that
// will be read.
func (f *File) fill(at, need int64) error {
	w := f.window
	if w == nil || at < w.off || at >= w.end || at-w.off > maxWindow {
		f.closeWindow()
		want := f.next(at, need)
		w = &stream{f: f, ctx: f.ctx, off: want.off, end: want.end, mark: want.off, random: true}
		err := w.connect()
		if errors.As(err, new(*GoneError)) {
			err = w.resume(err)
		}
		if err != nil {
			w.Close()
			return err
		}
		f.window = w
	}
	for w.off <= at {
		b := make([]byte, min(w.end-w.off, max(minWindow, min(at+need-w.off, maxWindow))))
		off := w.off
		if _, err := io.ReadFull(w, b); err != nil {
			f.closeWindow()
			return err
		}
		f.cache.add(off, b)
	}
	if w.off == w.end {
		f.closeWindow()
	}
	return nil
}

func (f *File) closeWindow() {
	if f.window != nil {
		f.window.Close()
		f.window = nil
	}
}

// next returns what to request for a read at an offset.
func (f *File) next(at, need int64) span {
	for _, s := range f.plan {
		if s.off <= at && at < s.end {
			return span{at, min(f.size, max(s.end, at+need))}
		}
	}
	if len(f.plan) > 0 {
		return span{at, min(f.size, at+need)}
	}
	if at == f.last && at > 0 {
		f.ahead = min(2*f.ahead, maxWindow)
	} else {
		f.ahead = minWindow
	}
	s := span{at, min(f.size, at+max(need, f.ahead))}
	if s.end == f.size && s.end-s.off < minWindow {
		s.off = max(0, s.end-minWindow) // the table of frames is read from its end
	}
	return s
}

// cache keeps the bytes that were read last.
type cache struct {
	parts []part // the latest last
	size  int64
}

type part struct {
	off  int64
	data []byte
}

func (c *cache) add(off int64, data []byte) {
	c.parts = append(c.parts, part{off, data})
	c.size += int64(len(data))
	for len(c.parts) > 1 && c.size > cacheSize {
		c.size -= int64(len(c.parts[0].data))
		c.parts[0].data = nil
		c.parts = c.parts[1:]
	}
}

// read copies bytes from an offset on, as many as are in one part.
func (c *cache) read(p []byte, off int64) int {
	for _, part := range slices.Backward(c.parts) {
		if part.off <= off && off < part.off+int64(len(part.data)) {
			return copy(p, part.data[off-part.off:])
		}
	}
	return 0
}
