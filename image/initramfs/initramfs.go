// Package initramfs finds files in the initial root file system of Linux: any number of
// concatenated cpio archives, each plain or compressed, with padding of zeros between them.
// The format is described in Documentation/driver-api/early-userspace/buffer-format.rst of
// Linux.
package initramfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"

	"imgtool/image/compress"
)

// maxUnpacked is the limit of the decompressed size of all archives together, in bytes.
const maxUnpacked = 4 << 30

// Has reports whether an initramfs has a path, which has no leading slash. It stops reading
// there, so data after the path may be damaged.
func Has(r io.ReaderAt, size int64, path string) (bool, error) {
	left := int64(maxUnpacked)
	for at := int64(0); ; {
		in := &counter{r: bufio.NewReaderSize(io.NewSectionReader(r, at, size-at), 64<<10)}
		if err := skipZeros(in); err != nil {
			return false, err
		}
		at += in.n
		head, err := in.r.Peek(compress.HeadSize)
		if err != nil && err != io.EOF {
			return false, err
		}
		if len(head) == 0 {
			return false, nil
		}
		format := compress.Detect(head)
		in.n = 0
		var found bool
		switch format {
		case compress.None:
			if !isCpio(head) {
				return false, fmt.Errorf("at byte %d it has % x, which is neither a cpio archive nor a known compression", at, head[:min(6, len(head))])
			}
			found, err = search(in, path, false)
			at += in.n
		case compress.Gzip:
			found, err = search(&limited{&gzipRun{in: in}, &left}, path, true)
			at += in.n
		default:
			end, eerr := compress.End(format, r, at, size)
			if eerr != nil {
				return false, fmt.Errorf("the %s data at byte %d: %w", format, at, cutShort(eerr))
			}
			var out io.ReadCloser
			if out, err = compress.NewReader(io.NewSectionReader(r, at, end-at), format); err == nil {
				found, err = search(&limited{out, &left}, path, true)
				out.Close()
			}
			at = end
		}
		if found {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("after byte %d: %w", at, cutShort(err))
		}
	}
}

func cutShort(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("cut short")
	}
	return err
}

func isCpio(head []byte) bool { return bytes.HasPrefix(head, []byte("07070")) }

// search searches concatenated cpio archives. In decompressed data, nothing else may follow
// them; after plain archives, compressed ones may.
func search(in io.Reader, path string, packed bool) (bool, error) {
	c, ok := in.(*counter)
	if !ok {
		c = &counter{r: bufio.NewReaderSize(in, 64<<10)}
	}
	for {
		if err := skipZeros(c); err != nil {
			return false, err
		}
		head, err := c.r.Peek(6)
		switch {
		case len(head) == 0 && (err == nil || err == io.EOF):
			return false, nil
		case err != nil && err != io.EOF:
			return false, err
		case !isCpio(head) && packed:
			return false, fmt.Errorf("the decompressed data have % x, which is not a cpio archive", head)
		case !isCpio(head):
			return false, nil
		}
		for {
			name, err := nextFile(c)
			if err != nil {
				return false, err
			}
			if name == "" || name == "TRAILER!!!" {
				break
			}
			if strings.TrimPrefix(strings.TrimPrefix(name, "./"), "/") == path {
				return true, nil
			}
		}
	}
}

// nextFile reads the header of a file and skips its data. At the end of the input the name
// is "", as the kernel does not require a trailer.
func nextFile(c *counter) (name string, err error) {
	var head [110]byte
	if n, err := io.ReadFull(c, head[:]); err != nil {
		if n == 0 && err == io.EOF {
			return "", nil
		}
		return "", err
	}
	size, err1 := strconv.ParseUint(string(head[54:62]), 16, 32)
	length, err2 := strconv.ParseUint(string(head[94:102]), 16, 32)
	if !isCpio(head[:]) || err1 != nil || err2 != nil || length < 1 || length > maxName {
		return "", fmt.Errorf("a damaged cpio archive: a header begins with %q", head[:6])
	}
	b := make([]byte, (length+2+3)/4*4-2) // the header is two bytes longer than whole words
	if _, err := io.ReadFull(c, b); err != nil {
		return "", err
	}
	if name = string(b[:length-1]); name == "" {
		name = "."
	}
	if name != "TRAILER!!!" {
		_, err = io.CopyN(io.Discard, c, int64(size+3)/4*4)
	}
	return name, err
}

const maxName = 4096 // PATH_MAX of the kernel, with the final zero byte

func skipZeros(c *counter) error {
	for {
		b, err := c.r.ReadByte()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if b != 0 {
			return c.r.UnreadByte()
		}
		c.n++
	}
}

// counter counts the bytes that are read. It is an io.ByteReader, so that decompressors do
// not read ahead.
type counter struct {
	r *bufio.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *counter) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// gzipRun decompresses concatenated gzip members and stops before other data.
type gzipRun struct {
	in *counter
	z  *gzip.Reader
}

func (g *gzipRun) Read(p []byte) (int, error) {
	for {
		if g.z != nil {
			n, err := g.z.Read(p)
			switch {
			case n > 0 && err == io.EOF:
				return n, nil
			case err != io.EOF:
				return n, err
			}
			if head, _ := g.in.r.Peek(3); compress.Detect(head) != compress.Gzip {
				return 0, io.EOF
			}
			if err := g.z.Reset(g.in); err != nil {
				return 0, err
			}
		} else {
			var err error
			if g.z, err = gzip.NewReader(g.in); err != nil {
				return 0, err
			}
		}
		g.z.Multistream(false)
	}
}

// limited reads from r and fails after *left bytes.
type limited struct {
	r    io.Reader
	left *int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if *l.left -= int64(n); *l.left < 0 {
		return 0, fmt.Errorf("it unpacks to more than the limit of %d bytes", int64(maxUnpacked))
	}
	return n, err
}
