package ext4_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/image/ext4"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
)

// names adds n empty files, with names in the given format.
func names(t testing.TB, tr *tree.Tree, format string, n int) {
	for i := range n {
		put(t, tr, fmt.Sprintf(format, i), file(""))
	}
}

func TestNewIndexesLargeDirectories(t *testing.T) {
	imagetest.Long(t)
	n := 20_000
	if soak() {
		n = 100_000
	}
	tr := tree.New(modTime)
	names(t, tr, "short/%d", n)
	names(t, tr, "long/%d"+strings.Repeat("x", 200), n/2)
	names(t, tr, "bytes above 127/\xff%d\x80\xe4", 1000)
	for i := range 20 {
		names(t, tr, fmt.Sprintf("some%d", i)+"/a file %d", 100+20*i)
	}
	opt := options
	opt.Size = minSize(t, tr, opt)
	opt.Size += 20 * mib
	path := write(t, build(t, tr, opt))
	judge(t, tr, path)
	htree := imagetest.Run(t, "debugfs", "-R", "htree_dump /long", path)
	if !strings.Contains(htree, "Indirect levels: 1") {
		t.Errorf("a directory of %d long names has no second level:\n%.300s", n/2, htree)
	}
}

func TestNewHashCollisionAcrossLeaves(t *testing.T) {
	// A leaf has 15 names of 250 bytes.
	name := func(i int) string { return fmt.Sprintf("%0250d", i) }
	seen := map[uint32]int{}
	var a, b int
	for i := 1; ; i++ {
		h := ext4.Hash(name(i), options.HashSeed)
		if other, ok := seen[h]; ok {
			a, b = other, i
			break
		}
		seen[h] = i
	}
	tr := tree.New(modTime)
	below, above := 0, 0
	hash := ext4.Hash(name(a), options.HashSeed)
	for h, i := range seen {
		switch {
		case h < hash && below < 14:
			below++
		case h > hash && above < 40:
			above++
		case h == hash:
		default:
			continue
		}
		put(t, tr, "d/"+name(i), file(""))
	}
	put(t, tr, "d/"+name(b), file(""))
	path := write(t, build(t, tr, sized(16*mib)))
	htree := imagetest.Run(t, "debugfs", "-R", "htree_dump /d", path)
	if !strings.Contains(htree, fmt.Sprintf("Entry #1: Hash 0x%08x", hash|1)) {
		t.Errorf("no leaf begins with the hash %#x of another:\n%.600s", hash, htree)
	}
	judge(t, tr, path)
}

func TestNewMoreSubdirectoriesThanLinks(t *testing.T) {
	imagetest.Long(t)
	tr := tree.New(modTime)
	n := 65_100
	for i := range n {
		put(t, tr, fmt.Sprintf("d/%d", i), tree.Inode{Mode: tree.Dir | 0o755, ModTime: modTime})
	}
	for i := range 64_998 {
		put(t, tr, fmt.Sprintf("e/%d", i), tree.Inode{Mode: tree.Dir | 0o755, ModTime: modTime})
		if !soak() && i == 100 {
			break
		}
	}
	opt := options
	opt.Size = minSize(t, tr, opt)
	path := write(t, build(t, tr, opt))
	fsck(t, path)
	if os.Geteuid() == 0 {
		dir, unmount := mount(t, path)
		for name, want := range links(tr) {
			if name != "d" && name != "e" && name != "d/65099" {
				continue
			}
			var st unix.Stat_t
			must(t, unix.Stat(filepath.Join(dir, name), &st))
			if uint64(st.Nlink) != want {
				t.Errorf("%s has %d links and not %d", name, st.Nlink, want)
			}
		}
		unmount()
	}

	one := file("x")
	tr = tree.New(modTime)
	for i := range 65_000 {
		must(t, tr.Put(strconv.Itoa(i), &one))
	}
	path = write(t, build(t, tr, sized(64*mib)))
	fsck(t, path)
	must(t, tr.Put("one more", &one))
	if _, err := ext4.New(tr, sized(64*mib)); err == nil || !strings.Contains(err.Error(), "65000 names") {
		t.Error(err)
	}
}
