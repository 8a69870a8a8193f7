package disk_test

import (
	"slices"
	"testing"

	"imgtool/flash/disk"
)

// Mounts of a stick can be ended, unless something else uses it or the system may run from it.
// The machine's own disk is not known.
func TestReleasable(t *testing.T) {
	root := machine(t, "sticks")
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
