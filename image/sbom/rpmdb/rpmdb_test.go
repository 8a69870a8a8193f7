package rpmdb

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgtool/image/imagetest"
)

// query is how rpm prints the fields of a Package.
const query = `%{NAME}|%{VERSION}|%{RELEASE}|%{ARCH}|%{EPOCH}|%{SOURCERPM}|%{LICENSE}|%{VENDOR}|%{URL}\n`

func line(p Package) string {
	epoch := "(none)"
	if p.Epoch >= 0 {
		epoch = fmt.Sprint(p.Epoch)
	}
	text := func(s string) string {
		if s == "" {
			return "(none)"
		}
		return s
	}
	return strings.Join([]string{p.Name, p.Version, p.Release, text(p.Arch), epoch, text(p.SourceRPM), text(p.License), text(p.Vendor), text(p.URL)}, "|")
}

// databases returns copies of databases of old CentOS systems, which are test data of a Go module
// of others. Only its data are used.
func databases(t *testing.T) map[string]string {
	module := imagetest.Module(t, "github.com/knqyf263/go-rpmdb@v0.0.0-20210911072402-73bd0ce46c49")
	copies := map[string]string{}
	for _, name := range []string{"centos5-plain", "centos6-plain", "centos7-plain", "centos8-modularitylabel"} {
		text, err := os.ReadFile(filepath.Join(module, "pkg/testdata", name, "Packages"))
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "Packages"), text, 0o644); err != nil {
			t.Fatal(err)
		}
		copies[name] = dir
	}
	return copies
}

// compare compares the packages in a database with the packages that rpm lists.
func compare(t *testing.T, name, dir, file, backend string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	found, err := Read(bytes.NewReader(text), int64(len(text)))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var got []string
	for _, p := range found {
		got = append(got, line(p))
	}
	want := strings.Split(strings.TrimSpace(imagetest.Run(t, "rpm", "-qa", "--dbpath", dir, "--define", "_db_backend "+backend, "--queryformat", query)), "\n")
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: %d packages, rpm has %d:\n%s\nwant\n%s", name, len(got), len(want), strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(got) < 80 {
		t.Errorf("%s: only %d packages: that proves little", name, len(got))
	}
	t.Logf("%s: %d packages in %s", name, len(got), file)
	return text
}

// Databases of CentOS are read as rpm reads them, in Berkeley DB and after rpm converted them to
// SQLite. Damaged ones end with an error or with other packages, and never without end.
func TestAgainstRPM(t *testing.T) {
	imagetest.Long(t)
	imagetest.Need(t, "rpm")
	r := rand.New(rand.NewPCG(1, 2))
	for name, dir := range databases(t) {
		berkeley := compare(t, name, dir, "Packages", "bdb_ro")
		if name != "centos7-plain" && name != "centos8-modularitylabel" {
			continue // the headers are too old for rpm to convert them
		}
		imagetest.Run(t, "rpm", "--rebuilddb", "--dbpath", dir, "--define", "_db_backend sqlite")
		sqlite := compare(t, name, dir, "rpmdb.sqlite", "sqlite")
		for _, text := range [][]byte{berkeley, sqlite} {
			damage(t, r, text)
		}
	}
}

// damage reads a database with random changes.
func damage(t *testing.T, r *rand.Rand, text []byte) {
	failed := 0
	for range 200 {
		bad := &changed{text, map[int64]byte{}}
		for range 1 + r.IntN(50) {
			// Half of the changes are in headers of pages.
			at := r.Int64N(int64(len(text)))
			if r.IntN(2) == 0 {
				at = at/4096*4096 + r.Int64N(40)
			}
			bad.bytes[min(at, int64(len(text))-1)] = byte(r.IntN(256))
		}
		size := int64(len(text))
		if r.IntN(4) == 0 {
			size = r.Int64N(size)
		}
		if _, err := Read(io.NewSectionReader(bad, 0, size), size); err != nil {
			failed++
		}
	}
	if failed < 50 {
		t.Errorf("only %d of 200 damaged databases are found", failed)
	}
}

// changed is data with some other bytes.
type changed struct {
	data  []byte
	bytes map[int64]byte
}

func (c *changed) ReadAt(p []byte, off int64) (int, error) {
	n, err := bytes.NewReader(c.data).ReadAt(p, off)
	for at, b := range c.bytes {
		if at >= off && at < off+int64(n) {
			p[at-off] = b
		}
	}
	return n, err
}

// header returns the header of a package.
func header(name string) []byte {
	values := map[uint32]string{tagName: name, tagVersion: "1.0", tagRelease: "2", tagArch: "noarch"}
	var entries, data []byte
	for tag, text := range values {
		for _, v := range []uint32{tag, typeString, uint32(len(data)), 1} {
			entries = binary.BigEndian.AppendUint32(entries, v)
		}
		data = append(append(data, text...), 0)
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(len(values)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return slices.Concat(b, entries, data)
}

// ndbFile returns an ndb database with two packages and a free slot between them.
func ndbFile() []byte {
	le := binary.LittleEndian
	b := make([]byte, 4096)
	copy(b, "RpmP")
	le.PutUint32(b[12:], 1) // pages of slots
	for i := 32; i < len(b); i += 16 {
		copy(b[i:], "Slot")
	}
	for i, name := range []string{"one", "two"} {
		index, h := uint32(i+1), header(name)
		slot := b[32+32*i:]
		le.PutUint32(slot[4:], index)
		le.PutUint32(slot[8:], uint32(len(b)/16))
		b = append(b, "BlbS"...)
		for _, v := range []uint32{index, 0, uint32(len(h))} {
			b = le.AppendUint32(b, v)
		}
		b = append(b, h...)
		b = append(b, make([]byte, 16-len(b)%16)...)
	}
	return b
}

func TestNdb(t *testing.T) {
	b := ndbFile()
	found, err := Read(bytes.NewReader(b), int64(len(b)))
	if err != nil || len(found) != 2 || line(found[0]) != "one|1.0|2|noarch|(none)|(none)|(none)|(none)|(none)" || found[1].Name != "two" {
		t.Errorf("%+v: %v", found, err)
	}
	for _, size := range []int{0, 20, 40, 4096, len(b) - 100} {
		if _, err := Read(bytes.NewReader(b[:size]), int64(size)); err == nil {
			t.Errorf("cut to %d bytes it is read without an error", size)
		}
	}
}

// A small file cannot list the same package without end.
func TestNdbRepeats(t *testing.T) {
	b := ndbFile()
	first := slices.Clone(b[32:48])
	for i := 48; i < 4096; i += 16 {
		copy(b[i:], first)
	}
	if found, err := Read(bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), "larger than the file") {
		t.Errorf("%d packages: %v", len(found), err)
	}
}

func TestOthersAreRefused(t *testing.T) {
	for _, text := range []string{"", "SQLite format 3\x00", strings.Repeat("x", 5000)} {
		if found, err := Read(strings.NewReader(text), int64(len(text))); err == nil {
			t.Errorf("%.20q: %v", text, found)
		}
	}
}
