package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgtool/image/imagetest"
)

// packedMBR is a .img.gz: a table with one partition of size bytes from 1 MiB on, and
// then bytes up to length.
func packedMBR(t *testing.T, size int64, length int, fill byte) string {
	t.Helper()
	head := make([]byte, 512)
	head[446+4] = 0x83
	binary.LittleEndian.PutUint32(head[446+8:], 2048)
	binary.LittleEndian.PutUint32(head[446+12:], uint32(size/512))
	head[510], head[511] = 0x55, 0xaa
	path := filepath.Join(t.TempDir(), "x.img.gz")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z := gzip.NewWriter(f)
	z.Write(head)
	z.Write(make([]byte, 1<<20-len(head)))
	block := bytes.Repeat([]byte{fill}, 1<<20)
	for left := length - 1<<20; left > 0; left -= len(block) {
		z.Write(block)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWhatIsUnpackedIsBounded(t *testing.T) {
	const MiB = 1 << 20
	for _, c := range []struct {
		name   string
		image  string
		flags  []string
		status int
		want   string
	}{
		{"as the table says", packedMBR(t, 7*MiB, 8*MiB, 1), nil, 0, ""},
		{"rounded up", packedMBR(t, 7*MiB, 70*MiB, 1), nil, 0, ""},
		{"zeros after the end", packedMBR(t, 7*MiB, 200*MiB, 0), nil, 0, ""},
		{"data after the end", packedMBR(t, 7*MiB, 200*MiB, 1), nil, 3, "its partition table is for a disk of 8388608 bytes, but more data follow at byte 75497472; unpack all the same with --max-unpacked"},
		{"data after the end that are wanted", packedMBR(t, 7*MiB, 200*MiB, 1), []string{"--max-unpacked", "200MiB"}, 0, ""},
		{"more than wanted", packedMBR(t, 7*MiB, 8*MiB, 1), []string{"--max-unpacked", "8388607"}, 3, "it unpacks to 8388608 bytes, and --max-unpacked allows 8388607"},
		{"more than the table says and wanted", packedMBR(t, MiB, 8*MiB, 1), []string{"--max-unpacked", "4MiB"}, 3, "it unpacks to more bytes than --max-unpacked allows 4194304"},
		{"a disk larger than the default", packedMBR(t, 100<<30, 8*MiB, 1), nil, 3, "it unpacks to 107375230976 bytes, and --max-unpacked allows 68719476736"},
		{"no size", packedMBR(t, 7*MiB, 8*MiB, 1), []string{"--max-unpacked", "much"}, 2, "it must be a size such as 500MiB or 4GiB"},
	} {
		for _, verb := range []string{"ls", "diff"} {
			tmp := t.TempDir()
			args := append([]string{verb, c.image}, c.flags...)
			if verb == "diff" {
				args = append(args, c.image)
			}
			if verb == "diff" && c.status != 3 {
				continue // two of them are more than what is allowed in all
			}
			cmd := tool(t, args...)
			cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
			status, said := ended(t, cmd)
			if status != c.status || !strings.Contains(said, c.want) {
				t.Errorf("%s, %s: status %d: %s\nwant %d ... %s", c.name, verb, status, said, c.status, c.want)
			}
			if left, _ := os.ReadDir(tmp); len(left) > 0 {
				t.Errorf("%s: %s is left", c.name, left[0].Name())
			}
		}
	}
}

func TestHolesOfFilesCostNothing(t *testing.T) {
	imagetest.Need(t, "sfdisk")
	dir := t.TempDir()
	img, disk := sparseFile(t, filepath.Join(dir, "x.img"), 8<<40), sparseFile(t, filepath.Join(dir, "disk"), 8<<40)
	imagetest.Run(t, "sh", "-c", "echo 'start=2048, size=204800' | sfdisk -q -X gpt "+img)
	put := func(path string, at int64, text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte(text), at); err != nil {
			t.Fatal(err)
		}
	}
	put(img, 5<<40, "in the image")
	put(disk, 6<<40, "stale")
	begin := time.Now()
	imgtool(t, "flash", "-y", "--image", img, disk)
	imgtool(t, "verify", "--image", img, disk)
	imgtool(t, "diff", img, disk)
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("it took %v", took)
	}
	read := func(at int64, n int) string {
		f, err := os.Open(disk)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, n)
		if _, err := io.ReadFull(io.NewSectionReader(f, at, int64(n)), b); err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := read(5<<40, 12); got != "in the image" {
		t.Errorf("the image has data at 5 TiB, the disk %q", got)
	}
	if got := read(6<<40, 5); got != "\x00\x00\x00\x00\x00" {
		t.Errorf("the image has zeros at 6 TiB, the disk %q", got)
	}
	// Data of the disk in a hole of the image is detected.
	put(disk, 7<<40, "x")
	if status, said := ended(t, tool(t, "verify", "--image", img, disk)); status != 8 || !strings.Contains(said, fmt.Sprintf("at byte %d 1 byte differs", int64(7<<40))) {
		t.Errorf("verify: status %d: %s", status, said)
	}
	if status, said := ended(t, tool(t, "diff", img, disk)); status != 1 {
		t.Errorf("diff: status %d: %s", status, said)
	}
}
