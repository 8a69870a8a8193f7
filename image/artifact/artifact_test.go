package artifact_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/imagetest"
)

const mib = 1 << 20

// sample is an image of 33 MiB and some bytes with holes small and large, an
// explicit run of zeros, and content that packs and that does not.
func sample(t testing.TB) (*image.Image, []byte) {
	r := rand.New(rand.NewPCG(7, 7))
	noise := make([]byte, 5*mib+123)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	text := bytes.Repeat([]byte("imgtool "), 100_000)
	m, err := image.New(33*mib+512,
		image.Extent{Name: "head", Content: bytes.NewReader(text[:1000])},
		image.Extent{Name: "gap", Off: 1000, Content: image.Zeros(mib)},
		image.Extent{Name: "text", Off: 3 * mib, Content: bytes.NewReader(text)},
		image.Extent{Name: "noise", Off: 7*mib + 4096, Content: bytes.NewReader(noise)},
		image.Extent{Name: "tail", Off: 33 * mib, Content: strings.NewReader(strings.Repeat("t", 512))})
	if err != nil {
		t.Fatal(err)
	}
	all := make([]byte, m.Size())
	if _, err := m.ReadAt(all, 0); err != nil {
		t.Fatal(err)
	}
	return m, all
}

func save(t testing.TB, name string) (path string, m *artifact.Manifest) {
	t.Helper()
	img, _ := sample(t)
	path = filepath.Join(t.TempDir(), name)
	m = &artifact.Manifest{Board: "test", BuildID: "0123", Floor: 40 * mib, Inputs: []artifact.Input{}, Partitions: []artifact.Partition{}}
	if err := artifact.Save(t.Context(), path, img, m, nil); err != nil {
		t.Fatal(err)
	}
	return path, m
}

func content(t testing.TB, path string) *bytes.Reader {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b)
}

var unpackers = map[string][]string{
	"x.img":     {"cat"},
	"x.img.zst": {"zstd", "-dc"},
	"x.img.xz":  {"xz", "-dc"},
	"x.img.gz":  {"gzip", "-dc"},
}

func TestToolsDecompressSavedImages(t *testing.T) {
	imagetest.Long(t)
	_, want := sample(t)
	for name, unpack := range unpackers {
		path, _ := save(t, name)
		if got := imagetest.Run(t, unpack[0], append(unpack[1:], path)...); got != string(want) {
			t.Errorf("%s: %d bytes differ from %d", name, len(got), len(want))
		}
		if name != "x.img" {
			imagetest.Run(t, unpack[0], "-t", path)
		}
	}
	path, _ := save(t, "x.img")
	if out := imagetest.Run(t, "stat", "-c", "%b", path); len(strings.TrimSpace(out)) > 5 {
		t.Errorf("the raw image is not sparse: %s blocks", out)
	}
}

func TestSaveIsReproducible(t *testing.T) {
	imagetest.Long(t)
	for name := range unpackers {
		a, _ := save(t, name)
		b, _ := save(t, name)
		for _, of := range []func(string) string{func(p string) string { return p }, artifact.ManifestPath, artifact.BmapPath} {
			if !bytes.Equal(imagetest.Read(t, of(a)), imagetest.Read(t, of(b))) {
				t.Errorf("%s differs between two builds", of(name))
			}
		}
	}
}

func TestBmaptoolAcceptsBmap(t *testing.T) {
	_, want := sample(t)
	path, _ := save(t, "x.img")
	out := filepath.Join(t.TempDir(), "out.img")
	imagetest.Run(t, "bmaptool", "copy", "--bmap", artifact.BmapPath(path), path, out)
	if !bytes.Equal(imagetest.Read(t, out), want) {
		t.Error("the copy differs")
	}
	b := imagetest.Read(t, path)
	b[8*mib] ^= 1
	os.WriteFile(path, b, 0o644)
	if out, err := exec.Command(imagetest.Need(t, "bmaptool"), "copy", "--bmap", artifact.BmapPath(path), path, out).CombinedOutput(); err == nil {
		t.Errorf("bmaptool accepted a flipped bit: %s", out)
	}
}

// paint writes all chunks to a disk of 0xAA.
func paint(size int64, chunks iter.Seq2[image.Chunk, error]) (disk []byte, err error) {
	disk = bytes.Repeat([]byte{0xAA}, int(size))
	for c, err := range chunks {
		if err != nil {
			return nil, err
		}
		copy(disk[c.Off:], c.Data)
	}
	return disk, nil
}

func TestOpenReadsSavedImages(t *testing.T) {
	imagetest.Long(t)
	img, want := sample(t)
	written, err := paint(img.Size(), img.Chunks(image.PieceSize))
	if err != nil {
		t.Fatal(err)
	}
	for name := range unpackers {
		path, m := save(t, name)
		sidecar, err := artifact.ParseManifest(imagetest.Read(t, artifact.ManifestPath(path)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(sidecar.Encode(), m.Encode()) {
			t.Errorf("%s: the manifest beside it differs from the manifest of the image", name)
		}

		s, err := artifact.Stream(content(t, path), sidecar)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := paint(img.Size(), s.Chunks()); err != nil || !bytes.Equal(got, written) {
			t.Errorf("%s: the stream's chunks differ: %v", name, err)
		}

		o, err := artifact.Open(content(t, path), sidecar)
		if name == "x.img.xz" || name == "x.img.gz" {
			if !errors.Is(err, artifact.ErrStream) {
				t.Errorf("%s opens: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := paint(img.Size(), o.Chunks(image.PieceSize)); err != nil || !bytes.Equal(got, written) {
			t.Errorf("%s: the image's chunks differ: %v", name, err)
		}
		all := make([]byte, o.Size())
		if _, err := o.ReadAt(all, 0); err != nil || !bytes.Equal(all, want) {
			t.Errorf("%s: the image differs: %v", name, err)
		}
		r := rand.New(rand.NewPCG(1, 1))
		for range 200 {
			off := r.Int64N(o.Size())
			p := make([]byte, r.Int64N(min(o.Size()-off, 6*mib)+1))
			if _, err := o.ReadAt(p, off); err != nil || !bytes.Equal(p, want[off:off+int64(len(p))]) {
				t.Fatalf("%s: %d bytes at %d differ: %v", name, len(p), off, err)
			}
		}
	}
}

// A zstd image contains its manifest.
func TestZstdContainsManifest(t *testing.T) {
	path, m := save(t, "x.img.zst")
	o, err := artifact.Open(content(t, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := artifact.Stream(content(t, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []*artifact.Manifest{o.Manifest, s.Manifest} {
		if got == nil || !bytes.Equal(got.Encode(), m.Encode()) {
			t.Errorf("the manifest inside is %+v", got)
		}
	}
}

// tracked counts the bytes that are read.
type tracked struct {
	*bytes.Reader
	n int64
}

func (r *tracked) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.Reader.ReadAt(p, off)
	r.n += int64(n)
	return n, err
}

func TestOpenReadsOnlyNeededFrames(t *testing.T) {
	path, _ := save(t, "x.img.zst")
	r := &tracked{Reader: content(t, path)}
	o, err := artifact.Open(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := o.ReadAt(b[:], 3*mib); err != nil || b[0] != 'i' {
		t.Fatalf("%q, %v", b, err)
	}
	if r.n > r.Size()/10 {
		t.Errorf("%d of %d bytes were read for one", r.n, r.Size())
	}
}

// drain reads an image with Open and with Stream and returns the first error of each.
func drain(t testing.TB, b []byte, sidecar *artifact.Manifest) (opened, streamed error) {
	t.Helper()
	o, err := artifact.Open(bytes.NewReader(b), sidecar)
	if err == nil {
		_, err = paint(o.Size(), o.Chunks(image.PieceSize))
	}
	opened = err
	s, err := artifact.Stream(bytes.NewReader(b), sidecar)
	if err == nil {
		for _, e := range s.Chunks() {
			err = e
		}
	}
	return opened, err
}

func TestDamageIsFound(t *testing.T) {
	imagetest.Long(t)
	for name := range unpackers {
		path, m := save(t, name)
		whole := imagetest.Read(t, path)
		r := rand.New(rand.NewPCG(3, 3))
		check := func(what string, b []byte) {
			t.Helper()
			opened, streamed := drain(t, b, m)
			var c *artifact.CorruptError
			for how, err := range map[string]error{"opened": opened, "streamed": streamed} {
				if how == "opened" && errors.Is(err, artifact.ErrStream) {
					continue
				}
				if !errors.As(err, &c) {
					t.Errorf("%s, %s, %s: %v", name, what, how, err)
				}
			}
		}
		tries := 12
		if name == "x.img.xz" {
			tries = 3 // slow to unpack
		}
		for range tries {
			n := r.IntN(len(whole))
			check("cut", whole[:n])
			b := bytes.Clone(whole)
			// In the noise, so that it is content in every format.
			at := bytes.Index(b, []byte{0}) + len(b)/4 + r.IntN(len(b)/8)
			if name == "x.img" {
				at = 8*mib + r.IntN(mib)
			}
			b[at] ^= 1
			check("one flipped bit", b)
		}
		check("one byte more", append(bytes.Clone(whole), 0x55))
		check("one byte less", whole[:len(whole)-1])
	}
}

func TestOpenRefusesManifestOfOtherImage(t *testing.T) {
	path, m := save(t, "x.img")
	other := *m
	other.Size += 512
	for how, err := range map[string]error{"opened": first(drain(t, imagetest.Read(t, path), &other)), "streamed": second(drain(t, imagetest.Read(t, path), &other))} {
		if err == nil || !strings.Contains(err.Error(), "34603520") || !strings.Contains(err.Error(), "34604032") {
			t.Errorf("%s: %v", how, err)
		}
	}
}

func first(a, _ error) error  { return a }
func second(_, b error) error { return b }

func TestStreamReadsFilesOfOtherTools(t *testing.T) {
	imagetest.Long(t)
	_, want := sample(t)
	raw := filepath.Join(t.TempDir(), "x.img")
	os.WriteFile(raw, want, 0o644)
	for _, pack := range [][]string{{"cat"}, {"zstd", "-c"}, {"zstd", "-c", "--long=27"}, {"xz", "-0", "-c"}, {"xz", "-0", "-T2", "--block-size=1MiB", "-c"}, {"gzip", "-c"}, {"bzip2", "-c"}, {"lz4", "-c"}} {
		packed := []byte(imagetest.Run(t, pack[0], append(pack[1:], raw)...))
		s, err := artifact.Stream(bytes.NewReader(packed), nil)
		if err != nil {
			t.Fatalf("%v: %v", pack, err)
		}
		if got, err := paint(int64(len(want)), s.Chunks()); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: %v", pack, err)
		}
		_, err = artifact.Open(bytes.NewReader(packed), nil)
		if pack[0] == "cat" && err != nil || pack[0] != "cat" && !errors.Is(err, artifact.ErrStream) {
			t.Errorf("%v opens: %v", pack, err)
		}
		if pack[0] == "cat" {
			continue
		}
		var c *artifact.CorruptError
		if _, err := drain(t, packed[:len(packed)/2], nil); !errors.As(err, &c) {
			t.Errorf("half of %v: %v", pack, err)
		}
	}
}

func TestSaveLeavesNothingAfterErrors(t *testing.T) {
	imagetest.Long(t)
	for name := range unpackers {
		dir := t.TempDir()
		bad, err := image.New(10*mib, image.Extent{Name: "bad", Content: failing{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := artifact.Save(t.Context(), filepath.Join(dir, name), bad, &artifact.Manifest{}, nil); !errors.Is(err, errFailing) {
			t.Errorf("%s: %v", name, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		img, _ := sample(t)
		phases := func(name string, total int64) image.Progress {
			return func(int64) {
				if name == "writing" {
					cancel()
				}
			}
		}
		if err := artifact.Save(ctx, filepath.Join(dir, name), img, &artifact.Manifest{}, phases); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%s: %v is left", name, left)
		}
	}
}

var errFailing = errors.New("cannot be read")

type failing struct{}

func (failing) Size() int64                       { return 9 * mib }
func (failing) ReadAt([]byte, int64) (int, error) { return 0, errFailing }

// changing has other content each time it is read.
type changing struct{ n *byte }

func (changing) Size() int64 { return 4096 }
func (f changing) ReadAt(p []byte, off int64) (int, error) {
	*f.n++
	for i := range p {
		p[i] = *f.n
	}
	return len(p), nil
}

// Save reads an input once, so the hashes in the manifest are of what was written.
func TestSaveReadsInputsOnce(t *testing.T) {
	for name, unpack := range unpackers {
		img, err := image.New(9*mib, image.Extent{Name: "changing", Content: changing{new(byte)}})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), name)
		var m artifact.Manifest
		if err := artifact.Save(t.Context(), path, img, &m, nil); err != nil {
			t.Fatal(err)
		}
		data := imagetest.Run(t, unpack[0], append(unpack[1:], path)...)
		sum := fmt.Sprintf("%x", sha256.Sum256([]byte(data[:4096])))
		if len(data) != 9*mib || m.Pieces[0].SHA256 != sum || m.Entries[0].SHA256 != sum {
			t.Errorf("%s: the manifest has %s and %s of %s", name, m.Pieces[0].SHA256, m.Entries[0].SHA256, sum)
		}
		if name == "x.img.zst" && !strings.Contains(string(imagetest.Read(t, path)), sum) {
			t.Errorf("%s: the manifest in it has other hashes", name)
		}
	}
}

func FuzzOpen(f *testing.F) {
	path, m := save(f, "x.img.zst")
	b := imagetest.Read(f, path)
	f.Add(b[:200], b[len(b)-200:])
	f.Add(b[:1000], []byte{})
	_ = m
	f.Fuzz(func(t *testing.T, head, tail []byte) {
		b := append(bytes.Clone(head), tail...)
		if o, err := artifact.Open(bytes.NewReader(b), nil); err == nil && o.Size() < 1<<26 {
			io.Copy(io.Discard, io.NewSectionReader(o, 0, o.Size()))
		}
		if s, err := artifact.Stream(bytes.NewReader(b), nil); err == nil {
			n := 0
			for c, err := range s.Chunks() {
				if n += len(c.Data); err != nil || n > 1<<26 {
					break
				}
			}
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	_, m := save(f, "x.img")
	f.Add(m.Encode())
	f.Add([]byte(`{"imgtool":1,"size":4096}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := artifact.ParseManifest(b)
		if err != nil {
			return
		}
		if _, err := artifact.ParseManifest(m.Encode()); err != nil {
			t.Errorf("an encoded manifest cannot be parsed: %v", err)
		}
	})
}

func TestSeekTableFollowsSpecification(t *testing.T) {
	path, _ := save(t, "x.img.zst")
	b := imagetest.Read(t, path)
	le := binary.LittleEndian
	n := int(le.Uint32(b[len(b)-9:]))
	if n != 8 || le.Uint32(b[len(b)-4:]) != 0x8F92EAB1 {
		t.Fatalf("%d frames, magic %x", n, b[len(b)-4:])
	}
	at, total := 0, 0
	table := b[len(b)-9-8*n:]
	for i := range n {
		magic := le.Uint32(b[at:])
		if want := map[int]uint32{1: 0x184D2A50, 7: 0x184D2A51}[i]; want != 0 && magic != want || want == 0 && magic != 0xFD2FB528 {
			t.Errorf("frame %d at %d has magic %#x", i, at, magic)
		}
		at += int(le.Uint32(table[8*i:]))
		total += int(le.Uint32(table[8*i+4:]))
	}
	if le.Uint32(b[at:]) != 0x184D2A5E || total != 33*mib+512 {
		t.Errorf("%d bytes unpacked, then magic %#x", total, le.Uint32(b[at:]))
	}
}

// Concatenated archives are one image. A cut at any offset is found, except between two
// archives, where a valid shorter file is left.
func TestStreamConcatenatedArchives(t *testing.T) {
	imagetest.Long(t)
	want := make([]byte, 700_000)
	rand.NewChaCha8([32]byte{3}).Read(want[:400_000])
	dir := t.TempDir()
	var parts []string
	for i, at := range []int{0, 100_000, 100_001, 500_000} {
		end := append([]int{100_000, 100_001, 500_000, len(want)}, 0)[i]
		parts = append(parts, filepath.Join(dir, "part"+string(rune('0'+i))))
		if err := os.WriteFile(parts[i], want[at:end], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	skippable := []byte{0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'}
	for _, c := range []struct {
		pack    []string
		between []byte // allowed between two pieces
	}{
		{[]string{"gzip", "-c"}, nil},
		{[]string{"bzip2", "-c"}, nil},
		{[]string{"xz", "-0", "-c"}, nil},
		{[]string{"xz", "-0", "-c"}, make([]byte, 8)}, // stream padding
		{[]string{"xz", "-0", "-T2", "--block-size=64KiB", "-c"}, nil},
		{[]string{"zstd", "-q", "-c"}, nil},
		{[]string{"zstd", "-q", "-c"}, skippable},
		{[]string{"lz4", "-q", "-c"}, nil},
	} {
		var packed []byte
		whole := map[int]int{} // offsets of the ends of pieces, with the decompressed size up to there
		unpacked := 0
		for i, p := range parts {
			b := []byte(imagetest.Run(t, c.pack[0], append(c.pack[1:], p)...))
			packed = append(packed, b...)
			info, err := os.Stat(p)
			if err != nil {
				t.Fatal(err)
			}
			unpacked += int(info.Size())
			whole[len(packed)] = unpacked
			if i < len(parts)-1 {
				packed = append(packed, c.between...)
				whole[len(packed)] = unpacked
			}
		}
		read := func(b []byte) ([]byte, error) {
			s, err := artifact.Stream(bytes.NewReader(b), nil)
			if err != nil {
				return nil, err
			}
			return paint(int64(len(want)), s.Chunks())
		}
		if got, err := read(packed); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v with %d bytes between: %v", c.pack, len(c.between), err)
		}
		cuts := slices.Collect(maps.Keys(whole))
		for at := 4096; at < len(packed); at += 4096 {
			cuts = append(cuts, at)
		}
		for _, at := range append(cuts, len(packed)-1, 9) {
			got, err := read(packed[:at])
			n, between := whole[at]
			switch {
			case between && (err != nil || !bytes.Equal(got[:n], want[:n])):
				t.Errorf("%v cut between two pieces, at %d: %v", c.pack, at, err)
			case !between && !is[*artifact.CorruptError](err):
				t.Errorf("%v cut at %d of %d: %v", c.pack, at, len(packed), err)
			}
		}
		// gzip and bzip2 ignore trailing data with a message.
		s, err := artifact.Stream(bytes.NewReader(append(bytes.Clone(packed), "rubbish"...)), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := paint(int64(len(want)), s.Chunks())
		if ignored := c.pack[0] == "gzip" || c.pack[0] == "bzip2"; ignored && (err != nil || !bytes.Equal(got, want) || s.Trailing != 7) || !ignored && !is[*artifact.CorruptError](err) {
			t.Errorf("%v with trailing data: %d bytes are ignored, %v", c.pack, s.Trailing, err)
		}
	}
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// A range that was written to the file before is not written again, and the image and
// its sidecars have the same bytes as those that Save writes.
func TestRawFileSaveKeepsWrittenRanges(t *testing.T) {
	dir := t.TempDir()
	data := make([]byte, 9*mib+5000)
	for i := range data {
		data[i] = byte(i*i>>7) | 1
	}
	at := int64(4*mib + 512*3)
	build := func(c image.Content) *image.Image {
		img, err := image.New(40*mib, image.Extent{Name: "before", Off: 4096, Content: bytes.NewReader(data[:100_000])},
			image.Extent{Name: "written", Off: at, Content: c}, image.Extent{Name: "copy", Off: 16 * mib, Content: c})
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	whole, parts := filepath.Join(dir, "whole.img"), filepath.Join(dir, "parts.img")
	if err := artifact.Save(t.Context(), whole, build(bytes.NewReader(data)), &artifact.Manifest{}, nil); err != nil {
		t.Fatal(err)
	}
	f, err := artifact.CreateRaw(parts)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, at); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(parts); err == nil {
		t.Error("the file has its name before it is complete")
	}
	written := []image.Span{{Off: at, Len: int64(len(data))}}
	opt := artifact.Options{Raw: f, Written: written}
	if _, err := opt.Save(t.Context(), parts, build(io.NewSectionReader(f, at, int64(len(data)))), &artifact.Manifest{}); err != nil {
		t.Fatal(err)
	}
	for _, of := range []func(string) string{func(p string) string { return p }, artifact.ManifestPath, artifact.BmapPath} {
		if !bytes.Equal(imagetest.Read(t, of(whole)), imagetest.Read(t, of(parts))) {
			t.Errorf("%s differs from %s", of("parts.img"), of("whole.img"))
		}
	}
}

// A write to a range that is declared as written would change it.
func TestRawFileSaveDoesNotWriteTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.img")
	f, err := artifact.CreateRaw(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := image.New(2*mib, image.Extent{Name: "x", Content: bytes.NewReader(bytes.Repeat([]byte{1}, mib))})
	if err != nil {
		t.Fatal(err)
	}
	opt := artifact.Options{Raw: f, Written: []image.Span{{Len: mib}}}
	if _, err := opt.Save(t.Context(), path, img, &artifact.Manifest{}); err != nil {
		t.Fatal(err)
	}
	if b := imagetest.Read(t, path); b[0] != 0 {
		t.Error("a range that the file had already was written")
	}
}

func TestRawFileCloseLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	f, err := artifact.CreateRaw(filepath.Join(dir, "x.img"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
}
