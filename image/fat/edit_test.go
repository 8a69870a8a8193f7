package fat_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgtool/image"
	"imgtool/image/fat"
	"imgtool/image/imagetest"
)

// edited returns the extents that an edit changes in r, which has size bytes.
func edited(r io.ReaderAt, size int64, edit func(e *fat.Editor) error) (*fat.Change, error) {
	f, err := fat.Open(r)
	if err != nil {
		return nil, err
	}
	e, err := f.Edit(size)
	if err != nil {
		return nil, err
	}
	if err := edit(e); err != nil {
		return nil, err
	}
	return e.Change()
}

func put(path string, b []byte) func(e *fat.Editor) error {
	return func(e *fat.Editor) error {
		return e.Put(fat.File{Path: path, Content: bytes.NewReader(b)}, options.Time)
	}
}

func remove(path string) func(e *fat.Editor) error {
	return func(e *fat.Editor) error { return e.Remove(path) }
}

// overlay returns m with an edit applied.
func overlay(t testing.TB, m *image.Image, edit func(e *fat.Editor) error) *image.Image {
	t.Helper()
	c, err := edited(m, m.Size(), edit)
	if err != nil {
		t.Fatal(err)
	}
	over, err := m.Overlay(c.Extents()...)
	if err != nil {
		t.Fatal(err)
	}
	return over
}

// leaves returns the extents of an image with their contents.
func leaves(t testing.TB, m *image.Image) []string {
	t.Helper()
	sums, err := image.Sum(t.Context(), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range sums.Extents.Entries {
		list = append(list, fmt.Sprintf("%s %d+%d %s", e.Name, e.Off, e.Len, e.SHA256))
	}
	return list
}

// Putting a file into a file system of New gives the bytes and extents that New gives with
// the file. Removing it restores the previous bytes.
func TestPutEqualsNew(t *testing.T) {
	imagetest.Long(t)
	rng := seeded(20)
	for _, size := range []int64{8 * MiB, 64 * MiB, 600 * MiB} {
		for _, set := range sets {
			for _, path := range []string{"config.toml", "SEED.TXT", "seed.txt", "overlays/one more.toml", "new/subdir/x.toml"} {
				files := set.files(rng)
				if size == 8*MiB && set.name == "a large root" {
					files = files[:100] // more files do not fit in the root directory
				}
				plain, err := fat.New(size, options, files)
				if err != nil {
					t.Fatal(err)
				}
				b := bytesOf(t, content(rng, rng.IntN(200000)))
				want, err := fat.New(size, options, append(slices.Clip(files), fat.File{Path: path, Content: bytes.NewReader(b)}))
				if err != nil {
					t.Fatal(err)
				}
				compare := func(what string, over, want *image.Image) {
					t.Helper()
					got, err := open(t, over).Image(size)
					if err != nil {
						t.Fatal(err)
					}
					if a, b := leaves(t, got), leaves(t, want); !slices.Equal(a, b) {
						t.Errorf("%d bytes, %s: %s %s has %d extents, and %d when it is made so", size, set.name, what, path, len(a), len(b))
						for i := range min(len(a), len(b)) {
							if a[i] != b[i] {
								t.Fatalf("extent %d is %s, and %s", i, a[i], b[i])
							}
						}
					}
					// Free clusters are zeros.
					if err := image.Compare(t.Context(), over, want.Chunks(image.PieceSize), nil); err != nil {
						t.Errorf("%d bytes, %s: %s %s: %v", size, set.name, what, path, err)
					}
				}
				one := overlay(t, plain, put(path, b))
				compare("put", one, want)
				compare("remove", overlay(t, one, remove(path)), plain)
				// A previous file leaves no data.
				other := overlay(t, plain, put(path, bytesOf(t, content(rng, rng.IntN(300000)))))
				compare("replace", overlay(t, other, put(strings.ToUpper(path), b)), want)
			}
		}
	}
}

// mkfs returns a file system that mkfs.fat and then programs of mtools made, in memory.
func mkfs(t testing.TB, size int64, args []string, programs ...[]string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.img")
	if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "mkfs.fat", append(args, path)...)
	for _, p := range programs {
		imagetest.Run(t, p[0], append([]string{"-i", path}, p[1:]...)...)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// changed returns b with an edit, and fails the test if fsck.fat reports anything.
func changed(t testing.TB, b []byte, edit func(e *fat.Editor) error) []byte {
	t.Helper()
	c, err := edited(bytes.NewReader(b), int64(len(b)), edit)
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Clone(b)
	for _, e := range c.Extents() {
		copy(b[e.Off:], bytesOf(t, e.Content))
	}
	path := filepath.Join(t.TempDir(), "changed.img")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
	return b
}

func TestEditRefusals(t *testing.T) {
	le := binary.LittleEndian
	var names [][]string
	for i := range 15 {
		names = append(names, []string{"mmd", fmt.Sprintf("::D%d", i)})
	}
	small := []string{"-F", "12", "-r", "16", "-s", "1"}
	fat12 := mkfs(t, MiB, small, names...)
	deleted := mkfs(t, MiB, small, append(names, []string{"mrd", "::D3"}, []string{"mrd", "::D7"}, []string{"mmd", "::D15"})...)
	fat16 := mkfs(t, 16*MiB, []string{"-F", "16"}, []string{"mmd", "::DIR"})
	fat32 := mkfs(t, 64*MiB, []string{"-F", "32", "-s", "1"})
	table16, table32 := int(le.Uint16(fat16[14:]))*512, int(le.Uint16(fat32[14:]))*512
	config := put("config.toml", []byte("seed"))
	for _, c := range []struct {
		name  string
		b     []byte
		spoil func(b []byte)
		edit  func(e *fat.Editor) error
		want  string
	}{
		{"a full root", fat12, nil, config, `the root directory is full: "config.toml" needs 2 entries in a row, and of its 16 at most 1 in a row are free`},
		{"a root with deleted entries apart", deleted, nil, config, `"config.toml" needs 2 entries in a row, and of its 16 at most 1 in a row are free`},
		{"a full volume", fat12, nil, put("D1", nil), `"D1" is a directory`},
		{"no room", fat12, nil, put("D1/X", make([]byte, MiB)), `"D1/X": 1.0 MiB of files do not fit: 1.0 MiB has `},
		{"no room for a directory", fat16, func(b []byte) {
			for i := range 2 {
				for n := 2; n < len(b)/2048; n++ {
					if at := table16 + i*int(le.Uint16(b[22:]))*512 + 2*n; le.Uint16(b[at:]) == 0 {
						le.PutUint16(b[at:], 0xfff7)
					}
				}
			}
		}, put("DIR/sub/X", nil), "2.0 KiB of files do not fit: 16.0 MiB has 0 bytes free"},
		{"a file as a directory", fat12, nil, func(e *fat.Editor) error {
			return errors.Join(e.Put(fat.File{Path: "D1/FILE"}, 0), e.Put(fat.File{Path: "D1/file/X"}, 0))
		}, `"D1/file/X": "FILE" is a file, not a directory`},
		{"no file", fat12, nil, remove("D1/NONE"), `"D1/NONE": file does not exist`},
		{"no directory", fat12, nil, remove("NONE/NONE"), `"NONE/NONE": file does not exist`},
		{"a directory", fat12, nil, remove("D1"), `"D1" is a directory`},
		{"a bad name", fat12, nil, put("D1/a:b", nil), "':', which FAT does not allow"},
		{"a large file", fat12, nil, func(e *fat.Editor) error {
			return e.Put(fat.File{Path: "X", Content: image.Zeros(4 * GiB)}, 0)
		}, "FAT holds up to 4294967295"},
		{"Linux has it mounted", fat16, func(b []byte) { b[37] |= 1 }, config, "marked as mounted, or as not unmounted cleanly: unmount it"},
		{"Linux has FAT32 mounted", fat32, func(b []byte) { b[65] |= 1 }, config, "marked as mounted"},
		{"Windows has it mounted", fat16, func(b []byte) { b[table16+3] &^= 0x80 }, config, "marked as mounted"},
		{"Windows has FAT32 mounted", fat32, func(b []byte) { b[table32+7] &^= 0x08 }, config, "fsck.fat -a"},
		{"a hard error", fat16, func(b []byte) { b[table16+3] &^= 0x40 }, config, "read or write errors"},
		{"a hard error of FAT32", fat32, func(b []byte) { b[table32+7] &^= 0x04 }, config, "read or write errors"},
		{"copies that differ", fat16, func(b []byte) { b[table16+int(le.Uint16(b[22:]))*512+2*100] = 1 }, config, "copies 1 and 2 of its table differ at cluster 100"},
		{"too long", fat16[:8*MiB], nil, config, "its boot sector has a size of 16777216 bytes, but the partition has 8388608"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(c.b)
			if c.spoil != nil {
				c.spoil(b)
			}
			if _, err := edited(bytes.NewReader(b), int64(len(b)), c.edit); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// Faults that fsck.fat would repair are errors that name the fault.
func TestEditRefusesDamage(t *testing.T) {
	m, err := fat.New(8*MiB, options, []fat.File{{"FILE", content(seeded(9), 5000)}, {"OTHER", content(seeded(9), 3000)}, {Path: "D/E/X"}})
	if err != nil {
		t.Fatal(err)
	}
	clean := bytesOf(t, m)
	le := binary.LittleEndian
	entry := map[string]int{}
	for _, name := range []string{"FILE    ", "OTHER   "} {
		entry[name[:4]] = bytes.Index(clean, []byte(name))
	}
	table, length := 2*512, int(le.Uint16(clean[22:]))*512
	set := func(b []byte, n, v int) {
		for i := range 2 {
			le.PutUint16(b[table+i*length+2*n:], uint16(v))
		}
	}
	first := int(le.Uint16(clean[entry["FILE"]+26:]))
	for _, c := range []struct {
		name  string
		spoil func(b []byte)
		want  string
	}{
		{"two files in one place", func(b []byte) { copy(b[entry["OTHE"]+26:], b[entry["FILE"]+26:][:2]) }, `"OTHER": its cluster 2 is in use twice`},
		{"a chain too short", func(b []byte) { set(b, first, 0xffff) }, `"FILE": 5000 bytes in 1 clusters; they take 5`},
		{"a chain too long", func(b []byte) { le.PutUint32(b[entry["FILE"]+28:], 100) }, `"FILE": 100 bytes in 5 clusters; they take 1`},
		{"no chain", func(b []byte) { b[entry["FILE"]+26] = 0 }, `"FILE": 5000 bytes in 0 clusters; they take 5`},
		{"a chain of an empty file", func(b []byte) { le.PutUint32(b[entry["FILE"]+28:], 0) }, `"FILE": 0 bytes in 5 clusters; they take 0`},
		{"a chain into nothing", func(b []byte) { set(b, first, 0) }, `"FILE": it continues in cluster 0;`},
		{"entries behind the end", func(b []byte) { copy(b[entry["FILE"]+512:], b[entry["FILE"]:][:32]) }, "its entry 18 is in use, and it ends before entry 5"},
		{"a circle", func(b []byte) { set(b, first+1, first) }, `"FILE": its cluster 2 is in use twice`},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(clean)
			c.spoil(b)
			path := filepath.Join(t.TempDir(), "x.img")
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
			if exec.Command(imagetest.Need(t, "fsck.fat"), "-n", path).Run() == nil {
				t.Error("fsck.fat finds nothing wrong")
			}
			if _, err := edited(bytes.NewReader(b), int64(len(b)), put("config.toml", nil)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestEdits(t *testing.T) {
	le := binary.LittleEndian
	readBack := func(b []byte, path, want string) {
		t.Helper()
		f, err := open(t, bytes.NewReader(b)).Open(path)
		if err != nil || string(bytesOf(t, f)) != want {
			t.Errorf("%s is not %q (%v)", path, want, err)
		}
	}
	// The entries of a deleted name are used again, also in the middle.
	b := mkfs(t, 16*MiB, []string{"-F", "16"}, []string{"mmd", "::first long name", "::D2", "::D3"}, []string{"mrd", "::first long name"})
	end := bytes.Index(b, []byte("D3         ")) + 32
	b = changed(t, b, put("config.toml", []byte("1")))
	if b[end] != 0 {
		t.Error("the root grew, and had room in the middle")
	}
	b = changed(t, b, remove("CONFIG.TOML"))
	if n := bytes.Count(b[end-5*32:end], []byte{0xe5}); n < 3 {
		t.Errorf("%d entries are marked as deleted", n)
	}

	// An alias that is in use, in a directory that is opened by its alias.
	b = mkfs(t, 16*MiB, []string{"-F", "16"}, []string{"mmd", "::a long directory"}, []string{"mmd", "::ALONGD~1/CONFIG~1.TOM"})
	b = changed(t, b, put("ALONGD~1/config.toml", []byte("1")))
	readBack(b, "a long directory/CONFIG~2.TOM", "1")

	// FAT32 with only one table in use, and an unknown number of free clusters.
	b = mkfs(t, 64*MiB, []string{"-F", "32", "-s", "1"})
	table, length := int(le.Uint16(b[14:]))*512, int(le.Uint32(b[36:]))*512
	le.PutUint16(b[40:], 0x81)
	le.PutUint32(b[512+488:], 0xffffffff)
	other := bytes.Clone(b[table : table+length])
	c, err := edited(bytes.NewReader(b), int64(len(b)), put("config.toml", make([]byte, 2000)))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range c.Extents() {
		copy(b[e.Off:], bytesOf(t, e.Content))
	}
	if !bytes.Equal(other, b[table:table+length]) || bytes.Equal(other, b[table+length:][:length]) {
		t.Error("the table that is not in use changed, or the other did not")
	}
	free := 0
	for n := range (len(b) - table - 2*length) / 512 {
		if le.Uint32(b[table+length+4*(n+2):]) == 0 {
			free++
		}
	}
	if got := int(le.Uint32(b[512+488:])); got != free || le.Uint32(b[512+492:]) != 6 {
		t.Errorf("%d clusters are free from %d on, and FSInfo says %d", free, le.Uint32(b[512+492:]), got)
	}

	// The four bits that FAT32 reserves do not change.
	b = mkfs(t, 64*MiB, []string{"-F", "32", "-s", "1"})
	for i := range 2 {
		b[table+i*length+4*3+3] = 0xA0
	}
	b = changed(t, b, put("config.toml", make([]byte, 2000)))
	if got := le.Uint32(b[table+4*3:]); got != 0xA0000004 {
		t.Errorf("entry 3 of the table is %#x", got)
	}

	// A replaced read-only file stays read-only, and keeps its time of creation.
	b = mkfs(t, 16*MiB, []string{"-F", "16"})
	b = changed(t, b, put("SEED.TXT", []byte("one")))
	at := bytes.Index(b, []byte("SEED    TXT"))
	b[at+11] |= 1
	made := bytes.Clone(b[at+13 : at+18])
	b = changed(t, b, func(e *fat.Editor) error {
		return e.Put(fat.File{Path: "seed.txt", Content: strings.NewReader("another")}, options.Time+100000)
	})
	readBack(b, "seed.txt", "another")
	if b[at+11] != 0x21 || !bytes.Equal(made, b[at+13:at+18]) || bytes.Equal(b[at+16:at+18], b[at+24:at+26]) {
		t.Errorf("the entry is %x", b[at:at+32])
	}
	if bytes.Contains(b, []byte("one\x00")) {
		t.Error("the old file is still there")
	}
}

// littered returns a file system with data in its free clusters.
func littered(t testing.TB, b []byte) []byte {
	t.Helper()
	f := open(t, bytes.NewReader(b))
	m, err := f.Image(int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	cluster := int64(b[13]) * int64(binary.LittleEndian.Uint16(b[11:]))
	var used []image.Span
	data := int64(0)
	for e := range m.Extents() {
		if e.Name == "fat" {
			data = e.End()
		}
		n := e.Size()
		if e.Name != "fat" {
			n = (n + cluster - 1) / cluster * cluster
		}
		used = append(used, image.Span{Off: e.Off, Len: n})
	}
	b = bytes.Clone(b)
	for _, s := range image.Subtract([]image.Span{{Off: data, Len: int64(len(b)) - data}}, used) {
		for i := s.Off; i < s.End(); i++ {
			b[i] = 'A' + byte(i%23)
		}
	}
	return b
}

// A directory whose clusters are full gets another cluster, and frees it later.
func TestDirectoriesGrow(t *testing.T) {
	b := mkfs(t, 16*MiB, []string{"-F", "12", "-s", "16"}, []string{"mmd", "::D"}) // 256 entries in a cluster, 2 of them in use
	for i := range 250 {
		var err error
		var c *fat.Change
		if c, err = edited(bytes.NewReader(b), int64(len(b)), put(fmt.Sprintf("D/F%d", i), []byte("x"))); err != nil {
			t.Fatal(err)
		}
		for _, e := range c.Extents() {
			copy(b[e.Off:], bytesOf(t, e.Content))
		}
	}
	grown := 0
	for i := range 6 {
		one := changed(t, b, put("D/config.toml", []byte("seed")))
		f := open(t, bytes.NewReader(one))
		if file, err := f.Open("D/config.toml"); err != nil || string(bytesOf(t, file)) != "seed" {
			t.Fatal(err)
		}
		m, err := f.Image(int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		parts := 0
		for e := range m.Extents() {
			if e.Name == "D" {
				parts++
			}
		}
		grown += parts - 1
		if !bytes.Equal(b, changed(t, one, remove("D/config.toml"))) {
			t.Errorf("with %d files it is not as it was before", 250+i)
		}
		// Free clusters may have any data.
		changed(t, littered(t, b), put("D/config.toml", []byte("seed")))
		b = changed(t, b, put(fmt.Sprintf("D/G%d", i), nil))
	}
	if grown == 0 {
		t.Error("no directory grew: that proves nothing")
	}

	// The root directory of FAT32 grows as well.
	var files []fat.File
	for i := range 126 {
		files = append(files, fat.File{Path: fmt.Sprintf("F%d", i)})
	}
	for range 3 { // with the label 127 entries and more, of 128 in a cluster
		files = append(files, fat.File{Path: fmt.Sprintf("G%d", len(files))})
		plain, err := fat.New(600*MiB, options, files)
		if err != nil {
			t.Fatal(err)
		}
		want, err := fat.New(600*MiB, options, append(slices.Clip(files), fat.File{Path: "config.toml", Content: strings.NewReader("seed")}))
		if err != nil {
			t.Fatal(err)
		}
		one := overlay(t, plain, put("config.toml", []byte("seed")))
		two := overlay(t, one, remove("config.toml"))
		for got, want := range map[*image.Image]*image.Image{one: want, two: plain} {
			m, err := open(t, got).Image(600 * MiB)
			if err != nil || !slices.Equal(leaves(t, m), leaves(t, want)) {
				t.Errorf("with %d files it is another file system (%v)", len(files), err)
			}
		}
	}
}

// Numbers of clusters from 65536 on are in two fields of an entry.
func TestHighClusters(t *testing.T) {
	fill := filepath.Join(t.TempDir(), "fill")
	if err := os.WriteFile(fill, make([]byte, 66000*512), 0o644); err != nil {
		t.Fatal(err)
	}
	b := mkfs(t, 64*MiB, []string{"-F", "32", "-s", "1"}, []string{"mcopy", fill, "::"})
	b = changed(t, b, put("new/config.toml", []byte("seed")))
	if f, err := open(t, bytes.NewReader(b)).Open("new/config.toml"); err != nil || string(bytesOf(t, f)) != "seed" {
		t.Error(err)
	}
	changed(t, b, remove("new/config.toml"))
}

// Several files are changed in one edit, and the last takes all free clusters.
func TestOneEditOfSeveralFiles(t *testing.T) {
	b := mkfs(t, 16*MiB, []string{"-F", "16", "-s", "4"}, []string{"mmd", "::D"})
	b = changed(t, b, put("first", make([]byte, 20000)))
	b = changed(t, b, put("second", make([]byte, 20000)))
	_, err := edited(bytes.NewReader(b), int64(len(b)), put("huge", make([]byte, 17*MiB)))
	var full *fat.FullError
	if !errors.As(err, &full) {
		t.Fatal(err)
	}
	b = changed(t, b, func(e *fat.Editor) error {
		return errors.Join(
			e.Put(fat.File{Path: "D/third", Content: bytes.NewReader(make([]byte, 2000))}, 0),
			e.Remove("first"),
			e.Put(fat.File{Path: "D/new/rest", Content: image.Zeros(full.Free - 2048 - 2048 + 20480)}, 0),
		)
	})
	if _, err := edited(bytes.NewReader(b), int64(len(b)), put("D/x", []byte("1"))); !errors.As(err, &full) || full.Free != 0 {
		t.Errorf("it should be full: %v", err)
	}
}

// No data of a replaced file is left, also if it had more clusters.
func TestRemovedDataIsZeroed(t *testing.T) {
	b := mkfs(t, 16*MiB, []string{"-F", "16"})
	empty := bytes.Clone(b)
	secret := bytes.Repeat([]byte("secret "), 5000)
	b = changed(t, b, put("config.toml", secret))
	for _, edit := range []func(e *fat.Editor) error{put("config.toml", []byte("short")), remove("config.toml")} {
		if c := changed(t, b, edit); bytes.Contains(c, []byte("secret")) || !bytes.Contains(b, []byte("secret")) {
			t.Error("it is still there")
		}
	}
	if !bytes.Equal(empty, changed(t, b, remove("config.toml"))) {
		t.Error("it is not as it was before")
	}
}
