package factory

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imgtool/image/imagetest"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
	"imgtool/image/tree/treetest"
)

// plant makes a small root file system in a directory.
func plant(t *testing.T, root string) {
	t.Helper()
	treetest.Must(t, os.RemoveAll(root))
	for _, dir := range []string{"bin", "boot", "etc/waggle", "home/waggle", "lib/modules", "root/.ssh", "var/lib/docker", "var/log/journal"} {
		treetest.Must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	for path, text := range map[string]string{"bin/ping": "ping", "boot/initrd": "initrd", "etc/fstab": "/dev/root / ext4\n", "etc/hostname": "unit\n", "etc/machine-id": "0123\n",
		"etc/waggle/vsn": "W1\n", "home/waggle/.profile": "", "lib/modules/order": "kernel\n", "var/lib/docker/engine-id": "1", "var/log/journal/log": "log"} {
		treetest.WriteFile(t, filepath.Join(root, path), text)
		treetest.Must(t, os.Chtimes(filepath.Join(root, path), time.Unix(1, 0), time.Unix(1, 0)))
	}
	for _, name := range []string{"bin/ping4", "bin/ping6"} {
		treetest.Must(t, os.Link(filepath.Join(root, "bin/ping"), filepath.Join(root, name)))
	}
}

// changed returns another tree of what plant makes.
func changed(t *testing.T, from *tree.Tree) *tree.Tree {
	t.Helper()
	to := from.Without(func(p string) bool { return p == "etc/hostname" || p == "home/waggle" || p == "var/log/journal" })
	files := map[string]*tree.Inode{
		"etc/fstab":      {Mode: tree.Regular | 0o640, GID: 42, ModTime: 5, Content: strings.NewReader("none\n")},
		"etc/machine-id": {Mode: tree.Regular | 0o444, ModTime: 5},
		"var/lib/docker": {Mode: tree.Symlink | 0o777, ModTime: 5, Target: "/media/plugin-data/docker"},
		"boot/initrd":    {Mode: tree.Symlink | 0o777, ModTime: 5, Target: "initrd.img"},
		"lib":            {Mode: tree.Dir | 0o700, ModTime: 5},
		"lib/new/file":   {Mode: tree.Regular | 0o4755, UID: 7, GID: 8, ModTime: 5, Content: strings.NewReader("x"), Xattrs: []tree.Xattr{{Name: "user.a", Value: "\x00\xff"}}},
		"etc/waggle/vsn": {Mode: tree.Dir | 0o755, ModTime: 5},
		"root/.ssh":      {Mode: tree.Dir | 0o711, ModTime: 5},
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		treetest.Must(t, to.Put(path, files[path]))
	}
	ping := *to.Lookup("bin/ping")
	ping.Mode = tree.Regular | 0o700
	for _, path := range []string{"bin/ping", "bin/ping4", "bin/ping6"} {
		treetest.Must(t, to.Put(path, &ping))
	}
	return to
}

// withoutTimes returns a tree as text without the times of directories and the files that
// were kept.
func withoutTimes(t *testing.T, all *tree.Tree) string {
	t.Helper()
	kept := all.Without(func(p string) bool { return strings.HasSuffix(p, ".bck") })
	for p, n := range kept.All() {
		if n.Type() == tree.Dir {
			dir := *n
			dir.ModTime = 0
			treetest.Must(t, kept.Put(p, &dir))
		}
	}
	return treetest.Dump(t, kept)
}

// After an interruption at any point, making all changes again leads to the same tree.
func TestChangesCanBeMadeAgain(t *testing.T) {
	imagetest.NeedRoot(t)
	root := filepath.Join(t.TempDir(), "root")
	plant(t, root)
	from, err := hostfs.ReadLive(root, 0, nil, nil)
	treetest.Must(t, err)
	before := map[string]string{}
	for _, path := range []string{"etc/fstab", "boot/initrd", "etc/waggle/vsn"} {
		before[path] = treetest.Contents(t, from.Lookup(path))
	}
	to := changed(t, from)
	all, err := changes(from, to, []string{"/etc/fstab"}, ".1.bck")
	treetest.Must(t, err)
	if all[len(all)-1].Path != "etc/fstab" {
		t.Errorf("the last change is of %s", all[len(all)-1].Path)
	}
	want := withoutTimes(t, to)
	for i, c := range all {
		for how, interrupt := range map[string]func(at string){
			"before it": func(string) {},
			"new file half written": func(at string) {
				os.MkdirAll(filepath.Dir(at), 0o755)
				os.WriteFile(at+newSuffix, []byte("half"), 0o600)
			},
			"old file moved aside": func(at string) { os.Link(at, at+".1.bck"); os.Rename(at, at+oldSuffix) },
			"old file kept":        func(at string) { os.Link(at, at+".1.bck") },
			"directory half removed": func(at string) {
				os.Rename(at, at+oldSuffix)
				os.RemoveAll(filepath.Join(at+oldSuffix, "engine-id"))
			},
		} {
			old := from.Lookup(c.Path)
			if how == "old file moved aside" && !c.Remove && (old == nil || (old.Type() == tree.Dir) == (c.Mode&tree.TypeMask == tree.Dir)) {
				continue // a rename replaces it
			}
			if how == "directory half removed" && c.Path != "var/lib/docker" {
				continue
			}
			plant(t, root)
			r, err := openRoot(root)
			treetest.Must(t, err)
			for _, c := range all[:i] {
				treetest.Must(t, c.make(r))
			}
			interrupt(filepath.Join(root, c.Path))
			for _, c := range all {
				treetest.Must(t, c.make(r))
			}
			r.Close()
			got, err := hostfs.Read(root, true, 0)
			treetest.Must(t, err)
			if d := cmp.Diff(want, withoutTimes(t, got)); d != "" {
				t.Fatalf("%s, %s: %s", c.Path, how, d)
			}
			for path, text := range before {
				if kept := got.Lookup(path + ".1.bck"); kept == nil || treetest.Contents(t, kept) != text {
					t.Errorf("%s, %s: the old %s is not kept", c.Path, how, path)
				}
			}
		}
	}
}

// A change is not made if its directory has become a link to another one in the same root.
func TestChangeRefusesALinkInPlaceOfItsDirectory(t *testing.T) {
	imagetest.NeedRoot(t)
	dir := t.TempDir()
	treetest.Must(t, os.Mkdir(filepath.Join(dir, "other"), 0o755))
	treetest.Must(t, os.Symlink("other", filepath.Join(dir, "etc")))
	r, err := openRoot(dir)
	treetest.Must(t, err)
	defer r.Close()
	if err := newFile("etc/fstab", nil, 0o644).make(r); err == nil || !strings.Contains(err.Error(), "/etc leads to /other by a symbolic link") {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "other")); len(left) > 0 {
		t.Errorf("the other directory has %v", left)
	}
}
