package fat_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/fat"
	"imgtool/image/imagetest"
)

// theirs is a file system that mkfs.fat made, with its files.
type theirs struct {
	t     *testing.T
	rng   *rand.Rand
	path  string
	dir   string
	files map[string]string
}

func (v *theirs) run(program string, args ...string) error {
	cmd := exec.Command(imagetest.Need(v.t, program), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MTOOLS_SKIP_CHECK=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, out)
	}
	return nil
}

// newTheirs makes a file system with random options. It returns nil if mkfs.fat refuses them.
func newTheirs(t *testing.T, rng *rand.Rand) (*theirs, string) {
	v := &theirs{t: t, rng: rng, dir: t.TempDir(), files: map[string]string{}}
	v.path = filepath.Join(v.dir, "x.img")
	bits := []int{12, 16, 32}[rng.IntN(3)]
	sector := 512 << rng.IntN(4)
	perCluster := 1 << rng.IntN(6)
	tables := 1 + rng.IntN(2)
	var size int64
	switch unit := int64(sector * perCluster); bits {
	case 12:
		size = unit * (100 + rng.Int64N(3800))
	case 16:
		size = unit * (5000 + rng.Int64N(20000))
	default:
		size = unit * (66000 + rng.Int64N(4000))
	}
	if size > 400*MiB {
		return nil, ""
	}
	args := []string{"-n", "THEIRS", "-F", fmt.Sprint(bits), "-S", fmt.Sprint(sector), "-s", fmt.Sprint(perCluster), "-f", fmt.Sprint(tables)}
	if bits != 32 {
		args = append(args, "-r", fmt.Sprint(16*(1+rng.IntN(1<<rng.IntN(5)))*sector/512))
	}
	if rng.IntN(3) == 0 {
		args = append(args, "-a") // not aligned to clusters
	}
	if err := os.WriteFile(v.path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(v.path, size/1024*1024); err != nil {
		t.Fatal(err)
	}
	if err := v.run("mkfs.fat", append(args, v.path)...); err != nil {
		t.Logf("%v", err)
		return nil, ""
	}
	return v, strings.Join(args, " ")
}

func (v *theirs) random(n int) string { return string(bytesOf(v.t, content(v.rng, n))) }

// put copies a file into the file system with mcopy, and reports whether it fitted.
func (v *theirs) put(name string, n int) bool {
	src := filepath.Join(v.dir, "src")
	text := v.random(n)
	if err := os.WriteFile(src, []byte(text), 0o644); err != nil {
		v.t.Fatal(err)
	}
	if err := v.run("mcopy", "-D", "o", "-i", v.path, src, "::"+name); err != nil {
		if v.run("mdel", "-i", v.path, "::"+name) == nil {
			delete(v.files, name)
		}
		return false
	}
	v.files[name] = text
	return true
}

// fill makes fragmented files in the root directory and a directory, which have deleted entries.
func (v *theirs) fill() {
	if err := v.run("mmd", "-i", v.path, "::Subdir", "::empty one"); err != nil {
		v.t.Fatal(err)
	}
	var all []string
	for i := range 5 + v.rng.IntN(40) {
		name := []string{"Subdir/some longer name %d.bin", "F%d.BIN", "Subdir/F%d.TXT", "file with a name %d"}[v.rng.IntN(4)]
		name = fmt.Sprintf(name, i)
		if !v.put(name, v.rng.IntN(9000)) {
			break
		}
		all = append(all, name)
	}
	keep := v.rng.IntN(3) == 0
	for _, name := range all {
		if keep {
			break
		}
		if _, ok := v.files[name]; ok && v.rng.IntN(2) == 0 {
			if err := v.run("mdel", "-i", v.path, "::"+name); err != nil {
				v.t.Fatal(err)
			}
			delete(v.files, name)
		}
	}
	v.put("Subdir/in pieces.bin", v.rng.IntN(200000))
	if v.rng.IntN(3) == 0 {
		v.put("CONFIG~1.TOM", 10)
	}
	if v.rng.IntN(4) == 0 {
		v.put("config.toml", v.rng.IntN(30000))
	}
}

// apply writes a change into the file.
func (v *theirs) apply(c *fat.Change) {
	v.t.Helper()
	f, err := os.OpenFile(v.path, os.O_RDWR, 0)
	if err != nil {
		v.t.Fatal(err)
	}
	defer f.Close()
	for _, step := range c.Steps {
		for _, e := range step {
			if _, err := f.WriteAt(bytesOf(v.t, e.Content), e.Off); err != nil {
				v.t.Fatal(err)
			}
		}
	}
}

// clean fails the test unless fsck.fat reports nothing and mcopy reads the expected files.
func (v *theirs) clean(what string) {
	v.t.Helper()
	fsck(v.t, v.path)
	if len(v.files) == 0 {
		return
	}
	same(v.t, "mcopy after "+what, v.files, extracted(v.t, v.path))
}

// Files of any size are put into file systems of mkfs.fat with any free space, and fsck.fat
// reports nothing after each edit.
func TestEditFileSystemsOfMkfs(t *testing.T) {
	imagetest.Long(t)
	n := 16
	if soak() {
		n = 1500
	}
	kinds := map[string]int{}
	for seed := range uint64(n) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(21, seed))
			v, args := newTheirs(t, rng)
			if v == nil {
				return
			}
			t.Log(args)
			v.fill()
			fsck(t, v.path)
			for step := range 6 {
				before, err := os.ReadFile(v.path)
				if err != nil {
					t.Fatal(err)
				}
				path := []string{"config.toml", "CONFIG.TOML", "Subdir/config of a unit.toml", "SUBDIR/CONF.TXT", "new/deeper/one.toml"}[rng.IntN(5)]
				names := []string{}
				for name := range v.files {
					if strings.EqualFold(name, path) {
						names = append(names, name)
					}
				}
				text := v.random(rng.IntN(1 << rng.IntN(20)))
				if rng.IntN(5) == 0 {
					text = v.random(rng.IntN(min(2*len(before), 8*MiB)))
				}
				edit, what := put(path, []byte(text)), fmt.Sprintf("putting %s of %d bytes", path, len(text))
				if step%3 == 2 {
					edit, what = remove(path), "removing "+path
				}
				c, err := edited(bytes.NewReader(before), int64(len(before)), edit)
				if errors.Is(err, iofs.ErrNotExist) && step%3 == 2 && len(names) == 0 {
					continue
				}
				if full := (*fat.FullError)(nil); errors.As(err, &full) && full.Need > full.Free || err != nil && strings.Contains(err.Error(), "the root directory is full") {
					kinds["full"]++
					continue
				}
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				v.apply(c)
				for _, name := range names {
					delete(v.files, name)
				}
				if step%3 != 2 {
					kinds[strings.Fields(args)[3]]++
					if len(names) > 0 {
						path = names[0]
					}
					v.files[v.spelled(path)] = text
				}
				v.clean(what)
				v.confined(what, before, path)
			}
		})
	}
	t.Log(kinds)
	for _, kind := range []string{"12", "16", "32"} {
		if kinds[kind] == 0 {
			t.Errorf("no file system was %s: that proves nothing", kind)
		}
	}
}

// spelled returns a path with the directories spelled as in the file system.
func (v *theirs) spelled(path string) string {
	if rest, ok := strings.CutPrefix(path, "SUBDIR/"); ok {
		return "Subdir/" + rest
	}
	return path
}

// table is the file allocation table of a file system, with its offset.
func tableOf(b []byte) (next []uint32, off, end, data int) {
	le := binary.LittleEndian
	sector, tables, roots := int(le.Uint16(b[11:])), int(b[16]), int(le.Uint16(b[17:]))
	length := int(le.Uint16(b[22:]))
	if length == 0 {
		length = int(le.Uint32(b[36:]))
	}
	off = int(le.Uint16(b[14:])) * sector
	end = off + tables*length*sector
	data = end + (roots*32+sector-1)/sector*sector
	all := int(le.Uint16(b[19:]))
	if all == 0 {
		all = int(le.Uint32(b[32:]))
	}
	clusters := (all*sector - data) / (sector * int(b[13]))
	for n := range clusters + 2 {
		switch {
		case roots == 0:
			next = append(next, le.Uint32(b[off+4*n:])&0x0fffffff)
		case clusters < 4085:
			next = append(next, uint32(le.Uint16(b[off+n*3/2:]))>>(n%2*4)&0xfff)
		default:
			next = append(next, uint32(le.Uint16(b[off+2*n:])))
		}
	}
	return next, off, end, data
}

// owners returns the owner of each cluster, before or after: 'f' for the file at path, or a
// directory that was made or removed, 'd' for a directory, 'o' for another file, 0 for none.
func (v *theirs) owners(before, after []byte, path string) []byte {
	v.t.Helper()
	old, _, _, data := tableOf(before)
	new, _, _, _ := tableOf(after)
	cluster := int(binary.LittleEndian.Uint16(before[11:])) * int(before[13])
	owners := make([]byte, len(old))
	for _, b := range [][]byte{before, after} {
		m, err := open(v.t, bytes.NewReader(b)).Image(int64(len(b)))
		if err != nil {
			v.t.Fatal(err)
		}
		for e := range m.Extents() {
			who := byte('o')
			switch {
			case e.Name == "fat":
				continue
			case strings.EqualFold(e.Name, path):
				who = 'f'
			case v.files[e.Name] == "":
				who = 'd'
			}
			for off := int(e.Off); off < int(e.End()); off += cluster {
				n := (off-data)/cluster + 2
				if who == 'd' && (old[n] == 0 || new[n] == 0) {
					who = 'f' // a directory that was made or removed
				}
				owners[n] = max(owners[n], who)
			}
		}
	}
	return owners
}

// confined fails the test if anything changed except free clusters, clusters of the file at
// path and of directories, their entries in the table, a few entries of directories, and
// FSInfo.
func (v *theirs) confined(what string, before []byte, path string) {
	v.t.Helper()
	after, err := os.ReadFile(v.path)
	if err != nil {
		v.t.Fatal(err)
	}
	old, tables, tablesEnd, data := tableOf(before)
	new, _, _, _ := tableOf(after)
	cluster := int(binary.LittleEndian.Uint16(before[11:])) * int(before[13])
	owners := v.owners(before, after, path)
	entries := 0
	for at := 0; at < len(before); at++ {
		if before[at] == after[at] {
			continue
		}
		fault := func(where string) {
			v.t.Fatalf("%s: byte %d, in %s, changed from %#x to %#x", what, at, where, before[at], after[at])
		}
		slot := func() {
			at -= at % 32
			if a, b := before[at:at+32], after[at:at+32]; a[0] != 0 && a[0] != 0xe5 && b[0] != 0 && b[0] != 0xe5 && !bytes.Equal(a[:11], b[:11]) {
				fault("an entry of another file")
			}
			entries++
			at += 31
		}
		switch {
		case at < tables:
			if n := at % 512; data != tablesEnd || before[at-n] != 'R' || n < 488 || n >= 496 {
				fault("the reserved sectors")
			}
		case at < tablesEnd: // checked below
		case at < data:
			slot()
		default:
			switch n := (at-data)/cluster + 2; {
			case n >= len(owners):
				fault("what is behind the last cluster")
			case owners[n] == 'o':
				fault("a cluster of another file")
			case owners[n] == 'd':
				slot()
			}
		}
	}
	most := 3 // for a name, and two more entries for directories
	if strings.HasPrefix(path, "new/") {
		most = 100
	}
	if strings.HasPrefix(path, "Subdir/config") {
		most = 4
	}
	if entries > most {
		v.t.Errorf("%s: %d entries of directories changed", what, entries)
	}
	copies := int(before[16])
	length := (tablesEnd - tables) / copies
	for i := 1; i < copies; i++ {
		if !bytes.Equal(after[tables:tables+length], after[tables+i*length:][:length]) {
			v.t.Errorf("%s: the copies of the table differ", what)
		}
	}
	for n := range old {
		if old[n] != new[n] && owners[n] == 'o' {
			v.t.Errorf("%s: the table says %#x of cluster %d, of another file, and said %#x", what, new[n], n, old[n])
		}
	}
}
