package compose_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/boardinfo"
	"imgtool/image/compose"
	"imgtool/image/ext4"
	"imgtool/image/fat"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/imagetest"
	"imgtool/image/progress"
	"imgtool/image/seed/seedfile"
	"imgtool/image/tree"
	"imgtool/image/volume"
)

const mib = 1 << 20

// part is a partition of a test image.
type part struct {
	name    string
	size    int64
	content *image.Image
	fill    bool
}

// newImage returns an image of a board called "mine", which no definition describes.
func newImage(t *testing.T, parts ...part) *volume.Source {
	t.Helper()
	table := gpt.Table{GUID: "11111111-1111-1111-1111-111111111111", Size: mib + gpt.TailSize, FirstUsable: gpt.HeadSize}
	m := &artifact.Manifest{Board: "mine", Medium: "disk", BuildID: "0123", Time: 1_700_000_000, Inputs: []artifact.Input{},
		Info: &boardinfo.Info{Arch: "arm64", Media: []boardinfo.Medium{{Name: "disk"}},
			Seed: &boardinfo.Seed{Number: 1, Partition: "boot", Path: "seed.toml", SlotB: "boot-b"}}}
	off := int64(mib)
	var content []image.Extent
	for i, p := range parts {
		q := gpt.Part{Number: i + 1, Name: p.name, Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", GUID: fmt.Sprintf("22222222-2222-2222-2222-%012d", i), Off: off, Len: p.size}
		table.Parts = append(table.Parts, q)
		m.Partitions = append(m.Partitions, artifact.Partition{Number: q.Number, Name: q.Name, Type: "linux", GUID: q.GUID, Off: off, Len: q.Len, Fill: p.fill})
		content = append(content, image.Extent{Name: p.name, Off: off, Content: p.content})
		off += p.size
	}
	table.Size = off + mib
	extents, err := table.Extents()
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.New(table.Size, append(extents, content...)...)
	if err != nil {
		t.Fatal(err)
	}
	m.Size, m.Floor = table.Size, table.Size
	return volume.FromImage("x.img", img, m)
}

func bootFAT(t *testing.T) part {
	t.Helper()
	img, err := fat.New(4*mib, fat.Options{Label: "BOOT", Serial: 1, Time: 1_700_000_000}, []fat.File{{Path: "Image", Content: strings.NewReader("kernel")}})
	if err != nil {
		t.Fatal(err)
	}
	return part{name: "boot", size: 4 * mib, content: img}
}

func rootExt4(t *testing.T, size int64) part {
	t.Helper()
	tr := tree.New(1)
	if err := tr.Put("etc/hostname", &tree.Inode{Mode: tree.Regular | 0o644, Content: strings.NewReader("host\n")}); err != nil {
		t.Fatal(err)
	}
	img, err := ext4.New(tr, ext4.Options{Size: size, Label: "root"})
	if err != nil {
		t.Fatal(err)
	}
	return part{name: "root", size: size, content: img, fill: true}
}

// file writes an image to a file.
func file(t *testing.T, s *volume.Source) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := image.Write(t.Context(), f, s.Chunks(), nil); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(s.Image.Size()); err != nil {
		t.Fatal(err)
	}
	return path
}

func options(text string) compose.SeedOptions {
	opt := compose.SeedOptions{Reporter: progress.Discard}
	if text != "" {
		opt.Seed = &seedfile.Seed{Name: "seed.toml", Text: []byte(text)}
	}
	return opt
}

// The last partition fills a larger disk, with the same files and the files that are added.
// Other tools read the result.
func TestFit(t *testing.T) {
	fsck := imagetest.Need(t, "e2fsck")
	sfdisk := imagetest.Need(t, "sfdisk")
	s := newImage(t, bootFAT(t), rootExt4(t, 16*mib))
	files := map[string][]compose.File{"root": {{Path: "/var/key", Mode: 0o600, Data: []byte("secret")}}}
	fitted, err := compose.Fit(s, 64*mib, files)
	if err != nil {
		t.Fatal(err)
	}
	path := file(t, fitted)
	out := imagetest.Run(t, sfdisk, "-J", path)
	if !strings.Contains(out, `"name": "root"`) || strings.Contains(out, "does not match") {
		t.Error(out)
	}
	l, err := volume.ParsePlace(path+":root").Open(t.Context(), volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Source.Close()
	r, err := l.Section()
	if err != nil {
		t.Fatal(err)
	}
	if r.Size() != fitted.Manifest.Partitions[1].Len || r.Size() <= 16*mib {
		t.Errorf("root has %d bytes, the manifest says %d", r.Size(), fitted.Manifest.Partitions[1].Len)
	}
	v, err := l.FileSystem()
	if err != nil {
		t.Fatal(err)
	}
	if a, b := v.ReadText("etc/hostname", 100), v.ReadText("var/key", 100); a != "host\n" || b != "secret" {
		t.Errorf("the files hold %q and %q", a, b)
	}
	if n := v.Tree.Lookup("var/key"); n.Mode != tree.Regular|0o600 || n.ModTime != 1_700_000_000 {
		t.Errorf("the new file has mode %o and time %d", n.Mode, n.ModTime)
	}
	part := filepath.Join(t.TempDir(), "root")
	f, err := os.Create(part)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, r.Size())
	if _, err := r.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, fsck, "-fn", part)
}

func TestFitErrors(t *testing.T) {
	s := newImage(t, bootFAT(t), rootExt4(t, 16*mib))
	if same, err := compose.Fit(s, s.Image.Size(), nil); err != nil || same != s {
		t.Errorf("for its own size: %v", err)
	}
	moved := *s
	m := *s.Manifest
	m.Partitions = append([]artifact.Partition{}, m.Partitions...)
	m.Partitions[1].Off += mib
	moved.Manifest = &m
	for _, c := range []struct {
		name  string
		s     *volume.Source
		size  int64
		files map[string][]compose.File
		want  string
	}{
		{"unknown partition", s, 64 * mib, map[string][]compose.File{"none": {{Path: "x"}}}, "none: it has no file system to add files to"},
		{"small disk", s, 4 * mib, nil, "nothing is left for root on a disk of 4194304 bytes"},
		{"other table", &moved, 64 * mib, nil, "its partition table does not match its manifest: root is elsewhere"},
	} {
		if _, err := compose.Fit(c.s, c.size, c.files); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

// A seed goes into the image of a board that no definition describes, and out again; all
// other bytes stay.
func TestSeed(t *testing.T) {
	fsck := imagetest.Need(t, "fsck.fat")
	s := newImage(t, bootFAT(t))
	seeded, err := compose.WithSeed(s, options("a = 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := compose.ReadSeed(seeded, nil); err != nil || string(got) != "a = 1\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := compose.ReadSeed(s, nil); err != nil || got != nil {
		t.Errorf("the original has the seed %q, %v", got, err)
	}
	path := file(t, seeded)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	boot := filepath.Join(t.TempDir(), "boot")
	if err := os.WriteFile(boot, b[mib:5*mib], 0o644); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, fsck, "-n", boot)
	if again, err := compose.WithSeed(seeded, options("a = 1\n")); err != nil || again != seeded {
		t.Errorf("the same seed again: %v", err)
	}
	removed, err := compose.WithSeed(seeded, options(""))
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(file(t, removed))
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(file(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("the image differs after the seed was removed")
	}
}

func TestSeedErrors(t *testing.T) {
	noSeed := newImage(t, bootFAT(t))
	noSeed.Manifest.Info.Seed, noSeed.Manifest.Info.NoSeed = nil, "use factory"
	unknown := newImage(t, bootFAT(t))
	unknown.Manifest.Info = nil
	other := newImage(t, bootFAT(t))
	other.Manifest.Info.Seed.Partition = "other"
	for _, c := range []struct {
		name string
		s    *volume.Source
		text string
		kind string
		want string
	}{
		{"not TOML", newImage(t, bootFAT(t)), "a =", "", "seed.toml:1: "},
		{"slot b", newImage(t, bootFAT(t), part{name: "boot-b", size: 4 * mib, content: bootFAT(t).content}), "a = 1\n", fault.Refused, "there being no boot-b"},
		{"board without seeds", noSeed, "a = 1\n", "", "x.img: mine takes no seed: use factory"},
		{"unknown board", unknown, "a = 1\n", "", "pass the board's definition with --board"},
		{"other partition", other, "a = 1\n", "", "mine has it as partition 1 with the name other"},
		{"too large", newImage(t, bootFAT(t)), "a = \"" + strings.Repeat("x", 5*mib) + "\"\n", "", "the seed is too large for it"},
	} {
		_, err := compose.WithSeed(c.s, options(c.text))
		if err == nil || fault.Kind(err) != c.kind || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v of kind %q, want %q of kind %q", c.name, err, fault.Kind(err), c.want, c.kind)
		}
	}
}

// A seed is saved to an image file with its manifest, and removing it restores the file.
func TestSaveSeed(t *testing.T) {
	s := newImage(t, bootFAT(t))
	for _, name := range []string{"x.img", "x.img.zst"} {
		path := filepath.Join(t.TempDir(), name)
		m := *s.Manifest
		if err := artifact.Save(t.Context(), path, s.Image, &m, nil); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"a = 1\n", ""} {
			if err := compose.SaveSeed(t.Context(), path, options(text)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			saved, err := volume.Open(path, volume.Options{})
			if err != nil {
				t.Fatal(err)
			}
			got, err := compose.ReadSeed(saved, nil)
			if err == nil {
				err = saved.Check(t.Context())
			}
			saved.Close()
			if err != nil || string(got) != text {
				t.Errorf("%s: the seed is %q, %v; want %q", name, got, err, text)
			}
		}
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(before, after) {
			t.Errorf("%s differs after the seed was removed", name)
		}
	}
}

// warnings collects what is warned of.
type warnings struct {
	progress.Reporter
	list []string
}

func (w *warnings) Warnf(format string, args ...any) {
	w.list = append(w.list, fmt.Sprintf(format, args...))
}

// Saving a seed removes a signature, which is no longer right, with a warning, and keeps documents.
func TestSaveSeedRemovesSignature(t *testing.T) {
	s := newImage(t, bootFAT(t))
	for _, name := range []string{"x.img", "x.img.zst"} {
		path := filepath.Join(t.TempDir(), name)
		m := *s.Manifest
		doc := artifact.Document{Name: artifact.SBOM, Encode: func(artifact.Subject) []byte { return []byte("{}") }}
		if _, err := (artifact.Options{ImageSHA256: true, Documents: []artifact.Document{doc}}).Save(t.Context(), path, s.Image, &m); err != nil {
			t.Fatal(err)
		}
		if err := artifact.Attach(t.Context(), path, artifact.Signature, []byte("signature")); err != nil {
			t.Fatal(err)
		}
		w := &warnings{Reporter: progress.Discard}
		opt := options("a = 1\n")
		opt.Reporter = w
		if err := compose.SaveSeed(t.Context(), path, opt); err != nil {
			t.Fatal(err)
		}
		if len(w.list) != 1 || !strings.Contains(w.list[0], name+": its signature was removed") {
			t.Errorf("%s: warnings %q", name, w.list)
		}
		saved, err := volume.Open(path, volume.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer saved.Close()
		if _, err := saved.Attachment(artifact.Signature); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: it has a signature: %v", name, err)
		}
		if text, err := saved.Attachment(artifact.SBOM); string(text) != "{}" {
			t.Errorf("%s: its SBOM is %q, %v", name, text, err)
		}
		if err := errors.Join(saved.Check(t.Context()), saved.CheckAttachments()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := saved.Manifest.ImageSHA256; got != "" {
			t.Errorf("%s: its manifest has the checksum %s of the image before", name, got)
		}
	}
}
