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
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/image"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
	"imgtool/image/tree/treetest"
)

func soak() bool { return os.Getenv("SOAK") == "1" }

func TestNewEmpty(t *testing.T) {
	imagetest.Long(t)
	for _, size := range []int64{mib, 8*mib - 4096, 8 * mib, 16 * mib, 64 * mib, 128*mib - 4096, 128 * mib, 129 * mib, 130 * mib, 200 * mib, 511 * mib, gib, 3 * gib, 5*gib + 77*4096} {
		judge(t, nil, write(t, build(t, nil, sized(size))))
	}
}

func TestNewHugeIsSmall(t *testing.T) {
	imagetest.Long(t)
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
	imagetest.Long(t)
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
			got, _ := treetest.Walk(t, dir)
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
	imagetest.Long(t)
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
