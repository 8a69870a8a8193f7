package squashfs_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	"imgtool/image/squashfs"
	"imgtool/image/tree"
)

// A tree is written to a file and read back.
func ExampleWrite() {
	root := tree.New(0) // directories that are added implicitly have the time 0
	err := root.Put("etc/hostname", &tree.Inode{Mode: tree.Regular | 0o644, Content: strings.NewReader("rock64\n")})
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	f, err := os.Create(filepath.Join(dir, "root.squashfs"))
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	size, err := squashfs.Write(context.Background(), f, root, squashfs.Options{Compression: "gzip"}, nil)
	if err != nil {
		log.Fatal(err)
	}

	r, err := squashfs.Open(f, size)
	if err != nil {
		log.Fatal(err)
	}
	back, err := r.Tree()
	if err != nil {
		log.Fatal(err)
	}
	n := back.Lookup("etc/hostname")
	content := bytes.NewBuffer(nil)
	if _, err := io.Copy(content, io.NewSectionReader(n.Content, 0, n.Size())); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d bytes, %d inodes, /etc/hostname: %s", size, r.Summary().Inodes, content)
	// Output: 8192 bytes, 3 inodes, /etc/hostname: rock64
}
