package tarfs_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"log"

	"imgtool/image/tree/tarfs"
)

func ExampleRead() {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "./etc/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "./etc/hostname", Mode: 0o644, Size: 5},
		{Typeflag: tar.TypeSymlink, Name: "./etc/name", Linkname: "hostname"},
	} {
		if err := w.WriteHeader(&h); err != nil {
			log.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			fmt.Fprintln(w, "rock")
		}
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}

	t, err := tarfs.Read(bytes.NewReader(b.Bytes()), int64(b.Len()), 0)
	if err != nil {
		log.Fatal(err)
	}
	for path, n := range t.All() {
		fmt.Printf("%06o %d /%s", n.Mode, n.Size(), path)
		if n.Target != "" {
			fmt.Printf(" -> %s", n.Target)
		}
		fmt.Println()
	}
	// Output:
	// 040755 0 /
	// 040755 0 /etc
	// 100644 5 /etc/hostname
	// 120777 0 /etc/name -> hostname
}
