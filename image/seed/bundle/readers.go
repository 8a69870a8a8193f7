package bundle

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
)

// limitedReader fails with a limitError if there are more than left bytes.
type limitedReader struct {
	r       io.Reader
	left    int64
	message string
}

func (l *limitedReader) Read(p []byte) (int, error) {
	// Reading one byte more shows whether the limit is exceeded.
	n, err := l.r.Read(p[:min(int64(len(p)), l.left+1)])
	if l.left -= int64(n); l.left < 0 {
		l.left = 0
		return 0, limitError(l.message)
	}
	return n, err
}

// limitedWriter fails with a limitError after left bytes.
type limitedWriter struct {
	w       io.Writer
	left    int64
	message string
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	if l.left -= int64(len(p)); l.left < 0 {
		return 0, limitError(l.message)
	}
	return l.w.Write(p)
}

// gzipReader reads concatenated gzip members and accepts zeros after the last, as the
// program gzip does.
type gzipReader struct {
	in *bufio.Reader
	z  *gzip.Reader
}

func (g *gzipReader) Read(p []byte) (int, error) {
	if g.z == nil {
		z, err := gzip.NewReader(g.in)
		if err != nil {
			return 0, noEOF(err)
		}
		g.z = z
		g.z.Multistream(false)
	}
	for {
		n, err := g.z.Read(p)
		if err != io.EOF {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
		c, err := g.in.Peek(1)
		switch {
		case err != nil:
			return 0, err
		case c[0] == 0:
			return 0, skipZeros(g.in)
		}
		if err := g.z.Reset(g.in); err != nil {
			return 0, fmt.Errorf("there is data after its end: %w", noEOF(err))
		}
		g.z.Multistream(false)
	}
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// skipZeros returns io.EOF if only zeros follow.
func skipZeros(in *bufio.Reader) error {
	for {
		c, err := in.ReadByte()
		if err != nil {
			return err
		}
		if c != 0 {
			return errors.New("there is data after its end")
		}
	}
}
