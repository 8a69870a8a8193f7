package artifact_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/imagetest"
)

// oneStream decompresses the first stream or member of a file with Python, whose decoders
// stop there as those of many flashing programs do.
const oneStream = `
import lzma, sys, zlib
packed = open(sys.argv[1], "rb").read()
d = lzma.LZMADecompressor() if sys.argv[1].endswith(".xz") else zlib.decompressobj(31)
sys.stdout.buffer.write(d.decompress(packed))
assert d.eof and d.unused_data == b"", (d.eof, len(d.unused_data))
`

// Attachments change nothing for tools: they are after all data in an .img.zst.
func TestToolsReadFormsWhole(t *testing.T) {
	imagetest.Long(t)
	_, want := sample(t)
	for name, commands := range map[string][][]string{
		"x.img.gz":  {{"python3", "-c", oneStream}, {"bsdcat"}, {"gzip", "-dc"}},
		"x.img.xz":  {{"python3", "-c", oneStream}, {"bsdcat"}, {"xz", "-T2", "-dc"}, {"xz", "-T1", "-dc"}},
		"x.img.zst": {{"bsdcat"}, {"zstd", "-dc", "-M4MB"}, {"pzstd", "-dc"}},
	} {
		path, _ := save(t, name)
		attach(t, path, artifact.Signature, []byte("a signature"))
		attach(t, path, artifact.SBOM, want[:200_000])
		for _, c := range commands {
			imagetest.Need(t, c[0])
			cmd := exec.Command(c[0], append(c[1:], path)...)
			cmd.Stderr = os.Stderr
			got, err := cmd.Output()
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %s: %d bytes of %d, %v", name, c[0], len(got), len(want), err)
			}
		}
		switch name {
		case "x.img.zst":
			imagetest.Run(t, "zstd", "-t", path)
		case "x.img.gz":
			imagetest.Run(t, "gzip", "-t", path)
			if out := imagetest.Run(t, "gzip", "-l", path); !strings.Contains(out, fmt.Sprint(len(want))) {
				t.Errorf("gzip -l prints %s, the image has %d bytes", out, len(want))
			}
		case "x.img.xz":
			listed := imagetest.Run(t, "xz", "--robot", "-l", "-vv", path)
			blocks, sized := 0, 0
			for line := range strings.Lines(listed) {
				if f := strings.Split(line, "\t"); f[0] == "block" {
					blocks++
					if f[12] == "cu" { // both sizes are in the header
						sized++
					}
				}
			}
			if !strings.Contains(listed, "\nstream\t1\t") || strings.Contains(listed, "\nstream\t2\t") || blocks != 9 || sized != blocks {
				t.Errorf("not one stream of 9 blocks with sizes:\n%s", listed)
			}
		}
	}
}

// The number of workers does not affect the bytes of a file.
func TestFormsDoNotDependOnWorkers(t *testing.T) {
	imagetest.Long(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for name := range unpackers {
		var first []byte
		for _, n := range []int{1, 2, 5} {
			runtime.GOMAXPROCS(n)
			path, _ := save(t, name)
			if b := imagetest.Read(t, path); first == nil {
				first = b
			} else if !bytes.Equal(b, first) {
				t.Errorf("%s differs with %d workers", name, n)
			}
		}
	}
}

// saveAs saves an image of size bytes that has content at an offset.
func saveAs(t testing.TB, name string, size, at int64, content []byte) (string, *artifact.Manifest) {
	t.Helper()
	img, err := image.New(size, image.Extent{Name: "first", Content: strings.NewReader("first")},
		image.Extent{Name: "content", Off: at, Content: bytes.NewReader(content)})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	m := &artifact.Manifest{Board: "test", BuildID: "0123", Floor: size, Inputs: []artifact.Input{}, Partitions: []artifact.Partition{}}
	if err := artifact.Save(t.Context(), path, img, m, nil); err != nil {
		t.Fatal(err)
	}
	return path, m
}

// A hole takes four bytes for 128 KiB, the size of the largest block, and little more.
func TestHolesAreSmall(t *testing.T) {
	imagetest.Long(t)
	const tb = 1_000_000_000_000
	path, m := saveAs(t, "x.img.zst", tb, tb/2, []byte("content"))
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	floor := int64(tb / (128 << 10) * 4)
	if n := info.Size(); n > floor+floor/50 || n > 32e6 {
		t.Errorf("the image has %d bytes, the blocks of zeros alone have %d", n, floor)
	}
	f := open(t, path)
	o, err := artifact.Open(io.NewSectionReader(f, 0, info.Size()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Check(t.Context(), nil, nil); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 7)
	if _, err := o.ReadAt(b, tb/2); err != nil || string(b) != "content" || o.Size() != m.Size {
		t.Errorf("%q, %v, %d bytes", b, err, o.Size())
	}
	// zstd decompresses within the memory for a frame of 4 MiB.
	path, _ = saveAs(t, "x.img.zst", 3<<30+512, 1<<30+5000, []byte("content"))
	out := imagetest.Run(t, "sh", "-c", "zstd -dc -M5MB "+path+" | sha256sum")
	sum := sha256.New()
	zeros := make([]byte, 1<<20)
	put := func(text string, end, at int64) int64 {
		for at < end {
			k := min(end-at, int64(len(zeros)))
			sum.Write(zeros[:k])
			at += k
		}
		sum.Write([]byte(text))
		return at + int64(len(text))
	}
	put("", 3<<30+512, put("content", 1<<30+5000, put("first", 0, 0)))
	if want := fmt.Sprintf("%x", sum.Sum(nil)); !strings.HasPrefix(out, want) {
		t.Errorf("zstd decompresses to %s, want %s", out, want)
	}
}

// Replacing a region gives the file that saving the changed image gives, also in the middle
// of a hole.
func TestReplaceGivesTheFileOfSave(t *testing.T) {
	const size = 200 * mib
	for _, format := range []string{"x.img.zst", "x.img"} {
		path, m := saveAs(t, format, size, 150*mib, []byte("content"))
		want, _ := saveAs(t, format, size, 150*mib, []byte("content"))
		f := open(t, path)
		info, _ := f.Stat()
		o, err := artifact.Open(io.NewSectionReader(f, 0, info.Size()), m)
		if err != nil {
			t.Fatal(err)
		}
		content := bytes.Repeat([]byte("new"), mib)
		at := int64(80*mib + 4096)
		changed, err := image.New(size, image.Extent{Name: "new", Off: at, Content: bytes.NewReader(content)})
		if err != nil {
			t.Fatal(err)
		}
		r := artifact.Replacement{Region: image.Span{Off: 80 * mib, Len: 8 * mib}, Content: changed}
		if _, err := artifact.Replace(t.Context(), path, f, o, r); err != nil {
			t.Fatal(err)
		}
		whole, err := image.New(size, image.Extent{Name: "first", Content: strings.NewReader("first")},
			image.Extent{Name: "new", Off: at, Content: bytes.NewReader(content)},
			image.Extent{Name: "content", Off: 150 * mib, Content: strings.NewReader("content")})
		if err != nil {
			t.Fatal(err)
		}
		if err := artifact.Save(t.Context(), want, whole, m, nil); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(imagetest.Read(t, path), imagetest.Read(t, want)) {
			t.Errorf("%s: Replace and Save give different files", format)
		}
	}
}

// toOldForm returns an .img.zst as earlier versions wrote it: the manifest first, and no
// SHA-256 of the table.
func toOldForm(t testing.TB, b []byte) []byte {
	le := binary.LittleEndian
	n := int(le.Uint32(b[len(b)-9:]))
	table := b[len(b)-9-8*n:]
	size := func(i int) int { return int(le.Uint32(table[8*i:])) }
	first, manifest := b[:size(0)], b[size(0):][:size(1)]
	end := len(b) - 9 - 8*n - 8
	sums := b[end-size(n-1) : end]
	rest := b[size(0)+size(1) : end-size(n-1)]
	sums = append([]byte{sums[0], sums[1], sums[2], sums[3], 64, 0, 0, 0}, sums[8:72]...)
	entries := slices.Concat(table[8:16], table[:8], table[16:8*(n-1)], []byte{72, 0, 0, 0, 0, 0, 0, 0})
	return slices.Concat(manifest, first, rest, sums, b[end:end+8], entries, table[8*n:][:9])
}

func TestOldFormIsRead(t *testing.T) {
	img, want := sample(t)
	path, m := save(t, "x.img.zst")
	old := toOldForm(t, imagetest.Read(t, path))
	if err := checked(t, old, nil); err != nil {
		t.Fatal(err)
	}
	o, err := artifact.Open(bytes.NewReader(old), nil)
	if err != nil || o.Manifest == nil || !bytes.Equal(o.Manifest.Encode(), m.Encode()) {
		t.Fatalf("%+v, %v", o, err)
	}
	all := make([]byte, o.Size())
	if _, err := o.ReadAt(all, 0); err != nil || !bytes.Equal(all, want) {
		t.Errorf("the image differs: %v", err)
	}
	s, err := artifact.Stream(bytes.NewReader(old), nil)
	if err != nil || s.Manifest == nil {
		t.Fatalf("%+v, %v", s, err)
	}
	got, err := paint(img.Size(), s.Chunks())
	if written, _ := paint(img.Size(), img.Chunks(image.PieceSize)); err != nil || !bytes.Equal(got, written) {
		t.Errorf("the stream differs: %v", err)
	}
	for _, at := range []int{100, len(old) / 2, len(old) - 150} {
		damaged := bytes.Clone(old)
		damaged[at] ^= 4
		if err := checked(t, damaged, nil); !is[*artifact.CorruptError](err) {
			t.Errorf("byte %d of %d: %v", at, len(old), err)
		}
	}
}

// No corruption of an .img.zst passes the check that flash makes before it touches a disk.
func TestCorruptionsAreFoundByCheck(t *testing.T) {
	count := 1000
	if os.Getenv("SOAK") != "" {
		count = 10_000
	}
	// Content of different sizes when compressed, and holes.
	r := imagetest.Random(t)
	content := make([]byte, 14*mib)
	for i := range 4 {
		part := content[i*3*mib:]
		for k := range (i + 1) * 20_000 {
			part[k] = byte(r.Uint32())
		}
	}
	path, m := saveAs(t, "x.img.zst", 160*mib, 70*mib, content)
	attach(t, path, "sbom", content[:5000])
	attach(t, path, "signature", []byte("a signature"))
	whole := imagetest.Read(t, path)
	for range count {
		b, how := imagetest.Corrupt(r, whole)
		if bytes.Equal(b, whole) {
			continue
		}
		err := checked(t, b, m)
		if errors.Is(err, artifact.ErrStream) { // it is unpacked before the disk is touched
			_, err = drain(t, b, m)
		}
		if err == nil {
			t.Errorf("%s: it is not found", how)
		}
	}
}

// A skippable frame that pzstd writes before a frame, the size of that in 4 bytes, is not taken for
// a manifest, whatever its first byte is.
func TestFrameOfPzstdIsNoManifest(t *testing.T) {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("image "), 1000)
	packed := append([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00{\x12\x00\x00"), z.EncodeAll(data, nil)...)
	s, err := artifact.Stream(bytes.NewReader(packed), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var got []byte
	for c, err := range s.Chunks() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, c.Data...)
	}
	if !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d", len(got), len(data))
	}
}

// A corruption of an .img.zst that is read through a pipe, without a manifest beside it, gives an
// error or the same content and manifest.
func TestCorruptionsAreFoundInStreams(t *testing.T) {
	count := 200
	if os.Getenv("SOAK") != "" {
		count = 3000
	}
	r := imagetest.Random(t)
	content := make([]byte, 9*mib)
	rand.NewChaCha8([32]byte{3}).Read(content[:30_000])
	rand.NewChaCha8([32]byte{4}).Read(content[5*mib:][:50_000])
	path, m := saveAs(t, "x.img.zst", 20*mib, 9*mib, content)
	attach(t, path, "signature", []byte("a signature"))
	whole := imagetest.Read(t, path)
	s, err := artifact.Stream(bytes.NewReader(whole), nil)
	if err != nil {
		t.Fatal(err)
	}
	want, err := paint(20*mib, s.Chunks())
	if err != nil {
		t.Fatal(err)
	}
	for range count {
		b, how := imagetest.Corrupt(r, whole)
		s, err := artifact.Stream(bytes.NewReader(b), nil)
		var got []byte
		if err == nil {
			got, err = paint(20*mib, s.Chunks())
			s.Close()
		}
		switch {
		case err != nil:
		case s.Manifest == nil && s.Format == artifact.Zstd:
			t.Errorf("%s: it is taken for an image without a manifest", how)
		case s.Manifest != nil && !bytes.Equal(s.Manifest.Text(), m.Encode()):
			t.Errorf("%s: the manifest has changed", how)
		case s.Manifest != nil && !bytes.Equal(got, want):
			t.Errorf("%s: the content has changed", how)
		}
	}
}
