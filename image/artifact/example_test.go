package artifact_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"imgtool/image"
	"imgtool/image/artifact"
)

func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "disk.img.zst")

	// Save an image of 64 MiB with content at byte 1048576.
	img, err := image.New(64<<20, image.Extent{Name: "greeting", Off: 1 << 20, Content: bytes.NewReader([]byte("hello"))})
	if err != nil {
		log.Fatal(err)
	}
	if err := artifact.Save(context.Background(), path, img, &artifact.Manifest{Board: "rock64"}, nil); err != nil {
		log.Fatal(err)
	}

	// Open it, print its manifest, and read a part of it. The content is verified.
	f, err := os.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		log.Fatal(err)
	}
	opened, err := artifact.Open(io.NewSectionReader(f, 0, info.Size()), nil)
	if err != nil {
		log.Fatal(err)
	}
	m := opened.Manifest
	fmt.Println(opened.Format, m.Board, m.Size)
	for _, e := range m.Entries {
		fmt.Println(e.Name, e.Off, e.Len)
	}
	b := make([]byte, 5)
	if _, err := opened.ReadAt(b, 1<<20); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", b)
	// Output:
	// zstd rock64 67108864
	// greeting 1048576 5
	// hello
}
