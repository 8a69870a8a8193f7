package volume_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/compress"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/volume"
)

const mib = 1 << 20

// messages is a Reporter that keeps what is reported.
type messages struct{ info, warnings, phases []string }

func (m *messages) Infof(format string, args ...any) {
	m.info = append(m.info, fmt.Sprintf(format, args...))
}
func (m *messages) Warnf(format string, args ...any) {
	m.warnings = append(m.warnings, fmt.Sprintf(format, args...))
}
func (m *messages) Phase(name string, _ int64) image.Progress {
	m.phases = append(m.phases, name)
	return nil
}
func (m *messages) EndPhase() {}

// saveImage saves an image of one partition under a name, with its manifest.
func saveImage(t *testing.T, dir, name string, content byte) string {
	t.Helper()
	table := gpt.Table{GUID: "11111111-1111-1111-1111-111111111111", Size: 8 * mib, FirstUsable: gpt.HeadSize, Parts: []gpt.Part{
		{Number: 1, Name: "root", Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", GUID: "22222222-2222-2222-2222-222222222222", Off: mib, Len: 2 * mib}}}
	extents, err := table.Extents()
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.New(table.Size, append(extents, image.Extent{Name: "root", Off: mib, Content: bytes.NewReader(bytes.Repeat([]byte{content}, 100))})...)
	if err != nil {
		t.Fatal(err)
	}
	m := &artifact.Manifest{Board: "test", BuildID: "0123", Floor: 8 * mib, Inputs: []artifact.Input{},
		Partitions: []artifact.Partition{{Number: 1, Name: "root", Type: "linux", GUID: table.Parts[0].GUID, Off: mib, Len: 2 * mib}}}
	path := filepath.Join(dir, name)
	if err := artifact.Save(t.Context(), path, img, m, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// contentOf returns the bytes of an image.
func contentOf(t *testing.T, s *volume.Source) []byte {
	t.Helper()
	if err := s.Seek(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, s.Image.Size())
	if _, err := s.Image.ReadAt(b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return b
}

func TestOpenFormats(t *testing.T) {
	dir := t.TempDir()
	var first []byte
	for _, name := range []string{"x.img", "x.img.zst", "x.img.gz", "x.img.xz", "x.simg"} {
		path := saveImage(t, dir, name, 'a')
		s, err := volume.Open(path, volume.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if s.BuildID() != "0123" || s.IsDisk() {
			t.Errorf("%s: build %q, a disk: %v", name, s.BuildID(), s.IsDisk())
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got := contentOf(t, s)
		if first == nil {
			first = got
		}
		if !bytes.Equal(got, first) {
			t.Errorf("%s has other bytes than x.img", name)
		}
	}
}

func TestOpenStandardInput(t *testing.T) {
	data, err := os.ReadFile(saveImage(t, t.TempDir(), "x.img.zst", 'a'))
	if err != nil {
		t.Fatal(err)
	}
	s, err := volume.Open("-", volume.Options{Stdin: bytes.NewReader(data)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Image != nil || s.File != nil || s.BuildID() != "0123" {
		t.Errorf("not a stream with a manifest: %+v", s)
	}
	if got := contentOf(t, s); got[mib] != 'a' {
		t.Errorf("byte 1 MiB is %q", got[mib])
	}
	if _, err := volume.Open("-", volume.Options{}); fault.Kind(err) != fault.Usage {
		t.Errorf("without standard input: %v", err)
	}
}

// The manifest of an image that was renamed is found by its partition table, unless two
// match or the image of the manifest's name still exists.
func TestSearchManifest(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, dir, path string)
		build   string
		info    string
	}{
		{"renamed", func(t *testing.T, _, path string) { rename(t, path, path+".new") }, "0123", "its manifest is "},
		{"two that match", func(t *testing.T, dir, path string) {
			other := saveImage(t, dir, "y.img", 'b')
			rename(t, path, filepath.Join(dir, "new"))
			os.Remove(other)
		}, "", "match its partition table, and differ"},
		{"copied", func(t *testing.T, _, path string) {
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(filepath.Join(filepath.Dir(path), "copy"), b, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
			rename(t, filepath.Join(filepath.Dir(path), "copy"), path+"-new")
		}, "", "has no manifest (x.img-new.manifest.json)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := saveImage(t, dir, "x.img", 'a')
			c.prepare(t, dir, path)
			found, _ := filepath.Glob(filepath.Join(dir, "*new"))
			var m messages
			s, err := volume.Open(found[0], volume.Options{Reporter: &m})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			s.ReportBeside()
			if s.BuildID() != c.build || len(m.info) != 1 || !strings.Contains(m.info[0], c.info) {
				t.Errorf("build %q, %q; want %q, %q", s.BuildID(), m.info, c.build, c.info)
			}
		})
	}
}

func TestCheckFindsDamage(t *testing.T) {
	path := saveImage(t, t.TempDir(), "x.img", 'a')
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, c := range []struct {
		off  int64
		want string
	}{{mib, "SHA-256"}, {3 * mib, "where the manifest has no content"}} {
		before := make([]byte, 1)
		f.ReadAt(before, c.off)
		f.WriteAt([]byte{'x'}, c.off)
		s, err := volume.Open(path, volume.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Check(t.Context()); fault.Kind(err) != fault.Corrupt || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), path) {
			t.Errorf("byte %d: %v", c.off, err)
		}
		s.Close()
		f.WriteAt(before, c.off)
	}
}

// mbrGzip returns a compressed image: a table with one partition of size bytes at 1 MiB,
// and fill from there to length.
func mbrGzip(t *testing.T, size, length int64, fill byte) string {
	t.Helper()
	head := make([]byte, mib)
	head[446+4] = 0x83
	binary.LittleEndian.PutUint32(head[446+8:], 2048)
	binary.LittleEndian.PutUint32(head[446+12:], uint32(size/512))
	head[510], head[511] = 0x55, 0xaa
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(head)
	for at := int64(mib); at < length; at += mib {
		z.Write(bytes.Repeat([]byte{fill}, mib))
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.img.gz")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSeekLimits(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		name         string
		size, length int64
		fill         byte
		max          int64
		want         string
	}{
		{"as the table says", 7 * mib, 8 * mib, 1, 0, ""},
		{"rounded up", 7 * mib, 70 * mib, 1, 0, ""},
		{"zeros after the disk", 7 * mib, 90 * mib, 0, 0, ""},
		{"data after the disk", 7 * mib, 90 * mib, 1, 0, "its partition table is for a disk of 8388608 bytes, but more data follow at byte 75497472"},
		{"data after the disk, wanted", 7 * mib, 90 * mib, 1, 100 * mib, ""},
		{"more than the budget", 7 * mib, 8 * mib, 1, 8*mib - 1, "it unpacks to 8388608 bytes, and --max-unpacked allows 8388607"},
		{"more than the table and the budget", mib, 8 * mib, 1, 4 * mib, "it unpacks to more bytes than --max-unpacked allows 4194304"},
		{"disk larger than the default budget", 100 * gib, 2 * mib, 1, 0, "it unpacks to 107375230976 bytes, and --max-unpacked allows 68719476736"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			s, err := volume.Open(mbrGzip(t, c.size, c.length, c.fill), volume.Options{Scratch: &compress.Budget{Max: c.max}})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			err = s.Seek(t.Context())
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got the error %v, want %q", err, c.want)
			}
			if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) > 0 {
				t.Errorf("%s is left", left[0].Name())
			}
		})
	}
}

// counts is a Reporter that adds up the progress of phases.
type counts struct {
	messages
	total, done int64
}

func (c *counts) Phase(_ string, total int64) image.Progress {
	c.total, c.done = total, 0
	return func(n int64) { c.done += n }
}

// The progress of unpacking includes zeros. If it is not known how much there is, it is the
// progress in the file.
func TestProgressOfUnpacking(t *testing.T) {
	path := mbrGzip(t, 7*mib, 8*mib, 0)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	var c counts
	s, err := volume.Open(path, volume.Options{Reporter: &c})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.ReadThrough(t.Context(), func(c volume.Chunks) volume.Chunks { return c }); err != nil {
		t.Fatal(err)
	}
	if c.total != info.Size() || c.done > c.total || c.done < 64 {
		t.Errorf("%d of %d bytes of a file of %d", c.done, c.total, info.Size())
	}
	// Its length is known now.
	if err := s.Seek(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.total != 8*mib || c.done != 8*mib {
		t.Errorf("%d of %d bytes", c.done, c.total)
	}
}

// Holes in the file and in all targets are left out, and nothing else is.
func TestWithoutHoles(t *testing.T) {
	file := func(name string, data int64) string {
		path := filepath.Join(t.TempDir(), name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(64 * mib); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("data"), data); err != nil {
			t.Fatal(err)
		}
		return path
	}
	s, err := volume.Open(file("x.img", 8*mib), volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	less, err := s.WithoutHoles([]string{file("disk", 40*mib)})
	if err != nil {
		t.Fatal(err)
	}
	var spans []image.Span
	total := int64(0)
	for span := range less.Image.Spans() {
		spans = append(spans, span)
		total += span.Len
	}
	covered := func(off int64) bool {
		for _, s := range spans {
			if s.Off <= off && off < s.End() {
				return true
			}
		}
		return false
	}
	if !covered(8*mib) || !covered(40*mib) || covered(20*mib) || total > mib {
		t.Errorf("content is at %v", spans)
	}
	if same, err := s.WithoutHoles([]string{"/dev/null"}); err != nil || same != s {
		t.Errorf("a target that is not a regular file: %v", err)
	}
}

func TestNewest(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, err := volume.Newest("--image FILE"); fault.Kind(err) != fault.Usage || !strings.Contains(err.Error(), "name one with --image FILE") {
		t.Errorf("without images: %v", err)
	}
	if err := os.Mkdir("out", 0o755); err != nil {
		t.Fatal(err)
	}
	saveImage(t, "out", "old.img", 'a')
	want := saveImage(t, "out", "new.img.zst", 'b')
	past := int64(1_000_000_000)
	if err := os.Chtimes("out/old.img", unixTime(past), unixTime(past)); err != nil {
		t.Fatal(err)
	}
	if got, err := volume.Newest("--image FILE"); err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}
