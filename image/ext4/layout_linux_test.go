package ext4_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"imgtool/image"
	"imgtool/image/ext4"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
)

func digest(t testing.TB, m *image.Image) string {
	t.Helper()
	h := sha256.New()
	for c, err := range m.Chunks(image.PieceSize) {
		must(t, err)
		fmt.Fprintf(h, "%d %d\n", c.Off, len(c.Data))
		h.Write(c.Data)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func TestNewIsReproducible(t *testing.T) {
	for seed := range uint64(3) {
		a, b := build(t, randomTree(t, seed), sized(64*mib)), build(t, randomTree(t, seed), sized(64*mib))
		if digest(t, a) != digest(t, b) {
			t.Error("two builds differ")
		}
		tr, opt, err := ext4.Read(a, a.Size())
		must(t, err)
		if digest(t, build(t, tr, *opt)) != digest(t, a) {
			t.Errorf("what was read gives another file system: %+v", opt)
		}
	}
	other := sized(64 * mib)
	other.UUID[0]++
	if digest(t, build(t, nil, other)) == digest(t, build(t, nil, sized(64*mib))) {
		t.Error("another UUID makes no difference")
	}
}

func TestNewFirstIsContiguous(t *testing.T) {
	tr := tree.New(modTime)
	rng := rand.New(rand.NewPCG(3, 3))
	for i := range 200 {
		put(t, tr, fmt.Sprintf("a/%d", i), file(noise(rng, rng.IntN(300_000))))
	}
	put(t, tr, "boot/Image", tree.Inode{Mode: tree.Regular | 0o644, ModTime: modTime, Content: pattern(80 * mib)})
	put(t, tr, "boot/initrd", tree.Inode{Mode: tree.Regular | 0o644, ModTime: modTime, Content: pattern(64 * mib)})
	put(t, tr, "boot/dtb/board.dtb", tree.Inode{Mode: tree.Regular | 0o644, ModTime: modTime, Content: pattern(300_000)})
	put(t, tr, "boot/extlinux/extlinux.conf", file("LABEL x\n"))
	opt := sized(gib)
	opt.First = []string{"boot/extlinux/extlinux.conf", "/boot"}
	m := build(t, tr, opt)
	at := map[string]int64{}
	for e := range m.Extents() {
		if n := tr.Lookup(e.Name); n != nil && n.Size() > 0 {
			if _, ok := at[e.Name]; ok && strings.HasPrefix(e.Name, "boot") {
				t.Errorf("%s is in pieces", e.Name)
			}
			at[e.Name] = e.Off
			if e.Size()%4096 != 0 {
				t.Errorf("%s ends at byte %d, before its block does", e.Name, e.End())
			}
		}
	}
	order := []string{"boot/extlinux/extlinux.conf", "boot/Image", "boot/dtb/board.dtb"}
	for i := 1; i < len(order); i++ {
		if at[order[i]] < at[order[i-1]] {
			t.Errorf("%s at %d is before %s at %d", order[i], at[order[i]], order[i-1], at[order[i-1]])
		}
	}
	if at["a/0"] < at["boot/Image"] {
		t.Errorf("a/0 at %d is before the kernel at %d", at["a/0"], at["boot/Image"])
	}
	judge(t, tr, write(t, m))
}

func TestNewLargeFiles(t *testing.T) {
	tr := tree.New(modTime)
	put(t, tr, "a/huge", tree.Inode{Mode: tree.Regular | 0o644, ModTime: modTime, Content: pattern(300*gib + 1)})
	put(t, tr, "b/large", tree.Inode{Mode: tree.Regular | 0o644, ModTime: modTime, Content: pattern(5 * gib)})
	put(t, tr, "c/small", file("small"))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m := build(t, tr, sized(330*gib))
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 64*mib {
		t.Errorf("%d MiB of memory", used/mib)
	}
	path := writeMetadata(t, tr, m)
	fsck(t, path)
	stat := imagetest.Run(t, "debugfs", "-R", "stat /a/huge", path)
	if !strings.Contains(stat, "(ETB1)") {
		t.Errorf("300 GiB have one level of extent blocks:\n%.600s", stat)
	}
	got, _, err := ext4.Read(m, m.Size())
	must(t, err)
	rng := rand.New(rand.NewPCG(2, 2))
	for _, name := range []string{"a/huge", "b/large"} {
		want, have := tr.Lookup(name).Content, got.Lookup(name).Content
		if want.Size() != have.Size() {
			t.Fatalf("%s has %d bytes", name, have.Size())
		}
		for range 200 {
			a, b := make([]byte, 10_000), make([]byte, 10_000)
			off := rng.Int64N(want.Size())
			n, err1 := want.ReadAt(a, off)
			k, err2 := have.ReadAt(b, off)
			if n != k || err1 != err2 || !bytes.Equal(a, b) {
				t.Fatalf("%s differs at %d: %d %v, %d %v", name, off, n, err1, k, err2)
			}
		}
	}
}

// writeMetadata writes everything but the content of files.
func writeMetadata(t testing.TB, tr *tree.Tree, m *image.Image) string {
	var meta []image.Extent
	for e := range m.Extents() {
		if n := tr.Lookup(e.Name); n == nil || n.Type() != tree.Regular {
			meta = append(meta, e)
		}
	}
	less, err := image.New(m.Size(), meta...)
	must(t, err)
	return write(t, less)
}

func TestNewManyExtents(t *testing.T) {
	imagetest.Long(t)
	tr := tree.New(modTime)
	put(t, tr, "large", tree.Inode{Mode: tree.Regular | 0o644, ModTime: modTime, Content: pattern(700*mib + 123)})
	path := write(t, build(t, tr, sized(gib)))
	stat := imagetest.Run(t, "debugfs", "-R", "stat /large", path)
	if !strings.Contains(stat, "(ETB0)") {
		t.Errorf("700 MiB have no extent tree:\n%s", stat)
	}
	judge(t, tr, path)
}
