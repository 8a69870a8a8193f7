package flash_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/imagetest"
)

// fault breaks a disk around a byte of the body, permanently or once.
type fault struct {
	name   string
	breaks func(f *fake, at int64, r *rand.Rand)
	// loud faults must cause an error; others may be repaired, which must be reported.
	loud bool
	is   func(error) bool
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func around(b []byte, off, at int64) bool { return off <= at && at < off+int64(len(b)) }

const hangs = "a disk that hangs"

// faults are faults of disks and cables.
var faults = []fault{
	{"a bad sector", func(f *fake, at int64, _ *rand.Rand) {
		f.write = func(_ int, b []byte, off int64) (int, error) {
			if around(b, off, at) {
				return int(at-off) / sector * sector, syscall.EIO
			}
			return through, nil
		}
	}, true, is[*image.WriteError]},
	{"ENOSPC within the disk", func(f *fake, at int64, _ *rand.Rand) {
		f.write = func(_ int, b []byte, off int64) (int, error) {
			if off+int64(len(b)) > at && off >= headSize && off < fakeSize-64*kib {
				return int(max(0, at-off)) / sector * sector, syscall.ENOSPC
			}
			return through, nil
		}
	}, true, is[*image.WriteError]},
	{"a short write without an error", func(f *fake, at int64, _ *rand.Rand) {
		f.write = func(_ int, b []byte, off int64) (int, error) {
			if around(b, off, at) {
				return int(at-off) / sector * sector, nil
			}
			return through, nil
		}
	}, true, is[*image.WriteError]},
	{"a torn write without an error", func(f *fake, at int64, r *rand.Rand) {
		f.write = func(_ int, b []byte, off int64) (int, error) {
			if around(b, off, at) {
				copy(b[at-off:], f.data[at:])
			}
			return through, nil
		}
	}, true, is[*image.MismatchError]},
	{"a lost write", func(f *fake, at int64, _ *rand.Rand) {
		f.write = once(at, func(b []byte, off int64) { copy(b, f.data[off:]) })
	}, false, is[*image.MismatchError]},
	{"writes that are always lost", func(f *fake, at int64, _ *rand.Rand) {
		f.write = func(_ int, b []byte, off int64) (int, error) {
			if around(b, off, at) {
				copy(b, f.data[off:])
			}
			return through, nil
		}
	}, true, is[*image.MismatchError]},
	{"a flipped bit while writing", func(f *fake, at int64, r *rand.Rand) {
		f.write = once(at, func(b []byte, off int64) { b[at-off] ^= 1 << r.IntN(8) })
	}, false, is[*image.MismatchError]},
	{"a stuck bit", func(f *fake, at int64, r *rand.Rand) {
		bit := byte(1 << r.IntN(8))
		f.write = func(_ int, b []byte, off int64) (int, error) {
			if around(b, off, at) {
				b[at-off] ^= bit
			}
			return through, nil
		}
	}, true, is[*image.MismatchError]},
	{"a flipped bit while reading", func(f *fake, at int64, r *rand.Rand) {
		done := false
		f.read = func(_ int, b []byte, off int64) error {
			if around(b, off, at) && !done {
				done = true
				b[at-off] ^= 1 << r.IntN(8)
			}
			return nil
		}
	}, false, is[*image.MismatchError]},
	{"different data at every read", func(f *fake, at int64, r *rand.Rand) {
		f.read = func(op int, b []byte, off int64) error {
			if around(b, off, at) {
				b[at-off] ^= byte(1 + op%255)
			}
			return nil
		}
	}, true, is[*image.MismatchError]},
	{"a sector that cannot be read", func(f *fake, at int64, _ *rand.Rand) {
		f.read = func(_ int, b []byte, off int64) error {
			if around(b, off, at) {
				return syscall.EIO
			}
			return nil
		}
	}, true, is[*flash.ReadError]},
	{"a write to another place", func(f *fake, at int64, r *rand.Rand) {
		to := headSize + r.Int64N((fakeSize-headSize-512*kib)/image.Block)*image.Block
		f.write = func(_ int, b []byte, off int64) (int, error) {
			if around(b, off, at) && off != to {
				copy(f.data[to:], b)
				copy(b, f.data[off:])
			}
			return through, nil
		}
	}, true, is[*image.MismatchError]},
	{"two places that share storage", func(f *fake, at int64, _ *rand.Rand) {
		// Repairing one breaks the other. Pieces are 192 KiB apart.
		one := at / image.Block * image.Block
		other := one + 384*kib
		if other >= fakeSize-256*kib {
			other = one - 384*kib
		}
		f.write = func(_ int, b []byte, off int64) (int, error) {
			if around(b, off, one) {
				copy(f.data[other:other+image.Block], b[one-off:])
			}
			return through, nil
		}
		f.read = func(_ int, b []byte, off int64) error {
			if around(b, off, one) {
				copy(b[one-off:min(one-off+image.Block, int64(len(b)))], f.data[other:])
			}
			return nil
		}
	}, true, is[*image.MismatchError]},
	{"a flush that fails", func(f *fake, at int64, r *rand.Rand) {
		n := r.IntN(5)
		f.sync = func(int) error {
			if n--; n < 0 {
				return syscall.EIO
			}
			return nil
		}
	}, true, is[*image.WriteError]},
	{"an unplugged disk", func(f *fake, at int64, _ *rand.Rand) {
		f.write = func(_ int, b []byte, off int64) (int, error) {
			if f.gone.Store(f.gone.Load() || around(b, off, at)); f.gone.Load() {
				return 0, syscall.ENOSPC
			}
			return through, nil
		}
	}, true, is[*disk.GoneError]},
	{hangs, func(f *fake, at int64, _ *rand.Rand) {
		f.write = func(_ int, b []byte, off int64) (int, error) {
			if around(b, off, at) {
				<-f.hang
			}
			return through, nil
		}
	}, true, is[*flash.StallError]},
}

// once changes the first write around a byte.
func once(at int64, change func(b []byte, off int64)) func(int, []byte, int64) (int, error) {
	done := false
	return func(_ int, b []byte, off int64) (int, error) {
		if around(b, off, at) && !done {
			done = true
			change(b, off)
		}
		return through, nil
	}
}

// Every fault is found, with its offset, or repaired and reported, and none leaves a bootable
// disk.
func TestFaultMatrix(t *testing.T) {
	imagetest.Long(t)
	seeds, first := 8, rand.Uint64N(1<<32)
	if os.Getenv("SOAK") != "" {
		seeds = 50
	}
	t.Logf("seeds from %d", first)
	for _, c := range faults {
		found, repaired := 0, 0
		for seed := first; seed < first+uint64(seeds); seed++ {
			r := rand.New(rand.NewPCG(seed, 5))
			p := newPayload(fakeSize, 128*kib)
			p.again()
			if c.name == hangs {
				p.job.Stall = 100 * time.Millisecond
			}
			// A byte of a piece of the body, not in a hole and not at the start of a sector.
			var pieces []image.Chunk
			for chunk := range p.job.Body {
				pieces = append(pieces, chunk)
			}
			piece := pieces[r.IntN(len(pieces))]
			at := piece.Off + r.Int64N(int64(len(piece.Data))-1) + 1
			f := newFake(fakeSize)
			f.hang = make(chan struct{})
			c.breaks(f, at, r)
			res, err := flash.Run(t.Context(), f, p.job, nil)
			switch {
			case err == nil && (c.loud || len(res.Repaired) == 0 || differ(p.want, f.data) >= 0):
				t.Errorf("%s, seed %d, byte %d: no error, and repaired %+v", c.name, seed, at, res.Repaired)
			case err == nil:
				if s := res.Repaired[0].Span; at < s.Off || at >= s.End() {
					t.Errorf("%s, seed %d: byte %d is repaired at %+v", c.name, seed, at, s)
				}
				repaired++
			case !c.is(err):
				t.Errorf("%s, seed %d, byte %d: %v", c.name, seed, at, err)
			case p.bootable(f.data):
				t.Errorf("%s, seed %d, byte %d: the disk boots after %v", c.name, seed, at, err)
			default:
				var wrong *image.MismatchError
				var werr *image.WriteError
				if errors.As(err, &wrong) && (at < wrong.Off-128*kib || at > wrong.Off+wrong.Len+128*kib) && c.name != "a write to another place" && c.name != "two places that share storage" ||
					errors.As(err, &werr) && c.name != "a flush that fails" && (werr.Off > at || werr.Off < at-128*kib) && c.name != "ENOSPC within the disk" {
					t.Errorf("%s, seed %d: byte %d is found at %v", c.name, seed, at, err)
				}
				found++
			}
			close(f.hang)
		}
		t.Logf("%-40s %d found, %d repaired", c.name, found, repaired)
	}
}
