package flash_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/flash"
	"imgtool/flash/disk/disktest"
	"imgtool/image"
	"imgtool/image/imagetest"
)

// badDisk returns a block device with a fault; see testdata/bad.py for the modes.
func badDisk(t *testing.T, file, mode string, at int64) (dev string, nbdkit *exec.Cmd) {
	t.Helper()
	if err := exec.Command(imagetest.Need(t, "nbdkit"), "python", "--version").Run(); err != nil {
		imagetest.Skip(t, "nbdkit has no python plugin")
	}
	return imagetest.NBD(t, "python", "testdata/bad.py", "file="+file, fmt.Sprint("size=", loopSize), "mode="+mode, fmt.Sprint("at=", at),
		fmt.Sprint("real=", loopSize/4), "every=20")
}

// soak returns many if SOAK is set, else few.
func soak(few, many int) int {
	if os.Getenv("SOAK") != "" {
		return many
	}
	return few
}

// seed returns a random seed, which it logs, or the value of SEED.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := rand.Uint64()
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", n)
	return n
}

// Faults of a block device, through the kernel: each is found, or repaired and reported, and
// only a disk with the right content is bootable.
func TestBlockDeviceFaults(t *testing.T) {
	imagetest.Long(t)
	number := seed(t)
	broken := func(errno syscall.Errno) func(error) bool {
		return func(err error) bool { return is[*image.WriteError](err) && errors.Is(err, errno) }
	}
	repaired := func(err error) bool { return err == nil }
	// A loop device turns any failed write into EIO.
	for _, c := range []struct {
		mode string
		want func(error) bool
		said bool // the disk is correct at the end, and a repair is reported
	}{
		{"wrap", is[*image.MismatchError], false}, // it is too small for the probe
		{"drop", nil, true},
		{"corrupt", nil, true},
		{"lost", is[*image.MismatchError], false},
		{"lost-once", repaired, true},
		{"torn", is[*image.MismatchError], false},
		{"flip", is[*image.MismatchError], false},
		{"flip-once", repaired, true},
		{"readflip", is[*image.MismatchError], false},
		{"readflip-once", repaired, true},
		{"elsewhere", is[*image.MismatchError], false},
		{"eio", broken(syscall.EIO), false},
		{"nospace", broken(syscall.ENOSPC), false},
		{"readeio", is[*flash.ReadError], false},
		{"badflush", broken(syscall.EIO), false},
		{"hang", is[*flash.StallError], false},
		{"slow", repaired, false},
	} {
		t.Run(c.mode, func(t *testing.T) {
			for i := range uint64(soak(1, 50)) {
				r := rand.New(rand.NewPCG(number, i))
				p := newPayload(loopSize, 512*kib)
				p.again()
				p.job.Size = loopSize
				p.job.Stall = 10 * time.Second
				if c.mode == "hang" {
					p.job.Stall = time.Second
				}
				var pieces []image.Chunk
				for chunk := range p.job.Body {
					pieces = append(pieces, chunk)
				}
				// Within a piece, and not at the start of a block.
				piece := pieces[r.IntN(len(pieces))]
				at := piece.Off + r.Int64N(int64(len(piece.Data))/image.Block)*image.Block + 1 + r.Int64N(image.Block-2)
				if c.mode == "nospace" {
					at = max(at, 2*mib)
				}
				t.Run(fmt.Sprint(i), func(t *testing.T) {
					file := disktest.Dirty(t, loopSize)
					dev, _ := badDisk(t, file, c.mode, at)
					target := disktest.Open(t, disktest.Find(t, dev))
					if c.mode == "nospace" {
						p.job.Size = 0 // or the probe is what finds it
					}
					res, err := flash.Run(t.Context(), target, p.job, nil)
					t.Logf("byte %d: %v", at, err)
					switch {
					case c.want == nil:
						// Some of these strike content that can be written again, some content that cannot.
						if err == nil && len(res.Repaired) == 0 {
							t.Error("no error and no repair")
						}
					case !c.want(err):
						t.Errorf("byte %d: %v", at, err)
					case c.said && (err != nil || len(res.Repaired) != 1 || at < res.Repaired[0].Off || at >= res.Repaired[0].End()):
						t.Errorf("byte %d: repaired is %+v", at, res)
					}
					var wrong *image.MismatchError
					if c.want != nil && errors.As(err, &wrong) && c.mode != "elsewhere" && c.mode != "wrap" && (at < wrong.Off || at >= wrong.Off+wrong.Len) && c.mode != "torn" && c.mode != "lost" {
						t.Errorf("byte %d is found at %d, %d bytes", at, wrong.Off, wrong.Len)
					}
					// A write has up to two pieces, and fails somewhere in it.
					if werr, ok := errors.AsType[*image.WriteError](err); ok && c.mode != "badflush" && (werr.Off < at-mib || werr.Off > at && c.mode == "eio") {
						t.Errorf("byte %d fails at %d", at, werr.Off)
					}
					disk := imagetest.Read(t, file)
					if err == nil && differ(p.want, disk) >= 0 {
						t.Errorf("it says that all is well, and byte %d differs", differ(p.want, disk))
					}
					if err != nil && p.bootable(disk) {
						t.Errorf("it boots after %v", err)
					}
					if c.mode == "hang" {
						// End operations in flight, so that the test can end.
						exec.Command("pkill", "-KILL", "-f", "file="+file).Run()
					}
				})
			}
		})
	}
}

// The power fails during a run, and the disk loses what it had not stored yet. Afterwards
// the disk has no table, or the right content to the last byte.
func TestPowerLoss(t *testing.T) {
	imagetest.Long(t)
	number := seed(t)
	whole := 0
	for i := range uint64(soak(6, 50)) {
		r := rand.New(rand.NewPCG(number, i))
		p := newPayload(loopSize, 512*kib)
		file := disktest.Dirty(t, loopSize)
		// The disk has an older bootable image.
		copyInto(t, file, p.want[:image.Block], 0)
		cut := r.IntN(60)
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			dev, nbdkit := badDisk(t, file, "volatile", -1)
			target := &hooked{Target: disktest.Open(t, disktest.Find(t, dev))}
			off := func() { nbdkit.Process.Kill(); nbdkit.Wait() }
			target.beforeWrite = func(n int, _ int64) {
				if n == cut {
					off()
				}
			}
			_, err := flash.Run(t.Context(), target, p.job, nil)
			off()
			disk := imagetest.Read(t, file)
			switch d := differ(p.want, disk); {
			case err == nil && d >= 0:
				t.Errorf("cut at write %d: it says that all is well, and byte %d differs", cut, d)
			case target.writes > 0 && target.syncs > 0 && p.bootable(disk) && d >= 0:
				t.Errorf("cut at write %d: the disk boots, and byte %d differs", cut, d)
			case err == nil:
				whole++
			}
		})
	}
	t.Logf("%d were whole", whole)
}

func copyInto(t *testing.T, file string, b []byte, off int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// While a disk is written, a desktop can mount neither its old partitions nor its new ones.
func TestDiskCannotBeMountedDuringRun(t *testing.T) {
	file := disktest.Dirty(t, loopSize)
	dev := imagetest.Loop(t, file)
	imagetest.Run(t, "mkfs.ext4", "-q", "-F", dev)
	imagetest.Run(t, "addpart", dev, "1", "2048", "20480")
	t.Cleanup(func() { exec.Command("delpart", dev, "1").Run() })
	imagetest.Run(t, "mkfs.ext4", "-q", "-F", dev+"p1")
	p := newPayload(loopSize, 512*kib)
	at := t.TempDir()
	target := disktest.Open(t, disktest.Find(t, dev))
	var tries atomic.Int32
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			for _, node := range []string{dev, dev + "p1"} {
				// Read-write: this would change the disk.
				if err := unix.Mount(node, at, "ext4", 0, ""); err == nil {
					t.Errorf("%s was mounted", node)
					unix.Unmount(at, 0)
				} else if err != unix.EBUSY {
					t.Errorf("mounting %s: %v", node, err)
				}
				tries.Add(1)
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	var res *flash.Result
	var err error
	for err == nil && tries.Load() < 10 {
		res, err = flash.Run(t.Context(), target, p.job, nil)
	}
	if err == nil {
		err = target.Reread()
	}
	close(stop)
	<-stopped
	if err == nil {
		err = image.Verify(t.Context(), target, &res.Manifest, nil)
	}
	target.Close()
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d tries", tries.Load())
}
