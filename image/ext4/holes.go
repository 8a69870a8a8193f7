package ext4

import "imgtool/image"

// omitHoles omits the blocks of a file that are completely within its known holes. They
// are not allocated and not in the extent tree, so they read as zeros.
func (f *file) omitHoles() {
	if _, ok := f.content.(image.Sparse); !ok {
		return
	}
	var mapped []run
	total := int64(0)
	for s := range image.Runs(f.content) {
		from, to := s.Off/blockSize, ceil(s.End(), blockSize)
		if n := len(mapped); n > 0 && from <= mapped[n-1].end() {
			from = mapped[n-1].end()
			mapped[n-1].n += max(0, to-from)
		} else {
			mapped = append(mapped, run{from, to - from})
		}
		total += max(0, to-from)
	}
	switch {
	case total == ceil(f.content.Size(), blockSize):
	case total == 0:
		f.content = nil
	default:
		f.mapped, f.content = mapped, gather(f.content, mapped)
	}
}

// gather returns the concatenation of the mapped blocks of a file.
func gather(c image.Content, mapped []run) image.Content {
	segments, size := make([]image.Segment, len(mapped)), int64(0)
	for i, r := range mapped {
		n := min(r.end()*blockSize, c.Size()) - r.start*blockSize
		segments[i] = image.Segment{At: size, Off: r.start * blockSize, Len: n}
		size += n
	}
	return image.NewMapped(c, size, segments)
}
