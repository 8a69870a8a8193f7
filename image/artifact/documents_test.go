package artifact_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/imagetest"
)

func sha(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

// Every form has the checksum of the whole image in its manifest if it is asked for, and that
// of its file is returned. Documents get both.
func TestSaveHashesTheWhole(t *testing.T) {
	whole := make([]byte, 13*mib+512)
	copy(whole, "first")
	copy(whole[9*mib:], strings.Repeat("content ", 1000))
	img, err := image.New(int64(len(whole)), image.Extent{Name: "first", Content: bytes.NewReader(whole[:5])},
		image.Extent{Name: "content", Off: 9 * mib, Content: bytes.NewReader(whole[9*mib:][:8000])})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x.img", "x.img.zst", "x.img.xz", "x.img.gz", "x.simg"} {
		for _, asked := range []bool{false, true} {
			var subjects []artifact.Subject
			doc := artifact.Document{Name: artifact.SBOM, Encode: func(s artifact.Subject) []byte {
				subjects = append(subjects, s)
				return fmt.Appendf(nil, "%+v", s)
			}}
			path := filepath.Join(t.TempDir(), name)
			m := &artifact.Manifest{Board: "test", BuildID: "0123", Floor: 40 * mib, Inputs: []artifact.Input{}, Partitions: []artifact.Partition{}}
			opt := artifact.Options{ImageSHA256: asked, Documents: []artifact.Document{doc}}
			saved, err := opt.Save(t.Context(), path, img, m)
			if err != nil {
				t.Fatal(err)
			}
			file := sha(imagetest.Read(t, path))
			all := map[bool]string{true: sha(whole)}[asked]
			if saved.SHA256 != file || m.ImageSHA256 != all {
				t.Errorf("%s: the file is %s and the image %s, want %s and %s", name, saved.SHA256, m.ImageSHA256, file, all)
			}
			beside := imagetest.Read(t, artifact.SBOMPath(path))
			want := []artifact.Subject{{File: name, SHA256: file, Content: m.Content()}}
			listed := sha(beside)
			if name == "x.img.zst" {
				want = append([]artifact.Subject{{File: "x.img", SHA256: all, Content: m.Content()}}, want...)
				o, err := artifact.Open(content(t, path), nil)
				if err != nil {
					t.Fatal(err)
				}
				inside, err := o.Attachment(artifact.SBOM)
				if err != nil || string(inside) != fmt.Sprintf("%+v", want[0]) {
					t.Errorf("inside there is %q, %v", inside, err)
				}
				listed = sha(inside)
			}
			if fmt.Sprint(subjects) != fmt.Sprint(want) {
				t.Errorf("%s: documents are about %v, want %v", name, subjects, want)
			}
			parsed, err := artifact.ParseManifest(imagetest.Read(t, artifact.ManifestPath(path)))
			if err != nil {
				t.Fatal(err)
			}
			if parsed.ImageSHA256 != all || len(parsed.Documents) != 1 || parsed.Documents[0] != (artifact.DocumentSum{Name: artifact.SBOM, SHA256: listed}) {
				t.Errorf("%s: the manifest has %s and %v", name, parsed.ImageSHA256, parsed.Documents)
			}
		}
	}
}

// A raw image without documents is not hashed unless that is asked for.
func TestSaveDoesNotHashHoles(t *testing.T) {
	img, _ := sample(t)
	path := filepath.Join(t.TempDir(), "x.img")
	saved, err := artifact.Options{}.Save(t.Context(), path, img, &artifact.Manifest{})
	if err != nil || saved.SHA256 != "" {
		t.Errorf("%q, %v", saved.SHA256, err)
	}
}

// A document that the manifest does not list is refused, in the image and beside it.
func TestOtherDocumentIsRefused(t *testing.T) {
	img, err := image.New(5*mib, image.Extent{Name: "x", Content: strings.NewReader("x")})
	if err != nil {
		t.Fatal(err)
	}
	doc := artifact.Document{Name: artifact.SBOM, Encode: func(artifact.Subject) []byte { return []byte("right") }}
	for _, name := range []string{"x.img.zst", "x.img.xz"} {
		path := filepath.Join(t.TempDir(), name)
		m := &artifact.Manifest{}
		if _, err := (artifact.Options{Documents: []artifact.Document{doc}}).Save(t.Context(), path, img, m); err != nil {
			t.Fatal(err)
		}
		err := artifact.Attach(t.Context(), path, artifact.SBOM, []byte("wrong"))
		if name == "x.img.zst" {
			if err == nil || !strings.Contains(err.Error(), sha([]byte("wrong"))) {
				t.Errorf("attaching another document: %v", err)
			}
			attach(t, path, artifact.SBOM, []byte("right"))
			attach(t, path, artifact.SBOM, nil)
			if _, err := artifact.ReadBeside(path, artifact.SBOM, nil); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after it was removed: %v", err)
			}
			continue
		}
		if err == nil {
			t.Errorf("another document is attached beside %s", name)
		}
		if err := artifact.WriteBeside(artifact.SBOMPath(path), []byte("wrong")); err != nil {
			t.Fatal(err)
		}
		if _, err := artifact.ReadBeside(path, artifact.SBOM, m); !is[*artifact.CorruptError](err) {
			t.Errorf("another document beside %s: %v", name, err)
		}
	}
}
