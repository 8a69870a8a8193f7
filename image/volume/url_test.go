package volume_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/volume"
)

// The SHA-256 of a file, of standard input and of a file on a server is compared before
// anything else is read.
func TestSumIsCompared(t *testing.T) {
	dir := t.TempDir()
	content := bytes.Repeat([]byte("an image "), 1000)
	good := hex.EncodeToString(func() []byte { s := sha256.Sum256(content); return s[:] }())
	bad := strings.Repeat("0", 64)
	file := filepath.Join(dir, "x.img")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer s.Close()
	for _, name := range []string{file, s.URL + "/x.img", "-"} {
		for _, c := range []struct{ sum, sums, kind, want string }{
			{good, "", "", ""},
			{strings.ToUpper(good), "", "", ""},
			{bad, "", fault.Corrupt, "its SHA-256 is " + good + ", --sha256 says " + bad},
			{"", good + "  x.img\n", "", ""},
			{"", bad + "  other.img\n" + good + " *./x.img\r\n", "", ""},
			{"", "# a comment\nSHA256 (x.img) = " + good + "\n", "", ""},
			{"", bad + "  x.img\n", fault.Corrupt, "SHA256SUMS says " + bad},
			{"", good + "  x.img.zst\n", fault.Input, "SHA256SUMS has no line for x.img"},
			{"", good + "  x.img.zst\n" + good + "  y/x.img\n", "", ""},
			{"", bad + "  y/x.img\n" + good + "  x.img\n", "", ""},
			{"", bad + "  y/x.img\n" + good + "  z/x.img\n", fault.Input, "SHA256SUMS has different sums for x.img, such as " + bad + " and " + good},
			{"", good + "  x.img\n" + bad + "  x.img\n", fault.Input, "SHA256SUMS has different sums for x.img"},
			{"", good + "  x.img\n" + strings.ToUpper(good) + " *x.img\n", "", ""},
			{"", "\ufeff" + good + "\tx.img\n", "", ""},
			{"", strings.Repeat("long ", 1<<15) + "\nSHA2-256(x.img)= " + good, "", ""},
			{"", "", fault.Input, "there is no "},
		} {
			os.Remove(filepath.Join(dir, "SHA256SUMS"))
			if c.sums != "" {
				if err := os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(c.sums), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if name == "-" && c.sum == "" {
				c.kind, c.want = fault.Usage, "use --sha256"
			}
			src, err := volume.Open(name, volume.Options{SHA256: c.sum, Sums: c.sum == "", Stdin: bytes.NewReader(content)})
			if fault.Kind(err) != c.kind || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("%s, %q, %q: kind %q, %v\nwant %q: %s", name, c.sum, c.sums, fault.Kind(err), err, c.kind, c.want)
			}
			if err != nil {
				continue
			}
			if b, err := io.ReadAll(io.NewSectionReader(src.Image, 0, src.Image.Size())); err != nil || !bytes.Equal(b, content) {
				t.Errorf("%s: %d bytes, %v", name, len(b), err)
			}
			src.Close()
		}
	}
}

// Files beside an image on a server are found, also if the server denies access to files that do
// not exist.
func TestFilesBesideURL(t *testing.T) {
	for _, missing := range []int{404, 403, 410} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/x.img":
				w.Write(make([]byte, 1<<20))
			case "/x.img.manifest.json.sig":
				io.WriteString(w, "signature")
			default:
				w.WriteHeader(missing)
			}
		}))
		defer s.Close()
		src, err := volume.Open(s.URL+"/x.img", volume.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		if b, err := src.Attachment(artifact.Signature); err != nil || string(b) != "signature" {
			t.Errorf("%d: %q, %v", missing, b, err)
		}
		if _, err := src.Attachment(artifact.SBOM); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%d: %v", missing, err)
		}
		if src.Manifest != nil || src.Fetched() == 0 {
			t.Errorf("%d: a manifest, or %d bytes fetched", missing, src.Fetched())
		}
	}
}

func TestPlaceOfURL(t *testing.T) {
	for arg, want := range map[string]volume.Place{
		"https://h/x.img":                         {File: "https://h/x.img"},
		"https://h:8080/a/x.img.zst:boot-a/b/c:d": {File: "https://h:8080/a/x.img.zst", Inside: true, Part: "boot-a", Deep: true, Path: "b/c:d"},
		"http://u:p@[::1]:80/x.img:1":             {File: "http://u:p@[::1]:80/x.img", Inside: true, Part: "1"},
		"HTTP://h/a%3Ab.img:/x":                   {File: "HTTP://h/a%3Ab.img", Inside: true, Deep: true, Path: "x"},
	} {
		if got := volume.ParsePlace(arg); got != want {
			t.Errorf("%s: %+v, want %+v", arg, got, want)
		}
	}
}

func TestURLsOfOtherKinds(t *testing.T) {
	for _, name := range []string{"ftp://user:SECRET@host/x.img", "file:///x.img", "s3://bucket/x.img"} {
		_, err := volume.Open(name, volume.Options{})
		if fault.Kind(err) != fault.Input || !strings.Contains(err.Error(), "only with http, https and oci") || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
