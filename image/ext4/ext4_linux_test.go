package ext4_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/image"
	"imgtool/image/ext4"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
)

func soak() bool { return os.Getenv("SOAK") == "1" }

func TestNewEmpty(t *testing.T) {
	for _, size := range []int64{mib, 8*mib - 4096, 8 * mib, 16 * mib, 64 * mib, 128*mib - 4096, 128 * mib, 129 * mib, 130 * mib, 200 * mib, 511 * mib, gib, 3 * gib, 5*gib + 77*4096} {
		judge(t, nil, write(t, build(t, nil, sized(size))))
	}
}

func TestNewHugeIsSmall(t *testing.T) {
	for _, c := range []struct {
		size     int64
		judge    bool
		mem, out uint64
	}{
		{256 * gib, true, 32 * mib, 80 * mib},
		{900 * gib, true, 64 * mib, 100 * mib},
		{tib, soak(), 64 * mib, 100 * mib},
		{16*tib - 4096, false, 1 * gib, 400 * mib},
	} {
		if c.size > tib && !soak() {
			continue
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		m := build(t, nil, sized(c.size))
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		used := after.TotalAlloc - before.TotalAlloc
		t.Logf("%d GiB: %v, %d KiB of memory, %d KiB to write", c.size/gib, took, used/kib, m.ContentSize()/kib)
		if used > c.mem || uint64(m.ContentSize()) > c.out {
			t.Errorf("that is more than %d and %d KiB", c.mem/kib, c.out/kib)
		}
		path := filepath.Join(t.TempDir(), "image")
		if f, err := os.Create(path); err != nil || f.Truncate(c.size) != nil || f.Close() != nil {
			t.Logf("this disk holds no file of %d bytes", c.size)
			continue
		}
		path = write(t, m)
		if c.judge {
			judge(t, nil, path)
			continue
		}
		imagetest.Run(t, "dumpe2fs", "-h", path)
	}
}

// everything returns a tree with all types of inodes and all attributes.
func everything(t testing.TB) *tree.Tree {
	tr := tree.New(modTime)
	dir := func(mode uint32) tree.Inode { return tree.Inode{Mode: tree.Dir | mode, ModTime: modTime} }
	put(t, tr, "", tree.Inode{Mode: tree.Dir | 0o751, UID: 3, GID: 4, ModTime: 5, Xattrs: []tree.Xattr{{Name: "user.root", Value: "r"}}})
	for name, n := range map[string]tree.Inode{
		"empty":                      file(""),
		"one":                        file("1"),
		"4095":                       file(strings.Repeat("x", 4095)),
		"4096":                       file(strings.Repeat("x", 4096)),
		"4097":                       file(strings.Repeat("x", 4097)),
		strings.Repeat("n", 255):     file("long"),
		"with\nnewline \x01\xff\xfe": file("odd"),
		"ünïcödé":                    file("utf-8"),
		"-rf *":                      file("shell"),
		"...":                        file("dots"),
		"sticky":                     dir(0o1777),
		"setgid":                     dir(0o2755),
		"setuid":                     {Mode: tree.Regular | 0o6711, ModTime: modTime},
		"fifo":                       {Mode: tree.Fifo | 0o600, ModTime: modTime},
		"socket":                     {Mode: tree.Socket | 0o700, ModTime: modTime},
		"null":                       {Mode: tree.CharDev | 0o666, Major: 1, Minor: 3, ModTime: modTime},
		"old device":                 {Mode: tree.BlockDev | 0o660, Major: 255, Minor: 255, ModTime: modTime},
		"new device":                 {Mode: tree.BlockDev | 0o660, Major: 4095, Minor: 1<<20 - 1, ModTime: modTime},
		"minor 256":                  {Mode: tree.CharDev | 0o660, Major: 4, Minor: 256, ModTime: modTime},
		"device 0,0":                 {Mode: tree.CharDev, ModTime: modTime},
		"owner":                      {Mode: tree.Regular | 0o640, UID: 65536, GID: 4294967294, ModTime: modTime},
		"owner2":                     {Mode: tree.Regular | 0o640, UID: 65535, GID: 0x12345678, ModTime: modTime},
		"long ago":                   {Mode: tree.Regular, ModTime: -1 << 31},
		"before 1970":                {Mode: tree.Regular, ModTime: -1},
		"1970":                       {Mode: tree.Regular, ModTime: 0},
		"2038":                       {Mode: tree.Regular, ModTime: 1<<31 - 1},
		"after 2038":                 {Mode: tree.Regular, ModTime: 1 << 31},
		"after 2106":                 {Mode: tree.Regular, ModTime: 1<<32 + 5},
		"2446":                       {Mode: tree.Regular, ModTime: 1<<31 - 1 + 3<<32},
	} {
		put(t, tr, "kinds/"+name, n)
	}
	for _, n := range []int{1, 59, 60, 61, 255, 4095} {
		put(t, tr, fmt.Sprintf("links/%d", n), tree.Inode{Mode: tree.Symlink | 0o777, Target: strings.Repeat("/t", n)[:n], ModTime: modTime})
	}
	one := put(t, tr, "hard/a", file("linked"))
	for _, name := range []string{"hard/b", "c", "kinds/d"} {
		must(t, tr.Put(name, one))
	}
	link := put(t, tr, "hard/link", tree.Inode{Mode: tree.Symlink | 0o777, Target: "a", ModTime: modTime})
	must(t, tr.Put("hard/link2", link))

	capability := tree.Xattr{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
	for name, x := range map[string][]tree.Xattr{
		"none":       nil,
		"empty":      {{Name: "user.a", Value: ""}},
		"capability": {capability},
		"full":       {{Name: "user.a", Value: strings.Repeat("v", 88-16-4)}},
		"not full":   {{Name: "user.a", Value: strings.Repeat("v", 88-16-3)}},
		"block":      {capability, {Name: "user.b", Value: strings.Repeat("v", 3000)}},
		"block2":     {capability, {Name: "user.b", Value: strings.Repeat("v", 3000)}},
		"order": {capability, {Name: "security.b", Value: strings.Repeat("1", 100)}, {Name: "trusted.aa", Value: strings.Repeat("2", 101)},
			{Name: "trusted.b", Value: strings.Repeat("3", 102)}, {Name: "user.aaa", Value: strings.Repeat("4", 103)}, {Name: "user.z", Value: strings.Repeat("5", 100)}},
		"largest":        {{Name: "user.x", Value: strings.Repeat("v", 4096-32-4-16-4)}},
		"name":           {{Name: "user." + strings.Repeat("n", 250), Value: "v"}},
		"empty in block": {{Name: "user." + strings.Repeat("n", 250), Value: ""}},
		"lists": {
			{Name: "system.posix_acl_access", Value: "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"}},
	} {
		n := file("x")
		n.Xattrs = x
		put(t, tr, "xattrs/"+name, n)
	}
	d := dir(0o755)
	d.Xattrs = []tree.Xattr{{Name: "user.dir", Value: "d"}}
	put(t, tr, "xattrs/directory", d)
	n := *tr.Lookup("links/4095")
	n.Xattrs = []tree.Xattr{{Name: "security.x", Value: "1"}, {Name: "trusted.y", Value: strings.Repeat("y", 500)}}
	put(t, tr, "xattrs/link", n)
	n.Target = "short"
	put(t, tr, "xattrs/short link", n)
	deep := strings.Repeat("d/", 400) + "end"
	put(t, tr, deep, file("deep"))
	return tr
}

func TestNewAllTypes(t *testing.T) {
	tr := everything(t)
	for _, size := range []int64{16 * mib, gib} {
		judge(t, tr, write(t, build(t, tr, sized(size))))
	}
}

func TestNewOnUsedDisk(t *testing.T) {
	imagetest.NeedRoot(t)
	size := int64(420*mib + 8192)
	if soak() {
		size = 2500 * mib // more groups than keep their tables together
	}
	tr := everything(t)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 300 {
		put(t, tr, fmt.Sprintf("many/%d/%d", i%7, i), file(noise(rng, rng.IntN(9000))))
	}
	// Nothing of the former content of the disk may become visible.
	hole, err := image.New(100_000, image.Extent{Off: 50_000, Content: strings.NewReader("data")})
	must(t, err)
	put(t, tr, "hole", tree.Inode{Mode: tree.Regular | 0o644, ModTime: modTime, Content: hole})

	path := writeDirty(t, build(t, tr, sized(size)))
	if out := imagetest.Run(t, "dumpe2fs", path); strings.Contains(out, "ITABLE_ZEROED") || !strings.Contains(out, "BLOCK_UNINIT") {
		t.Errorf("the kernel will not write what is left of inode tables, or every block bitmap is there:\n%s", out)
	}
	judge(t, tr, path)
	head := make([]byte, 1024)
	f, err := os.Open(path)
	must(t, err)
	_, err = f.ReadAt(head, 0)
	must(t, err)
	f.Close()
	if !bytes.Equal(head, make([]byte, 1024)) {
		t.Error("the bytes before the superblock are old: another file system may be seen there")
	}

	// The kernel initialises the rest of the inode tables and uses every group.
	dev, dir := imagetest.Loop(t, path), t.TempDir()
	imagetest.Run(t, "mount", "-t", "ext4", "-o", "init_itable=0", dev, dir)
	defer func() { exec.Command("umount", dir).Run() }()
	sums := map[string][32]byte{}
	for i := range 40 {
		for j := range 20 {
			name := filepath.Join(dir, fmt.Sprintf("group%d", i), strconv.Itoa(j))
			must(t, os.MkdirAll(filepath.Dir(name), 0o755))
			data := []byte(noise(rng, rng.IntN(100_000)))
			must(t, os.WriteFile(name, data, 0o600))
			sums[name] = sha256.Sum256(data)
		}
	}
	big := filepath.Join(dir, "big")
	f, err = os.Create(big)
	must(t, err)
	for n := int64(0); err == nil; n += mib {
		err = unix.Fallocate(int(f.Fd()), 0, n, mib)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	f.Close()
	imagetest.Run(t, "umount", dir)
	fsck(t, path)
	imagetest.Run(t, "mount", "-t", "ext4", dev, dir)
	for name, want := range sums {
		data, err := os.ReadFile(name)
		must(t, err)
		if sha256.Sum256(data) != want {
			t.Fatalf("%s is not what was written", name)
		}
	}
	must(t, os.Remove(big))
	imagetest.Run(t, "umount", dir)
	fsck(t, path)
}

func TestNewCanBeResized(t *testing.T) {
	imagetest.NeedRoot(t)
	tr := everything(t)
	want := describe(t, withLost(t, tr))
	for _, online := range []bool{true, false} {
		if online && !mayResize(t) {
			t.Log("this machine does not allow resizing a mounted file system")
			continue
		}
		path := writeDirty(t, build(t, tr, sized(40*mib)))
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		_, err = f.WriteAt(bytes.Repeat([]byte{0xaa}, 200*mib), 40*mib)
		must(t, err)
		must(t, f.Truncate(3*gib))
		f.Close()
		if online {
			dev, dir := imagetest.Loop(t, path), t.TempDir()
			imagetest.Run(t, "mount", "-t", "ext4", dev, dir)
			defer func() { exec.Command("umount", dir).Run() }()
			imagetest.Run(t, "resize2fs", dev)
			use(t, dir)
			must(t, os.RemoveAll(filepath.Join(dir, "made later")))
			got, _ := walk(t, dir)
			must(t, got.Put("", tr.Lookup("")))
			must(t, got.Put("c", tr.Lookup("c"))) // use removed it
			same(t, "grown", want, got)
			imagetest.Run(t, "umount", dir)
		} else {
			imagetest.Run(t, "e2fsck", "-f", "-n", path)
			imagetest.Run(t, "resize2fs", "-f", path)
			got, _ := read(t, path)
			same(t, "grown", want, got)
		}
		fsck(t, path)
		if got := dumped(imagetest.Run(t, "dumpe2fs", "-h", path), "Block count"); got != strconv.Itoa(3*gib/4096) {
			t.Errorf("grown, it has %s blocks", got)
		}
	}
}

// mayResize reports whether this process has CAP_SYS_RESOURCE.
func mayResize(t testing.TB) bool {
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	caps, err := strconv.ParseUint(dumped(string(status), "CapEff"), 16, 64)
	must(t, err)
	return caps>>unix.CAP_SYS_RESOURCE&1 != 0
}

func TestNewOverOldJournal(t *testing.T) {
	imagetest.NeedRoot(t)
	m := build(t, nil, sized(64*mib))
	path := write(t, m)
	dir, unmount := mount(t, path)
	use(t, dir)
	unmount()
	log := filepath.Join(t.TempDir(), "journal")
	dump := func() []byte {
		imagetest.Run(t, "debugfs", "-R", "dump <8> "+log, path)
		b, err := os.ReadFile(log)
		must(t, err)
		return b
	}
	zeros := make([]byte, 4*mib-4096)
	if bytes.Equal(dump()[4096:], zeros) {
		t.Fatal("the kernel has written nothing to the journal")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	writeTo(t, f, m, false)
	must(t, f.Close())
	if !bytes.Equal(dump()[4096:], zeros) {
		t.Error("the journal has what was there before")
	}
	fsck(t, path)
}

// randomTree returns a tree of up to some hundred inodes of all types.
func randomTree(t testing.TB, seed uint64) *tree.Tree {
	rng := rand.New(rand.NewPCG(seed, 1))
	tr := tree.New(1_600_000_000)
	dirs := []string{""}
	name := func() string {
		b := make([]byte, 1+rng.IntN(12))
		if rng.IntN(6) == 0 {
			b = make([]byte, 100+rng.IntN(156))
		}
		for i := range b {
			for b[i] == 0 || b[i] == '/' || b[i] == '.' {
				b[i] = byte(rng.Uint32())
				if rng.IntN(3) > 0 {
					b[i] = 'a' + b[i]%26
				}
			}
		}
		return string(b)
	}
	var inodes []*tree.Inode
	prefixes := []string{"user.", "trusted.", "security."}
	for range 20 + rng.IntN(500) {
		dir := dirs[rng.IntN(len(dirs))]
		path := name()
		if dir != "" {
			path = dir + "/" + path
		}
		if len(path) > 2000 || tr.Lookup(path) != nil {
			continue
		}
		n := &tree.Inode{
			Mode:    rng.Uint32() & 0o7777,
			UID:     []uint32{0, 1000, 65534, 4294967294, rng.Uint32()}[rng.IntN(5)],
			GID:     []uint32{0, 100, rng.Uint32N(50)}[rng.IntN(3)],
			ModTime: []int64{0, 1_600_000_000, int64(rng.Uint32()) - 1<<30, 4294967295}[rng.IntN(4)],
		}
		has := map[string]bool{}
		for room := 3500; rng.IntN(3) == 0; {
			x := tree.Xattr{Name: prefixes[rng.IntN(3)] + strings.Repeat("x", 1+rng.IntN(50)), Value: noise(rng, []int{0, 1, 20, 60, rng.IntN(room)}[rng.IntN(5)])}
			if room -= len(x.Name) + len(x.Value) + 24; room <= 0 {
				break
			}
			if !has[x.Name] {
				n.Xattrs = append(n.Xattrs, x)
			}
			has[x.Name] = true
		}
		sortXattrs(n.Xattrs)
		plain := func() {
			// The kernel allows no user attributes for these.
			n.Xattrs = nil
		}
		switch k := rng.IntN(20); {
		case k < 5:
			n.Mode |= tree.Dir
			dirs = append(dirs, path)
		case k < 12:
			n.Mode |= tree.Regular
			if size := []int{0, 1, 100, 4095, 4096, 4097, rng.IntN(100_000)}[rng.IntN(7)]; size > 0 {
				n.Content = strings.NewReader(noise(rng, size))
			}
		case k < 14:
			n.Mode = tree.Symlink | 0o777
			n.Target = strings.ReplaceAll(noise(rng, 1+rng.IntN([]int{30, 100, 4095}[rng.IntN(3)])), "\x00", "0")
			plain()
		case k < 15:
			n.Mode |= tree.CharDev
			n.Major, n.Minor = rng.Uint32N(1<<rng.IntN(13)), rng.Uint32N(1<<rng.IntN(21))
			plain()
		case k < 16:
			n.Mode |= tree.BlockDev
			n.Major, n.Minor = rng.Uint32N(1<<rng.IntN(13)), rng.Uint32N(1<<rng.IntN(21))
			plain()
		case k < 17:
			n.Mode |= tree.Fifo
			plain()
		case k < 18:
			n.Mode |= tree.Socket
			plain()
		default:
			if len(inodes) == 0 {
				continue
			}
			n = inodes[rng.IntN(len(inodes))]
		}
		must(t, tr.Put(path, n))
		if n.Type() != tree.Dir {
			inodes = append(inodes, n)
		}
	}
	return tr
}

func TestNewRandomTrees(t *testing.T) {
	n, first := 8, rand.Uint64()
	if soak() {
		n = 300
	}
	if s := os.Getenv("SEED"); s != "" {
		var err error
		first, err = strconv.ParseUint(s, 10, 64)
		must(t, err)
		n = 1
	}
	for i := range n {
		seed := first + uint64(i)
		t.Run(fmt.Sprintf("SEED=%d", seed), func(t *testing.T) {
			tr := randomTree(t, seed)
			rng := rand.New(rand.NewPCG(seed, 2))
			opt := options
			rng.Uint64()
			for i := range opt.HashSeed {
				opt.HashSeed[i] = byte(rng.Uint32())
			}
			opt.Size = minSize(t, tr, opt)
			opt.Size += rng.Int64N(3) * rng.Int64N(500) * mib
			judge(t, tr, write(t, build(t, tr, opt)))
		})
	}
}

// names adds n empty files, with names in the given format.
func names(t testing.TB, tr *tree.Tree, format string, n int) {
	for i := range n {
		put(t, tr, fmt.Sprintf(format, i), file(""))
	}
}

func TestNewIndexesLargeDirectories(t *testing.T) {
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

func TestNewManyExtents(t *testing.T) {
	tr := tree.New(modTime)
	put(t, tr, "large", tree.Inode{Mode: tree.Regular | 0o644, ModTime: modTime, Content: pattern(700*mib + 123)})
	path := write(t, build(t, tr, sized(gib)))
	stat := imagetest.Run(t, "debugfs", "-R", "stat /large", path)
	if !strings.Contains(stat, "(ETB0)") {
		t.Errorf("700 MiB have no extent tree:\n%s", stat)
	}
	judge(t, tr, path)
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

// features are the features that Linux 4.9, its e2fsck and CBoot support.
const features = "has_journal ext_attr resize_inode dir_index filetype extent 64bit flex_bg sparse_super large_file huge_file dir_nlink extra_isize metadata_csum"

func dumped(out, field string) string {
	m := regexp.MustCompile(`(?m)^` + field + `:\s*(.*?)\s*$`).FindStringSubmatch(out)
	if m == nil {
		return ""
	}
	return m[1]
}

func TestNewOptions(t *testing.T) {
	opt := sized(700 * mib)
	opt.Reserved, opt.JournalSize, opt.Inodes, opt.Time = 2, 8*mib, 20_000, 1<<32+7
	path := write(t, build(t, nil, opt))
	fsck(t, path)
	out := imagetest.Run(t, "dumpe2fs", path)
	for field, want := range map[string]string{
		"Filesystem volume name": "system", "Filesystem UUID": "01234567-89ab-4def-8123-456789abcdef", "Filesystem features": features,
		"Directory Hash Seed": "01020304-0506-0708-090a-0b0c0d0e0f10", "Default directory hash": "half_md4", "Filesystem flags": "unsigned_directory_hash",
		"Default mount options": "user_xattr acl", "Errors behavior": "Continue", "Filesystem state": "clean", "Total journal size": "8M",
		"Journal features": `\(none\)`, "Inode count": "20064", "Block count": "179200", "Reserved block count": "3584", "Checksum type": "crc32c",
		"Flex block group size": "16", "First inode": "11", "Inode size": "256", "Mount count": "0", "Maximum mount count": "-1",
	} {
		want = strings.ReplaceAll(want, `\`, "")
		if got := dumped(out, field); got != want {
			t.Errorf("%s is %q and not %q", field, got, want)
		}
	}
	if stat := imagetest.Run(t, "debugfs", "-R", "stat lost+found", path); !strings.Contains(stat, "Size: 16384") {
		t.Errorf("lost+found has not the 16 KiB that e2fsck wants:\n%s", stat)
	}
	data, err := os.ReadFile(path)
	must(t, err)
	for _, group := range []int{1, 3, 5} {
		at := strconv.Itoa(group * 32768)
		copied := imagetest.Run(t, "dumpe2fs", "-h", "-o", "superblock="+at, "-o", "blocksize=4096", path)
		if dumped(copied, "Filesystem UUID") != dumped(out, "Filesystem UUID") || dumped(copied, "Free blocks") != dumped(out, "Free blocks") {
			t.Errorf("the copy of the superblock at %s is not what it copies:\n%.300s", at, copied)
		}
		if nr := data[group*32768*4096+0x5a]; int(nr) != group {
			t.Errorf("the superblock in group %d says %d", group, nr)
		}
		if !bytes.Equal(data[4096:2*4096], data[group*32768*4096+4096:][:4096]) {
			t.Errorf("the group descriptors in group %d are others", group)
		}
	}
	opt.JournalSize, opt.Reserved = -1, -1
	path = write(t, build(t, nil, opt))
	fsck(t, path)
	out = imagetest.Run(t, "dumpe2fs", path)
	if got := dumped(out, "Filesystem features"); got != strings.TrimPrefix(features, "has_journal ") {
		t.Error(got)
	}
	if got := dumped(out, "Reserved block count"); got != "0" {
		t.Error(got)
	}
}

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

type broken int64

func (b broken) Size() int64                           { return int64(b) }
func (broken) ReadAt(p []byte, off int64) (int, error) { return 0, io.ErrClosedPipe }

func TestNewReadsFilesOnDemand(t *testing.T) {
	tr := tree.New(modTime)
	put(t, tr, "etc/bad", tree.Inode{Mode: tree.Regular, ModTime: modTime, Content: broken(5000)})
	m := build(t, tr, sized(16*mib))
	for _, err := range m.Chunks(image.PieceSize) {
		if err != nil {
			if !errors.Is(err, io.ErrClosedPipe) || !strings.Contains(err.Error(), "etc/bad") {
				t.Error(err)
			}
			return
		}
	}
	t.Error("no error for a file that cannot be read")
}

func TestNewErrors(t *testing.T) {
	with := func(f func(o *ext4.Options)) ext4.Options {
		o := sized(64 * mib)
		f(&o)
		return o
	}
	one := func(path string, n tree.Inode) *tree.Tree {
		tr := tree.New(modTime)
		put(t, tr, path, n)
		return tr
	}
	xattr := func(x ...tree.Xattr) *tree.Tree {
		n := file("x")
		n.Xattrs = x
		return one("a/b", n)
	}
	many := tree.New(modTime)
	names(t, many, "%d", 40_000)
	for _, c := range []struct {
		tr   *tree.Tree
		opt  ext4.Options
		want string
	}{
		{nil, with(func(o *ext4.Options) { o.Size++ }), "67108865 bytes are not a multiple"},
		{nil, with(func(o *ext4.Options) { o.Size = 0 }), "the files need"},
		{nil, with(func(o *ext4.Options) { o.Size = -4096 }), "-4096 bytes are not a multiple"},
		{nil, with(func(o *ext4.Options) { o.Size = 16 * tib }), "are not a multiple of 4096 up to 17592186040320"},
		{nil, with(func(o *ext4.Options) { o.Size = 64 * kib }), "the files need 225280 bytes and a file system of 65536 bytes has 0"},
		{nil, with(func(o *ext4.Options) { o.Label = strings.Repeat("x", 17) }), "longer than 16"},
		{nil, with(func(o *ext4.Options) { o.JournalSize = 4 * kib }), "invalid journal size for a file system of 67108864 bytes: 4096 bytes"},
		{nil, with(func(o *ext4.Options) { o.JournalSize = 60 * mib }), "the files need"},
		{nil, with(func(o *ext4.Options) { o.Inodes = 40_000 }), "40000 inodes do not fit"},
		{nil, with(func(o *ext4.Options) { o.Reserved = 51 }), "51 percent"},
		{many, with(func(o *ext4.Options) { o.Inodes = 1000 }), "the tree has 40011 files and directories, but the file system has 1008 inodes"},
		{many, with(func(o *ext4.Options) {}), "at most 32768"},
		{one("a/big", tree.Inode{Mode: tree.Regular, Content: pattern(70 * mib)}), with(func(o *ext4.Options) {}), "and a file system of 67108864 bytes has"},
		{one("a/neg", tree.Inode{Mode: tree.Regular, Content: pattern(-1)}), with(func(o *ext4.Options) {}), "a/neg: invalid file size -1"},
		{one("a/link", tree.Inode{Mode: tree.Symlink}), with(func(o *ext4.Options) {}), "a/link: "},
		{one("a/link", tree.Inode{Mode: tree.Symlink, Target: strings.Repeat("x", 4096)}), with(func(o *ext4.Options) {}), "a/link: "},
		{one("a/what", tree.Inode{Mode: 0o777}), with(func(o *ext4.Options) {}), "a/what: unknown file type 0"},
		{one("a/dev", tree.Inode{Mode: tree.CharDev, Major: 4096}), with(func(o *ext4.Options) {}), "a/dev: device 4096:0"},
		{one("lost+found", file("")), with(func(o *ext4.Options) {}), "lost+found: "},
		{xattr(tree.Xattr{Name: "user.x", Value: strings.Repeat("x", 4041)}), with(func(o *ext4.Options) {}), "a/b: extended attribute user.x of 4041 bytes does not fit"},
		{xattr(tree.Xattr{Name: "user.x", Value: strings.Repeat("x", 3000)}, tree.Xattr{Name: "user.y", Value: strings.Repeat("x", 1100)}), with(func(o *ext4.Options) {}), "a/b: extended attribute user.y"},
		{xattr(tree.Xattr{Name: "other.x"}), with(func(o *ext4.Options) {}), `a/b: extended attribute "other.x"`},
		{xattr(tree.Xattr{Name: "system.posix_acl_access", Value: "xx"}), with(func(o *ext4.Options) {}), "not an access control list"},
	} {
		_, err := ext4.New(c.tr, c.opt)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q and not %q", err, c.want)
		}
	}
	var full *ext4.FullError
	_, err := ext4.New(one("big", tree.Inode{Mode: tree.Regular, Content: pattern(70 * mib)}), sized(64*mib))
	if !errors.As(err, &full) || full.Need < 70*mib || full.Need > 80*mib || full.Free > 64*mib || full.Free < 50*mib || full.Size != 64*mib {
		t.Errorf("%+v", full)
	}
}

func TestFullErrorIsAccurate(t *testing.T) {
	many := tree.New(modTime)
	names(t, many, "d/%d", 50_000)
	for name, tr := range map[string]*tree.Tree{"nothing": nil, "everything": everything(t), "names": many} {
		size := minSize(t, tr, options)
		path := write(t, build(t, tr, sized(size)))
		fsck(t, path)
		if name == "names" {
			continue // groups have so many inodes at most
		}
		if _, err := ext4.New(tr, sized(size-2*mib)); size > 3*mib && err == nil {
			t.Errorf("%s: %d bytes would have been enough, and not only %d", name, size-2*mib, size)
		}
	}
}

// stage writes a tree to a temporary directory.
func stage(t testing.TB, tr *tree.Tree) string {
	dir := t.TempDir()
	for path, n := range tr.All() {
		full := filepath.Join(dir, path)
		switch n.Type() {
		case tree.Dir:
			must(t, os.MkdirAll(full, 0o755))
		case tree.Regular:
			data := make([]byte, n.Size())
			if n.Size() > 0 {
				_, err := n.Content.ReadAt(data, 0)
				must(t, err)
			}
			must(t, os.WriteFile(full, data, 0o644))
		case tree.Symlink:
			must(t, os.Symlink(n.Target, full))
		}
	}
	for path, n := range tr.All() {
		full := filepath.Join(dir, path)
		if n.Type() != tree.Symlink {
			must(t, os.Chmod(full, os.FileMode(n.Mode&0o777)))
		}
		ts := []unix.Timespec{{Sec: n.ModTime}, {Sec: n.ModTime}}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, full, ts, unix.AT_SYMLINK_NOFOLLOW))
	}
	return dir
}

// common returns a tree similar to that of a distribution.
func common(t testing.TB, files int) *tree.Tree {
	rng := rand.New(rand.NewPCG(4, 4))
	tr := tree.New(modTime)
	for i := range files {
		path := fmt.Sprintf("usr/%d/%d/file %d", i%10, i%200, i)
		switch i % 20 {
		case 0:
			put(t, tr, path, tree.Inode{Mode: tree.Symlink | 0o777, Target: noiseText(rng, 1+rng.IntN(80)), ModTime: modTime})
		case 1:
			put(t, tr, path, file(noise(rng, rng.IntN(200_000))))
		default:
			put(t, tr, path, file(noise(rng, rng.IntN(10_000))))
		}
	}
	return tr
}

func noiseText(rng *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte(rng.IntN(26))
	}
	return string(b)
}

func mke2fs(t testing.TB, dir, path string, size int64) {
	imagetest.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-O", "^orphan_file,^metadata_csum_seed", "-E", "root_owner=0:0", "-d", dir, path, strconv.FormatInt(size/1024, 10)+"k")
}

func TestNewMatchesMke2fs(t *testing.T) {
	tr := common(t, 3000)
	dir := stage(t, tr)
	for _, size := range []int64{128 * mib, 600 * mib, 5 * gib} {
		theirs := filepath.Join(t.TempDir(), "mke2fs")
		mke2fs(t, dir, theirs, size)
		ours := write(t, build(t, tr, sized(size)))
		fsck(t, ours)
		a, _ := read(t, theirs)
		b, _ := read(t, ours)
		for _, path := range []string{"", "lost+found"} { // whose times are the clock's
			must(t, a.Put(path, b.Lookup(path)))
		}
		same(t, "mke2fs", describe(t, b), a)

		dump := map[string]string{}
		for _, path := range []string{ours, theirs} {
			dump[path] = imagetest.Run(t, "dumpe2fs", "-h", path)
		}
		for _, field := range []string{"Filesystem features", "Inode count", "Block count", "Reserved block count", "Overhead clusters", "Group descriptor size",
			"Reserved GDT blocks", "Inodes per group", "Flex block group size", "Free inodes", "Default mount options", "Total journal size", "Required extra isize"} {
			if o, m := dumped(dump[ours], field), dumped(dump[theirs], field); o != m {
				t.Errorf("%s is %s, and mke2fs has %s", field, o, m)
			}
		}
		used := func(path string) float64 {
			out := dump[path]
			all, _ := strconv.Atoi(dumped(out, "Block count"))
			free, _ := strconv.Atoi(dumped(out, "Free blocks"))
			return float64(all - free)
		}
		o, m := used(ours), used(theirs)
		t.Logf("%d MiB: %.0f blocks used, mke2fs %.0f: %.3f", size/mib, o, m, o/m)
		if o > 1.1*m {
			t.Error("that is more than 1.1")
		}
	}
}

func BenchmarkNew(b *testing.B) {
	tr := common(b, 20_000)
	for b.Loop() {
		build(b, tr, sized(4*gib))
	}
}

func BenchmarkWrite(b *testing.B) {
	tr, err := hostfs.Read(stage(b, common(b, 20_000)), true, 0)
	must(b, err)
	for b.Loop() {
		os.Remove(write(b, build(b, tr, sized(4*gib))))
	}
}

func BenchmarkMke2fs(b *testing.B) {
	dir := stage(b, common(b, 20_000))
	path := filepath.Join(b.TempDir(), "image")
	for b.Loop() {
		mke2fs(b, dir, path, 4*gib)
		os.Remove(path)
	}
}
