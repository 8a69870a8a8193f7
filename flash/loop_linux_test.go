package flash_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"imgtool/flash"
	"imgtool/image"
	"imgtool/image/imagetest"
)

const loopSize = 24 * mib

// dirty makes a file of size bytes of 0xAA.
func dirty(t *testing.T, size int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, bytes.Repeat([]byte{0xaa}, int(size)), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// losetup makes a loop device with options.
func losetup(t *testing.T, file string, options ...string) string {
	t.Helper()
	imagetest.NeedRoot(t)
	dev := strings.TrimSpace(imagetest.Run(t, "losetup", append(options, "--find", "--show", file)...))
	t.Cleanup(func() { exec.Command(imagetest.Need(t, "losetup"), "--detach", dev).Run() })
	return dev
}

func find(t *testing.T, path string) *flash.Disk {
	t.Helper()
	d, err := flash.Find("/", path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func open(t *testing.T, d *flash.Disk) *flash.Target {
	t.Helper()
	target, err := flash.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { target.Close() })
	return target
}

func contents(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func refused(t *testing.T, err error, want string) {
	t.Helper()
	if _, ok := errors.AsType[*flash.RefusedError](err); !ok || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want a refusal that says %q", err, want)
	}
}

func TestFlashALoopDevice(t *testing.T) {
	file := dirty(t, loopSize)
	d := find(t, imagetest.Loop(t, file))
	if err := d.Check(flash.Need{Size: loopSize, SectorSize: 512}); err != nil {
		t.Fatal(err)
	}
	if d.Size != loopSize || d.Bus != "loop" || d.Model != file {
		t.Errorf("%+v", d)
	}
	target := open(t, d)
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
	if i := differ(p.want, contents(t, file)); i >= 0 {
		t.Errorf("the disk differs at byte %d", i)
	}

	read, err := flash.OpenRead(d)
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

func TestFlashARegularFile(t *testing.T) {
	// No multiple of anything O_DIRECT likes.
	const size = 3*mib + 7*sector
	file := dirty(t, size)
	d := find(t, file)
	target := open(t, d)
	if _, err := flash.Open(d); err == nil {
		t.Error("it can be opened twice")
	} else {
		refused(t, err, "open for writing")
	}
	p := newPayload(size, 128*kib)
	m, err := flash.Run(t.Context(), target, p.job, nil)
	if err != nil {
		t.Fatal(err)
	}
	target.Close()
	if i := differ(p.want, contents(t, file)); i >= 0 {
		t.Errorf("the file differs at byte %d", i)
	}
	read, err := flash.OpenRead(d)
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	if err := image.Verify(t.Context(), read, &m.Manifest, nil); err != nil {
		t.Error(err)
	}
}

func TestAnAttachedFileIsRefused(t *testing.T) {
	file := dirty(t, mib)
	dev := imagetest.Loop(t, file)
	d := find(t, file)
	refused(t, d.Check(flash.Need{}), "the file is attached as "+dev)
	_, err := flash.Open(d)
	refused(t, err, "the file is attached as "+dev)
}

func TestATargetIsReadAndWrittenAtAnyMemory(t *testing.T) {
	for _, c := range []struct {
		name string
		path func(*testing.T, string) string
		size int64
	}{
		{"disk", func(t *testing.T, file string) string { return imagetest.Loop(t, file) }, 4 * mib},
		{"file", func(t *testing.T, file string) string { return file }, 3*mib + 1234},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := make([]byte, c.size)
			rand.NewChaCha8([32]byte{2}).Read(want)
			file := dirty(t, c.size)
			target := open(t, find(t, c.path(t, file)))
			rng := rand.New(rand.NewPCG(1, 2))
			shifted := func(n int64) []byte {
				b := make([]byte, n+4096)
				for uintptr(unsafe.Pointer(&b[0]))%4096 != 3 {
					b = b[1:]
				}
				return b[:n]
			}
			for off := int64(0); off < c.size; {
				n := min(c.size-off, (1+rng.Int64N(3000))*sector)
				b := shifted(n)
				copy(b, want[off:])
				if k, err := target.WriteAt(b, off); err != nil || int64(k) != n {
					t.Fatalf("writing %d bytes at %d: %d, %v", n, off, k, err)
				}
				off += n
			}
			if err := target.Sync(); err != nil {
				t.Fatal(err)
			}
			for range 300 {
				off := rng.Int64N(c.size)
				n := min(c.size-off, rng.Int64N(1+rng.Int64N(3*mib)))
				b := shifted(n + 4096)[:n]
				if k, err := target.ReadAt(b, off); err != nil || int64(k) != n || !bytes.Equal(b, want[off:off+n]) {
					t.Fatalf("reading %d bytes at %d: %d, %v, the same: %v", n, off, k, err, bytes.Equal(b, want[off:off+n]))
				}
			}
			b := make([]byte, 5000)
			if n, err := target.ReadAt(b, c.size-1000); n != 1000 || err != io.EOF || !bytes.Equal(b[:n], want[c.size-1000:]) {
				t.Errorf("reading over the end: %d, %v", n, err)
			}
			if n, err := target.WriteAt(make([]byte, 4096), c.size-512); n != 0 || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("writing over the end: %d, %v", n, err)
			}
			if c.name == "disk" {
				if _, err := target.WriteAt(make([]byte, 512), 100); err == nil {
					t.Error("a write that starts within a sector was made")
				}
				// Of the last sector, what is not written stays.
				for _, n := range []int64{100, 512 + 1, 3*512 + 511} {
					copy(want[4096:], bytes.Repeat([]byte{byte(n)}, int(n)))
					if k, err := target.WriteAt(want[4096:4096+n], 4096); err != nil || int64(k) != n {
						t.Errorf("writing %d bytes: %d, %v", n, k, err)
					}
				}
			}
			target.Close()
			if i := differ(want, contents(t, file)); i >= 0 {
				t.Errorf("differs at %d", i)
			}
		})
	}
}

// Every disk that is in use stays as it is, to the byte, and is refused when it
// is looked at and when it is opened.
func TestADiskInUseIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		use  func(t *testing.T, dev string)
		look string // what Find says of it
	}{
		{"mounted", func(t *testing.T, dev string) {
			imagetest.Run(t, "mkfs.ext4", "-q", dev)
			at := t.TempDir()
			imagetest.Run(t, "mount", "-o", "ro,noload", dev, at)
			t.Cleanup(func() { exec.Command("umount", at).Run() })
		}, " is mounted at "},
		{"with a mounted partition", func(t *testing.T, dev string) {
			imagetest.Run(t, "addpart", dev, "1", "2048", "20480")
			imagetest.Run(t, "mkfs.ext4", "-q", dev+"p1")
			at := t.TempDir()
			imagetest.Run(t, "mount", "-o", "ro,noload", dev+"p1", at)
			t.Cleanup(func() { exec.Command("umount", at).Run(); exec.Command("delpart", dev, "1").Run() })
		}, "p1 is mounted at "},
		{"swap", func(t *testing.T, dev string) {
			imagetest.Run(t, "mkswap", dev)
			imagetest.Run(t, "swapon", dev)
			t.Cleanup(func() { exec.Command(imagetest.Need(t, "swapoff"), dev).Run() })
		}, " is swap"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := dirty(t, loopSize)
			dev := imagetest.Loop(t, file)
			before := find(t, dev) // as it was before somebody came
			c.use(t, dev)
			imagetest.Run(t, "sync", "-f", file)
			bytesBefore := contents(t, file)

			d := find(t, dev)
			refused(t, d.Check(flash.Need{}), c.look)
			for _, d := range []*flash.Disk{d, before} {
				target, err := flash.Open(d)
				if err == nil {
					target.Close()
				}
				refused(t, err, dev)
			}
			disks, err := flash.Disks("/")
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range disks {
				if d.Path == dev && d.Check(flash.Need{}) == nil {
					t.Error("the list says that it is a target")
				}
			}
			// The kernel itself may write to its swap, but not to the header.
			if c.name == "swap" {
				bytesBefore = bytesBefore[:image.Block]
			}
			if i := differ(bytesBefore, contents(t, file)); i >= 0 {
				t.Errorf("byte %d has changed", i)
			}
			// Reading is no harm.
			read, err := flash.OpenRead(d)
			if err != nil {
				t.Fatal(err)
			}
			read.Close()
		})
	}
}

func TestADiskThatSomebodyHoldsIsRefused(t *testing.T) {
	d := find(t, imagetest.Loop(t, dirty(t, mib)))
	for name, hold := range map[string]func(*os.File) error{
		"opened for itself": func(*os.File) error { return nil },
		"locked":            func(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_SH) },
	} {
		flags := os.O_RDONLY
		if name != "locked" {
			flags |= syscall.O_EXCL
		}
		f, err := os.OpenFile(d.Path, flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := hold(f); err != nil {
			t.Fatal(err)
		}
		if target, err := flash.Open(d); err == nil {
			target.Close()
			t.Errorf("%s: it opens", name)
		} else {
			refused(t, err, "")
		}
		f.Close()
	}
	open(t, d)
}

func TestAPartitionIsRefused(t *testing.T) {
	dev := imagetest.Loop(t, dirty(t, loopSize))
	imagetest.Run(t, "addpart", dev, "1", "2048", "20480")
	t.Cleanup(func() { exec.Command("delpart", dev, "1").Run() })
	_, err := flash.Find("/", dev+"p1")
	refused(t, err, "a partition of "+dev)
	d := find(t, dev)
	if len(d.Parts) != 1 || d.Parts[0] != (flash.Part{Name: filepath.Base(dev) + "p1", Off: mib, Size: 10 * mib}) {
		t.Errorf("%+v", d.Parts)
	}
}

func TestAReadOnlyDiskIsRefused(t *testing.T) {
	dev := losetup(t, dirty(t, mib), "--read-only")
	d := find(t, dev)
	refused(t, d.Check(flash.Need{}), "read-only")
	d.ReadOnly = false // it was not when it was found
	_, err := flash.Open(d)
	refused(t, err, "read-only")
}

func TestADiskOfLargeSectorsIsRefused(t *testing.T) {
	dev := losetup(t, dirty(t, mib), "--sector-size", "4096", "--direct-io=on")
	refused(t, find(t, dev).Check(flash.Need{SectorSize: 512}), "its sectors have 4096 bytes and the image is made for 512")
}

func TestADiskThatIsAnotherByNowIsRefused(t *testing.T) {
	file := dirty(t, mib)
	dev := imagetest.Loop(t, file)
	found := find(t, dev)
	for name, change := range map[string]func(*flash.Disk){
		"number":  func(d *flash.Disk) { d.Diskseq += 7 },
		"size":    func(d *flash.Disk) { d.Size /= 2 },
		"sectors": func(d *flash.Disk) { d.SectorSize = 4096 },
		"path":    func(d *flash.Disk) { d.Path += "0000" },
	} {
		d := *found
		change(&d)
		target, err := flash.Open(&d)
		if name == "path" {
			if _, ok := errors.AsType[*flash.GoneError](err); !ok {
				t.Errorf("%s: %v", name, err)
			}
		} else {
			refused(t, err, "not the disk that was found")
		}
		if err == nil {
			target.Close()
		}
	}
	if i := differ(bytes.Repeat([]byte{0xaa}, mib), contents(t, file)); i >= 0 {
		t.Errorf("byte %d has changed", i)
	}
}

func TestOpenNeedsTheRightTo(t *testing.T) {
	file := os.Getenv("FLASH_TEST_FILE") // set in the test that runs as nobody
	if file == "" {
		file = dirty(t, mib)
		if err := os.Chmod(file, 0o444); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 {
			// Root may write what nobody may.
			asNobody(t, file)
			return
		}
	}
	if _, err := flash.Open(find(t, file)); !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
}

func asNobody(t *testing.T, file string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "flash") // t.TempDir is for its owner alone
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	there, self := filepath.Join(dir, "disk"), filepath.Join(dir, "test")
	for _, err := range []error{
		os.Chmod(dir, 0o755),
		os.WriteFile(there, contents(t, file), 0o444),
		os.WriteFile(self, contents(t, "/proc/self/exe"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(imagetest.Need(t, "setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups",
		self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "FLASH_TEST_FILE="+there)
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Fatalf("%v\n%s", err, out)
	}
}

// hooked is a target that something happens to.
type hooked struct {
	*flash.Target
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

// A cache that still holds the good bytes must not hide that the disk does not.
func TestReadingBackReadsTheDisk(t *testing.T) {
	file := dirty(t, loopSize)
	dev := imagetest.Loop(t, file)
	d := find(t, dev)
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

	// The fourth flush follows the body: those of the first block, the wipes and the record
	// come before.
	target := &hooked{Target: open(t, d), afterSync: func(n int) {
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

	m, err := flash.Run(t.Context(), open(t, d), p.job, nil)
	if err != nil {
		t.Fatal(err)
	}
	spoil()
	cacheIsGood()
	read, err := flash.OpenRead(d)
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	err = image.Verify(t.Context(), read, &m.Manifest, nil)
	if e, ok := errors.AsType[*image.MismatchError](err); !ok || e.Off > bad || bad >= e.Off+e.Len {
		t.Errorf("verifying: %v", err)
	}
}

func TestADiskThatLosesItsMediumIsGone(t *testing.T) {
	file := dirty(t, loopSize)
	dev := imagetest.Loop(t, file)
	target := &hooked{Target: open(t, find(t, dev)), afterSync: func(n int) {
		if n == 2 {
			if err := os.Truncate(file, 0); err != nil {
				t.Error(err)
			}
			imagetest.Run(t, "losetup", "--set-capacity", dev)
		}
	}}
	_, err := flash.Run(t.Context(), target, newPayload(loopSize, 2*mib).job, nil)
	if _, ok := errors.AsType[*flash.GoneError](err); !ok {
		t.Error(err)
	}
}

func TestADiskBreaksInTheMiddle(t *testing.T) {
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
		{"it breaks", func(file, dir string) []string {
			return []string{"--filter=error", "file", file, "error-pwrite=EIO", "error-pwrite-rate=100%", "error-pwrite-file=" + dir + "/inject"}
		}, func(dir string, _ *exec.Cmd) { os.WriteFile(dir+"/inject", nil, 0o644) }, write},
		{"its cable is cut", func(file, _ string) []string { return []string{"file", file} },
			func(_ string, nbdkit *exec.Cmd) { nbdkit.Process.Kill(); nbdkit.Wait() }, write},
		{"it is well", func(file, _ string) []string { return []string{"file", file} }, nil,
			func(err error) bool { return err == nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			file, dir := dirty(t, loopSize), t.TempDir()
			dev, nbdkit := imagetest.NBD(t, c.args(file, dir)...)
			target := &hooked{Target: open(t, find(t, dev)), beforeWrite: func(_ int, off int64) {
				if off > 10*mib && off < loopSize-backup && c.then != nil {
					c.then(dir, nbdkit)
				}
			}}
			_, err := flash.Run(t.Context(), target, p.job, nil)
			if !c.want(err) {
				t.Errorf("got %v", err)
			}
			t.Log(err)
			if (err == nil) != p.bootable(contents(t, file)) {
				t.Error("bootable: ", err != nil)
			}
		})
	}
}

func TestAnInterruptedFlashOfADiskCanBeDoneAgain(t *testing.T) {
	file := dirty(t, loopSize)
	dev := imagetest.Loop(t, file)
	p := newPayload(loopSize, 2*mib)
	for _, at := range []int{1, 3, 5, 9, 12} {
		ctx, cancel := context.WithCancel(t.Context())
		target := &hooked{Target: open(t, find(t, dev)), beforeWrite: func(n int, _ int64) {
			if n == at {
				cancel()
			}
		}}
		_, err := flash.Run(ctx, target, p.job, nil)
		target.Close()
		if !errors.Is(err, context.Canceled) || p.bootable(contents(t, file)) {
			t.Errorf("at write %d: %v, bootable %v", at, err, p.bootable(contents(t, file)))
		}
		cancel()
	}
	target := open(t, find(t, dev))
	if _, err := flash.Run(t.Context(), target, p.job, nil); err != nil {
		t.Fatal(err)
	}
	target.Close()
	if i := differ(p.want, contents(t, file)); i >= 0 {
		t.Errorf("the disk differs at byte %d", i)
	}
}
