package simg_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgtool/image"
	"imgtool/image/imagetest"
	"imgtool/image/simg"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// random is an image of blocks that are noise, words, zeros or nothing.
func random(t testing.TB, seed uint64) *image.Image {
	rng := rand.New(rand.NewPCG(seed, 1))
	var extents []image.Extent
	at := int64(0)
	for range rng.IntN(30) {
		n := 1 + rng.Int64N(20_000)
		if rng.IntN(2) == 0 {
			n = 4096 * (1 + rng.Int64N(10))
		}
		b := make([]byte, n)
		switch rng.IntN(4) {
		case 0:
			at = (at + 4095) / 4096 * 4096
			for i := range b {
				b[i] = "word"[i%4]
			}
		case 1:
		default:
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
		}
		extents = append(extents, image.Extent{Off: at, Content: bytes.NewReader(b)})
		at += n + rng.Int64N(3)*rng.Int64N(100_000)
	}
	m, err := image.New(at+rng.Int64N(2)*rng.Int64N(100_000), extents...)
	must(t, err)
	return m
}

func all(t testing.TB, m *image.Image) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(m, 0, m.Size()))
	must(t, err)
	return b
}

func padded(b []byte) []byte { return append(b, make([]byte, (4096-len(b)%4096)%4096)...) }

func TestWhatIsWrittenIsReadAndSimg2imgAgrees(t *testing.T) {
	first := rand.Uint64()
	for i := range uint64(40) {
		m := random(t, first+i)
		want := padded(all(t, m))
		var out bytes.Buffer
		must(t, simg.Write(&out, m))
		got, err := simg.Open(bytes.NewReader(out.Bytes()), int64(out.Len()))
		must(t, err)
		if !bytes.Equal(all(t, got), want) {
			t.Fatalf("seed %d: what was read differs", first+i)
		}
		// Content stays content, and nothing else becomes it.
		if got.Size() == m.Size() && !slices.Equal(slices.Collect(m.Spans()), slices.Collect(got.Spans())) {
			t.Fatalf("seed %d: other content", first+i)
		}
		full, err := simg.Zeroed(got)
		must(t, err)
		if full.ContentSize() != full.Size() || !bytes.Equal(all(t, full), want) {
			t.Fatalf("seed %d: zeroed, it has %d bytes of content of %d", first+i, full.ContentSize(), full.Size())
		}
		if i < 15 && len(want) > 0 {
			dir := t.TempDir()
			must(t, os.WriteFile(dir+"/sparse", out.Bytes(), 0o644))
			imagetest.Run(t, "simg2img", dir+"/sparse", dir+"/raw")
			theirs, err := os.ReadFile(dir + "/raw")
			must(t, err)
			if !bytes.Equal(theirs, want) {
				t.Fatalf("seed %d: simg2img sees another image: %d bytes and not %d", first+i, len(theirs), len(want))
			}
		}
	}
}

func TestWhatImg2simgWritesIsRead(t *testing.T) {
	first := rand.Uint64()
	for i := range uint64(15) {
		want := padded(all(t, random(t, first+i)))
		if len(want) == 0 {
			continue
		}
		raw, sparse := filepath.Join(t.TempDir(), "raw"), filepath.Join(t.TempDir(), "sparse")
		must(t, os.WriteFile(raw, want, 0o644))
		args := []string{raw, sparse}
		if i%2 == 0 {
			args = []string{raw, sparse, "8192"}
			want = append(want, make([]byte, len(want)%8192)...)
			must(t, os.WriteFile(raw, want, 0o644))
		}
		imagetest.Run(t, "img2simg", args...)
		b, err := os.ReadFile(sparse)
		must(t, err)
		if !simg.IsSparse(b) {
			t.Fatal("not seen as sparse")
		}
		m, err := simg.Open(bytes.NewReader(b), int64(len(b)))
		must(t, err)
		if !bytes.Equal(all(t, m), want) {
			t.Fatalf("seed %d: what was read differs", first+i)
		}
	}
}

func TestALargeImageTakesNoMemory(t *testing.T) {
	m, err := image.New(1<<40, image.Extent{Off: 1 << 39, Content: strings.NewReader("x")}, image.Extent{Off: 1 << 30, Content: image.Zeros(200 << 20)})
	must(t, err)
	var out bytes.Buffer
	must(t, simg.Write(&out, m))
	if out.Len() > 5000 {
		t.Errorf("%d bytes", out.Len())
	}
	got, err := simg.Open(bytes.NewReader(out.Bytes()), int64(out.Len()))
	must(t, err)
	if got.Size() != m.Size() || got.ContentSize() != m.ContentSize() {
		t.Errorf("%d bytes of content of %d", got.ContentSize(), got.Size())
	}
	large, err := image.New(1<<44 + 4096)
	if err == nil {
		err = simg.Write(io.Discard, large)
	}
	if err == nil || !strings.Contains(err.Error(), "which has at most 17592186040320") {
		t.Error(err)
	}
}

func TestRawChunksStaySmallAndWordsAreInPhase(t *testing.T) {
	m, err := image.New(66<<20, image.Extent{Content: bytes.NewReader(bytes.Repeat([]byte("abcdef"), 11<<20))})
	must(t, err)
	var out bytes.Buffer
	must(t, simg.Write(&out, m))
	if n := binary.LittleEndian.Uint32(out.Bytes()[20:]); n != 2 {
		t.Errorf("%d chunks, and none may be over 64 MiB", n)
	}
	b := sparse(1, 1, head(0xcac2, 1, 16), "abcd")
	m, err = simg.Open(bytes.NewReader(b), int64(len(b)))
	must(t, err)
	p := make([]byte, 5)
	if _, err := m.ReadAt(p, 102); err != nil || string(p) != "cdabc" {
		t.Errorf("%q %v", p, err)
	}
}

// sparse lays out a header, then chunks.
func sparse(blocks, chunks uint32, b ...any) []byte {
	var out bytes.Buffer
	for _, v := range append([]any{uint32(0xed26ff3a), uint16(1), uint16(0), uint16(28), uint16(12), uint32(4096), blocks, chunks, uint32(0)}, b...) {
		if s, ok := v.(string); ok {
			out.WriteString(s)
			continue
		}
		binary.Write(&out, binary.LittleEndian, v)
	}
	return out.Bytes()
}

func head(kind uint16, blocks, size uint32) string {
	b := binary.LittleEndian.AppendUint16(nil, kind)
	b = binary.LittleEndian.AppendUint32(append(b, 0, 0), blocks)
	return string(binary.LittleEndian.AppendUint32(b, size))
}

func TestDamageIsAnError(t *testing.T) {
	block := strings.Repeat("x", 4096)
	good := sparse(4, 4, head(0xcac1, 1, 4108), block, head(0xcac2, 2, 16), "abcd", head(0xcac4, 0, 16), "crc.", head(0xcac3, 1, 12))
	change := func(at int, b ...byte) []byte { g := bytes.Clone(good); copy(g[at:], b); return g }
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":            {good, ""},
		"more after the end": {append(bytes.Clone(good), "more"...), ""},
		"larger headers": {func() []byte {
			b := sparse(2, 2, "12345678", head(0xcac1, 1, 4108+4), "more", block, head(0xcac2, 1, 16+4), "more", "abcd")
			b[8], b[10] = 36, 16
			return b
		}(), ""},
		"another magic":      {change(0, 'x'), "not a sparse image"},
		"version 2":          {change(4, 2), "version 2.0"},
		"version 1.7":        {change(6, 7), ""},
		"a small header":     {change(8, 27), "headers of 27"},
		"a small chunk":      {change(10, 11), "and 11 bytes"},
		"odd blocks":         {change(12, 2), "blocks of 4098"},
		"no block size":      {change(12, 0, 0, 0, 0), "blocks of 0"},
		"too many bytes":     {change(12, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "4294967295 blocks of"},
		"more blocks":        {change(16, 5), "have 4 blocks and not 5"},
		"fewer blocks":       {change(16, 3), "ends at block 4 of 3"},
		"more chunks":        {change(20, 5), "cut short"},
		"far more chunks":    {change(20, 0xff, 0xff, 0xff), "more than"},
		"raw of other size":  {change(28+8, 13), "has 4097 bytes and not 4096"},
		"a chunk of no size": {change(28+8, 0, 0), "has -12 bytes"},
		"fill of no word":    {sparse(1, 1, head(0xcac2, 1, 12)), "has 0 bytes and not 4"},
		"nothing with bytes": {sparse(1, 1, head(0xcac3, 1, 16), "abcd"), "has 4 bytes and not 0"},
		"a long checksum":    {sparse(1, 1, head(0xcac4, 1, 16), "abcd"), "a checksum of 1 blocks"},
		"an unknown type":    {change(28, 0xc5), "type 0xcac5"},
		"cut short":          {good[:2000], "cut short at 2000"},
		"cut in a header":    {good[:len(good)-1], "cut short"},
		"a header alone":     {good[:27], "not a sparse image"},
	} {
		m, err := simg.Open(bytes.NewReader(c.data), int64(len(c.data)))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v and not %q", name, err, c.want)
		}
		if name == "larger headers" && err == nil && string(all(t, m)) != block+strings.Repeat("abcd", 1024) {
			t.Error("larger headers are not skipped")
		}
	}
	if _, err := simg.Open(bytes.NewReader(nil), 0); !errors.Is(err, simg.ErrNotSparse) {
		t.Error(err)
	}
	if _, err := simg.Open(bytes.NewReader(good[:40]), int64(len(good))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

type failing struct{ left int }

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestErrorsOfBothEndsComeOut(t *testing.T) {
	m, err := image.New(8192, image.Extent{Name: "x", Content: io.NewSectionReader(strings.NewReader("short"), 0, 4096)})
	must(t, err)
	if err := simg.Write(io.Discard, m); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	m, err = image.New(8192, image.Extent{Content: strings.NewReader("content")})
	must(t, err)
	for _, left := range []int{0, 30, 40, 3000, 4140} {
		if err := simg.Write(&failing{left}, m); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("%d bytes: %v", left, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	for i := range uint64(5) {
		var out bytes.Buffer
		must(f, simg.Write(&out, random(f, i)))
		f.Add(out.Bytes()[:min(out.Len(), 20_000)])
	}
	f.Add(sparse(3, 3, head(0xcac2, 2, 16), "abcd", head(0xcac4, 0, 16), "crc.", head(0xcac3, 1, 12)))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := simg.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		buf := make([]byte, 5000)
		for _, off := range []int64{0, m.Size() / 2, m.Size() - 100} {
			if n, err := m.ReadAt(buf, max(0, off)); err != nil && err != io.EOF || n < 100 && int64(n) < m.Size() {
				t.Fatalf("%d bytes at %d of %d: %v", n, off, m.Size(), err)
			}
		}
	})
}
