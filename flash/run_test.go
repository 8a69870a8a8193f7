package flash_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/imagetest"
)

func TestRun(t *testing.T) {
	p := newPayload(fakeSize, 128*kib)
	f := newFake(fakeSize)
	var phases []string
	told, totals := map[string]int64{}, map[string]int64{}
	m, err := flash.Run(t.Context(), f, p.job, func(phase string, total int64) image.Progress {
		phases = append(phases, phase)
		totals[phase] = total
		return func(n int64) { told[phase] += n }
	})
	if err != nil {
		t.Fatal(err)
	}
	if i := differ(p.want, f.data); i >= 0 {
		t.Errorf("the disk differs at byte %d", i)
	}
	if err := image.Verify(t.Context(), f, &m.Manifest, nil); err != nil {
		t.Errorf("the manifest does not verify: %v", err)
	}
	if m.Manifest.Size != fakeSize || m.Manifest.Entries[0].Off != 0 {
		t.Errorf("a manifest of %d bytes that begins at %d", m.Manifest.Size, m.Manifest.Entries[0].Off)
	}
	if got := strings.Join(phases, ", "); got != "wiping, writing, reading back, finishing" {
		t.Error(got)
	}
	for phase, total := range totals {
		if told[phase] != total {
			t.Errorf("%s: %d bytes were announced, %d told", phase, total, told[phase])
		}
	}
}

// During a run the disk has the record and no old table.
func TestRunOrder(t *testing.T) {
	p := newPayload(fakeSize, 128*kib)
	f := newFake(fakeSize)
	var at []int64
	f.write = func(_ int, data []byte, off int64) (int, error) {
		at = append(at, off)
		switch {
		case len(at) == 1:
			if off != 0 || len(data) != image.Block {
				t.Errorf("the first write is of %d bytes at %d", len(data), off)
			}
		case off >= headSize && off < fakeSize-backup:
			if !bytes.HasPrefix(f.data[recordOff:], p.job.Record) {
				t.Errorf("no record when byte %d is written", off)
			}
			fallthrough
		default:
			if bytes.Count(f.data[:image.Block], []byte{0}) != image.Block {
				t.Errorf("a table when byte %d is written", off)
			}
		}
		return through, nil
	}
	if _, err := flash.Run(t.Context(), f, p.job, nil); err != nil {
		t.Fatal(err)
	}
	if last := at[len(at)-1]; last != 0 {
		t.Errorf("the last write is at %d", last)
	}
	if at[len(at)-2] != image.Block {
		t.Errorf("the last write but one is at %d", at[len(at)-2])
	}
}

func TestRunRemovesRecord(t *testing.T) {
	p := newPayload(fakeSize, 128*kib)
	p.job.Head = func() ([]image.Chunk, error) {
		return []image.Chunk{{Off: 0, Data: p.want[:16*kib]}}, nil
	}
	f := newFake(fakeSize)
	if _, err := flash.Run(t.Context(), f, p.job, nil); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(f.data, p.job.Record) {
		t.Error("the disk still says that it is being written")
	}
}

func TestRunErrors(t *testing.T) {
	p := newPayload(fakeSize, 128*kib)
	mid := int64(headSize + 192*kib) // in the second piece
	inside := func(b []byte, off int64) bool { return off <= mid && mid < off+int64(len(b)) }
	is := func(err error) func(error) bool {
		return func(got error) bool { return errors.Is(got, err) }
	}
	writeAt := func(off int64, cause error) func(error) bool {
		return func(got error) bool {
			e, ok := errors.AsType[*image.WriteError](got)
			return ok && e.Off == off && errors.Is(got, cause)
		}
	}
	mismatch := func(lo, hi int64) func(error) bool {
		return func(got error) bool {
			e, ok := errors.AsType[*image.MismatchError](got)
			return ok && e.Off >= lo && e.Off+e.Len <= hi && e.Want != e.Got
		}
	}
	broken := errors.New("the stream is broken")
	for _, c := range []struct {
		name  string
		fault func(f *fake, j *flash.Job)
		want  func(error) bool
		text  string
	}{
		{"a disk that is smaller than it reports", func(f *fake, j *flash.Job) {
			f.write = func(_ int, b []byte, off int64) (int, error) {
				if off+int64(len(b)) > mid && off >= headSize && off < fakeSize-backup {
					return int(mid - off), syscall.ENOSPC
				}
				return through, nil
			}
		}, writeAt(mid, syscall.ENOSPC), "/dev/fake: writing at byte 458752: no space left on device"},
		{"a bad sector", func(f *fake, j *flash.Job) {
			f.write = func(_ int, b []byte, off int64) (int, error) {
				if inside(b, off) && off >= headSize {
					return 0, syscall.EIO
				}
				return through, nil
			}
		}, writeAt(mid, syscall.EIO), "input/output error"},
		{"a short write without an error", func(f *fake, j *flash.Job) {
			f.write = func(_ int, b []byte, off int64) (int, error) {
				if off == mid {
					return sector, nil
				}
				return through, nil
			}
		}, writeAt(mid+sector, io.ErrShortWrite), ""},
		{"a flush that fails", func(f *fake, j *flash.Job) {
			f.sync = func(op int) error {
				if op > 10 {
					return syscall.EIO
				}
				return nil
			}
		}, func(err error) bool {
			_, ok := errors.AsType[*image.WriteError](err)
			return ok && errors.Is(err, syscall.EIO)
		}, "flushing earlier writes: input/output error"},
		{"a wrong bit in the body", func(f *fake, j *flash.Job) {
			f.read = func(_ int, b []byte, off int64) error {
				if inside(b, off) {
					b[mid-off] ^= 1
				}
				return nil
			}
		}, mismatch(mid, mid+128*kib), "expected SHA-256 "},
		{"a wrong bit in the head", func(f *fake, j *flash.Job) {
			f.read = func(op int, b []byte, off int64) error {
				if off <= 100*kib && 100*kib < off+int64(len(b)) {
					b[100*kib-off] ^= 1
				}
				return nil
			}
		}, mismatch(100*kib, 100*kib+1), "/dev/fake: at byte 102400 1 byte differs: expected "},
		{"a lost write of the body", func(f *fake, j *flash.Job) {
			f.write = func(_ int, b []byte, off int64) (int, error) {
				if off == mid {
					copy(b, f.data[off:])
				}
				return through, nil
			}
		}, mismatch(mid, mid+128*kib), ""},
		{"lost wipes", func(f *fake, j *flash.Job) {
			f.read = func(_ int, b []byte, off int64) error {
				if off == 0 {
					b[510], b[511] = 0x55, 0xaa
				}
				return nil
			}
		}, mismatch(510, 512), "at byte 510 2 bytes differ: expected 0000, got 55aa"},
		{"a sector that cannot be read back", func(f *fake, j *flash.Job) {
			f.read = func(_ int, b []byte, off int64) error {
				if inside(b, off) {
					return syscall.EIO
				}
				return nil
			}
		}, func(err error) bool {
			_, ok := errors.AsType[*flash.ReadError](err)
			return ok && errors.Is(err, syscall.EIO)
		}, "/dev/fake: reading back at byte 458752: input/output error"},
		{"ENOSPC after the disk is unplugged", func(f *fake, j *flash.Job) {
			f.write = func(_ int, b []byte, off int64) (int, error) {
				if f.gone.Store(off == mid); f.gone.Load() {
					return 0, syscall.ENOSPC
				}
				return through, nil
			}
		}, func(err error) bool {
			_, ok := errors.AsType[*disk.GoneError](err)
			return ok
		}, "/dev/fake: the disk is gone"},
		{"a disk that is gone when it is read", func(f *fake, j *flash.Job) {
			f.read = func(_ int, b []byte, off int64) error {
				if off == mid {
					return syscall.ENODEV
				}
				return nil
			}
		}, func(err error) bool {
			_, ok := errors.AsType[*disk.GoneError](err)
			return ok
		}, "the disk is gone"},
		{"a broken source", func(f *fake, j *flash.Job) {
			body := j.Body
			j.Body = func(yield func(image.Chunk, error) bool) {
				n := 0
				for c, err := range body {
					if n++; n == 3 {
						yield(image.Chunk{}, broken)
						return
					}
					if !yield(c, err) {
						return
					}
				}
			}
		}, is(broken), "the stream is broken"},
		{"an error of Head", func(f *fake, j *flash.Job) {
			j.Head = func() ([]image.Chunk, error) { return nil, broken }
		}, is(broken), ""},
		{"a body that overlaps the table", func(f *fake, j *flash.Job) {
			j.Body = chunks([]image.Chunk{{Off: 0, Data: make([]byte, image.Block)}})
		}, func(err error) bool { return err != nil }, "the first 36864 bytes of the disk are reserved"},
		{"a head that overlaps the body", func(f *fake, j *flash.Job) {
			j.Head = func() ([]image.Chunk, error) { return []image.Chunk{{Off: mid, Data: make([]byte, sector)}}, nil }
		}, func(err error) bool { return err != nil }, "of content at byte"},
		{"a wipe that is not whole sectors", func(f *fake, j *flash.Job) {
			j.Wipe = append(j.Wipe, image.Span{Off: 96*kib + 700, Len: 10})
		}, writeAt(96*kib+700, syscall.EINVAL), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, job := newFake(fakeSize), p.job
			c.fault(f, &job)
			m, err := flash.Run(t.Context(), f, job, nil)
			if m != nil || !c.want(err) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v", err)
			}
			if p.bootable(f.data) {
				t.Error("the disk boots")
			}
		})
	}
}

// opsOf returns how many writes, reads and flushes the job takes on a good disk, and which
// of them writes the tables.
func opsOf(t *testing.T, p payload) (ops, last int) {
	f := newFake(fakeSize)
	f.write = func(op int, _ []byte, _ int64) (int, error) {
		last = op
		return through, nil
	}
	if _, err := flash.Run(t.Context(), f, p.job, nil); err != nil {
		t.Fatal(err)
	}
	return f.ops, last
}

func TestFaultsLeaveNoBootableDisk(t *testing.T) {
	imagetest.Long(t)
	p := newPayload(fakeSize, 96*kib)
	ops, last := opsOf(t, p)
	for _, kind := range []string{"once", "torn", "for good", "rot"} {
		for k := range ops {
			f := newFake(fakeSize)
			bad := func(op int) bool { return op == k || kind == "for good" && op > k }
			f.write = func(op int, b []byte, off int64) (int, error) {
				switch {
				case !bad(op):
					return through, nil
				case kind == "rot":
					b[len(b)/2] ^= 1
					return through, nil
				case kind == "torn":
					return len(b) / 2 / sector * sector, syscall.EIO
				}
				return 0, syscall.EIO
			}
			f.read = func(op int, b []byte, _ int64) error {
				switch {
				case !bad(op):
					return nil
				case kind == "rot":
					b[len(b)/2] ^= 1
					return nil
				}
				return syscall.EIO
			}
			f.sync = func(op int) error {
				if bad(op) && kind != "rot" {
					return syscall.EIO
				}
				return nil
			}
			_, err := flash.Run(t.Context(), f, p.job, nil)
			// A flush cannot corrupt data.
			// The first read is of the old content.
			if err == nil && k > 0 && (kind != "rot" || differ(p.want, f.data) >= 0) {
				t.Fatalf("%s at %d of %d: no error", kind, k, ops)
			}
			// A disk that fails after the last write has the right content,
			// which was not read back.
			if err != nil && p.bootable(f.data) && !(kind == "for good" && k > last) {
				t.Fatalf("%s at %d of %d: the disk boots after %v", kind, k, ops, err)
			}
		}
	}
}

func TestInterruptionsLeaveNoBootableDisk(t *testing.T) {
	p := newPayload(fakeSize, 96*kib)
	ops, last := opsOf(t, p)
	why := errors.New("interrupted")
	for k := range ops {
		ctx, cancel := context.WithCancelCause(t.Context())
		f := newFake(fakeSize)
		stop := func(op int) {
			if op == k {
				cancel(why)
			}
		}
		f.write = func(op int, _ []byte, _ int64) (int, error) { stop(op); return through, nil }
		f.read = func(op int, _ []byte, _ int64) error { stop(op); return nil }
		f.sync = func(op int) error { stop(op); return nil }
		_, err := flash.Run(ctx, f, p.job, nil)
		switch {
		case (err == nil) != (k >= last):
			t.Fatalf("interrupted at %d of %d: %v", k, ops, err)
		case err != nil && !errors.Is(err, why):
			t.Fatalf("interrupted at %d of %d: %v", k, ops, err)
		case p.bootable(f.data) != (err == nil):
			t.Fatalf("interrupted at %d of %d: bootable %v after %v", k, ops, p.bootable(f.data), err)
		case err == nil && differ(p.want, f.data) >= 0:
			t.Fatalf("interrupted at %d of %d: not whole", k, ops)
		}
		cancel(nil)
	}
}

func TestInterruptionDoesNotWaitForFlush(t *testing.T) {
	p := newPayload(fakeSize, 96*kib)
	ctx, cancel := context.WithCancel(t.Context())
	f := newFake(fakeSize)
	hang := make(chan struct{})
	defer close(hang)
	var syncs atomic.Int32
	f.sync = func(int) error {
		if syncs.Add(1) == 4 { // of the body
			cancel()
			<-hang
		}
		return nil
	}
	done := make(chan error)
	go func() {
		_, err := flash.Run(ctx, f, p.job, nil)
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(3 * time.Minute):
		t.Fatal("it waits")
	}
}

// Run reads the tables back at every level, and reports what it did not read.
func TestVerifyLevels(t *testing.T) {
	for _, c := range []struct {
		verify flash.Verify
		least  int64 // of the body that is read
		most   int64
	}{{flash.Full, 100, 100}, {flash.Sampled, 2, 40}, {flash.None, 0, 0}} {
		p := newPayload(32*mib, 128*kib)
		p.job.Verify = c.verify
		f := newFake(32 * mib)
		var read int64
		tables := false
		f.read = func(_ int, b []byte, off int64) error {
			if off >= headSize && off < 32*mib-64*kib {
				read += int64(len(b))
			}
			tables = tables || off == 0 && bytes.Equal(b[:image.Block], p.want[:image.Block])
			return nil
		}
		res, err := flash.Run(t.Context(), f, p.job, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := 100 * read / p.job.BodySize; n < c.least || n > c.most {
			t.Errorf("%d: %d %% of the body was read back, want %d to %d", c.verify, n, c.least, c.most)
		}
		if res.Unread+read != p.job.BodySize {
			t.Errorf("%d: %d bytes not read back, %d were, of %d", c.verify, res.Unread, read, p.job.BodySize)
		}
		if !tables {
			t.Errorf("%d: the table was not read back", c.verify)
		}
	}
}

// Sampled finds a mismatch in the sample.
func TestSampleFindsMismatch(t *testing.T) {
	p := newPayload(fakeSize, 128*kib)
	p.job.Verify = flash.Sampled
	f := newFake(fakeSize)
	f.write = func(_ int, b []byte, off int64) (int, error) {
		if off >= headSize && off < fakeSize-64*kib {
			b[9] ^= 1
		}
		return through, nil
	}
	_, err := flash.Run(t.Context(), f, p.job, nil)
	if !is[*image.MismatchError](err) || p.bootable(f.data) {
		t.Errorf("%v", err)
	}
}
