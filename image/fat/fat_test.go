package fat_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/filesystem/fat16"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/google/go-cmp/cmp"

	"imgtool/image"
	"imgtool/image/fat"
	"imgtool/image/imagetest"
)

const (
	MiB = 1 << 20
	GiB = 1 << 30
)

// soak asks for the whole matrix. Read late, or go test would not see the variable.
func soak() bool { return os.Getenv("SOAK") != "" }

var options = fat.Options{Label: "boot-a", Serial: 0x1234abcd, Time: 1700000001}

func seeded(n uint64) *rand.Rand { return rand.New(rand.NewPCG(1, n)) }

func content(rng *rand.Rand, n int) image.Content {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return bytes.NewReader(b)
}

// sets are the files the file systems are tried with.
var sets = []struct {
	name  string
	files func(rng *rand.Rand) []fat.File
}{
	{"empty", func(rng *rand.Rand) []fat.File { return nil }},
	{"one file", func(rng *rand.Rand) []fat.File {
		return []fat.File{{Path: "Image", Content: content(rng, 1+rng.IntN(3*MiB))}}
	}},
	{"Rock64", func(rng *rand.Rand) []fat.File {
		return []fat.File{
			{"Image", content(rng, 2*MiB+13)},
			{"initrd", content(rng, MiB)},
			{"dtbs/rockchip/rk3328-rock64.dtb", content(rng, 50000)},
			{"boot.scr", content(rng, 2048)},
		}
	}},
	{"hundreds of files", func(rng *rand.Rand) []fat.File {
		var files []fat.File
		for i := range 500 {
			path := fmt.Sprintf("overlays/rockchip-%d.dtbo", i)
			if i%10 == 0 {
				path = fmt.Sprintf("R%d.BIN", i)
			}
			files = append(files, fat.File{path, content(rng, rng.IntN(6000)*(i%3))})
		}
		return files
	}},
	{"deep directories", func(rng *rand.Rand) []fat.File {
		var files []fat.File
		for i := range 40 {
			files = append(files, fat.File{strings.Repeat("subdir/", i) + "x", content(rng, i*100)})
			files = append(files, fat.File{strings.Repeat("D/", i) + "Y", content(rng, i)})
		}
		return files
	}},
	{"odd names", func(rng *rand.Rand) []fat.File {
		var files []fat.File
		for i, name := range []string{
			"日本語のファイル.txt", "Grüße/ÄÖÜ.txt", "Grüße/äöü2.txt", ".config", "a b c", "two.dots.txt",
			"UPPER.TXT", "lower.txt", "Mixed.Txt", "exactly-thirteen"[:13], "exactly-26-characters-long-"[:26],
			strings.Repeat("n", 255), strings.Repeat("ü", 127),
			"LONGNA~1.TXT", "longname one.txt", "longname two.txt", "longnames.text", "x+y,z;[1]=2", "  leading", "~1", "_", "é",
			"A2345678.901", "A2345678.9012", "#!$%&'().{}~", "no.ext.", "%41", "SP ACE.TXT", "SPACE.TXT",
		} {
			if !strings.HasSuffix(name, ".") {
				files = append(files, fat.File{name, content(rng, i*37)})
			}
		}
		for i := range 120 {
			files = append(files, fat.File{fmt.Sprintf("many/same beginning %d.ext", i), content(rng, 10)})
		}
		return files
	}},
	{"a large root", func(rng *rand.Rand) []fat.File {
		var files []fat.File
		for i := range 170 {
			files = append(files, fat.File{fmt.Sprintf("root file %d", i), content(rng, 3000)})
		}
		return files
	}},
}

// write puts m into a sparse file that holds dirt of 0xAA where m has its
// tables and its first clusters.
func write(t testing.TB, m *image.Image, dirty bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fat.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(m.Size()); err != nil {
		t.Fatal(err)
	}
	if dirty {
		var n int64
		for e := range m.Extents() {
			n = min(m.Size(), e.End()+256*1024)
		}
		if _, err := f.Write(bytes.Repeat([]byte{0xaa}, int(n))); err != nil {
			t.Fatal(err)
		}
		tail := min(m.Size()-n, 256*1024)
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xaa}, int(tail)), m.Size()-tail); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := image.Write(context.Background(), f, m.Chunks(image.PieceSize), nil); err != nil {
		t.Fatal(err)
	}
	return path
}

var summary = regexp.MustCompile(`: (\d+) files, (\d+)/(\d+) clusters`)

// fsck fails the test unless fsck.fat has nothing at all to say, and returns
// the clusters in use and those there are.
func fsck(t testing.TB, path string) (used, all int64) {
	t.Helper()
	out := imagetest.Run(t, "fsck.fat", "-n", path)
	if n := strings.Count(strings.TrimSpace(out), "\n"); n != 1 {
		t.Fatalf("fsck.fat has something to say:\n%s", out)
	}
	var files int
	if _, err := fmt.Sscanf(strings.Join(summary.FindStringSubmatch(out)[1:], " "), "%d %d %d", &files, &used, &all); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return used, all
}

func bytesOf(t testing.TB, c image.Content) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// filesOf returns the files of all directories.
func filesOf(f *fat.FS) (files []fat.File, err error) {
	all, err := f.Entries()
	for _, e := range all {
		if !e.Dir {
			files = append(files, e.File)
		}
	}
	return files, err
}

func contents(t testing.TB, files []fat.File) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, f := range files {
		m[f.Path] = string(bytesOf(t, f.Content))
	}
	return m
}

// same fails the test unless both have the same files. It does not print them.
func same(t testing.TB, who string, want, got map[string]string) {
	t.Helper()
	for path, b := range want {
		if other, ok := got[path]; !ok {
			t.Fatalf("%s does not find %q", who, path)
		} else if other != b {
			t.Fatalf("%s reads %q differently: %d bytes, want %d", who, path, len(other), len(b))
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s finds %d files, want %d", who, len(got), len(want))
	}
}

// extracted is what mcopy gets out of a file system.
func extracted(t testing.TB, path string) map[string]string {
	t.Helper()
	t.Setenv("LC_ALL", "C.UTF-8")
	t.Setenv("MTOOLS_SKIP_CHECK", "")
	dir := filepath.Join(t.TempDir(), "out")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "mcopy", "-s", "-n", "-i", path, "::*", dir)
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d iofs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		m[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func open(t testing.TB, r io.ReaderAt) *fat.FS {
	t.Helper()
	f, err := fat.Open(r)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Sizes at which something changes, or that other libraries get wrong.
var edges = []int64{
	8 * MiB, 8*MiB + 512, 8404992 - 512, 8404992, 16 * MiB, 16*MiB + 512, 32*MiB - 512, 32 * MiB, 33 * MiB, 64 * MiB, 128 * MiB,
	128*MiB + 219*1024, 128*MiB + 256*1024, 129 * MiB, 256 * MiB, 256*MiB + 512, 504 * MiB, 504*MiB + 512, 505 * MiB, 512*MiB - 512, 512 * MiB, 512*MiB + 512,
	520 * MiB, 1008 * MiB, 1008*MiB + 512, 1 * GiB, 2016 * MiB, 2016*MiB + 512, 2 * GiB, 4032 * MiB, 4032*MiB + 512, 4*GiB - 512, 4 * GiB,
}

func sampleSizes(rng *rand.Rand, n int) []int64 {
	sizes := slices.Clone(edges)
	for range n {
		// As many small ones as large ones.
		low := int64(8*MiB) << rng.IntN(9)
		sizes = append(sizes, (low+rng.Int64N(low))/512*512)
	}
	return sizes
}

func TestOthersReadWhatIsWritten(t *testing.T) {
	imagetest.Long(t)
	rng := seeded(2)
	sizes, each := sampleSizes(rng, 6), 1
	if soak() {
		sizes, each = sampleSizes(rng, 100), len(sets)
	}
	n := 0
	for _, size := range sizes {
		for range each {
			set := sets[n%len(sets)]
			n++
			t.Run(fmt.Sprintf("%d bytes with %s", size, set.name), func(t *testing.T) {
				files := set.files(rng)
				m, err := fat.New(size, options, files)
				if err != nil {
					t.Fatal(err)
				}
				path := write(t, m, n%3 != 0)
				fsck(t, path)
				want := contents(t, files)
				if len(files) > 0 { // mcopy counts nothing to copy as a failure
					same(t, "mcopy", want, extracted(t, path))
				}

				disk, err := os.Open(path)
				if err != nil {
					t.Fatal(err)
				}
				defer disk.Close()
				f := open(t, disk)
				got, err := filesOf(f)
				if err != nil {
					t.Fatal(err)
				}
				same(t, "our reader", want, contents(t, got))
				kind := 16
				if size > 512*MiB {
					kind = 32
				}
				if f.Label != "BOOT-A" || f.Serial != options.Serial || f.Kind != kind || f.Size > size || f.Size < size-62*512 {
					t.Errorf("label %q, serial %x, FAT%d of %d bytes", f.Label, f.Serial, f.Kind, f.Size)
				}
			})
		}
	}
}

func TestGeometryIsThatOfMkfs(t *testing.T) {
	n := 12
	if soak() {
		n = 1000
	}
	for _, size := range append(sampleSizes(seeded(3), n), 9*GiB, 20*GiB, 40*GiB) {
		if size < 8404992 {
			continue // mkfs.vfat makes FAT12 here
		}
		path := filepath.Join(t.TempDir(), "mkfs.img")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		args := []string{"-n", "BOOT-A", "-i", "1234abcd", path}
		if size == 512*MiB {
			// FAT32 by itself: the only size where we do otherwise.
			args = append(args, "-F", "16")
		}
		imagetest.Run(t, "mkfs.vfat", args...)
		want, got := make([]byte, 8*512), make([]byte, 8*512)
		disk, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		io.ReadFull(disk, want)
		disk.Close()
		os.Remove(path)
		m, err := fat.New(size, options, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		end := 62
		if want[22] == 0 && want[23] == 0 {
			end = 90
			// The counts of free clusters, but not the hint where to look first.
			if diff := cmp.Diff(want[512:512+492], got[512:512+492]); diff != "" {
				t.Errorf("%d bytes: FSInfo (-mkfs.vfat +ours):\n%s", size, diff)
			}
			if !bytes.Equal(got[6*512:8*512], got[:2*512]) {
				t.Errorf("%d bytes: the backup boot sector differs", size)
			}
		}
		if diff := cmp.Diff(want[11:end], got[11:end]); diff != "" {
			t.Errorf("%d bytes: boot sector from byte 11 (-mkfs.vfat +ours):\n%s", size, diff)
		}
	}
}

// The FAT of the Rock64's boot partition, by number.
func TestGeometryOfTheRock64(t *testing.T) {
	m, err := fat.New(128*MiB, options, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 512)
	if _, err := m.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	got := []int{
		int(le.Uint16(b[11:])), int(b[13]), int(le.Uint16(b[14:])), int(b[16]), int(le.Uint16(b[17:])), int(le.Uint16(b[19:])),
		int(b[21]), int(le.Uint16(b[22:])), int(le.Uint16(b[24:])), int(le.Uint16(b[26:])), int(le.Uint32(b[28:])), int(le.Uint32(b[32:])),
	}
	want := []int{512, 4, 4, 2, 512, 0, 0xf8, 256, 32, 8, 0, 262144}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestOthersSeeLabelAndSerial(t *testing.T) {
	for _, size := range []int64{16 * MiB, 600 * MiB} {
		m, err := fat.New(size, options, nil)
		if err != nil {
			t.Fatal(err)
		}
		path := write(t, m, true)
		out := imagetest.Run(t, "blkid", "-p", "-o", "export", path)
		for _, want := range []string{"LABEL=BOOT-A\n", "UUID=1234-ABCD\n", "TYPE=vfat\n", fmt.Sprintf("VERSION=FAT%d\n", open(t, m).Kind)} {
			if !strings.Contains(out, want) {
				t.Errorf("blkid does not say %q:\n%s", want, out)
			}
		}
		if out := imagetest.Run(t, "mlabel", "-s", "-i", path, "::"); !strings.Contains(out, "BOOT-A") {
			t.Errorf("mlabel says %q", out)
		}
		out = imagetest.Run(t, "file", "-b", path)
		for _, want := range []string{"serial number 0x1234abcd", `"BOOT-A     "`} {
			if !strings.Contains(out, want) {
				t.Errorf("file does not say %q:\n%s", want, out)
			}
		}
	}
}

func TestNoLabel(t *testing.T) {
	m, err := fat.New(16*MiB, fat.Options{}, []fat.File{{Path: "nothing"}})
	if err != nil {
		t.Fatal(err)
	}
	path := write(t, m, true)
	fsck(t, path)
	if out := imagetest.Run(t, "blkid", "-p", "-o", "export", path); strings.Contains(out, "LABEL") {
		t.Errorf("blkid finds a label:\n%s", out)
	}
	if f := open(t, m); f.Label != "" {
		t.Errorf("label %q", f.Label)
	}
}

func TestTimes(t *testing.T) {
	for want, seconds := range map[string]int64{
		"1980-01-01   0:00": -1,
		"2023-11-14  22:13": 1700000001,
		"2107-12-31  23:59": 1 << 40,
	} {
		m, err := fat.New(8*MiB, fat.Options{Time: seconds}, []fat.File{{Path: "SUBDIR/X"}})
		if err != nil {
			t.Fatal(err)
		}
		out := imagetest.Run(t, "mdir", "-/", "-i", write(t, m, false), "::")
		if n := strings.Count(out, want); n != 4 { // SUBDIR, . and .., X
			t.Errorf("mdir shows %q %d times:\n%s", want, n, out)
		}
		for e := range m.Extents() { // an odd second is only in the time of creation
			if odd := bytesOf(t, e.Content); e.Name == "SUBDIR" && odd[13] != byte(max(0, seconds)%2*100) && seconds < 1<<32 {
				t.Errorf("%d hundredths at %d", odd[13], seconds)
			}
		}
	}
}

// F1: at no size may there be more clusters than the tables or the volume have
// room for; F2: nor may a cluster be lost.
func TestEverySizeIsClean(t *testing.T) {
	var sizes []int64
	step := int64(37)
	if soak() {
		step = 1
	}
	for mib := int64(8); mib <= 600; mib += step {
		sizes = append(sizes, mib*MiB, mib*MiB+512*(mib%64))
	}
	for _, size := range sizes {
		files := []fat.File{{Path: "a/b", Content: strings.NewReader("b")}, {Path: "empty", Content: strings.NewReader("")}}
		m, err := fat.New(size, options, files)
		if err != nil {
			t.Fatal(err)
		}
		want := int64(2)
		if open(t, m).Kind == 32 {
			want++ // the root
		}
		// F4: the empty file has none.
		if used, _ := fsck(t, write(t, m, false)); used != want {
			t.Errorf("%d bytes: %d clusters in use, want %d", size, used, want)
		}
	}
}

// The parent of a directory in the root directory is cluster 0, also in FAT32.
func TestParents(t *testing.T) {
	for _, size := range []int64{16 * MiB, 600 * MiB} {
		m, err := fat.New(size, options, []fat.File{{Path: "A/B/C/X"}})
		if err != nil {
			t.Fatal(err)
		}
		at := map[string][]byte{}
		for e := range m.Extents() {
			at[e.Name] = bytesOf(t, e.Content)
		}
		cluster := func(b []byte) uint16 { return binary.LittleEndian.Uint16(b[26:]) }
		for _, c := range []struct{ dir, parent string }{{"A", ""}, {"A/B", "A"}, {"A/B/C", "A/B"}} {
			want := uint16(0)
			if c.parent != "" {
				want = cluster(at[c.parent])
			}
			if b := at[c.dir][32:]; !strings.HasPrefix(string(b), "..  ") || cluster(b) != want {
				t.Errorf("%d bytes: the parent of %s is %q in cluster %d, want %d", size, c.dir, b[:11], cluster(b), want)
			}
		}
	}
}

// Tables and directories are content to their end, so that nothing is left of what
// a disk held in their place.
func TestTablesAndDirectoriesAreContent(t *testing.T) {
	m, err := fat.New(300*MiB, options, []fat.File{{"D/x", strings.NewReader("x")}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for e := range m.Extents() {
		got = append(got, fmt.Sprintf("%s %d %d", e.Name, e.Off, e.Size()))
	}
	// 16 reserved sectors, two tables of 160, 512 entries; a cluster of 16.
	want := []string{"fat 0 188416", "D 188416 8192", "D/x 196608 1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

type unreadable int64

func (u unreadable) Size() int64 { return int64(u) }
func (u unreadable) ReadAt([]byte, int64) (int, error) {
	return 0, errors.New("New is to read no file")
}

// F6: the time New takes is not a matter of how large files are.
func TestNewReadsNothing(t *testing.T) {
	m, err := fat.New(4*GiB, options, []fat.File{{"Image", unreadable(3 * GiB)}, {"initrd", unreadable(500 * MiB)}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for e := range m.Extents() {
		got = append(got, fmt.Sprintf("%s %d %d", e.Name, e.Off, e.Size()))
	}
	want := []string{"fat 0 8388608", "root directory 8388608 4096", "Image 8392704 3221225472", "initrd 3229618176 524288000"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSameBytesTwice(t *testing.T) {
	for _, size := range []int64{16 * MiB, 520 * MiB} {
		for _, set := range sets {
			var all [2][]image.Entry
			for i := range all {
				m, err := fat.New(size, options, set.files(seeded(4)))
				if err != nil {
					t.Fatal(err)
				}
				sums, err := image.Sum(context.Background(), m, nil)
				if err != nil {
					t.Fatal(err)
				}
				all[i] = sums.Extents.Entries
			}
			if diff := cmp.Diff(all[0], all[1]); diff != "" {
				t.Errorf("%s: %s", set.name, diff)
			}
		}
	}
}

func TestOneMoreFileMovesNoOther(t *testing.T) {
	places := func(size int64, files []fat.File) map[string]int64 {
		m, err := fat.New(size, options, files)
		if err != nil {
			t.Fatal(err)
		}
		at := map[string]int64{}
		for e := range m.Extents() {
			if _, ok := at[e.Name]; !ok { // a directory may continue elsewhere
				at[e.Name] = e.Off
			}
		}
		return at
	}
	rng := seeded(5)
	for _, size := range []int64{8 * MiB, 16 * MiB, 600 * MiB} {
		for _, set := range sets {
			files := set.files(rng)
			before := places(size, files)
			for _, path := range []string{"config.toml", "overlays/one more.toml", "new/subdir/x"} {
				after := places(size, append(slices.Clip(files), fat.File{path, content(rng, 9000)}))
				for name, off := range before {
					if after[name] != off {
						t.Errorf("%s: %q moved %q from %d to %d", set.name, path, name, off, after[name])
					}
				}
			}
			for n := 0; n < len(files); n += 1 + len(files)/7 {
				for name, off := range places(size, files[:n]) {
					if before[name] != off {
						t.Errorf("%s: with %d files %q is at %d, with all at %d", set.name, n, name, off, before[name])
					}
				}
			}
		}
	}
}

func TestExactlyFull(t *testing.T) {
	sizes := []int64{8 * MiB, 9*MiB + 512, 33 * MiB}
	if soak() {
		sizes = append(sizes, 128*MiB, 300*MiB, 512*MiB, 513*MiB, 3*GiB)
	}
	for _, size := range sizes {
		_, err := fat.New(size, options, []fat.File{{Path: "huge", Content: image.Zeros(fat.MaxFile)}})
		var full *fat.FullError
		if !errors.As(err, &full) || full.Size != size {
			t.Fatalf("%v", err)
		}
		rng := seeded(6)
		first := content(rng, 100000)
		room := full.Free - 200000
		files := []fat.File{{Path: "first", Content: first}, {Path: "sub/rest", Content: image.Zeros(room)}}
		// Fill what the rounding leaves, a cluster at a time.
		for {
			next := []fat.File{files[0], {Path: "sub/rest", Content: image.Zeros(files[1].Size() + 512)}}
			if _, err := fat.New(size, options, next); err != nil {
				break
			}
			files = next
		}
		m, err := fat.New(size, options, files)
		if err != nil {
			t.Fatal(err)
		}
		path := write(t, m, true)
		if used, all := fsck(t, path); used != all {
			t.Errorf("%d bytes: %d of %d clusters in use", size, used, all)
		}
		same(t, "mcopy", contents(t, files), extracted(t, path))
		if _, err := fat.New(size, options, append(files, fat.File{Path: "empty"})); err != nil {
			t.Errorf("an empty file takes no cluster, but: %v", err)
		}
		_, err = fat.New(size, options, append(files, fat.File{Path: "one", Content: strings.NewReader("1")}))
		if !errors.As(err, &full) || full.Need <= full.Free {
			t.Errorf("one byte too many: %v", err)
		}
	}
}

func TestFullErrorHasBothNumbers(t *testing.T) {
	_, err := fat.New(128*MiB, options, []fat.File{{Path: "Image", Content: image.Zeros(130 * MiB)}})
	if got, want := fmt.Sprint(err), "130.0 MiB of files do not fit: 128.0 MiB has 127.7 MiB free (136314880 bytes in 133937152)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	_, err = fat.New(128*MiB, options, []fat.File{{Path: "Image", Content: image.Zeros(65399*2048 + 1)}})
	if got, want := fmt.Sprint(err), "127.7 MiB of files do not fit: 128.0 MiB has 127.7 MiB free (133939200 bytes in 133937152)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRefusals(t *testing.T) {
	var many []fat.File
	for i := range 600 {
		many = append(many, fat.File{Path: fmt.Sprintf("F%d", i)})
	}
	var more []fat.File
	for i := range 1<<16 - 1 {
		more = append(more, fat.File{Path: fmt.Sprintf("D/F%d", i)})
	}
	paths := func(paths ...string) (files []fat.File) {
		for _, p := range paths {
			files = append(files, fat.File{Path: p, Content: strings.NewReader("x")})
		}
		return files
	}
	for _, c := range []struct {
		name  string
		size  int64
		opt   fat.Options
		files []fat.File
		want  string
	}{
		{"an odd size", 8*MiB + 1, options, nil, "must be a multiple of 512"},
		{"a negative size", -512, options, nil, "invalid size -512"},
		{"nothing", 0, options, nil, "it needs 2.2 MiB"},
		{"too small", 2 * MiB, options, nil, "it needs 2.2 MiB"},
		{"too large", 4096 * GiB, options, nil, "it has up to 2199023255040"},
		{"a long label", 8 * MiB, fat.Options{Label: "TWELVE CHARS"}, nil, "room for 11"},
		{"a star in the label", 8 * MiB, fat.Options{Label: "A*"}, nil, "'*'"},
		{"a label of umlauts", 8 * MiB, fat.Options{Label: "Ä"}, nil, "'Ä'"},
		{"a space before the label", 8 * MiB, fat.Options{Label: " A"}, nil, "starts with a space"},
		{"names that differ in case", 8 * MiB, options, paths("A", "a"), `"a": "A" has the same name in FAT`},
		{"umlauts that differ in case", 8 * MiB, options, paths("d/ä x", "d/Ä X"), `"ä x" has the same name in FAT`},
		{"the same name twice", 8 * MiB, options, paths("d/A", "d/A"), `"d/A" appears twice`},
		{"directories that differ in case", 8 * MiB, options, paths("d/A", "D/B"), `its directory "D" is also spelled "d"`},
		{"a file as a directory", 8 * MiB, options, paths("d", "d/A"), `"d" is both a file and a directory`},
		{"a directory as a file", 8 * MiB, options, paths("d/A", "d"), `"d" is both a file and a directory`},
		{"a directory as a file in another case", 8 * MiB, options, paths("d/A", "D"), `"d" has the same name in FAT`},
		{"no name", 8 * MiB, options, paths(""), "empty name"},
		{"an absolute path", 8 * MiB, options, paths("/A"), "empty name"},
		{"a path with two slashes", 8 * MiB, options, paths("a//b"), "empty name"},
		{"the parent", 8 * MiB, options, paths("../A"), `".." is not a name`},
		{"the directory itself", 8 * MiB, options, paths("./A"), `"." is not a name`},
		{"a dot at the end", 8 * MiB, options, paths("a."), "ends in '.'"},
		{"a space at the end", 8 * MiB, options, paths("a "), "ends in ' '"},
		{"a colon", 8 * MiB, options, paths("a:b"), "':'"},
		{"a backslash", 8 * MiB, options, paths(`a\b`), `'\\'`},
		{"a line break", 8 * MiB, options, paths("a\nb"), `'\n'`},
		{"no UTF-8", 8 * MiB, options, paths("a\xffb"), "not UTF-8"},
		{"a name of 256", 8 * MiB, options, paths(strings.Repeat("n", 256)), "256 characters is too long"},
		{"a name of 128 pairs", 8 * MiB, options, paths(strings.Repeat("😀", 128)), "256 characters is too long"},
		{"a file of 4 GiB", 8 * GiB, options, []fat.File{{"x", image.Zeros(4 * GiB)}}, "FAT holds up to 4294967295"},
		{"a negative file", 8 * MiB, options, []fat.File{{"x", unreadable(-1)}}, "has -1 bytes"},
		{"a full root", 8 * MiB, options, many, `"F511": the root directory of FAT16 has 512 entries`},
		{"a full directory", 64 * MiB, options, more, `"D/F65534": a directory has at most 65536 entries`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := fat.New(c.size, c.opt, c.files)
			if err == nil || m != nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// The largest directory, and the largest root directory of FAT16.
func TestLargestDirectories(t *testing.T) {
	var files []fat.File
	for i := range 511 { // and the label
		files = append(files, fat.File{Path: fmt.Sprintf("F%d", i)})
	}
	if soak() {
		files[0].Path = "D/F0"
		for i := range 1<<16 - 3 {
			files = append(files, fat.File{Path: fmt.Sprintf("D/G%d", i)})
		}
	}
	m, err := fat.New(64*MiB, options, files)
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, write(t, m, true))
	if got, err := filesOf(open(t, m)); err != nil || len(got) != len(files) {
		t.Errorf("%d files, %v", len(got), err)
	}
}

// No alias may be found in place of a name, and all are different.
func TestAliases(t *testing.T) {
	var files []fat.File
	for i, name := range []string{"longname one.txt", "LONGNA~1.TXT", "longname two.txt", "longna~3.txt", ".bashrc", "a.b.c", "x+y", "naïve.html", "readme"} {
		files = append(files, fat.File{name, strings.NewReader(fmt.Sprint(i))})
	}
	for i := range 15 {
		files = append(files, fat.File{fmt.Sprintf("prefix number %d", i), strings.NewReader("")})
	}
	m, err := fat.New(8*MiB, options, files)
	if err != nil {
		t.Fatal(err)
	}
	out := imagetest.Run(t, "mdir", "-i", write(t, m, false), "::")
	for _, want := range []string{
		"LONGNA~1 TXT", "LONGNA~2 TXT", "longna~3 txt", "LONGNA~4 TXT", "BASHRC~1", "AB~1     C", "X_Y~1", "NA_VE~1  HTM", "readme",
		"PREFIX~9", "PREFI~15",
	} {
		if !strings.Contains(strings.ToUpper(out), strings.ToUpper(want)) {
			t.Errorf("mdir does not show %q:\n%s", want, out)
		}
	}
	f := open(t, m)
	for path, want := range map[string]string{"longname one.txt": "0", "LONGNA~1.TXT": "1", "longna~1.txt": "1", "longna~2.txt": "0", "LONGNAME TWO.TXT": "2", "README": "8"} {
		if got, err := f.Open(path); err != nil || string(bytesOf(t, got)) != want {
			t.Errorf("%q is not %q (%v)", path, want, err)
		}
	}
}

func TestOpen(t *testing.T) {
	m, err := fat.New(600*MiB, options, []fat.File{{"Dtbs/Rockchip/rk3328-rock64.dtb", strings.NewReader("tree")}, {Path: "empty"}})
	if err != nil {
		t.Fatal(err)
	}
	f := open(t, m)
	got, err := f.Open("dtbs/ROCKCHIP/RK3328-Rock64.DTB")
	if err != nil || got.Path != "Dtbs/Rockchip/rk3328-rock64.dtb" || string(bytesOf(t, got)) != "tree" {
		t.Errorf("%v, %v", got.Path, err)
	}
	if got, err := f.Open("EMPTY"); err != nil || got.Size() != 0 {
		t.Errorf("%v", err)
	}
	for _, path := range []string{"", "none", "Dtbs/none", "none/none", "empty/none", "../empty", "/empty"} {
		if _, err := f.Open(path); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("%q: %v", path, err)
		}
	}
	if _, err := f.Open("dtbs"); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Error(err)
	}
}

func TestGoDiskfsReadsIt(t *testing.T) {
	files := sets[2].files(seeded(7))
	for _, size := range []int64{128 * MiB, 600 * MiB} {
		m, err := fat.New(size, options, files)
		if err != nil {
			t.Fatal(err)
		}
		disk, err := file.OpenFromPath(write(t, m, true), true)
		if err != nil {
			t.Fatal(err)
		}
		defer disk.Close()
		var fs filesystem.FileSystem
		if size > 512*MiB {
			fs, err = fat32.Read(disk, size, 0, 512)
		} else {
			fs, err = fat16.Read(disk, size, 0, 512)
		}
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, f := range files {
			opened, err := fs.Open(f.Path)
			if err != nil {
				t.Fatal(err)
			}
			// In one go: read a piece at a time it gives more than there is.
			b := make([]byte, f.Size()+10000)
			n, err := opened.Read(b)
			if err != nil && err != io.EOF {
				t.Fatal(err)
			}
			got[f.Path] = string(b[:n])
		}
		same(t, "go-diskfs", contents(t, files), got)
	}
}

// File systems of mkfs.vfat and mcopy are read, with files in fragments.
func TestOthersFileSystemsAreRead(t *testing.T) {
	imagetest.Long(t)
	t.Setenv("LC_ALL", "C.UTF-8")
	for _, c := range []struct {
		name string
		size int64
		kind int
		args []string
	}{
		{"FAT12", 4 * MiB, 12, nil},
		{"FAT12 of a floppy disk", 1440 * 1024, 12, nil},
		{"FAT16", 64 * MiB, 16, nil},
		{"FAT16 in sectors of 4096", 200 * MiB, 16, []string{"-S", "4096", "-s", "1", "-F", "16"}},
		{"FAT16 with one table", 64 * MiB, 16, []string{"-f", "1"}},
		{"FAT32", 600 * MiB, 32, nil},
		{"FAT32 in clusters of 512", 64 * MiB, 32, []string{"-F", "32", "-s", "1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "x.img")
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, c.size); err != nil {
				t.Fatal(err)
			}
			imagetest.Run(t, "mkfs.vfat", append([]string{"-n", "THEIRS", "-i", "cafe0001", path}, c.args...)...)
			rng := seeded(8)
			want := map[string]string{}
			put := func(name string, n int) {
				src := filepath.Join(dir, "src")
				b := bytesOf(t, content(rng, n))
				if err := os.WriteFile(src, b, 0o644); err != nil {
					t.Fatal(err)
				}
				imagetest.Run(t, "mcopy", "-o", "-i", path, src, "::"+name)
				want[name] = string(b)
			}
			remove := func(name string) {
				imagetest.Run(t, "mdel", "-i", path, "::"+name)
				delete(want, name)
			}
			imagetest.Run(t, "mmd", "-i", path, "::Subdir", "::Subdir/deeper one", "::UP")
			for i := range 40 {
				put(fmt.Sprintf("Subdir/file number %d", i), 5000)
			}
			for i := 0; i < 40; i += 2 {
				remove(fmt.Sprintf("Subdir/file number %d", i))
			}
			put("Subdir/in pieces.bin", 200000)
			put("lower.txt", 1)
			put("UP/UPPER.TXT", 0)
			put("UP/lower.TXT", 100)
			put("Subdir/deeper one/日本語", 4096)
			put("É.TXT", 3)

			disk, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer disk.Close()
			f := open(t, disk)
			if f.Label != "THEIRS" || f.Serial != 0xcafe0001 || f.Kind != c.kind {
				t.Errorf("label %q, serial %x, FAT%d", f.Label, f.Serial, f.Kind)
			}
			files, err := filesOf(f)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "our reader", want, contents(t, files))
			got, err := f.Open("SUBDIR/DEEPER ONE/日本語")
			if err != nil || string(bytesOf(t, got)) != want["Subdir/deeper one/日本語"] {
				t.Error(err)
			}
		})
	}
}

// Linux and U-Boot take it for FAT32, however few clusters it has.
func TestEntriesHaveTimesAndAttributes(t *testing.T) {
	t.Setenv("TZ", "UTC")
	dir := t.TempDir()
	path, src := filepath.Join(dir, "x.img"), filepath.Join(dir, "src")
	imagetest.Run(t, "mkfs.vfat", "-C", path, "8192")
	if err := os.WriteFile(src, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	when := time.Date(2023, 11, 14, 22, 13, 20, 0, time.UTC)
	if err := os.Chtimes(src, when, when); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "mmd", "-i", path, "::subdir", "::subdir/empty")
	imagetest.Run(t, "mcopy", "-m", "-i", path, src, "::subdir/kept")
	imagetest.Run(t, "mcopy", "-i", path, src, "::new")
	imagetest.Run(t, "mattrib", "-i", path, "+r", "::subdir/kept")
	disk, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	all, err := open(t, disk).Entries()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range all {
		got = append(got, fmt.Sprintf("%s %v %v %v %v", e.Path, e.Dir, e.ReadOnly, e.Time == when.Unix(), time.Since(time.Unix(e.Time, 0)) < time.Hour))
	}
	want := []string{"new false false false true", "subdir true false false true", "subdir/empty true false false true", "subdir/kept false true true false"}
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestFAT32OfFewClustersIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.img")
	if err := os.WriteFile(path, make([]byte, 8*MiB), 0o644); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "mkfs.vfat", "-n", "THEIRS", "-F", "32", "-s", "8", path)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := open(t, bytes.NewReader(b))
	if files, err := filesOf(f); f.Kind != 32 || f.Label != "THEIRS" || len(files) > 0 || err != nil {
		t.Errorf("FAT%d, label %q, %d files, %v", f.Kind, f.Label, len(files), err)
	}
}

// Names that the host itself cannot hold, so that no one copies them out.
func TestTheLongestNames(t *testing.T) {
	files := []fat.File{
		{strings.Repeat("ü", 255), strings.NewReader("1")}, {strings.Repeat("😀", 127) + "x", strings.NewReader("2")},
		{strings.Repeat("日", 255), strings.NewReader("3")}, {strings.Repeat("n", 242), strings.NewReader("4")},
		{"😀 smile.bin", strings.NewReader("5")}, // mtools does not know surrogates
	}
	m, err := fat.New(8*MiB, options, files)
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, write(t, m, true))
	got, err := filesOf(open(t, m))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "our reader", contents(t, files), contents(t, got))
}

func TestDamageIsAnError(t *testing.T) {
	m, err := fat.New(8*MiB, options, []fat.File{{"FILE", content(seeded(9), 5000)}, {Path: "D/E/X"}})
	if err != nil {
		t.Fatal(err)
	}
	clean := bytesOf(t, m)
	offs := map[string]int64{}
	for e := range m.Extents() {
		offs[e.Name] = e.Off
	}
	table, entries := int64(2*512), offs["FILE"]-512*32+32
	for _, c := range []struct {
		name  string
		spoil func(b []byte)
		want  string
	}{
		{"no signature", func(b []byte) { b[510] = 0 }, "55 AA"},
		{"no sector size", func(b []byte) { b[11], b[12] = 0, 0 }, "sectors of 0"},
		{"no cluster size", func(b []byte) { b[13] = 3 }, "clusters of 3"},
		{"nothing reserved", func(b []byte) { b[14] = 0 }, "reserved"},
		{"no tables", func(b []byte) { b[16] = 0 }, "no table"},
		{"no size", func(b []byte) { b[19], b[20] = 0, 0 }, "of tables in a file system of 0"},
		{"more clusters than entries", func(b []byte) { b[22] = 4 }, "tables for 1022"},
		{"FAT32 with a table of nothing", func(b []byte) { b[22] = 0; clear(b[36:40]) }, "damaged FAT32 file system"},
		{"a chain in a circle", func(b []byte) { b[table+6] = 2 }, "in use twice"},
		{"a chain that ends early", func(b []byte) { b[table+4], b[table+5] = 0xff, 0xff }, "ends after 1024 of 5000"},
		{"a chain into nothing", func(b []byte) { b[table+4], b[table+5] = 0, 0 }, "cluster 0"},
		{"a chain beyond the end", func(b []byte) { b[table+4], b[table+5] = 0xf0, 0xff }, "cluster 65520"},
		{"a directory that is also its parent's", func(b []byte) { b[offs["D"]+64+26] = b[entries+32+26] }, "in use twice"},
		{"a name with a slash", func(b []byte) { b[entries] = '/' }, "has the character '/'"},
		{"truncated", func(b []byte) { copy(b[510:], "\x00\x00") }, "55 AA"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(clean)
			c.spoil(b)
			f, err := fat.Open(bytes.NewReader(b))
			if err == nil {
				_, err = filesOf(f)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	for n := 0; n < len(clean)/200; n += 991 {
		f, err := fat.Open(bytes.NewReader(clean[:n]))
		if err == nil {
			_, err = filesOf(f)
		}
		if err == nil && int64(n) < offs["D/E"] {
			t.Errorf("no error in the first %d bytes", n)
		}
	}
}

// endless is a head with zeros after it.
type endless []byte

func (e endless) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(e)) {
		copy(p, e[off:])
	}
	return len(p), nil
}

// heads are the beginnings of small file systems of each kind.
func heads(t testing.TB) [][]byte {
	files := []fat.File{
		{"a long name", strings.NewReader(strings.Repeat("x", 3000))},
		{"D/E/X", strings.NewReader("x")}, {"D/é", strings.NewReader("y")}, {Path: "EMPTY"},
	}
	small, err := fat.New(3*MiB, options, files)
	if err != nil {
		t.Fatal(err)
	}
	large, err := fat.New(513*MiB, options, files)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	fat16 := make([]byte, 48<<10)
	small.ReadAt(fat16, 0)

	// The same with a table of one sector, 12 bits an entry.
	tableLen := int(le.Uint16(fat16[22:])) * 512
	fat12 := bytes.Clone(fat16[:512])
	fat12[16] = 1
	le.PutUint16(fat12[19:], 200)
	le.PutUint16(fat12[22:], 1)
	table := make([]byte, 512)
	for i := range 40 {
		v := le.Uint16(fat16[512+2*i:]) & 0xfff
		at := table[i*3/2:]
		le.PutUint16(at, le.Uint16(at)|v<<(i%2*4))
	}
	fat12 = append(append(fat12, table...), fat16[512+2*tableLen:]...)

	fat32 := make([]byte, 512)
	large.ReadAt(fat32, 0)
	tableOff, dataOff := int64(le.Uint16(fat32[14:]))*512, int64(0)
	dataOff = tableOff + 2*512*int64(le.Uint32(fat32[36:]))
	le.PutUint16(fat32[14:], 1)
	fat32[16] = 1
	le.PutUint32(fat32[32:], 2+8*100)
	le.PutUint32(fat32[36:], 1)
	table = make([]byte, 512+10*4096)
	large.ReadAt(table[:512], tableOff)
	large.ReadAt(table[512:], dataOff)
	fat32 = append(fat32, table...)
	return [][]byte{fat12, fat16, fat32}
}

func TestHeads(t *testing.T) {
	for i, b := range heads(t) {
		f := open(t, endless(b))
		files, err := filesOf(f)
		if err != nil {
			t.Fatal(err)
		}
		if f.Kind != []int{12, 16, 32}[i] || len(files) != 4 || string(bytesOf(t, files[0])) != strings.Repeat("x", 3000) {
			t.Errorf("FAT%d with %d files", f.Kind, len(files))
		}
	}
}

// The heads are long, so run it with -fuzzminimizetime=10x.
func FuzzOpen(f *testing.F) {
	for _, b := range heads(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, r := range []io.ReaderAt{bytes.NewReader(b), endless(b)} {
			fs, err := fat.Open(r)
			if err != nil {
				continue
			}
			files, err := filesOf(fs)
			if err != nil {
				continue
			}
			buf := make([]byte, 4096)
			for _, file := range files {
				if strings.HasPrefix(file.Path, "/") || slices.Contains(strings.Split(file.Path, "/"), "..") {
					t.Errorf("the path %q leads elsewhere", file.Path)
				}
				if file.Size() < 0 || file.Size() > fat.MaxFile {
					t.Errorf("%q has %d bytes", file.Path, file.Size())
				}
				file.ReadAt(buf, 0)
				file.ReadAt(buf, max(0, file.Size()-100))
			}
			for _, file := range files[:min(len(files), 10)] {
				if _, err := fs.Open(file.Path); err != nil {
					t.Errorf("%q is listed but not found: %v", file.Path, err)
				}
			}
		}
	})
}
