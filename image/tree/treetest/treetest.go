// Package treetest has what tests of trees share.
package treetest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgtool/image/tree"
	"imgtool/image/tree/sums"
)

// Dump describes a tree in text, one line for each path.
func Dump(t testing.TB, tr *tree.Tree) string {
	t.Helper()
	var b strings.Builder
	first := map[*tree.Inode]string{}
	for path, n := range tr.All() {
		if path == "" {
			path = "/"
		}
		if same, ok := first[n]; ok {
			fmt.Fprintf(&b, "%s = %s\n", path, same)
			continue
		}
		first[n] = path
		fmt.Fprintf(&b, "%s %o %d:%d @%d", path, n.Mode, n.UID, n.GID, n.ModTime)
		switch n.Type() {
		case tree.Symlink:
			fmt.Fprintf(&b, " -> %s", n.Target)
		case tree.CharDev, tree.BlockDev:
			fmt.Fprintf(&b, " %d,%d", n.Major, n.Minor)
		case tree.Regular:
			if data := Contents(t, n); len(data) > 60 {
				fmt.Fprintf(&b, " %d bytes", len(data))
			} else {
				fmt.Fprintf(&b, " %q", data)
			}
		}
		for _, x := range n.Xattrs {
			fmt.Fprintf(&b, " %s=%q", x.Name, x.Value)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Contents returns the bytes of a regular file.
func Contents(t testing.TB, n *tree.Inode) string {
	t.Helper()
	if n.Content == nil {
		return ""
	}
	data, err := io.ReadAll(io.NewSectionReader(n.Content, 0, n.Size()))
	if err != nil || int64(len(data)) != n.Size() {
		t.Fatalf("%d of %d bytes: %v", len(data), n.Size(), err)
	}
	return string(data)
}

// Digest returns the digest of a tree.
func Digest(t testing.TB, tr *tree.Tree) string {
	t.Helper()
	sum, _, err := sums.Digest(t.Context(), tr, sums.Options{})
	Must(t, err)
	return sum
}

// Must ends the test if err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// WriteFile writes a file on the host and makes the directories above it.
func WriteFile(t testing.TB, path, data string) {
	t.Helper()
	Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	Must(t, os.WriteFile(path, []byte(data), 0o644))
}

// Header returns the header of a tar entry with mode 0644 and the time 1.
func Header(typ byte, name string) tar.Header {
	return tar.Header{Typeflag: typ, Name: name, Mode: 0o644, ModTime: time.Unix(1, 0)}
}

// Tar returns a tar with the entries, written by archive/tar. The data of a regular file
// is in Uname.
func Tar(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		data := ""
		if e.Typeflag == tar.TypeReg {
			data, e.Uname = e.Uname, ""
		}
		Must(t, w.WriteHeader(&e))
		_, err := w.Write([]byte(data))
		Must(t, err)
	}
	Must(t, w.Close())
	return b.Bytes()
}
