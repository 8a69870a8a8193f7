package swap_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/swap"
)

const id = "01234567-89ab-4def-8123-456789abcdef"

var uuid = [16]byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0x4d, 0xef, 0x81, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}

func TestItIsWhatMkswapMakes(t *testing.T) {
	for _, size := range []int64{40 << 10, 1 << 20, 1<<20 + 5000, 3 << 30} {
		for _, label := range []string{"", "s", "fifteen bytes ok"[:15]} {
			m, err := swap.New(size, uuid, label)
			if err != nil {
				t.Fatal(err)
			}
			theirs := filepath.Join(t.TempDir(), "mkswap")
			if err := os.WriteFile(theirs, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(theirs, size); err != nil {
				t.Fatal(err)
			}
			args := []string{"--uuid", id, "--pagesize", "4096", theirs}
			if label != "" {
				args = append([]string{"--label", label}, args...)
			}
			imagetest.Run(t, "mkswap", args...)
			f, err := os.Open(theirs)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			want, got := make([]byte, 8192), make([]byte, 8192)
			if _, err := f.ReadAt(want, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := m.ReadAt(got, 0); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want, got) || m.Size() != size {
				t.Errorf("%d bytes labelled %q differ from mkswap's", size, label)
			}
		}
	}
}

func TestOthersSeeIt(t *testing.T) {
	m, err := swap.New(1<<20, uuid, "memory")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "swap")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, io.NewSectionReader(m, 0, m.Size())); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, args := range [][]string{{"blkid", "-p", path}, {"swaplabel", path}} {
		out := imagetest.Run(t, args[0], args[1:]...)
		if !strings.Contains(out, id) || !strings.Contains(out, "memory") {
			t.Errorf("%s says %s", args[0], out)
		}
	}
}

func TestWhatCannotBeIsRefused(t *testing.T) {
	for _, c := range []struct {
		size  int64
		label string
	}{{-1, ""}, {0, ""}, {40<<10 - 1, ""}, {1<<44 + 4096, ""}, {1 << 20, "sixteen bytes ok"}, {1 << 20, "a\x00b"}} {
		if _, err := swap.New(c.size, uuid, c.label); err == nil {
			t.Errorf("%d bytes labelled %q can be", c.size, c.label)
		}
	}
}
