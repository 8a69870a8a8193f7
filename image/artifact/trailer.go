package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"slices"
)

// trailer collects the frames without data of an .img.zst that passes through it, from the
// start of a frame on.
type trailer struct {
	r    io.Reader
	ours bool // the file has a manifest

	skip int64  // bytes to drop
	want int    // bytes to collect then
	buf  []byte // collected
	next func(b []byte)

	list    []attached
	hash    []byte // the SHA-256 of the manifest's frame
	sums    []byte // the data of the frame with the sums
	table   bool   // a table of frames follows the sums
	frames  []byte // of the attachments
	large   bool   // an attachment was too large to be kept
	trouble error
}

func newTrailer(r io.Reader, ours bool) *trailer {
	t := &trailer{r: r, ours: ours}
	t.collect(4, t.magic)
	return t
}

func (t *trailer) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.feed(p[:n])
	return n, err
}

func (t *trailer) feed(b []byte) {
	for {
		k := min(t.skip, int64(len(b)))
		b, t.skip = b[k:], t.skip-k
		if t.skip > 0 {
			return
		}
		n := min(t.want-len(t.buf), len(b))
		t.buf, b = append(t.buf, b[:n]...), b[n:]
		if len(t.buf) < t.want {
			return
		}
		got := t.buf
		t.buf = nil
		t.next(got)
	}
}

func (t *trailer) collect(n int, next func([]byte)) { t.want, t.next = n, next }

// magic receives the first 4 bytes of a frame (RFC 8878, section 3.1).
func (t *trailer) magic(b []byte) {
	magic := binary.LittleEndian.Uint32(b)
	if magic == zstdMagic {
		t.collect(1, t.header)
		return
	}
	t.table = t.table || t.sums != nil && magic == skippableTable
	t.collect(4, func(size []byte) {
		n := int64(binary.LittleEndian.Uint32(size))
		kept := map[uint32]int64{skippableManifest: MaxManifest, skippableAttachment: maxAttachedHead + MaxAttachment, skippableSums: 4 * sha256.Size}[magic]
		if magic == skippableAttachment {
			kept -= int64(len(t.frames))
		}
		if n > kept {
			t.large = t.large || magic == skippableAttachment
			t.skip += n
			t.collect(4, t.magic)
			return
		}
		t.collect(int(n), func(data []byte) {
			t.frame(magic, data)
			t.collect(4, t.magic)
		})
	})
}

func (t *trailer) header(b []byte) {
	single, checksum := int64(b[0]>>5&1), int64(b[0]>>2&1)
	t.skip += []int64{0, 1, 2, 4}[b[0]&3] + []int64{single, 2, 4, 8}[b[0]>>6] + 1 - single
	t.collect(3, func(b []byte) { t.block(b, checksum) })
}

func (t *trailer) block(b []byte, checksum int64) {
	h := int64(b[0]) | int64(b[1])<<8 | int64(b[2])<<16
	size := h >> 3
	if h>>1&3 == 1 {
		size = 1 // RLE
	}
	t.skip += size
	if h&1 == 1 {
		t.skip += 4 * checksum
		t.collect(4, t.magic)
	}
}

// frame receives the data of a frame without data of the image.
func (t *trailer) frame(magic uint32, data []byte) {
	all := skippable(magic, data)
	switch magic {
	case skippableManifest:
		if t.hash == nil {
			sum := sha256.Sum256(all)
			t.hash = sum[:]
		}
	case skippableSums:
		t.sums = data
	case skippableAttachment:
		a, err := parseAttached(all, 0, int64(len(all)))
		if err != nil {
			t.trouble = err
			return
		}
		a.data = data[1+len(a.name):]
		t.list, t.frames = append(t.list, *a), append(t.frames, all...)
	}
}

// check compares the manifest and the attachments with the sums, after the end.
func (t *trailer) check() error {
	if !t.ours {
		if t.table && slices.Contains([]int{oldSumsSize, sumsSize, attachedSize}, 8+len(t.sums)) {
			return corrupt("the manifest in it is damaged")
		}
		return nil
	}
	if t.trouble != nil {
		return t.trouble
	}
	if t.large {
		return corrupt("its attachments have more than the limit of %d bytes", MaxAttachment)
	}
	if t.sums == nil && len(t.list) == 0 {
		return nil // of the first versions
	}
	if len(t.sums) < 2*sha256.Size || len(t.list) > 0 != (len(t.sums) == 4*sha256.Size) {
		return corrupt("the frame with the sums is damaged: it has %d bytes", len(t.sums))
	}
	if !bytes.Equal(t.hash, t.sums[:sha256.Size]) {
		return corrupt("the manifest is corrupt: its SHA-256 is %x, it should be %x", t.hash, t.sums[:sha256.Size])
	}
	if len(t.list) == 0 {
		return nil
	}
	if got, want := sha256.Sum256(t.frames), t.sums[3*sha256.Size:]; !bytes.Equal(got[:], want) {
		return corrupt("an attachment is corrupt: the SHA-256 of all is %x, it should be %x", got, want)
	}
	return nil
}
