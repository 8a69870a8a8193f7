package artifact_test

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

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/imagetest"
)

// checked opens an image and checks it.
func checked(t testing.TB, b []byte, sidecar *artifact.Manifest) error {
	o, err := artifact.Open(bytes.NewReader(b), sidecar)
	if err == nil && o.CheckSize() == 0 {
		return errors.New("there is nothing to check")
	}
	if err == nil {
		err = o.Check(t.Context(), nil, nil)
	}
	return err
}

func TestCheckFindsFlippedBits(t *testing.T) {
	imagetest.Long(t)
	path, m := save(t, "x.img.zst")
	b := read(t, path)
	if err := checked(t, b, nil); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var places []int
	for at := 0; at < 64; at++ {
		places = append(places, at)
	}
	for at := 64; at < 4000; at += 29 {
		places = append(places, at)
	}
	for at := len(b) - 300; at < len(b); at++ {
		places = append(places, at)
	}
	for range 60 {
		places = append(places, rng.IntN(len(b)))
	}
	for _, at := range places {
		damaged := bytes.Clone(b)
		damaged[at] ^= 1 << rng.IntN(8)
		// With a damaged manifest frame the file may look like a file of another program,
		// which has no sums.
		err := checked(t, damaged, m)
		if corrupt := new(artifact.CorruptError); !errors.As(err, &corrupt) {
			t.Errorf("byte %d of %d is %#x and was %#x: %v", at, len(b), damaged[at], b[at], err)
		}
	}
	for n := 0; n < len(b); n += len(b)/40 + 1 {
		if err := checked(t, b[:n], m); err == nil {
			t.Errorf("cut to %d bytes of %d: it is not found", n, len(b))
		}
	}
}

func TestCheckComparesRawImageWithManifest(t *testing.T) {
	path, m := save(t, "x.img")
	b := read(t, path)
	if err := checked(t, b, m); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 999, 1500, 3 << 20, 7<<20 + 5000, 20 << 20, 33 << 20, len(b) - 1} {
		damaged := bytes.Clone(b)
		damaged[at] ^= 0x10
		if corrupt := new(artifact.CorruptError); !errors.As(checked(t, damaged, m), &corrupt) {
			t.Errorf("byte %d: it is not found", at)
		}
	}
}

// bmapOf has bmaptool make a block map.
func bmapOf(t testing.TB, file string) []byte {
	imagetest.Need(t, "bmaptool")
	imagetest.Run(t, "bmaptool", "create", "-o", file+".bmap", file)
	return read(t, file+".bmap")
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
	path, _ := save(t, "x.img")
	b := read(t, path)
	text := bmapOf(t, path)
	pass := func(m *artifact.Bmap, b []byte) error {
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
		m, err := artifact.ParseBmap(text)
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
		corrupt := new(artifact.CorruptError)
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
		if _, err := artifact.ParseBmap(bad); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: a damaged map: %v", version, err)
		}
	}
	for _, bad := range []string{"", "<bmap/>", `<bmap version="3.0"/>`, `<bmap version="1.0"><ImageSize>5</ImageSize><BlockSize>0</BlockSize></bmap>`,
		`<bmap version="1.0"><ImageSize>8192</ImageSize><BlockSize>4096</BlockSize><BlockMap><Range>1-0</Range></BlockMap></bmap>`,
		`<bmap version="1.0"><ImageSize>8192</ImageSize><BlockSize>4096</BlockSize><BlockMap><Range>0-9</Range></BlockMap></bmap>`,
		`<bmap version="1.0"><ImageSize>8192</ImageSize><BlockSize>4096</BlockSize><BlockMap><Range>1</Range><Range>1</Range></BlockMap></bmap>`} {
		if _, err := artifact.ParseBmap([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestZipArchives(t *testing.T) {
	imagetest.Long(t)
	imagetest.Need(t, "zip")
	path, _ := save(t, "x.img")
	want := read(t, path)
	dir := filepath.Dir(path)
	write := func(name, text string) { os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644) }
	write("README.txt", "read me")
	write("y.img", "another")
	zip := func(name string, args ...string) string {
		cmd := exec.Command("zip", append([]string{"-q", name}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("zip %v: %v %s", args, err, out)
		}
		return filepath.Join(dir, name)
	}
	imagetest.Run(t, "xz", "-0", "-k", path)
	all := func(path string) ([]byte, []string, error) {
		f := open(t, path)
		info, _ := f.Stat()
		s, err := artifact.StreamFile(io.NewSectionReader(f, 0, info.Size()), nil, nil)
		if err != nil {
			return nil, nil, err
		}
		var got []byte
		for c, err := range s.Chunks() {
			if err != nil {
				return nil, nil, err
			}
			got = append(got, c.Data...)
		}
		return got, s.Others, nil
	}
	for _, path := range []string{zip("deflate.zip", "x.img"), zip("stored.zip", "-0", "x.img"), zip("zip64.zip", "-fz", "x.img"),
		zip("two.zip", "x.img", "README.txt"), zip("xz.zip", "x.img.xz")} {
		got, others, err := all(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
		if two := strings.HasSuffix(path, "two.zip"); two != (len(others) == 1 && others[0] == "README.txt") {
			t.Errorf("%s: others are %q", path, others)
		}
	}
	for path, say := range map[string]string{zip("images.zip", "x.img", "y.img"): "x.img, y.img", zip("none.zip", "README.txt", "x.img.bmap"): "0 of them", zip("encrypted.zip", "-P", "x", "x.img"): "encrypted",
		zip("bzip2.zip", "-Z", "bzip2", "x.img"): "method 12"} {
		_, _, err := all(path)
		if err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v", path, err)
		}
	}
	b := read(t, filepath.Join(dir, "deflate.zip"))
	b[len(b)/2] ^= 1
	os.WriteFile(filepath.Join(dir, "bad.zip"), b, 0o644)
	if _, _, err := all(filepath.Join(dir, "bad.zip")); !errors.As(err, new(*artifact.CorruptError)) {
		t.Errorf("a damaged archive: %v", err)
	}
}

func TestForeignNamesOtherFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "x")
	data := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{5}).Read(data[:1<<20])
	os.WriteFile(file, data, 0o644)
	made := func(name string, command ...string) {
		imagetest.Need(t, command[0])
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", command, err)
		}
		if len(out) > 0 {
			os.WriteFile(filepath.Join(dir, name), out, 0o644)
		}
	}
	made("tar", "tar", "cf", "-", "x")
	made("lzma", "xz", "--format=lzma", "-0", "-c", "x")
	made("zip", "zip", "-q", "zip.zip", "x")
	made("squashfs", "mksquashfs", "x", "squashfs", "-quiet", "-no-progress")
	for name, want := range map[string]string{"tar": "a tar archive", "lzma": "an .lzma file", "zip.zip": "a zip archive", "squashfs": "a squashfs file system"} {
		b := read(t, filepath.Join(dir, name))
		if err := artifact.Foreign(artifact.Gzip, b[:min(len(b), image.PieceSize)]); fault.Kind(err) != fault.Input || !strings.HasPrefix(err.Error(), "it is "+want+", compressed with gzip, not a disk image: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for text, want := range map[string]string{"<!DOCTYPE html><html>404": "a web page", "\n <HTML><head>": "a web page", "version https://git-lfs.github.com/spec/v1\n": "a pointer of Git LFS", "QFI\xfb\x00\x00\x00\x03": "a QCOW2 image", "not found\n": "text that begins with \"not found\""} {
		if err := artifact.Foreign(artifact.Raw, []byte(text)); fault.Kind(err) != fault.Input || !strings.HasPrefix(err.Error(), "it is "+want+", not a disk image: ") {
			t.Errorf("%q: %v", text, err)
		}
	}
	mbr := make([]byte, 512)
	copy(mbr, "MZ")
	mbr[510], mbr[511] = 0x55, 0xaa
	for _, b := range [][]byte{data, make([]byte, 4096), mbr} {
		if err := artifact.Foreign(artifact.Raw, b); err != nil {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}
