package compare_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/compare"
	"imgtool/image/fileinfo"
	"imgtool/image/gpt"
	"imgtool/image/imagetest"
	"imgtool/image/progress"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
	"imgtool/image/volume"
)

// look does with an image in memory all that ls, cat and diff do.
func look(data []byte) error {
	o, err := artifact.Open(bytes.NewReader(data), nil)
	if err != nil {
		return err
	}
	s := volume.FromImage("x", o.Image, o.Manifest)
	l, err := s.Locate(volume.Place{File: "x"})
	if err != nil {
		return err
	}
	names := []string{""}
	if !l.Partitions.None() {
		names = nil
		for _, p := range l.Partitions.List {
			names = append(names, volume.PartName(p))
			if _, err := volume.Detect(io.NewSectionReader(s.Image, p.Off, p.Len)); err != nil {
				return err
			}
		}
	}
	var found error
	for _, name := range names {
		l.Place = volume.Place{File: "x", Inside: true, Part: name, Deep: true}
		v, err := l.FileSystem()
		if err != nil {
			found = err
			continue
		}
		if err := readAll(v); err != nil {
			found = errors.Join(found, err)
		}
		if list, err := compare.Locations(context.Background(), l, l, progress.Discard); err != nil || len(list) > 0 {
			return errNotSame
		}
	}
	return found
}

var (
	errNotFound = errors.New("a path that is listed is not found")
	errNotSame  = errors.New("it is not the same as itself")
)

// readAll formats and finds every file, and reads the first of their bytes.
func readAll(v *volume.FileSystem) (found error) {
	left := int64(1 << 18)
	for p, n := range v.Tree.All() {
		fileinfo.Long(p, n)
		for _, x := range n.Xattrs {
			fileinfo.Xattr(x)
		}
		if _, err := v.Find(p, false); err != nil {
			return errors.Join(errNotFound, err)
		}
		v.Find(p, true)
		if n.Content != nil && left > 0 {
			k, err := io.Copy(io.Discard, io.LimitReader(io.NewSectionReader(n.Content, 0, n.Size()), left))
			left -= k + 1
			found = errors.Join(found, err)
		}
	}
	return found
}

// smallDisk returns a disk of a few sectors with a file system on it.
func smallDisk(t testing.TB, inside []byte) []byte {
	t.Helper()
	const start = 20480
	n := int64(len(inside)+511) / 512 * 512
	table := gpt.Table{GUID: "11111111-1111-1111-1111-111111111111", Size: start + n + gpt.TailSize, FirstUsable: gpt.HeadSize, Parts: []gpt.Part{
		{Number: 1, Name: "root", Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", GUID: "22222222-2222-2222-2222-222222222222", Off: start, Len: n}}}
	extents, err := table.Extents()
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.New(table.Size, append(extents, image.Extent{Name: "root", Off: start, Content: bytes.NewReader(inside)})...)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, m.Size())
	if _, err := m.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	return data
}

// smallTree returns a tree with an inode of every type.
func smallTree(t testing.TB) *tree.Tree {
	t.Helper()
	tr := tree.New(1)
	f := &tree.Inode{Mode: tree.Regular | 0o644, Content: strings.NewReader(strings.Repeat("text ", 3000))}
	for path, n := range map[string]*tree.Inode{
		"d/f": f, "d/hard": f, "small": {Mode: tree.Regular | 0o4755, Content: strings.NewReader("x")}, "l": {Mode: tree.Symlink | 0o777, Target: "d/f"},
		"hole": {Mode: tree.Regular, Content: image.Zeros(20000)}, "tty": {Mode: tree.CharDev, Major: 5, Minor: 300}, "p": {Mode: tree.Fifo},
		"x": {Mode: tree.Dir | 0o700, Xattrs: []tree.Xattr{{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}},
	} {
		if err := tr.Put(path, n); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func smallSquashfs(t testing.TB, codec string) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := squashfs.Write(context.Background(), f, smallTree(t), squashfs.Options{Compression: codec, BlockSize: 4096}, nil); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// others returns file systems made by other programs.
func others(t testing.TB) [][]byte {
	t.Helper()
	dir := t.TempDir()
	root, fats, ext := filepath.Join(dir, "root"), filepath.Join(dir, "fat"), filepath.Join(dir, "ext4")
	if err := os.MkdirAll(filepath.Join(root, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "d/f"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "mkfs.vfat", "-C", fats, "64")
	imagetest.Run(t, "mcopy", "-s", "-i", fats, filepath.Join(root, "d"), "::Directory")
	imagetest.Run(t, "mkfs.ext4", "-q", "-b", "1024", "-N", "16", "-O", "^has_journal,^resize_inode", "-d", root, ext, "96k")
	var all [][]byte
	for _, path := range []string{fats, ext} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data)
	}
	return all
}

func FuzzLook(f *testing.F) {
	for _, codec := range []string{"zstd:1", "gzip", "xz", "lz4"} {
		f.Add(smallSquashfs(f, codec))
	}
	f.Add(smallDisk(f, smallSquashfs(f, "gzip")))
	for _, data := range others(f) {
		f.Add(data)
		f.Add(smallDisk(f, data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := look(data); errors.Is(err, errNotFound) || errors.Is(err, errNotSame) {
			t.Fatal(err)
		}
	})
}

// An image with a wrong byte, or cut short, gives an error or a list.
func TestDamagedImages(t *testing.T) {
	imagetest.Long(t)
	for i, good := range append(others(t), smallSquashfs(t, "gzip"), smallDisk(t, smallSquashfs(t, "zstd:1"))) {
		if err := look(good); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		refused, step := 0, max(1, len(good)/400)
		for at := 0; at < len(good); at += step {
			bad := bytes.Clone(good)
			bad[at] ^= 0xff
			if look(bad) != nil {
				refused++
			}
			look(good[:at])
		}
		if refused == 0 {
			t.Errorf("image %d: no damage was found", i)
		}
	}
}
