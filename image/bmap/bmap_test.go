package bmap_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/bmap"
	"imgtool/image/imagetest"
)

// sample writes an image of 33 MiB and 512 bytes with holes.
func sample(t testing.TB) string {
	t.Helper()
	const mib = 1 << 20
	path := filepath.Join(t.TempDir(), "x.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	noise := make([]byte, 5*mib+123)
	rand.NewChaCha8([32]byte{7}).Read(noise)
	for off, data := range map[int64][]byte{0: noise[:1000], 3 * mib: noise[:800_000], 7*mib + 4096: noise, 33 * mib: noise[:512]} {
		if _, err := f.WriteAt(data, off); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// bmapOf has bmaptool make a block map.
func bmapOf(t testing.TB, file string) []byte {
	imagetest.Need(t, "bmaptool")
	imagetest.Run(t, "bmaptool", "create", "-o", file+".bmap", file)
	return imagetest.Read(t, file+".bmap")
}

// older converts a block map of version 2.0 to an older version, as bmaptool 1.0 to 3.0 wrote
// it.
func older(t testing.TB, file string, text []byte, version string) []byte {
	s := string(text)
	cut := func(from, to string) {
		a := strings.Index(s, from)
		b := strings.Index(s[a:], to)
		s = s[:a] + s[a+b+len(to):]
	}
	cut("<ChecksumType>", "</ChecksumType>")
	cut("<BmapFileChecksum>", "</BmapFileChecksum>")
	s = strings.Replace(s, `version="2.0"`, `version="`+version+`"`, 1)
	for {
		a := strings.Index(s, ` chksum="`)
		if a < 0 {
			break
		}
		b := a + len(` chksum="`) + 64 + 1
		var first, last int64
		if n, _ := fmt.Sscanf(s[b+1:], "%d-%d", &first, &last); n == 1 {
			last = first
		}
		with := ""
		if version == "1.3" {
			part := io.NewSectionReader(open(t, file), first*4096, (last-first+1)*4096)
			cmd := exec.Command("sha1sum")
			cmd.Stdin = part
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			with = ` sha1="` + string(out[:40]) + `"`
		}
		s = s[:a] + with + s[b:]
	}
	if version == "1.3" {
		blank := strings.Repeat("0", 40)
		s = strings.Replace(s, "</bmap>", "<BmapFileSHA1>"+blank+"</BmapFileSHA1></bmap>", 1)
		cmd := exec.Command("sha1sum")
		cmd.Stdin = strings.NewReader(s)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		s = strings.Replace(s, blank, string(out[:40]), 1)
	}
	return []byte(s)
}

func open(t testing.TB, file string) *os.File {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestBlockMapsOfBmaptool(t *testing.T) {
	path := sample(t)
	b := imagetest.Read(t, path)
	text := bmapOf(t, path)
	pass := func(m *bmap.Map, b []byte) error {
		_, err := io.Copy(io.Discard, m.Reader(bytes.NewReader(b)))
		return err
	}
	damage := func(at int) []byte {
		damaged := bytes.Clone(b)
		damaged[at] ^= 1
		return damaged
	}
	for _, version := range []string{"2.0", "1.0", "1.3"} {
		text := text
		if version != "2.0" {
			text = older(t, path, text, version)
			// bmaptool takes it as well.
			os.WriteFile(path+".old.bmap", text, 0o644)
			imagetest.Run(t, "bmaptool", "copy", "--bmap", path+".old.bmap", path, filepath.Join(t.TempDir(), "out"))
		}
		m, err := bmap.Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", version, err)
		}
		img, err := m.Image(bytes.NewReader(b))
		if err != nil || m.Version != version || m.Size != int64(len(b)) || img.Size() != m.Size {
			t.Fatalf("%s: %+v, %v", version, m, err)
		}
		got := make([]byte, len(b))
		if _, err := img.ReadAt(got, 0); err != nil && err != io.EOF || !bytes.Equal(got, b) {
			t.Errorf("%s: the ranges are not all of the image", version)
		}
		if err := pass(m, b); err != nil {
			t.Errorf("%s: %v", version, err)
		}
		hole := 20 << 20 // in no range
		corrupt := new(bmap.CorruptError)
		if err := pass(m, damage(hole)); !errors.As(err, &corrupt) {
			t.Errorf("%s: byte %d, in no range: %v", version, hole, err)
		}
		if err := pass(m, damage(7<<20+5000)); version != "1.0" && !errors.As(err, &corrupt) {
			t.Errorf("%s: a byte in a range: %v", version, err)
		}
		for _, other := range [][]byte{b[:len(b)-512], append(bytes.Clone(b), 0)} {
			if err := pass(m, other); !errors.As(err, &corrupt) {
				t.Errorf("%s: %d bytes of %d: %v", version, len(other), len(b), err)
			}
		}
		if version == "1.0" {
			continue
		}
		// Another digit anywhere in a range is found by the map's own checksum.
		at := bytes.Index(text, []byte("<Range"))
		bad := bytes.Clone(text)
		bad[at+20] ^= 1
		if _, err := bmap.Parse(bad); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: a damaged map: %v", version, err)
		}
	}
	for _, bad := range []string{"", "<bmap/>", `<bmap version="3.0"/>`, `<bmap version="1.0"><ImageSize>5</ImageSize><BlockSize>0</BlockSize></bmap>`,
		`<bmap version="1.0"><ImageSize>8192</ImageSize><BlockSize>4096</BlockSize><BlockMap><Range>1-0</Range></BlockMap></bmap>`,
		`<bmap version="1.0"><ImageSize>8192</ImageSize><BlockSize>4096</BlockSize><BlockMap><Range>0-9</Range></BlockMap></bmap>`,
		`<bmap version="1.0"><ImageSize>8192</ImageSize><BlockSize>4096</BlockSize><BlockMap><Range>1</Range><Range>1</Range></BlockMap></bmap>`} {
		if _, err := bmap.Parse([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
