package disk_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/flash/disk"
	"imgtool/image/imagetest"
)

// holding runs a program that does something with a path and keeps at it to the end of
// the test. The script prints a line when it has it.
func holding(t *testing.T, path, script string) {
	t.Helper()
	cmd := exec.Command(imagetest.Need(t, "python3"), "-c", script, path)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); io.Copy(io.Discard, out); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q: %v", line, err)
	}
}

const hold = "\nprint('ready', flush=True); sys.stdin.read()"

var holders = []struct {
	name, script string
	want         string // what is said of it, nothing if it does no harm
}{
	{"open for writing", "import os,sys; f = os.open(sys.argv[1], os.O_RDWR)" + hold, "python3 (process "},
	{"open for writing alone", "import os,sys; f = os.open(sys.argv[1], os.O_WRONLY)" + hold, "has it open for writing"},
	{"a read lock of a range, as QEMU has", `import os,sys,fcntl,struct; f = os.open(sys.argv[1], os.O_RDONLY)
fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 201, 1, 0))` + hold, "has locked a part of it"},
	{"a POSIX lock", "import os,sys,fcntl; f = os.open(sys.argv[1], os.O_RDONLY); fcntl.lockf(f, fcntl.LOCK_SH, 1, 100)" + hold, "has locked a part of it"},
	{"open for reading", "import os,sys; f = os.open(sys.argv[1], os.O_RDONLY)" + hold, ""},
	{"mapped for reading", "import os,sys,mmap; f = os.open(sys.argv[1], os.O_RDONLY); m = mmap.mmap(f, 4096, prot=mmap.PROT_READ)" + hold, ""},
	{"named and not open", "import os,sys; f = os.open(sys.argv[1], 0o10000000)" + hold, ""},
}

// mapping keeps no descriptor of the file.
const mapping = `import ctypes,os,sys; f = os.open(sys.argv[1], os.O_RDWR); c = ctypes.CDLL(None)
c.mmap.restype = ctypes.c_void_p; assert c.mmap(None, ctypes.c_size_t(4096), 3, 1, f, ctypes.c_long(0)) != 2**64-1; os.close(f)` + hold

// What another program has open for writing is refused when it is looked at, and when it
// is opened after it was looked at before.
func TestWhatOthersWriteToIsRefused(t *testing.T) {
	for _, kind := range []string{"file", "disk", "partition", "file of the disk"} {
		cases := holders
		if kind == "file" {
			cases = append(cases[:len(cases):len(cases)], struct{ name, script, want string }{"mapped for writing", mapping, "has mapped it for writing"})
		}
		for _, c := range cases {
			t.Run(kind+" "+c.name, func(t *testing.T) {
				file := dirty(t, loopSize)
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
				before := find(t, path)
				holding(t, held, c.script)
				for _, d := range []*disk.Disk{before, find(t, path)} {
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
				if err := find(t, path).Check(disk.Need{}); (err == nil) != (c.want == "") {
					t.Errorf("when looked at: %v", err)
				}
			})
		}
	}
}

// A lock that no process of this namespace has is found through the descriptor itself.
func TestAPartThatIsLockedIsRefused(t *testing.T) {
	file := dirty(t, mib)
	for _, path := range []string{file, imagetest.Loop(t, dirty(t, mib))} {
		found := find(t, path)
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

// A file is attached and written through another mount namespace, where its path is
// another one, or has no path any more: sysfs names what does not exist here.
func TestAFileAttachedUnderAnotherPathIsRefused(t *testing.T) {
	file := dirty(t, mib)
	there := t.TempDir()
	imagetest.Run(t, "unshare", "--mount", "sh", "-c", fmt.Sprintf(`
		mount --bind %q %q && mkdir -p %[2]q/x; losetup --find --show %[2]q/%[3]s > %[1]q/dev`, filepath.Dir(file), there, filepath.Base(file)))
	dev := string(contents(t, filepath.Join(filepath.Dir(file), "dev")))
	dev = dev[:len(dev)-1]
	t.Cleanup(func() { exec.Command("losetup", "--detach", dev).Run() })
	if at := imagetest.Run(t, "losetup", "--noheadings", "--output", "BACK-FILE", dev); len(at) == 0 {
		t.Fatal("it is not attached")
	}
	refused(t, find(t, file).Check(disk.Need{}), "attached as "+dev)

	// Under a name that was given to another file since.
	other := dirty(t, mib)
	loop := imagetest.Loop(t, other)
	moved := other + ".moved"
	if err := os.Rename(other, moved); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, make([]byte, mib), 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, find(t, moved).Check(disk.Need{}), "attached as "+loop)
	if err := find(t, other).Check(disk.Need{}); err != nil {
		t.Errorf("a file of the name another one had: %v", err)
	}
	open(t, find(t, other))
}

// A file that is another one by the time it is opened stays as it is.
func TestAFileThatIsAnotherByNowIsRefused(t *testing.T) {
	for name, swap := range map[string]func(file, other string) error{
		"renamed over it": func(file, other string) error { return os.Rename(other, file) },
		"a link":          func(file, other string) error { os.Remove(file); return os.Symlink(other, file) },
		"a named pipe":    func(file, _ string) error { os.Remove(file); return unix.Mkfifo(file, 0o600) },
		"grown":           func(file, _ string) error { return os.Truncate(file, 2*mib) },
	} {
		file, other := dirty(t, mib), dirty(t, mib)
		found := find(t, file)
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

func TestAFileThatLosesItsNameIsSaid(t *testing.T) {
	for name, lose := range map[string]func(file string) error{
		"removed": os.Remove,
		"renamed": func(file string) error { return os.Rename(file, file+"2") },
		"replaced": func(file string) error {
			return errors.Join(os.WriteFile(file+"2", make([]byte, mib), 0o644), os.Rename(file+"2", file))
		},
	} {
		file := dirty(t, mib)
		target := open(t, find(t, file))
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

// emptyEROFS is a file system of the kind that the kernel mounts from a file without a
// loop device: a superblock, and a root directory with nothing in it.
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

// A file that is mounted itself is refused by whatever name it has: of its own, since it was
// renamed, or as a name that means something in another directory only.
func TestAMountedFileIsRefused(t *testing.T) {
	imagetest.NeedRoot(t)
	file := emptyEROFS(t, mib)
	twin := file + ".twin"
	if err := os.WriteFile(twin, contents(t, file), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{file, filepath.Base(file)} {
		at := t.TempDir()
		before := find(t, file)
		t.Chdir(filepath.Dir(file))
		err := unix.Mount(source, at, "erofs", unix.MS_RDONLY, "")
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOTBLK) {
			t.Skipf("this kernel mounts no files: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		unmounted := false
		defer func() {
			if !unmounted {
				unix.Unmount(at, unix.MNT_DETACH)
			}
		}()
		refused(t, find(t, file).Check(disk.Need{}), "mounted at "+at)
		_, err = disk.Open(before)
		refused(t, err, "mounted at "+at)
		if err := os.Rename(file, file+".moved"); err != nil {
			t.Fatal(err)
		}
		refused(t, find(t, file+".moved").Check(disk.Need{}), "mounted at "+at)
		if err := os.Rename(file+".moved", file); err != nil {
			t.Fatal(err)
		}
		if err := find(t, twin).Check(disk.Need{}); err != nil {
			t.Errorf("another file of the same content: %v", err)
		}
		if err := unix.Unmount(at, 0); err != nil {
			t.Fatal(err)
		}
		unmounted = true
		if err := find(t, file).Check(disk.Need{}); err != nil {
			t.Errorf("after it was unmounted: %v", err)
		}
	}
}
