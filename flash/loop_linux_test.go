package flash_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/flash/disk/disktest"
	"imgtool/image"
	"imgtool/image/imagetest"
)

const loopSize = 24 * mib

func TestRunLoopDevice(t *testing.T) {
	file := disktest.Dirty(t, loopSize)
	d := disktest.Find(t, imagetest.Loop(t, file))
	if err := d.Check(disk.Need{Size: loopSize, SectorSize: 512}); err != nil {
		t.Fatal(err)
	}
	if d.Size != loopSize || d.Bus != "loop" || d.Model != file {
		t.Errorf("%+v", d)
	}
	target := disktest.Open(t, d)
	p := newPayload(loopSize, 2*mib)
	m, err := flash.Run(t.Context(), target, p.job, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := target.Reread(); err != nil {
		t.Error(err)
	}
	if err := target.Close(); err != nil {
		t.Error(err)
	}
	if i := differ(p.want, imagetest.Read(t, file)); i >= 0 {
		t.Errorf("the disk differs at byte %d", i)
	}

	read, err := disk.OpenRead(d)
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	if err := image.Verify(t.Context(), read, &m.Manifest, nil); err != nil {
		t.Error(err)
	}
	if _, err := read.WriteAt(make([]byte, 4096), 0); err == nil {
		t.Error("what was opened to be read can be written")
	}
}

func TestRunRegularFile(t *testing.T) {
	// Not a multiple of the alignment of O_DIRECT.
	const size = 3*mib + 7*sector
	file := disktest.Dirty(t, size)
	d := disktest.Find(t, file)
	target := disktest.Open(t, d)
	if _, err := disk.Open(d); err == nil {
		t.Error("it can be opened twice")
	} else if _, ok := errors.AsType[*disk.RefusedError](err); !ok || !strings.Contains(err.Error(), "open for writing") {
		t.Errorf("opening it twice: %v", err)
	}
	p := newPayload(size, 128*kib)
	m, err := flash.Run(t.Context(), target, p.job, nil)
	if err != nil {
		t.Fatal(err)
	}
	target.Close()
	if i := differ(p.want, imagetest.Read(t, file)); i >= 0 {
		t.Errorf("the file differs at byte %d", i)
	}
	read, err := disk.OpenRead(d)
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	if err := image.Verify(t.Context(), read, &m.Manifest, nil); err != nil {
		t.Error(err)
	}
}

// hooked is a target that calls hooks before writes and after flushes.
type hooked struct {
	*disk.Target
	writes, syncs int
	beforeWrite   func(n int, off int64)
	afterSync     func(n int)
}

func (h *hooked) WriteAt(p []byte, off int64) (int, error) {
	h.writes++
	if h.beforeWrite != nil {
		h.beforeWrite(h.writes, off)
	}
	return h.Target.WriteAt(p, off)
}

func (h *hooked) Sync() error {
	err := h.Target.Sync()
	h.syncs++
	if h.afterSync != nil {
		h.afterSync(h.syncs)
	}
	return err
}

// A page cache with the correct content must not hide wrong content on the disk.
func TestReadBackBypassesCache(t *testing.T) {
	file := disktest.Dirty(t, loopSize)
	dev := imagetest.Loop(t, file)
	d := disktest.Find(t, dev)
	p := newPayload(loopSize, 2*mib)
	const bad = headSize + 100*kib

	cached, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer cached.Close()
	spoil := func() {
		b := make([]byte, loopSize)
		if _, err := cached.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte{p.want[bad] ^ 1}, bad); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	cacheIsGood := func() {
		t.Helper()
		b := make([]byte, 1)
		if _, err := cached.ReadAt(b, bad); err != nil || b[0] != p.want[bad] {
			t.Fatalf("the cache does not hide it, so this test proves nothing (%v)", err)
		}
	}

	// The first three flushes follow the first block, the wipes and the record; the fourth one
	// follows the body.
	target := &hooked{Target: disktest.Open(t, d), afterSync: func(n int) {
		if n == 4 {
			spoil()
			cacheIsGood()
		}
	}}
	_, err = flash.Run(t.Context(), target, p.job, nil)
	if e, ok := errors.AsType[*image.MismatchError](err); !ok || e.Off > bad || bad >= e.Off+e.Len {
		t.Errorf("flashing: %v", err)
	}
	target.Close()

	m, err := flash.Run(t.Context(), disktest.Open(t, d), p.job, nil)
	if err != nil {
		t.Fatal(err)
	}
	spoil()
	cacheIsGood()
	read, err := disk.OpenRead(d)
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	err = image.Verify(t.Context(), read, &m.Manifest, nil)
	if e, ok := errors.AsType[*image.MismatchError](err); !ok || e.Off > bad || bad >= e.Off+e.Len {
		t.Errorf("verifying: %v", err)
	}
}

func TestRunReportsRemovedMedium(t *testing.T) {
	file := disktest.Dirty(t, loopSize)
	dev := imagetest.Loop(t, file)
	target := &hooked{Target: disktest.Open(t, disktest.Find(t, dev)), afterSync: func(n int) {
		if n == 2 {
			if err := os.Truncate(file, 0); err != nil {
				t.Error(err)
			}
			imagetest.Run(t, "losetup", "--set-capacity", dev)
		}
	}}
	_, err := flash.Run(t.Context(), target, newPayload(loopSize, 2*mib).job, nil)
	if _, ok := errors.AsType[*disk.GoneError](err); !ok {
		t.Error(err)
	}
}

func TestRunReportsDiskFailure(t *testing.T) {
	p := newPayload(loopSize, 2*mib)
	write := func(err error) bool {
		e, ok := errors.AsType[*image.WriteError](err)
		return ok && errors.Is(err, syscall.EIO) && e.Off > 10*mib && e.Off < loopSize-backup
	}
	for _, c := range []struct {
		name string
		args func(file, dir string) []string
		then func(dir string, nbdkit *exec.Cmd) // in the midst of the writes
		want func(error) bool
	}{
		{"write errors", func(file, dir string) []string {
			return []string{"--filter=error", "file", file, "error-pwrite=EIO", "error-pwrite-rate=100%", "error-pwrite-file=" + dir + "/inject"}
		}, func(dir string, _ *exec.Cmd) { os.WriteFile(dir+"/inject", nil, 0o644) }, write},
		{"disconnected", func(file, _ string) []string { return []string{"file", file} },
			func(_ string, nbdkit *exec.Cmd) { nbdkit.Process.Kill(); nbdkit.Wait() }, write},
		{"no fault", func(file, _ string) []string { return []string{"file", file} }, nil,
			func(err error) bool { return err == nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			file, dir := disktest.Dirty(t, loopSize), t.TempDir()
			dev, nbdkit := imagetest.NBD(t, c.args(file, dir)...)
			target := &hooked{Target: disktest.Open(t, disktest.Find(t, dev)), beforeWrite: func(_ int, off int64) {
				if off > 10*mib && off < loopSize-backup && c.then != nil {
					c.then(dir, nbdkit)
				}
			}}
			_, err := flash.Run(t.Context(), target, p.job, nil)
			if !c.want(err) {
				t.Errorf("got %v", err)
			}
			t.Log(err)
			if (err == nil) != p.bootable(imagetest.Read(t, file)) {
				t.Error("bootable: ", err != nil)
			}
		})
	}
}

func TestRunAfterInterruption(t *testing.T) {
	file := disktest.Dirty(t, loopSize)
	dev := imagetest.Loop(t, file)
	p := newPayload(loopSize, 2*mib)
	for _, at := range []int{1, 3, 5, 9, 12} {
		ctx, cancel := context.WithCancel(t.Context())
		target := &hooked{Target: disktest.Open(t, disktest.Find(t, dev)), beforeWrite: func(n int, _ int64) {
			if n == at {
				cancel()
			}
		}}
		_, err := flash.Run(ctx, target, p.job, nil)
		target.Close()
		if !errors.Is(err, context.Canceled) || p.bootable(imagetest.Read(t, file)) {
			t.Errorf("at write %d: %v, bootable %v", at, err, p.bootable(imagetest.Read(t, file)))
		}
		cancel()
	}
	target := disktest.Open(t, disktest.Find(t, dev))
	if _, err := flash.Run(t.Context(), target, p.job, nil); err != nil {
		t.Fatal(err)
	}
	target.Close()
	if i := differ(p.want, imagetest.Read(t, file)); i >= 0 {
		t.Errorf("the disk differs at byte %d", i)
	}
}
