package flash_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"imgtool/flash"
	"imgtool/image"
)

// withLoader returns the job for a delta, with what is known of the head in advance.
func (p payload) withLoader(t *testing.T) flash.Job {
	job := p.job
	job.Delta = true
	head, err := p.job.Head()
	if err != nil {
		t.Fatal(err)
	}
	job.Loader = head[:2]
	return job
}

// A delta writes at most a tenth more than the blocks that differ, wherever they are, apart
// from the first block, the backup table and the record.
func TestDeltaWritesLittleMore(t *testing.T) {
	p := newPayload(32*mib, 4*mib)
	f := newFake(32 * mib)
	if _, err := flash.Run(t.Context(), f, p.job, nil); err != nil {
		t.Fatal(err)
	}
	const fixed = 8*image.Block + 2*backup // the first block, the record and its sector wiped and written
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 2))
		changed := map[int]bool{}
		for range r.IntN(300) {
			at := headSize + r.IntN(len(f.data)-headSize-backup)
			if f.data[at] == p.want[at] {
				changed[at/image.Block] = true
			}
			f.data[at] ^= 0xff
		}
		differ := 0
		for i := range changed {
			block := f.data[i*image.Block:][:image.Block]
			if !bytes.Equal(block, p.want[i*image.Block:][:image.Block]) && p.inBody(i*image.Block) {
				differ += image.Block
			}
		}
		res, err := flash.Run(t.Context(), f, p.withLoader(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(f.data[:headSize], p.want[:headSize]) {
			t.Errorf("seed %d: the head differs", seed)
		}
		for c := range p.job.Body {
			if !bytes.Equal(f.data[c.Off:][:len(c.Data)], c.Data) {
				t.Fatalf("seed %d: the body differs at %d", seed, c.Off)
			}
		}
		if most := int64(differ + differ/10 + fixed); res.Written > most || res.Written < int64(differ) {
			t.Errorf("seed %d: %d bytes are written for %d that differ, want at most %d", seed, res.Written, differ, most)
		}
	}
}

// inBody reports whether a block is in the body.
func (p payload) inBody(off int) bool {
	for c := range p.job.Body {
		if int64(off) >= c.Off && off < int(c.Off)+len(c.Data) {
			return true
		}
	}
	return false
}

// While a delta that keeps boot loaders is under way, and after it failed, the disk has neither
// the first block nor the backup table.
func TestDeltaWithLoaderIsNotBootableBefore(t *testing.T) {
	p := newPayload(4*mib, 512*kib)
	done := newFake(4 * mib)
	if _, err := flash.Run(t.Context(), done, p.job, nil); err != nil {
		t.Fatal(err)
	}
	done.data[headSize+100] ^= 1
	for op := 2; op < 60; op++ {
		f := newFake(4 * mib)
		f.data = bytes.Clone(done.data)
		wiped := false
		f.write = func(now int, b []byte, off int64) (int, error) {
			if now == op {
				return 0, errors.New("fault")
			}
			wiped = wiped || off == 0
			return through, nil
		}
		_, err := flash.Run(t.Context(), f, p.withLoader(t), nil)
		if err == nil && !p.bootable(f.data) {
			t.Errorf("fault at %d: no error, and the disk is not bootable", op)
		}
		if err != nil && wiped && (p.bootable(f.data) || !image.IsZero(f.data[:image.Block])) {
			t.Errorf("fault at %d: the first block is there after %v", op, err)
		}
	}
}
