package disk_test

import (
	"bytes"
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

	"imgtool/flash/disk"
	"imgtool/flash/disk/disktest"
	"imgtool/image"
	"imgtool/image/imagetest"
)

const (
	kib = 1 << 10
	mib = 1 << 20

	sector   = 512
	loopSize = 24 * mib
)

// losetup makes a loop device with options.
func losetup(t *testing.T, file string, options ...string) string {
	t.Helper()
	imagetest.NeedRoot(t)
	dev := strings.TrimSpace(imagetest.Run(t, "losetup", append(options, "--find", "--show", file)...))
	t.Cleanup(func() { exec.Command(imagetest.Need(t, "losetup"), "--detach", dev).Run() })
	return dev
}

func refused(t *testing.T, err error, want string) {
	t.Helper()
	if _, ok := errors.AsType[*disk.RefusedError](err); !ok || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want a refusal that says %q", err, want)
	}
}

func TestAttachedFileIsRefused(t *testing.T) {
	file := disktest.Dirty(t, mib)
	dev := imagetest.Loop(t, file)
	d := disktest.Find(t, file)
	refused(t, d.Check(disk.Need{}), "the file is attached as "+dev)
	_, err := disk.Open(d)
	refused(t, err, "the file is attached as "+dev)
}

func TestTargetUnalignedBuffers(t *testing.T) {
	imagetest.Long(t)
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
			file := disktest.Dirty(t, c.size)
			target := disktest.Open(t, disktest.Find(t, c.path(t, file)))
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
			if i := differ(want, imagetest.Read(t, file)); i >= 0 {
				t.Errorf("differs at %d", i)
			}
		})
	}
}

// Every disk that is in use stays as it is, to the byte, and is refused when it
// is looked at and when it is opened.
func TestDiskInUseIsRefused(t *testing.T) {
	imagetest.Long(t)
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
			file := disktest.Dirty(t, loopSize)
			dev := imagetest.Loop(t, file)
			before := disktest.Find(t, dev) // before it was in use
			c.use(t, dev)
			imagetest.Run(t, "sync", "-f", file)
			bytesBefore := imagetest.Read(t, file)

			d := disktest.Find(t, dev)
			refused(t, d.Check(disk.Need{}), c.look)
			for _, d := range []*disk.Disk{d, before} {
				target, err := disk.Open(d)
				if err == nil {
					target.Close()
				}
				refused(t, err, dev)
			}
			disks, err := disk.List("/")
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range disks {
				if d.Path == dev && d.Check(disk.Need{}) == nil {
					t.Error("the list says that it is a target")
				}
			}
			// The kernel itself may write to its swap, but not to the header.
			if c.name == "swap" {
				bytesBefore = bytesBefore[:image.Block]
			}
			if i := differ(bytesBefore, imagetest.Read(t, file)); i >= 0 {
				t.Errorf("byte %d has changed", i)
			}
			// A disk in use can be opened for reading.
			read, err := disk.OpenRead(d)
			if err != nil {
				t.Fatal(err)
			}
			read.Close()
		})
	}
}

func TestClaimedDiskIsRefused(t *testing.T) {
	imagetest.Long(t)
	d := disktest.Find(t, imagetest.Loop(t, disktest.Dirty(t, mib)))
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
		if target, err := disk.Open(d); err == nil {
			target.Close()
			t.Errorf("%s: it opens", name)
		} else {
			refused(t, err, "")
		}
		f.Close()
	}
	disktest.Open(t, d)
}

func TestPartitionIsRefused(t *testing.T) {
	dev := imagetest.Loop(t, disktest.Dirty(t, loopSize))
	imagetest.Run(t, "addpart", dev, "1", "2048", "20480")
	t.Cleanup(func() { exec.Command("delpart", dev, "1").Run() })
	_, err := disk.Find("/", dev+"p1")
	refused(t, err, "a partition of "+dev)
	d := disktest.Find(t, dev)
	if len(d.Parts) != 1 || d.Parts[0] != (disk.Part{Name: filepath.Base(dev) + "p1", Off: mib, Size: 10 * mib}) {
		t.Errorf("%+v", d.Parts)
	}
}

func TestReadOnlyDiskIsRefused(t *testing.T) {
	dev := losetup(t, disktest.Dirty(t, mib), "--read-only")
	d := disktest.Find(t, dev)
	refused(t, d.Check(disk.Need{}), "read-only")
	d.ReadOnly = false // it was not when it was found
	_, err := disk.Open(d)
	refused(t, err, "read-only")
}

func TestSectorSizeMismatchIsRefused(t *testing.T) {
	dev := losetup(t, disktest.Dirty(t, mib), "--sector-size", "4096", "--direct-io=on")
	refused(t, disktest.Find(t, dev).Check(disk.Need{SectorSize: 512}), "its sectors have 4096 bytes and the image is made for 512")
}

func TestReplacedDiskIsRefused(t *testing.T) {
	file := disktest.Dirty(t, mib)
	dev := imagetest.Loop(t, file)
	found := disktest.Find(t, dev)
	for name, change := range map[string]func(*disk.Disk){
		"number":  func(d *disk.Disk) { d.Diskseq += 7 },
		"size":    func(d *disk.Disk) { d.Size /= 2 },
		"sectors": func(d *disk.Disk) { d.SectorSize = 4096 },
		"path":    func(d *disk.Disk) { d.Path += "0000" },
	} {
		d := *found
		change(&d)
		target, err := disk.Open(&d)
		if name == "path" {
			if _, ok := errors.AsType[*disk.GoneError](err); !ok {
				t.Errorf("%s: %v", name, err)
			}
		} else {
			refused(t, err, "not the disk that was found")
		}
		if err == nil {
			target.Close()
		}
	}
	if i := differ(bytes.Repeat([]byte{0xaa}, mib), imagetest.Read(t, file)); i >= 0 {
		t.Errorf("byte %d has changed", i)
	}
}

func TestOpenPermission(t *testing.T) {
	file := os.Getenv("FLASH_TEST_FILE") // set in the process without root's rights
	if file == "" {
		file = disktest.Dirty(t, mib)
		if err := os.Chmod(file, 0o444); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 {
			// Root may write any file.
			withoutRoot(t, file)
			return
		}
	}
	if _, err := disk.Open(disktest.Find(t, file)); !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
}

func withoutRoot(t *testing.T, file string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "flash") // t.TempDir is for its owner alone
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	there, self := filepath.Join(dir, "disk"), filepath.Join(dir, "test")
	for _, err := range []error{
		os.Chmod(dir, 0o755),
		os.WriteFile(there, imagetest.Read(t, file), 0o444),
		os.WriteFile(self, imagetest.Read(t, "/proc/self/exe"), 0o755),
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

// The name of a disk goes to the next one as soon as the one is gone, of the same
// make and size; what was looked at is not what is opened.
func TestReplacedLoopDeviceIsRefused(t *testing.T) {
	one, other := disktest.Dirty(t, loopSize), disktest.Dirty(t, loopSize)
	dev := imagetest.Loop(t, one)
	found := disktest.Find(t, dev)
	imagetest.Run(t, "losetup", "--detach", dev)
	imagetest.Run(t, "losetup", dev, other)
	if info := imagetest.Run(t, "losetup", "--noheadings", "--output", "BACK-FILE", dev); !strings.Contains(info, other) {
		t.Fatalf("%s has %s", dev, info)
	}
	target, err := disk.Open(found)
	refused(t, err, "not the disk that was found")
	if err == nil {
		target.Close()
	}
}

func differ(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}
