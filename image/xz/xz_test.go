package xz_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"imgtool/image/imagetest"
	"imgtool/image/xz"
)

func TestCutStreamIsError(t *testing.T) {
	data := bytes.Repeat([]byte("imgtool "), 20_000)
	file := filepath.Join(t.TempDir(), "x")
	os.WriteFile(file, data, 0o644)
	packed := []byte(imagetest.Run(t, "xz", "-0", "-T1", "--block-size=16KiB", "-c", file))
	for n := range len(packed) + 1 {
		r, err := xz.NewReader(bytes.NewReader(packed[:n]), xz.MaxDict)
		var got []byte
		if err == nil {
			got, err = io.ReadAll(r)
		}
		if n == len(packed) && (err != nil || !bytes.Equal(got, data)) {
			t.Errorf("the whole stream: %v", err)
		}
		if n < len(packed) && err == nil {
			t.Errorf("a stream cut to %d of %d bytes is accepted", n, len(packed))
		}
	}
	twice, err := xz.NewReader(bytes.NewReader(append(append(bytes.Clone(packed), 0, 0, 0, 0), packed...)), xz.MaxDict)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(twice); err != nil || len(got) != 2*len(data) {
		t.Errorf("two streams: %d bytes, %v", len(got), err)
	}
}

// withDict changes the dictionary size in the only block header of a stream.
func withDict(t testing.TB, packed []byte, code byte) []byte {
	b := bytes.Clone(packed)
	size := (int(b[12]) + 1) * 4
	h := b[12 : 12+size]
	at := bytes.Index(h, []byte{0x21, 1})
	if at < 0 {
		t.Fatalf("no LZMA2 filter in % x", h)
	}
	h[at+2] = code
	binary.LittleEndian.PutUint32(h[size-4:], crc32.ChecksumIEEE(h[:size-4]))
	return b
}

func TestDictionarySize(t *testing.T) {
	data := bytes.Repeat([]byte("imgtool "), 20_000)
	file := filepath.Join(t.TempDir(), "x")
	os.WriteFile(file, data, 0o644)
	packed := []byte(imagetest.Run(t, "xz", "-0", "-T1", "-c", file))
	for code := byte(0); code <= 40; code++ {
		b := withDict(t, packed, code)
		os.WriteFile(file+".xz", b, 0o644)
		// xz prints the size in bytes, or in a larger unit if it is a multiple of that.
		listed := imagetest.Run(t, "xz", "--robot", "-l", "-vv", file+".xz")
		m := regexp.MustCompile(`lzma2=dict=([0-9]+)(KiB|MiB|GiB)?`).FindStringSubmatch(listed)
		if m == nil {
			t.Fatalf("xz prints no dictionary size: %s", listed)
		}
		want, _ := strconv.ParseInt(m[1], 10, 64)
		want *= map[string]int64{"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[m[2]]

		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := xz.NewReader(bytes.NewReader(b), xz.MaxDict)
		var got []byte
		if err == nil {
			got, err = io.ReadAll(r)
		}
		runtime.ReadMemStats(&after)
		var dict *xz.DictError
		switch {
		case want <= 128<<20 && (err != nil || !bytes.Equal(got, data)):
			// A dictionary smaller than the distances in the data is an error.
			if want >= 256<<10 {
				t.Errorf("a dictionary of %d bytes: %v", want, err)
			}
		case want > 128<<20 && (!errors.As(err, &dict) || dict.Want != want):
			t.Errorf("a dictionary of %d bytes: %v", want, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
			t.Errorf("a dictionary of %d bytes for %d bytes of data: %d bytes were allocated", want, len(data), used)
		}
	}
}

func TestSmallBlocksGetSmallDictionaries(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	os.WriteFile(file, []byte("x"), 0o644)
	one := withDict(t, []byte(imagetest.Run(t, "xz", "-0", "-T1", "-c", file)), 30) // 128 MiB
	many := bytes.Repeat(one, 2000)
	begin := cpuTime(t)
	r, err := xz.NewReader(bytes.NewReader(many), xz.MaxDict)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || len(got) != 2000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if took := cpuTime(t) - begin; took > 5*time.Second {
		t.Errorf("it took %v of the processor", took)
	}
}

// cpuTime returns the processor time of the process, which other processes do not prolong.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestAllChecksAndLevels(t *testing.T) {
	imagetest.Long(t)
	data := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{1}).Read(data[:100_000])
	copy(data[200_000:], data)
	file := filepath.Join(t.TempDir(), "x")
	os.WriteFile(file, data, 0o644)
	for _, check := range []string{"none", "crc32", "crc64", "sha256"} {
		for _, args := range [][]string{{"-0"}, {"-9e"}, {"-T2", "--block-size=64KiB"}, {"--lzma2=dict=4KiB"}} {
			packed := []byte(imagetest.Run(t, "xz", append(args, "--check="+check, "-c", file)...))
			r, err := xz.NewReader(iotest.HalfReader(bytes.NewReader(packed)), xz.MaxDict)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%v %s: %d bytes, %v", args, check, len(got), err)
			}
			if check == "none" {
				continue
			}
			// A changed byte is found at any offset.
			for at := 0; at < len(packed); at += len(packed)/12 + 1 {
				b := bytes.Clone(packed)
				b[at] ^= 0x10
				r, err := xz.NewReader(bytes.NewReader(b), xz.MaxDict)
				if err == nil {
					_, err = io.Copy(io.Discard, r)
				}
				if err == nil {
					t.Errorf("%v %s: a changed byte at %d of %d is not found", args, check, at, len(packed))
				}
			}
		}
	}
}

// FuzzReader looks for panics and endless loops.
func FuzzReader(f *testing.F) {
	f.Add([]byte("\xfd7zXZ\x00\x00\x01\x69\x22\xde\x36\x02\x00\x21\x01\x00\x00\x00\x00\x37\x27\x97\xd6\x01\x00\x00x\x00\x00\x00\x00\x83\x16\xdc\x8c\x00\x01\x11\x01\x70\x13\x2e\x87\x90\x42\x99\x0d\x01\x00\x00\x00\x00\x01YZ"))
	f.Fuzz(func(t *testing.T, b []byte) {
		// Correct the checksums of the headers, so that more inputs get past them.
		if len(b) > 24 {
			binary.LittleEndian.PutUint32(b[8:], crc32.ChecksumIEEE(b[6:8]))
			if size := (int(b[12]) + 1) * 4; 12+size <= len(b) {
				binary.LittleEndian.PutUint32(b[12+size-4:], crc32.ChecksumIEEE(b[12:12+size-4]))
			}
		}
		r, err := xz.NewReader(bytes.NewReader(b), xz.MaxDict)
		if err != nil {
			return
		}
		io.CopyN(io.Discard, r, 16<<20)
	})
}
