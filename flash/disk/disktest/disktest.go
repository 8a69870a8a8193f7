// Package disktest has helpers for tests with disks.
package disktest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"imgtool/flash/disk"
)

// Dirty makes a file of size bytes of 0xAA.
func Dirty(t testing.TB, size int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, bytes.Repeat([]byte{0xaa}, int(size)), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// Find returns the disk at path.
func Find(t testing.TB, path string) *disk.Disk {
	t.Helper()
	d, err := disk.Find("/", path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Open opens a disk for writing until the end of the test.
func Open(t testing.TB, d *disk.Disk) *disk.Target {
	t.Helper()
	target, err := disk.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { target.Close() })
	return target
}

// Machine creates the files of a machine in a directory, which it returns. file is its recording in
// flash/disk/testdata/machines, see the README there.
func Machine(t testing.TB, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	dir, open := "/", ""
	place := func(path string) string {
		path = strings.TrimSpace(path)
		if !strings.HasPrefix(path, "/") {
			path = dir + "/" + path
		}
		path = filepath.Join(root, path)
		must(os.MkdirAll(filepath.Dir(path), 0o755))
		return path
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if text, ok := strings.CutPrefix(line, "\t"); ok {
			f, err := os.OpenFile(open, os.O_APPEND|os.O_WRONLY, 0)
			must(err)
			fmt.Fprintln(f, text)
			must(f.Close())
			continue
		}
		path, target, isLink := strings.Cut(line, " -> ")
		raw, quoted, isRaw := strings.Cut(line, " := ")
		file, content, isFile := strings.Cut(line, " = ")
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			dir = strings.Trim(line, "[]")
		case isLink:
			if strings.HasPrefix(target, "/") { // else it would leave the directory
				target = root + target
			}
			must(os.Symlink(target, place(path)))
		case isRaw:
			content, err := strconv.Unquote(quoted)
			must(err)
			must(os.WriteFile(place(raw), []byte(content), 0o644))
		case isFile:
			must(os.WriteFile(place(file), []byte(content+"\n"), 0o644))
		default:
			open = place(strings.TrimSuffix(line, ":"))
			must(os.WriteFile(open, nil, 0o644))
		}
	}
	return root
}
