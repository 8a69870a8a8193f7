package zip_test

import (
	archive "archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"imgtool/image/fault"
	"imgtool/image/zip"
)

// archiveOf returns an archive of files, each with its name as content.
func archiveOf(t *testing.T, method uint16, flags uint16, names ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := archive.NewWriter(&out)
	for _, name := range names {
		f, err := w.CreateHeader(&archive.FileHeader{Name: name, Method: method, Flags: flags})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(name, "/") {
			if _, err := io.WriteString(f, name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestOpen(t *testing.T) {
	for _, c := range []struct {
		names  []string
		image  string // "" for an error
		others []string
	}{
		{[]string{"a.img"}, "a.img", nil},
		{[]string{"anything"}, "anything", nil},
		{[]string{"d/", "d/A.IMG.XZ", "d/README", "SHA256SUMS"}, "d/A.IMG.XZ", []string{"d/README", "SHA256SUMS"}},
		{[]string{"a.wic", "__MACOSX/a.wic", ".DS_Store"}, "a.wic", nil},
		{[]string{"a.img", "b.img"}, "", nil},
		{[]string{"a.txt", "b.txt"}, "", nil},
		{[]string{"d/"}, "", nil},
		{nil, "", nil},
	} {
		for _, method := range []uint16{archive.Store, archive.Deflate} {
			in, others, err := zip.Open(bytes.NewReader(archiveOf(t, method, 0, c.names...)))
			if c.image == "" {
				if err == nil {
					t.Errorf("%v is opened", c.names)
				}
				continue
			}
			if err != nil || !slices.Equal(others, c.others) {
				t.Errorf("%v: others %v, %v", c.names, others, err)
				continue
			}
			if b, err := io.ReadAll(in); string(b) != c.image || err != nil {
				t.Errorf("%v: read %q, %v", c.names, b, err)
			}
		}
	}
}

func TestOpenExplainsWhatIsNotSupported(t *testing.T) {
	encrypted := archiveOf(t, archive.Store, 1, "a.img")
	other := archiveOf(t, archive.Store, 0, "a.img")
	for _, header := range []string{"PK\x03\x04", "PK\x01\x02"} { // the method is after the version and the flags
		at := bytes.Index(other, []byte(header)) + map[string]int{"PK\x03\x04": 8, "PK\x01\x02": 10}[header]
		other[at] = 12
	}
	for want, b := range map[string][]byte{"encrypted": encrypted, "method 12": other} {
		if _, _, err := zip.Open(bytes.NewReader(b)); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "a.img") {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// A damaged archive is an error of the kind "corrupt", when it is opened or read.
func TestDamagedArchive(t *testing.T) {
	const name = "a-name-that-is-long-enough.img"
	whole := archiveOf(t, archive.Store, 0, name)
	damage := map[string][]byte{}
	for _, n := range []int{4, 40, len(whole) - 1} {
		damage[fmt.Sprint("cut to ", n)] = whole[:n]
	}
	changed := bytes.Clone(whole)
	changed[30+len(name)+3] ^= 1 // in the data, after the header and the name
	damage["changed"] = changed
	for what, b := range damage {
		in, _, err := zip.Open(bytes.NewReader(b))
		if err == nil {
			_, err = io.ReadAll(in)
		}
		if kind, ok := errors.AsType[interface {
			error
			Kind() string
		}](err); !ok || kind.Kind() != fault.Corrupt {
			t.Errorf("%s: %v", what, err)
		}
	}
}
