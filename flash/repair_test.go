package flash_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"imgtool/flash"
	"imgtool/image"
	"imgtool/image/imagetest"
)

// again lets the job read its body again.
func (p *payload) again() {
	p.job.Again = func(s image.Span) ([]byte, error) { return bytes.Clone(p.want[s.Off:s.End()]), nil }
}

func TestRunRepairsLostWrites(t *testing.T) {
	p := newPayload(fakeSize, 128*kib)
	p.again()
	mid := int64(headSize + 192*kib)
	for lost := 1; lost <= 5; lost++ {
		f := newFake(fakeSize)
		n := 0
		f.write = func(_ int, b []byte, off int64) (int, error) {
			if off == mid {
				if n++; n <= lost {
					b[77] ^= 1
				}
			}
			return through, nil
		}
		res, err := flash.Run(t.Context(), f, p.job, nil)
		switch {
		case lost <= 3 && (err != nil || len(res.Repaired) != 1 || res.Repaired[0].Off != mid || !strings.Contains(res.Repaired[0].How, "two reads agree")):
			t.Errorf("%d lost writes: %v, %+v", lost, err, res)
		case lost <= 3 && differ(p.want, f.data) >= 0:
			t.Errorf("%d lost writes: the disk differs", lost)
		case lost > 3:
			wrong, ok := errors.AsType[*image.MismatchError](err)
			if !ok || wrong.Off != mid+77 || wrong.Len != 1 || !strings.Contains(err.Error(), "two reads agree, and writing it three times more did not help") {
				t.Errorf("%d lost writes: %v", lost, err)
			}
			if p.bootable(f.data) {
				t.Error("the disk boots")
			}
		}
	}
}

func TestRunReportsPlacesReadWrongOnce(t *testing.T) {
	p := newPayload(fakeSize, 128*kib)
	mid := int64(headSize + 192*kib)
	f := newFake(fakeSize)
	once := false
	f.read = func(_ int, b []byte, off int64) error {
		if off == mid && !once {
			once = true
			b[5] ^= 1
		}
		return nil
	}
	res, err := flash.Run(t.Context(), f, p.job, nil)
	if err != nil || len(res.Repaired) != 1 || !strings.Contains(res.Repaired[0].How, "read wrong once") {
		t.Errorf("%v, %+v", err, res)
	}
}

// A second run writes the wiped places and the differences, and the disk is complete.
func TestDeltaWritesDifferences(t *testing.T) {
	p := newPayload(4*mib, 512*kib)
	f := newFake(4 * mib)
	first, err := flash.Run(t.Context(), f, p.job, nil)
	if err != nil {
		t.Fatal(err)
	}
	if first.Skipped != 0 || first.Verified < int64(p.job.BodySize) {
		t.Errorf("the first: %+v", first)
	}
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		for range r.IntN(20) {
			f.data[r.IntN(len(f.data))] ^= byte(1 + r.IntN(255))
		}
		before := bytes.Clone(f.data)
		job := p.job
		job.Delta = true
		told := map[string]int64{}
		_, err := flash.Run(t.Context(), f, job, func(phase string, total int64) image.Progress {
			return func(n int64) { told[phase] += n }
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range p.want {
			// Places that are not in the job keep their content.
			if f.data[i] != p.want[i] && f.data[i] != before[i] {
				t.Fatalf("seed %d: byte %d is neither old nor new", seed, i)
			}
		}
		if !p.bootable(f.data) || told[flash.Writing] != p.job.BodySize {
			t.Errorf("seed %d: bootable %v, %d of %d told", seed, p.bootable(f.data), told[flash.Writing], p.job.BodySize)
		}
		for c, err := range p.job.Body {
			if err != nil || !bytes.Equal(f.data[c.Off:][:len(c.Data)], c.Data) {
				t.Fatalf("seed %d: the body differs at %d", seed, c.Off)
			}
		}
	}
	job := p.job
	job.Delta = true
	res, err := flash.Run(t.Context(), f, job, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The head and the wipes are written twice, the body not at all.
	if res.Skipped < p.job.BodySize || res.Written > 3*headSize {
		t.Errorf("with nothing to do: %d written, %d skipped of %d", res.Written, res.Skipped, p.job.BodySize)
	}
}

// Chunks that are known to be on the disk are not read again, but written where they were wiped.
func TestDeltaSkipsWhatIsTheSame(t *testing.T) {
	p := newPayload(4*mib, 512*kib)
	f := newFake(4 * mib)
	if _, err := flash.Run(t.Context(), f, p.job, nil); err != nil {
		t.Fatal(err)
	}
	job := p.job
	job.Delta, job.Same = true, func(image.Span) bool { return true }
	var first, second image.Chunk
	for c := range job.Body {
		if first.Data != nil {
			second = c
			break
		}
		first = c
	}
	job.Wipe = append(job.Wipe, image.Span{Off: first.Off + image.Block, Len: image.Block})
	f.read = func(_ int, p []byte, off int64) error {
		if off < second.Off+int64(len(second.Data)) && second.Off < off+int64(len(p)) {
			t.Errorf("%d bytes at %d are read again", len(p), off)
		}
		return nil
	}
	res, err := flash.Run(t.Context(), f, job, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.data, p.want) {
		t.Error("the disk differs")
	}
	if res.Skipped < p.job.BodySize-512*kib || res.Written > 3*headSize {
		t.Errorf("%d written, %d skipped of %d", res.Written, res.Skipped, p.job.BodySize)
	}
}

// wrapped returns a disk that reports size bytes and wraps around at real.
func wrapped(size, real int64) *fake {
	f := newFake(size)
	f.data = f.data[:real]
	return f
}

func TestRunDetectsFakeCapacity(t *testing.T) {
	const says = 256 * mib
	for _, c := range []struct {
		name  string
		real  int64
		store func(real int64, off int64) int64 // where a write goes, -1: nowhere
		found bool
	}{
		{"a good disk", says, func(_, off int64) int64 { return off }, false},
		{"wraps at 32 MiB", 32 * mib, func(real, off int64) int64 { return off % real }, true},
		{"wraps at 96 MiB", 96 * mib, func(real, off int64) int64 { return off % real }, true},
		{"drops writes beyond 64 MiB", 64 * mib, func(real, off int64) int64 {
			if off >= real {
				return -1
			}
			return off
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &mapped{wrapped(says, c.real), func(off int64) int64 { return c.store(c.real, off) }}
			written := int64(0)
			job := flash.Job{Size: says, Record: []byte("r"), RecordOff: 32 * kib, Wipe: []image.Span{{Off: says - mib, Len: mib}}}
			_, err := flash.Run(t.Context(), d, job, func(phase string, total int64) image.Progress {
				return func(n int64) {
					if phase != flash.Probing {
						written += n
					}
				}
			})
			fake, ok := errors.AsType[*flash.FakeError](err)
			if ok != c.found || !ok && err != nil || ok && (written != 0 || fake.Size != says) {
				t.Errorf("%v after %d bytes", err, written)
			}
			if ok && fake.Found >= 0 && fake.Real != c.real {
				t.Errorf("%v, and the disk has %d", err, c.real)
			}
		})
	}
}

// mapped is a disk that stores blocks at other offsets.
type mapped struct {
	*fake
	at func(off int64) int64
}

func (m *mapped) WriteAt(p []byte, off int64) (int, error) {
	for i := 0; i < len(p); i += image.Block {
		if to := m.at(off + int64(i)); to >= 0 {
			if n, err := m.fake.WriteAt(p[i:min(len(p), i+image.Block)], to); err != nil {
				return i + n, err
			}
		}
	}
	return len(p), nil
}

func (m *mapped) ReadAt(p []byte, off int64) (int, error) {
	for i := 0; i < len(p); i += image.Block {
		part := p[i:min(len(p), i+image.Block)]
		if from := m.at(off + int64(i)); from < 0 {
			clear(part)
		} else if _, err := m.fake.ReadAt(part, from); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func TestRunReportsStalledDisk(t *testing.T) {
	imagetest.Long(t)
	for _, what := range []string{"write", "read", "flush"} {
		p := newPayload(fakeSize, 128*kib)
		p.job.Stall = 50 * time.Millisecond
		f := newFake(fakeSize)
		hang := make(chan struct{})
		wait := func(op int) {
			if op > 12 {
				<-hang
			}
		}
		switch what {
		case "write":
			f.write = func(op int, _ []byte, _ int64) (int, error) { wait(op); return through, nil }
		case "read":
			f.read = func(op int, _ []byte, _ int64) error { wait(op); return nil }
		case "flush":
			f.sync = func(op int) error { wait(op); return nil }
		}
		_, err := flash.Run(t.Context(), f, p.job, nil)
		stalled, ok := errors.AsType[*flash.StallError](err)
		if !ok || !strings.Contains(stalled.Error(), "has not answered for 50ms, and is still there") {
			t.Errorf("a %s that hangs: %v", what, err)
		}
		close(hang)
	}
}

// Zeros of the head that were wiped are not written again.
func TestWipedZerosAreWrittenOnce(t *testing.T) {
	const gap = 8 * mib
	head := make([]byte, gap)
	copy(head, "table")
	copy(head[64*sector:], "loader")
	f := newFake(2 * gap)
	job := flash.Job{Wipe: []image.Span{{Off: 0, Len: gap}}, Record: []byte("r"), RecordOff: 4096,
		Head: func() ([]image.Chunk, error) {
			return []image.Chunk{{Off: 0, Data: head[:gap/2]}, {Off: gap / 2, Data: head[gap/2:]}}, nil
		}}
	res, err := flash.Run(t.Context(), f, job, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.data[:gap], head) {
		t.Error("the head is not there")
	}
	if res.Written > gap+mib {
		t.Errorf("%d bytes were written for a gap of %d", res.Written, gap)
	}
}
