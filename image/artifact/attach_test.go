package artifact_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/imagetest"
)

func attach(t testing.TB, path, name string, data []byte) {
	t.Helper()
	if err := artifact.Attach(t.Context(), path, name, data); err != nil {
		t.Fatal(err)
	}
}

// attachments returns the attachments that a file has when it is opened and when it is read as
// a stream.
func attachments(t testing.TB, path string) (opened, streamed map[string]string) {
	t.Helper()
	o, err := artifact.Open(content(t, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Check(t.Context(), nil, nil); err != nil {
		t.Fatal(err)
	}
	s, err := artifact.Stream(content(t, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Attachment(artifact.Signature); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before the end of the stream: %v", err)
	}
	for _, err := range s.Chunks() {
		if err != nil {
			t.Fatal(err)
		}
	}
	list, err := o.Attachments()
	if err != nil {
		t.Fatal(err)
	}
	if other := s.Attachments(); !slices.Equal(list, other) {
		t.Errorf("opened %v, streamed %v", list, other)
	}
	opened, streamed = map[string]string{}, map[string]string{}
	for _, a := range list {
		data, err := o.Attachment(a.Name)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := s.Attachment(a.Name); err == nil {
			streamed[a.Name] = string(data)
		}
		if artifact.Describe(a.Name, data) != a {
			t.Errorf("%v is the description of %q", a, data)
		}
		opened[a.Name] = string(data)
	}
	return opened, streamed
}

func TestAttach(t *testing.T) {
	path, m := save(t, "x.img.zst")
	plain := imagetest.Read(t, path)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 3*mib)
	rand.NewChaCha8([32]byte{}).Read(large)
	want := map[string]string{}
	for _, step := range []struct{ name, data string }{
		{"signature", "first"}, {"sbom", "{}"}, {"provenance", string(large)}, {"signature", "second"}, {"empty", ""},
	} {
		attach(t, path, step.name, []byte(step.data))
		want[step.name] = step.data
		opened, streamed := attachments(t, path)
		if fmt.Sprint(opened) != fmt.Sprint(want) || fmt.Sprint(streamed) != fmt.Sprint(want) {
			t.Fatalf("after %s: it has %d and %d attachments, want %d", step.name, len(opened), len(streamed), len(want))
		}
	}
	o, err := artifact.Open(content(t, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(o.Manifest.Encode(), m.Encode()) || !bytes.Equal(o.Manifest.Text(), m.Encode()) {
		t.Error("the manifest differs")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	_, wantData := sample(t)
	if got := imagetest.Run(t, "zstd", "-dc", path); got != string(wantData) {
		t.Errorf("zstd unpacks %d bytes, want %d", len(got), len(wantData))
	}
	imagetest.Run(t, "zstd", "-t", path)
	// Attaching in another order gives the same bytes, and removing all the file before.
	other, _ := save(t, "x.img.zst")
	for _, name := range []string{"empty", "signature", "provenance", "sbom"} {
		attach(t, other, name, []byte(want[name]))
	}
	if !bytes.Equal(imagetest.Read(t, other), imagetest.Read(t, path)) {
		t.Error("the order of attaching changes the bytes")
	}
	for name := range want {
		attach(t, path, name, nil)
	}
	if !bytes.Equal(imagetest.Read(t, path), plain) {
		t.Error("without its attachments, the file differs from what it was")
	}
}

func TestAttachBeside(t *testing.T) {
	for _, name := range []string{"x.img", "x.img.xz", "x.img.gz"} {
		path, _ := saveAs(t, name, 9*mib, mib, []byte("content"))
		before := imagetest.Read(t, path)
		attach(t, path, artifact.Signature, []byte("sig"))
		if got := imagetest.Read(t, path+".manifest.json.sig"); string(got) != "sig" || !bytes.Equal(imagetest.Read(t, path), before) {
			t.Errorf("%s: %q beside it", name, got)
		}
		if got, err := artifact.ReadBeside(path, artifact.Signature, nil); string(got) != "sig" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		attach(t, path, artifact.Signature, nil)
		if _, err := artifact.ReadBeside(path, artifact.Signature, nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAttachRefuses(t *testing.T) {
	path, _ := save(t, "x.img.zst")
	before := imagetest.Read(t, path)
	for _, name := range []string{"", "UPPER", "a/b", "../x", string(bytes.Repeat([]byte("a"), 65))} {
		if err := artifact.Attach(t.Context(), path, name, []byte("x")); err == nil {
			t.Errorf("%q is accepted", name)
		}
	}
	half := make([]byte, artifact.MaxAttachment/2+1)
	attach(t, path, "half", half)
	if err := artifact.Attach(t.Context(), path, "other", half); err == nil {
		t.Error("more than the limit is accepted")
	}
	attach(t, path, "half", nil)
	if !bytes.Equal(imagetest.Read(t, path), before) {
		t.Error("the file has changed")
	}
}

// Every flipped bit in what follows the image is found, opened and streamed.
func TestDamagedAttachmentIsFound(t *testing.T) {
	path, _ := saveAs(t, "x.img.zst", 9*mib, mib, []byte("content"))
	attach(t, path, "sbom", []byte("{\"packages\": []}"))
	attach(t, path, "signature", []byte("a signature"))
	whole := imagetest.Read(t, path)
	start := bytes.Index(whole, []byte("\x52\x2a\x4d\x18"))
	sums := bytes.LastIndex(whole, []byte("\x51\x2a\x4d\x18"))
	for at := start; at < len(whole); at++ {
		b := bytes.Clone(whole)
		b[at] ^= 1 << (at % 8)
		if err := checked(t, b, nil); !is[*artifact.CorruptError](err) {
			t.Errorf("byte %d of %d, opened: %v", at, len(whole), err)
		}
		if _, err := drain(t, b, nil); at < sums && !is[*artifact.CorruptError](err) {
			t.Errorf("byte %d of %d, streamed: %v", at, len(whole), err)
		}
	}
}

// Frames of others between ours, and attachments in wrong places, are refused.
func TestForeignFramesAreRefused(t *testing.T) {
	path, _ := save(t, "x.img.zst")
	attach(t, path, "sbom", []byte("text"))
	for _, change := range []struct {
		what string
		from string
		to   string
	}{
		{"another magic number", "\x52\x2a\x4d\x18", "\x53\x2a\x4d\x18"},
		{"an invalid name", "\x04sbom", "\x04SBOM"},
		{"a name longer than the frame", "\x04sbom", "\x40sbom"},
	} {
		b := bytes.Replace(imagetest.Read(t, path), []byte(change.from), []byte(change.to), 1)
		if _, err := artifact.Open(bytes.NewReader(b), nil); !is[*artifact.CorruptError](err) {
			t.Errorf("%s: %v", change.what, err)
		}
	}
}

// A region that is replaced keeps documents, and drops the signature of the old manifest.
func TestReplaceDropsSignature(t *testing.T) {
	for _, name := range []string{"x.img", "x.img.zst"} {
		path, _ := save(t, name)
		attach(t, path, "sbom", []byte("{}"))
		attach(t, path, "signature", []byte("sig"))
		dropped := replaceText(t, path)
		if !dropped {
			t.Errorf("%s: the signature is not reported", name)
		}
		if replaceText(t, path) {
			t.Errorf("%s: a signature is reported that there is not", name)
		}
		if _, err := os.Stat(artifact.SignaturePath(path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the signature is beside it: %v", name, err)
		}
		if name == "x.img" {
			continue
		}
		if opened, _ := attachments(t, path); fmt.Sprint(opened) != "map[sbom:{}]" {
			t.Errorf("it has %v", opened)
		}
	}
}

// replaceText replaces the first 4 MiB of an image.
func replaceText(t testing.TB, path string) (dropped bool) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := artifact.ParseManifest(imagetest.Read(t, artifact.ManifestPath(path)))
	if err != nil {
		t.Fatal(err)
	}
	o, err := artifact.Open(content(t, path), m)
	if err != nil {
		t.Fatal(err)
	}
	part, err := image.New(o.Size(), image.Extent{Name: "new", Off: 0, Content: bytes.NewReader(bytes.Repeat([]byte("new "), 1000))})
	if err != nil {
		t.Fatal(err)
	}
	dropped, err = artifact.Replace(t.Context(), path, f, o, artifact.Replacement{Region: image.Span{Len: image.PieceSize}, Content: part})
	if err != nil {
		t.Fatal(err)
	}
	return dropped
}

// A signature beside the target of a symbolic link is found by the name of the target.
func TestAttachThroughLink(t *testing.T) {
	path, _ := save(t, "x.img")
	link := filepath.Join(t.TempDir(), "link.img")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	attach(t, link, artifact.Signature, []byte("sig"))
	if got := imagetest.Read(t, artifact.SignaturePath(path)); string(got) != "sig" {
		t.Errorf("%q", got)
	}
}

// A file of another program with skippable frames that have JSON is read, also if it has a table
// of frames. Frames that begin as our manifest does are ours.
func TestForeignFramesOfJSON(t *testing.T) {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("image "), 100_000)
	frame := func(magic byte, text string) []byte {
		b := append([]byte{magic}, "\x2a\x4d\x18"...)
		return append(binary.LittleEndian.AppendUint32(b, uint32(len(text))), text...)
	}
	packed := z.EncodeAll(data, nil)
	pad := strings.Repeat("x", 100)
	table := func(sizes ...int) []byte {
		var b []byte
		for _, n := range sizes {
			b = binary.LittleEndian.AppendUint32(b, uint32(n))
			k := 0
			if n == len(packed) {
				k = len(data)
			}
			b = binary.LittleEndian.AppendUint32(b, uint32(k))
		}
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(sizes))), 0)
		return frame(0x5e, string(b)+"\xb1\xea\x92\x8f")
	}
	for _, text := range []string{`{"version": 1, "tool": "` + pad + `"}`, `{"name": "imgtool", "x": "` + pad + `"}`, `[{"imgtool": "` + pad + `"}]`, "{" + pad} {
		f := frame(0x50, text)
		for i, b := range [][]byte{
			slices.Concat(f, packed), slices.Concat(packed, f), slices.Concat(packed, f, packed, f), slices.Concat(f, f, packed),
			slices.Concat(packed, f, packed, table(len(packed), len(f), len(packed))),
			slices.Concat(packed, f, f, packed, f, table(len(packed), len(f), len(f), len(packed), len(f))),
		} {
			want := bytes.Repeat(data, bytes.Count(b, packed))
			if err := sameBytes(t, b, want); err != nil {
				t.Errorf("%.30s, file %d: %v", text, i, err)
			}
		}
	}
	for _, text := range []string{`{"imgtool": 1, "x": "` + pad + `"}`, " {\n\t\"imgtool\" : " + pad, `{"IMGTOOL": 1, "extents": [` + pad + `], "pieces": []`} {
		if _, err := artifact.Stream(bytes.NewReader(slices.Concat(packed, frame(0x50, text), packed)), nil); !is[*artifact.CorruptError](err) {
			t.Errorf("%.30s: %v", text, err)
		}
	}
}

// sameBytes reads an image as a stream and, if it has random access, opened.
func sameBytes(t testing.TB, b, want []byte) error {
	s, err := artifact.Stream(bytes.NewReader(b), nil)
	if err != nil {
		return err
	}
	defer s.Close()
	if got, err := paint(int64(len(want)), s.Chunks()); err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("streamed: %d bytes, %w", len(got), err)
	}
	o, err := artifact.Open(bytes.NewReader(b), nil)
	if errors.Is(err, artifact.ErrStream) {
		return nil
	}
	if err != nil {
		return err
	}
	got := make([]byte, o.Size())
	if _, err := o.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("opened: %d bytes, %w", len(got), err)
	}
	return nil
}
