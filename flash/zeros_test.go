package flash_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"imgtool/flash"
	"imgtool/image"
)

// newZeros returns a job for a disk of 16 MiB as for an image without a manifest, which has
// zeros as content, and the spans of these zeros.
func newZeros() (p payload, zeros []image.Span) {
	const size = 16 * mib
	p = newPayload(size, 128*kib)
	p.want = append(p.want[:headSize:headSize], make([]byte, size-headSize)...)
	rng := rand.NewChaCha8([32]byte{2})
	end := int64(size - 64*kib)
	for _, s := range []image.Span{{Off: headSize, Len: 300 * kib}, {Off: 4*mib - 10*kib, Len: 5 * kib}, {Off: 9*mib + 1, Len: 1}, {Off: end - 3*mib, Len: 3*mib - 700*kib}} {
		rng.Read(p.want[s.Off:s.End()])
	}
	var body []image.Chunk
	for off := int64(headSize); off < end; off = min(end, (off/image.PieceSize+1)*image.PieceSize) {
		body = append(body, image.Chunk{Off: off, Data: bytes.Clone(p.want[off:min(end, (off/image.PieceSize+1)*image.PieceSize)])})
	}
	p.job.Body, p.job.BodySize, p.job.Zeros = chunks(body), end-headSize, true
	head, _ := p.job.Head()
	for _, c := range head {
		copy(p.want[c.Off:], c.Data)
	}
	return p, []image.Span{{Off: headSize + 300*kib, Len: 4*mib - 12*kib - headSize - 300*kib}, {Off: 4*mib - 4*kib, Len: 5*mib + 4*kib}, {Off: 9*mib + 4*kib, Len: end - 3*mib - 9*mib - 4*kib}, {Off: end - 700*kib, Len: 700 * kib}}
}

// Zeros that are on the disk are not written, and are read back; others are written.
func TestZerosAreSkipped(t *testing.T) {
	p, zeros := newZeros()
	p.again()
	skipped := int64(0)
	for _, s := range zeros {
		// The rest of a piece is written if it is short.
		for at := s.Off; at < s.End(); {
			n := min(s.End(), (at/image.PieceSize+1)*image.PieceSize) - at
			if n >= 256*kib {
				skipped += n
			}
			at += n
		}
	}
	for _, c := range []struct {
		name   string
		spoil  func(disk []byte)
		verify flash.Verify
		want   int64 // not written
	}{
		{"a blank disk", nil, flash.Full, skipped},
		{"a blank disk, without verification", nil, flash.None, skipped},
		{"a blank disk, with a sample verified", nil, flash.Sampled, skipped},
		{"a dirty disk", func(disk []byte) { copy(disk, bytes.Repeat([]byte{0xaa}, len(disk)-64*kib)) }, flash.Full, 0},
		{"a byte in the middle", func(disk []byte) { disk[6*mib+777] = 1 }, flash.Full, skipped - 4*kib},
		{"a byte in the middle, without verification", func(disk []byte) { disk[6*mib+777] = 1 }, flash.None, skipped - 4*kib},
		{"a byte in the middle of a disk that is not blank", func(disk []byte) { disk[4*mib], disk[10*mib+777] = 1, 1 }, flash.Full, skipped - 4*mib - (3*mib - 4*kib)},
		{"a byte at the end of a run", func(disk []byte) { disk[8*mib-1] = 1 }, flash.Full, skipped - 4*mib},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fake{data: make([]byte, len(p.want))}
			if c.spoil != nil {
				c.spoil(f.data)
			}
			job := p.job
			job.Verify = c.verify
			var told, total, read, toRead int64
			res, err := flash.Run(t.Context(), f, job, func(phase string, n int64) image.Progress {
				if phase == flash.Reading {
					toRead += n
				}
				return func(n int64) {
					switch phase {
					case flash.Writing:
						told += n
					case flash.Reading:
						read += n
					}
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if i := differ(p.want, f.data); i >= 0 {
				t.Errorf("the disk differs at byte %d", i)
			}
			if total = job.BodySize; res.Skipped != c.want || told != total {
				t.Errorf("%d bytes were not written, want %d; of %d bytes %d are reported", res.Skipped, c.want, total, told)
			}
			if read != toRead {
				t.Errorf("%d bytes are to be read, %d are reported", toRead, read)
			}
			if all := res.Written + res.Skipped; c.verify == flash.Full && res.Verified < job.BodySize {
				t.Errorf("%d bytes written or found, %d verified", all, res.Verified)
			}
		})
	}
}

// Zeros that were skipped are compared after everything else was written: another write may
// have changed them.
func TestSkippedZerosAreReadBack(t *testing.T) {
	p, zeros := newZeros()
	last := zeros[len(zeros)-1]
	for _, again := range []bool{true, false} {
		if again {
			p.again()
		} else {
			p.job.Again = nil
		}
		f := &fake{data: make([]byte, len(p.want))}
		spoilt := false
		f.write = func(_ int, b []byte, off int64) (int, error) {
			if off > 12*mib && off < last.Off && !spoilt {
				spoilt = true
				f.data[5*mib] = 1
			}
			return through, nil
		}
		_, err := flash.Run(t.Context(), f, p.job, nil)
		if err != nil || !spoilt {
			t.Fatal(err, spoilt)
		}
		if i := differ(p.want, f.data); i >= 0 {
			t.Errorf("the disk differs at byte %d", i)
		}
	}
}

// A disk that stores two places as one is found, though zeros belong in one of them.
func TestSkippedZerosOfDiskThatMistakesPlaces(t *testing.T) {
	p, _ := newZeros()
	p.again()
	const a, b = 5 * mib, 13 * mib // zeros and data
	f := &fake{data: make([]byte, len(p.want))}
	f.write = func(_ int, data []byte, off int64) (int, error) {
		for from, to := range map[int64]int64{a: b, b: a} {
			if off <= from && from < off+int64(len(data)) {
				f.data[to] = data[from-off]
			}
		}
		return through, nil
	}
	if p.want[a] != 0 || p.want[b] == 0 {
		t.Fatal("the places are not as the test needs them")
	}
	res, err := flash.Run(t.Context(), f, p.job, nil)
	if err == nil {
		t.Errorf("it is not found: %+v", res)
	}
}

// Zeros are written where the disk cannot be read.
func TestUnreadableZerosAreWritten(t *testing.T) {
	p, _ := newZeros()
	f := &fake{data: make([]byte, len(p.want))}
	var read, written []image.Span
	f.read = func(_ int, b []byte, off int64) error {
		if s := (image.Span{Off: off, Len: int64(len(b))}); off < 6*mib && 5*mib < s.End() && !slices.ContainsFunc(written, func(w image.Span) bool { return w.Off <= off && off < w.End() }) {
			read = append(read, s)
			return fmt.Errorf("reading: %w", syscall.EIO)
		}
		return nil
	}
	f.write = func(_ int, b []byte, off int64) (int, error) {
		written = append(written, image.Span{Off: off, Len: int64(len(b))})
		return through, nil
	}
	res, err := flash.Run(t.Context(), f, p.job, nil)
	if err != nil {
		t.Fatal(err)
	}
	if i := differ(p.want, f.data); i >= 0 || len(read) == 0 || res.Skipped == 0 {
		t.Errorf("the disk differs at byte %d after %v could not be read", i, read)
	}
}

// Zeros that were skipped and compared count once, also if all is read again after a repair.
func TestRepairCountsSkippedZerosOnce(t *testing.T) {
	p, _ := newZeros()
	p.again()
	for _, verify := range []flash.Verify{flash.Full, flash.Sampled} {
		p.job.Verify = verify
		var want *flash.Result
		for _, spoil := range []bool{false, true} {
			f := &fake{data: make([]byte, len(p.want))}
			f.write = func(_ int, b []byte, off int64) (int, error) {
				if off == headSize && spoil { // the first piece is in every sample
					b[77] ^= 1
					spoil = false
				}
				return through, nil
			}
			res, err := flash.Run(t.Context(), f, p.job, nil)
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = res
				continue
			}
			if len(res.Repaired) != 1 || res.Unread != 0 || res.Verified != want.Verified+want.Unread {
				t.Errorf("with a repair %d bytes are verified and %d are not, without one %d and %d; repaired: %v", res.Verified, res.Unread, want.Verified, want.Unread, res.Repaired)
			}
		}
	}
}

// A disk that hangs while it is compared with zeros ends the run after one timeout.
func TestDiskHangsAtSkippedZeros(t *testing.T) {
	p, zeros := newZeros()
	p.job.Stall = 2 * time.Second
	f := &fake{data: make([]byte, len(p.want))}
	hang := make(chan struct{})
	defer close(hang)
	var reads atomic.Int32
	f.read = func(_ int, b []byte, off int64) error {
		if len(b) > image.Block && off >= zeros[0].Off {
			reads.Add(1)
			<-hang
		}
		return nil
	}
	_, err := flash.Run(t.Context(), f, p.job, nil)
	if _, ok := errors.AsType[*flash.StallError](err); !ok || reads.Load() != 1 {
		t.Errorf("after %d reads that hang: %v", reads.Load(), err)
	}
	if p.bootable(f.data) {
		t.Error("the disk has a partition table")
	}
}
