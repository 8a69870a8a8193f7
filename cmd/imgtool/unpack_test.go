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

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"
)

// packedMBR returns an .img.gz: a table with one partition of size bytes at 1 MiB, and fill
// from there to length.
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

// The cases are tested in package volume; this is the flag, and that nothing is left.
func TestMaxUnpacked(t *testing.T) {
	const MiB = 1 << 20
	img := packedMBR(t, 7*MiB, 80*MiB, 1)
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"ls", img}, 3, "but more data follow at byte 75497472; unpack all the same with --max-unpacked"},
		{[]string{"ls", img, "--max-unpacked", "80MiB"}, 0, ""},
		{[]string{"diff", img, img, "--max-unpacked", "100MiB"}, 3, "it unpacks to more bytes than --max-unpacked allows 104857600"},
		{[]string{"ls", img, "--max-unpacked", "much"}, 2, "it must be a size such as 500MiB or 4GiB"},
	} {
		tmp := t.TempDir()
		cmd := tool(t, c.args...)
		cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
		status, said := ended(t, cmd)
		if status != c.status || !strings.Contains(said, c.want) {
			t.Errorf("%v: status %d: %s\nwant %d ... %s", c.args, status, said, c.status, c.want)
		}
		if left, _ := os.ReadDir(tmp); len(left) > 0 {
			t.Errorf("%v: %s is left", c.args, left[0].Name())
		}
	}
}

func TestHolesAreSkipped(t *testing.T) {
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
	for _, args := range [][]string{{"flash", "-y", "--image", img, disk}, {"verify", "--image", img, disk}, {"diff", img, disk}} {
		cmd := tool(t, args...)
		if status, out := ended(t, cmd); status != exit.OK {
			t.Fatalf("%v: exit status %d: %s", args, status, out)
		}
		if took := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(); took > time.Minute {
			t.Errorf("%v took %v of processor time", args, took)
		}
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
	// Data on the disk in a hole of the image are found.
	put(disk, 7<<40, "x")
	if status, said := ended(t, tool(t, "verify", "--image", img, disk)); status != 8 || !strings.Contains(said, fmt.Sprintf("at byte %d 1 byte differs", int64(7<<40))) {
		t.Errorf("verify: status %d: %s", status, said)
	}
	if status, said := ended(t, tool(t, "diff", img, disk)); status != 1 {
		t.Errorf("diff: status %d: %s", status, said)
	}
}
