package disk_test

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/flash/disk"
	"imgtool/flash/disk/disktest"
	"imgtool/image/imagetest"
)

// Mounts of a stick can be ended, unless something else uses it or the system may run from it.
// The machine's own disk is not known.
func TestReleasable(t *testing.T) {
	root := disktest.Machine(t, "testdata/machines/sticks.txt")
	for path, want := range map[string][]string{
		"/dev/sda": {"/media/user/BOOT", "/media/user/my data"},
		"/dev/sdb": nil, // parts of it are mounted
		"/dev/sdc": nil, // it has a swap file
	} {
		d, err := disk.Find(root, path)
		if err != nil {
			t.Fatal(err)
		}
		if d.System != (want == nil) || d.Releasable() != (want != nil) || !slices.Equal(d.MountPoints(), want) {
			t.Errorf("%s: system %v, releasable %v, mounted at %q, want %q", path, d.System, d.Releasable(), d.MountPoints(), want)
		}
		if d.Check(disk.Need{}) == nil {
			t.Errorf("%s: a mounted disk is accepted", path)
		}
		if err := d.Check(disk.Need{Unmount: true, SectorSize: 512}); (err == nil) != (want != nil) {
			t.Errorf("%s: %v", path, err)
		}
		if want == nil && d.Unmount(t.Context()) == nil {
			t.Errorf("%s: unmounted", path)
		}
	}
}

// Only what is found is unmounted: not a file system of another disk at the same mount point,
// and nothing of another disk that has the name now.
func TestUnmount(t *testing.T) {
	imagetest.Long(t)
	fs := func() string {
		file := disktest.Dirty(t, loopSize)
		imagetest.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", file)
		return imagetest.Loop(t, file)
	}
	one, other := fs(), fs()
	at := t.TempDir()
	mount := func(path string) *disk.Disk {
		t.Helper()
		imagetest.Run(t, "mount", path, at)
		t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
		d, err := disk.Find("/", path)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	below := mount(one)
	above := mount(other)
	if err := below.Unmount(t.Context()); err == nil || !strings.Contains(err.Error(), "another file system is mounted over it at "+at) {
		t.Error(err)
	}
	if now, err := above.Again(); err != nil || len(now.Mounts) != 1 {
		t.Fatalf("%v, %v: another disk was unmounted", now, err)
	}
	for _, d := range []*disk.Disk{above, below} {
		if err := d.Unmount(t.Context()); err != nil {
			t.Error(err)
		}
		if now, err := d.Again(); err != nil || len(now.InUse) > 0 {
			t.Errorf("%v, %v", now, err)
		}
	}

	replaced := *mount(one)
	replaced.Diskseq++
	if err := replaced.Unmount(t.Context()); err == nil || !strings.Contains(err.Error(), "another disk has its name") {
		t.Error(err)
	}
	if now, err := below.Again(); err != nil || len(now.Mounts) != 1 {
		t.Errorf("%v, %v: another disk was unmounted", now, err)
	}
}
