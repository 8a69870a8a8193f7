package disk_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/flash/disk"
	"imgtool/flash/disk/disktest"
	"imgtool/image/imagetest"
)

var holders = []struct {
	name, script string
	want         string // part of the error, "" if the use is allowed
}{
	{"open for writing", "import os,sys; f = os.open(sys.argv[1], os.O_RDWR)", "python3 (process "},
	{"open for writing alone", "import os,sys; f = os.open(sys.argv[1], os.O_WRONLY)", "has it open for writing"},
	{"a read lock of a range, as QEMU has", `import os,sys,fcntl,struct; f = os.open(sys.argv[1], os.O_RDONLY)
fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 201, 1, 0))`, "has locked a part of it"},
	{"a POSIX lock", "import os,sys,fcntl; f = os.open(sys.argv[1], os.O_RDONLY); fcntl.lockf(f, fcntl.LOCK_SH, 1, 100)", "has locked a part of it"},
	{"open for reading", "import os,sys; f = os.open(sys.argv[1], os.O_RDONLY)", ""},
	{"mapped for reading", "import os,sys,mmap; f = os.open(sys.argv[1], os.O_RDONLY); m = mmap.mmap(f, 4096, prot=mmap.PROT_READ)", ""},
	{"named and not open", "import os,sys; f = os.open(sys.argv[1], 0o10000000)", ""},
}

// mapping closes the descriptor of the file.
const mapping = `import ctypes,os,sys; f = os.open(sys.argv[1], os.O_RDWR); c = ctypes.CDLL(None)
c.mmap.restype = ctypes.c_void_p; assert c.mmap(None, ctypes.c_size_t(4096), 3, 1, f, ctypes.c_long(0)) != 2**64-1; os.close(f)`

// A disk that another program writes to is refused by Find, and by Open if the program
// started after Find.
func TestOpenForWritingIsRefused(t *testing.T) {
	imagetest.Long(t)
	for _, kind := range []string{"file", "disk", "partition", "file of the disk"} {
		cases := holders
		if kind == "file" {
			cases = append(cases[:len(cases):len(cases)], struct{ name, script, want string }{"mapped for writing", mapping, "has mapped it for writing"})
		}
		for _, c := range cases {
			t.Run(kind+" "+c.name, func(t *testing.T) {
				file := disktest.Dirty(t, loopSize)
				path, held := file, file
				if kind != "file" {
					path = imagetest.Loop(t, file)
				}
				if kind == "disk" {
					held = path
				}
				if kind == "partition" {
					imagetest.Run(t, "addpart", path, "1", "2048", "8192")
					t.Cleanup(func() { exec.Command("delpart", path, "1").Run() })
					held = path + "p1"
				}
				before := disktest.Find(t, path)
				imagetest.Hold(t, c.script, held)
				for _, d := range []*disk.Disk{before, disktest.Find(t, path)} {
					target, err := disk.Open(d)
					if err == nil {
						target.Close()
					}
					if c.want == "" {
						if err != nil {
							t.Errorf("refused: %v", err)
						}
						continue
					}
					refused(t, err, c.want)
				}
				if err := disktest.Find(t, path).Check(disk.Need{}); (err == nil) != (c.want == "") {
					t.Errorf("when looked at: %v", err)
				}
			})
		}
	}
}

// A lock of a process in another namespace is found through the descriptor itself.
func TestLockedRangeIsRefused(t *testing.T) {
	file := disktest.Dirty(t, mib)
	for _, path := range []string{file, imagetest.Loop(t, disktest.Dirty(t, mib))} {
		found := disktest.Find(t, path)
		f, err := os.OpenFile(path, os.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 100, Len: 1}); err != nil {
			t.Fatal(err)
		}
		_, err = disk.Open(found)
		refused(t, err, "locked a part of it")
	}
}

// A file may be attached in another mount namespace, where it has another path, or have been
// renamed since: the path in sysfs does not exist here.
func TestFileAttachedUnderAnotherPathIsRefused(t *testing.T) {
	file := disktest.Dirty(t, mib)
	there := t.TempDir()
	imagetest.Run(t, "unshare", "--mount", "sh", "-c", fmt.Sprintf(`
		mount --bind %q %q && mkdir -p %[2]q/x; losetup --find --show %[2]q/%[3]s > %[1]q/dev`, filepath.Dir(file), there, filepath.Base(file)))
	dev := string(imagetest.Read(t, filepath.Join(filepath.Dir(file), "dev")))
	dev = dev[:len(dev)-1]
	t.Cleanup(func() { exec.Command("losetup", "--detach", dev).Run() })
	if at := imagetest.Run(t, "losetup", "--noheadings", "--output", "BACK-FILE", dev); len(at) == 0 {
		t.Fatal("the file is not attached")
	}
	refused(t, disktest.Find(t, file).Check(disk.Need{}), "attached as "+dev)

	// Another file has the name of the attached file now.
	other := disktest.Dirty(t, mib)
	loop := imagetest.Loop(t, other)
	moved := other + ".moved"
	if err := os.Rename(other, moved); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, make([]byte, mib), 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, disktest.Find(t, moved).Check(disk.Need{}), "attached as "+loop)
	if err := disktest.Find(t, other).Check(disk.Need{}); err != nil {
		t.Errorf("a file with the former name of an attached file: %v", err)
	}
	disktest.Open(t, disktest.Find(t, other))
}

// A file that was replaced since Find is refused.
func TestReplacedFileIsRefused(t *testing.T) {
	for name, swap := range map[string]func(file, other string) error{
		"renamed over it": func(file, other string) error { return os.Rename(other, file) },
		"a link":          func(file, other string) error { os.Remove(file); return os.Symlink(other, file) },
		"a named pipe":    func(file, _ string) error { os.Remove(file); return unix.Mkfifo(file, 0o600) },
		"grown":           func(file, _ string) error { return os.Truncate(file, 2*mib) },
	} {
		file, other := disktest.Dirty(t, mib), disktest.Dirty(t, mib)
		found := disktest.Find(t, file)
		if err := swap(file, other); err != nil {
			t.Fatal(err)
		}
		target, err := disk.Open(found)
		if err == nil {
			target.Close()
			t.Errorf("%s: it opens", name)
			continue
		}
		refused(t, err, "")
	}
}

func TestNamed(t *testing.T) {
	for name, lose := range map[string]func(file string) error{
		"removed": os.Remove,
		"renamed": func(file string) error { return os.Rename(file, file+"2") },
		"replaced": func(file string) error {
			return errors.Join(os.WriteFile(file+"2", make([]byte, mib), 0o644), os.Rename(file+"2", file))
		},
	} {
		file := disktest.Dirty(t, mib)
		target := disktest.Open(t, disktest.Find(t, file))
		if err := target.Named(); err != nil {
			t.Fatal(err)
		}
		if err := lose(file); err != nil {
			t.Fatal(err)
		}
		if _, ok := errors.AsType[*disk.MovedError](target.Named()); !ok {
			t.Errorf("%s: %v", name, target.Named())
		}
	}
}

// emptyEROFS creates an EROFS image with an empty root directory. Linux mounts such a file
// without a loop device from 6.12 on. The layout is that of fs/erofs/erofs_fs.h.
func emptyEROFS(t *testing.T, size int64) string {
	t.Helper()
	const root = 36 // the number of the root's inode, of 32 bytes each
	b := make([]byte, size)
	le := binary.LittleEndian
	super := b[1024:]
	le.PutUint32(super, 0xE0F5E1E2)
	super[12] = 12 // blocks of 4096 bytes
	le.PutUint16(super[14:], root)
	le.PutUint64(super[16:], 1)
	le.PutUint32(super[36:], uint32(size>>12))
	inode := b[root*32:]
	le.PutUint16(inode[4:], 0o40755)
	le.PutUint16(inode[6:], 2)
	le.PutUint32(inode[8:], 4096)
	le.PutUint32(inode[16:], 1) // its block
	le.PutUint32(inode[20:], 1)
	for i, name := range []string{".", ".."} {
		entry := b[4096+12*i:]
		le.PutUint64(entry, root)
		le.PutUint16(entry[8:], uint16(24+i))
		entry[10] = 2
		copy(b[4096+24+i:], name)
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// A mounted file is refused under its name, after it is renamed, and if it was mounted with
// a relative name. Before Linux 6.12, files cannot be mounted without a loop device; a file
// that is mounted through one is refused on every kernel. Package procs tests the detection
// of mounts without a loop device on every kernel.
func TestMountedFileIsRefused(t *testing.T) {
	imagetest.NeedRoot(t)
	file := emptyEROFS(t, mib)
	twin := file + ".twin"
	if err := os.WriteFile(twin, imagetest.Read(t, file), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(file))
	for _, source := range []string{file, filepath.Base(file)} {
		at := t.TempDir()
		before := disktest.Find(t, file)
		err := unix.Mount(source, at, "erofs", unix.MS_RDONLY, "")
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOTBLK) {
			if err := before.Check(disk.Need{}); err != nil {
				t.Errorf("a file that is not mounted: %v", err)
			}
			loopMounted(t)
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		unmount := sync.OnceFunc(func() { unix.Unmount(at, unix.MNT_DETACH) })
		t.Cleanup(unmount)
		refused(t, disktest.Find(t, file).Check(disk.Need{}), "mounted at "+at)
		_, err = disk.Open(before)
		refused(t, err, "mounted at "+at)
		if err := os.Rename(file, file+".moved"); err != nil {
			t.Fatal(err)
		}
		refused(t, disktest.Find(t, file+".moved").Check(disk.Need{}), "mounted at "+at)
		if err := os.Rename(file+".moved", file); err != nil {
			t.Fatal(err)
		}
		if err := disktest.Find(t, twin).Check(disk.Need{}); err != nil {
			t.Errorf("another file with the same content: %v", err)
		}
		unmount()
		if err := disktest.Find(t, file).Check(disk.Need{}); err != nil {
			t.Errorf("after it was unmounted: %v", err)
		}
	}
}

// loopMounted checks that a file mounted through a loop device is refused, also after it is
// renamed.
func loopMounted(t *testing.T) {
	t.Helper()
	file := disktest.Dirty(t, loopSize)
	imagetest.Run(t, "mkfs.ext4", "-q", "-F", file)
	at := t.TempDir()
	imagetest.Run(t, "mount", "-o", "loop,ro,noload", file, at)
	t.Cleanup(func() { exec.Command("umount", at).Run() })
	refused(t, disktest.Find(t, file).Check(disk.Need{}), "the file is attached as /dev/loop")
	if err := os.Rename(file, file+".moved"); err != nil {
		t.Fatal(err)
	}
	refused(t, disktest.Find(t, file+".moved").Check(disk.Need{}), "the file is attached as /dev/loop")
}
