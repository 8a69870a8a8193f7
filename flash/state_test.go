package flash_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/imagetest"
)

// The reported state is the content of the disk.
func TestFailedErrorState(t *testing.T) {
	imagetest.Long(t)
	const size = 128 * mib
	lost := func(_ int, b []byte, _ int64) (int, error) { return len(b), nil }
	for _, c := range []struct {
		name  string
		fault func(f *fake, cancel func())
		want  flash.State
		is    func(error) bool
		text  string
	}{
		{"every write is lost", func(f *fake, _ func()) { f.write = drop(f, lost) }, flash.Unchanged, is[*flash.NoWritesError], "takes no writes"},
		{"every write fails", func(f *fake, _ func()) {
			f.write = func(int, []byte, int64) (int, error) { return 0, syscall.EIO }
		}, flash.Unchanged, is[*image.WriteError], ""},
		{"writes are lost from the body on", func(f *fake, _ func()) {
			f.write = drop(f, func(_ int, b []byte, off int64) (int, error) {
				if off >= headSize && off < size-mib || f.stuck {
					f.stuck = true
					return len(b), nil
				}
				return through, nil
			})
		}, flash.NoTable, is[*flash.NoWritesError], "bytes 262144 and 0"},
		{"a write of the body fails", func(f *fake, _ func()) {
			f.write = func(_ int, _ []byte, off int64) (int, error) {
				if off >= headSize && off < size-mib {
					return 0, syscall.EIO
				}
				return through, nil
			}
		}, flash.NoTable, is[*image.WriteError], ""},
		{"the first write is torn", func(f *fake, _ func()) {
			f.write = func(_ int, _ []byte, off int64) (int, error) {
				if off == 0 {
					return sector, syscall.EIO
				}
				return through, nil
			}
		}, flash.PartWritten, is[*image.WriteError], ""},
		{"nothing can be read after a failure", func(f *fake, _ func()) {
			f.write = func(_ int, _ []byte, off int64) (int, error) {
				if f.stuck = f.stuck || off >= headSize && off < size-mib; f.stuck {
					return 0, syscall.EIO
				}
				return through, nil
			}
			f.read = func(int, []byte, int64) error {
				if f.stuck {
					return syscall.EIO
				}
				return nil
			}
		}, flash.Unknown, is[*image.WriteError], ""},
		{"a write in flight", func(f *fake, _ func()) {
			f.write = func(_ int, _ []byte, off int64) (int, error) {
				if off >= headSize && off < size-mib {
					<-f.hang
				}
				return through, nil
			}
		}, flash.Unknown, is[*flash.StallError], "has not answered for 2s"},
		{"interrupted in the body", func(f *fake, cancel func()) {
			f.write = func(_ int, _ []byte, off int64) (int, error) {
				if off >= headSize && off < size-mib {
					cancel()
				}
				return through, nil
			}
		}, flash.NoTable, func(err error) bool { return errors.Is(err, context.Canceled) }, ""},
		{"interrupted before the first write", func(f *fake, cancel func()) {
			f.read = func(int, []byte, int64) error { cancel(); return nil }
		}, flash.Unchanged, func(err error) bool { return errors.Is(err, context.Canceled) }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPayload(size, 4*mib)
			p.job.Size = size
			p.job.Stall = 3 * time.Minute
			if c.text == "has not answered for 2s" {
				p.job.Stall = 2 * time.Second
			}
			f := newFake(size)
			f.hang = make(chan struct{})
			defer close(f.hang)
			before := bytes.Clone(f.data)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c.fault(f, cancel)
			_, err := flash.Run(ctx, f, p.job, nil)
			left, ok := flash.StateAfter(err)
			if !ok || left != c.want || !c.is(err) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%q after %v", left, err)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if same := bytes.Equal(before, f.data); same != (c.want == flash.Unchanged) {
				t.Errorf("it says %q, and the disk is unchanged: %v", left, same)
			}
			if c.want == flash.NoTable && bytes.Count(f.data[:image.Block], []byte{0}) != image.Block {
				t.Error("there is something in the first block")
			}
		})
	}
}

// drop wraps a fault so that bytes it reports as written are lost.
func drop(f *fake, write func(int, []byte, int64) (int, error)) func(int, []byte, int64) (int, error) {
	return func(op int, b []byte, off int64) (int, error) {
		n, err := write(op, b, off)
		if n > 0 {
			f.mu.Lock()
			copy(b, f.data[off:])
			f.mu.Unlock()
		}
		return n, err
	}
}

// After a failed probe the disk has its old content, and a disk that returns other data is
// reported as such.
func TestProbeRestoresContent(t *testing.T) {
	const says, real = 256 * mib, 64 * mib
	for _, c := range []struct {
		name string
		at   func(off int64) int64
		text string
	}{
		{"wraps around", func(off int64) int64 { return off % real }, "the disk wraps around at 67108864 bytes and reports 268435456"},
		{"drops", func(off int64) int64 {
			if off >= real {
				return -1
			}
			return off
		}, "is lost, and data written at byte 0 is kept"},
	} {
		d := &mapped{wrapped(says, real), c.at}
		for i := range d.data {
			d.data[i] = byte(i / image.Block)
		}
		before := bytes.Clone(d.data)
		_, err := flash.Run(t.Context(), d, flash.Job{Size: says, Record: []byte("r"), RecordOff: 32 * kib}, nil)
		left, _ := flash.StateAfter(err)
		if !is[*flash.FakeError](err) || !strings.Contains(err.Error(), c.text) || left != flash.Unchanged {
			t.Errorf("%s: %q after %v", c.name, left, err)
		}
		if !bytes.Equal(before, d.data) {
			t.Errorf("%s: the disk is changed at byte %d", c.name, differ(before, d.data))
		}
	}
	f := newFake(says)
	f.write = func(_ int, b []byte, off int64) (int, error) {
		if off > says/2 {
			b[100] ^= 1
		}
		return through, nil
	}
	_, err := flash.Run(t.Context(), f, flash.Job{Size: says}, nil)
	if !is[*image.MismatchError](err) || !strings.Contains(err.Error(), "returns other data than what was written: at byte 268431460 1 byte differs") {
		t.Error(err)
	}
}

// Run waits for a slow disk and reports it. It does not wait for an unplugged disk.
func TestTimeoutSlow(t *testing.T) {
	imagetest.Long(t)
	p := newPayload(fakeSize, 128*kib)
	f := newFake(fakeSize)
	var said []bool
	reported := make(chan struct{})
	p.job.Timeout = flash.Timeout{Stall: 8 * time.Second, Slow: func(waited time.Duration, ended bool) {
		if waited <= 0 {
			t.Errorf("after %s", waited)
		}
		if said = append(said, ended); len(said) == 1 {
			close(reported)
		}
	}}
	f.write = func(_ int, _ []byte, off int64) (int, error) {
		if off == headSize {
			<-reported
		}
		return through, nil
	}
	// On a busy machine other operations are slow, too.
	if _, err := flash.Run(t.Context(), f, p.job, nil); err != nil || len(said) < 2 || said[0] || !said[1] {
		t.Errorf("%v, %v", said, err)
	}

	f = newFake(fakeSize)
	f.hang = make(chan struct{})
	defer close(f.hang)
	f.write = func(_ int, _ []byte, off int64) (int, error) {
		if off == headSize {
			f.gone.Store(true)
			<-f.hang
		}
		return through, nil
	}
	p = newPayload(fakeSize, 128*kib)
	p.job.Stall = 8 * time.Second
	_, err := flash.Run(t.Context(), f, p.job, nil)
	if !is[*disk.GoneError](err) || strings.Contains(err.Error(), "has not answered") {
		t.Error(err)
	}
}
