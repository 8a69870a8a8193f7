package flash_test

import (
	"bytes"
	"strings"
	"syscall"
	"testing"
	"time"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image"
)

// editSteps returns a change in two steps that share a block, and the disk after it.
func editSteps() (steps [][]image.Extent, want []byte) {
	want = newFake(fakeSize).data
	for _, patches := range [][]struct {
		off  int64
		text string
	}{{{headSize + 10, "first"}, {headSize + 9000, strings.Repeat("long ", 2000)}}, {{headSize + 20, "second"}}} {
		var step []image.Extent
		for _, p := range patches {
			step = append(step, image.Extent{Name: "patch", Off: p.off, Content: strings.NewReader(p.text)})
			copy(want[p.off:], p.text)
		}
		steps = append(steps, step)
	}
	return steps, want
}

func TestEdit(t *testing.T) {
	steps, want := editSteps()
	f := newFake(fakeSize)
	res, err := flash.Edit(t.Context(), f, flash.Change{Size: fakeSize, Steps: steps}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if i := differ(want, f.data); i >= 0 {
		t.Errorf("the disk differs at byte %d", i)
	}
	if res.Written == 0 || res.Written != res.Verified {
		t.Errorf("%d bytes were written and %d read back", res.Written, res.Verified)
	}
}

// A step is flushed and read back before the next one is written, and nothing else is ever
// on the disk.
func TestEditKeepsOrder(t *testing.T) {
	steps, _ := editSteps()
	f := newFake(fakeSize)
	flushed := 0
	f.sync = func(int) error { flushed++; return nil }
	f.write = func(_ int, p []byte, off int64) (int, error) {
		if off < headSize {
			t.Errorf("%d bytes are written at %d", len(p), off)
		}
		if bytes.Contains(p, []byte("second")) && (flushed == 0 || !bytes.Contains(f.data, []byte("first"))) {
			t.Error("the second step is written before the first is flushed")
		}
		return through, nil
	}
	if _, err := flash.Edit(t.Context(), f, flash.Change{Size: fakeSize, Steps: steps}, nil); err != nil {
		t.Fatal(err)
	}
}

func TestEditFailures(t *testing.T) {
	steps, _ := editSteps()
	for _, c := range []struct {
		name string
		fail func(f *fake)
		is   func(error) bool
		left flash.State
	}{
		{"lost write", func(f *fake) {
			f.write = func(_ int, p []byte, _ int64) (int, error) {
				copy(p, bytes.Repeat([]byte{0xaa}, len(p)))
				return through, nil
			}
		}, is[*image.MismatchError], flash.Unchanged},
		{"write error in the first step", func(f *fake) {
			f.write = func(int, []byte, int64) (int, error) { return 0, syscall.EIO }
		}, is[*image.WriteError], flash.Unchanged},
		{"write error in the second step", func(f *fake) {
			f.write = func(_ int, p []byte, _ int64) (int, error) {
				if bytes.Contains(p, []byte("second")) {
					return 0, syscall.EIO
				}
				return through, nil
			}
		}, is[*image.WriteError], flash.PartWritten},
		{"disk removed", func(f *fake) {
			f.write = func(int, []byte, int64) (int, error) { f.gone.Store(true); return 0, syscall.EIO }
		}, is[*disk.GoneError], flash.Unchanged},
		{"write that hangs", func(f *fake) {
			f.write = func(int, []byte, int64) (int, error) { <-f.hang; return 0, syscall.EIO }
		}, is[*flash.StallError], flash.Unknown},
		{"read that hangs", func(f *fake) {
			f.read = func(int, []byte, int64) error { <-f.hang; return nil }
		}, is[*flash.StallError], flash.Unchanged},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(fakeSize)
			f.hang = make(chan struct{})
			defer close(f.hang)
			c.fail(f)
			stall := 3 * time.Minute
			if strings.HasSuffix(c.name, "that hangs") {
				stall = time.Second
			}
			_, err := flash.Edit(t.Context(), f, flash.Change{Size: fakeSize, Steps: steps, Timeout: flash.Timeout{Stall: stall}}, nil)
			if !c.is(err) {
				t.Errorf("got the error %v", err)
			}
			if left, ok := flash.StateAfter(err); !ok || left != c.left {
				t.Errorf("the disk is left %q, want %q", left, c.left)
			}
		})
	}
}
