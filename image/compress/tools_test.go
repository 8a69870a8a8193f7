package compress_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"imgtool/image/compress"
	"imgtool/image/imagetest"
	"imgtool/image/xz"
)

// pack packs data with a command.
func pack(t *testing.T, data []byte, command string, args ...string) []byte {
	t.Helper()
	imagetest.Need(t, command)
	cmd := exec.Command(command, args...)
	cmd.Stdin = bytes.NewReader(data)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %v: %v %s", command, args, err, &said)
	}
	return out.Bytes()
}

// byTool decompresses with the tool of the format and reports whether it accepts the data,
// and whether it ignored trailing data.
func byTool(t *testing.T, command string, packed []byte) (data []byte, ok, ignored bool) {
	t.Helper()
	cmd := exec.Command(command, "-dc")
	cmd.Stdin = bytes.NewReader(packed)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	ignored = strings.Contains(said.String(), "ignored")
	return out.Bytes(), err == nil || ignored && cmd.ProcessState.ExitCode() == 2, ignored
}

// byPackage decompresses with the package. trailing is the argument of Options.Trailing, or -1
// if it was not called. Reading ahead has the same result.
func byPackage(t *testing.T, packed []byte) (data []byte, trailing int64, err error) {
	t.Helper()
	data, trailing, err = inWay(packed, compress.Options{})
	for _, sizes := range [][]xz.Size{nil, xz.ReadSizes(bytes.NewReader(packed), int64(len(packed)))} {
		ahead, aheadTrailing, aheadErr := inWay(packed, compress.Options{Ahead: true, Sizes: sizes})
		if (err == nil) != (aheadErr == nil) || err == nil && (!bytes.Equal(data, ahead) || trailing != aheadTrailing) {
			t.Errorf("%d bytes, %d ignored, %v; ahead with %d sizes: %d bytes, %d ignored, %v", len(data), trailing, err, len(sizes), len(ahead), aheadTrailing, aheadErr)
		}
	}
	return data, trailing, err
}

func inWay(packed []byte, opt compress.Options) (data []byte, trailing int64, err error) {
	trailing = -1
	opt.MaxMemory, opt.Trailing = 1<<31, func(n int64) { trailing = n }
	r, err := opt.NewReader(iotest.HalfReader(bytes.NewReader(packed)), compress.Detect(packed[:min(len(packed), compress.HeadSize)]))
	if err != nil {
		return nil, trailing, err
	}
	defer r.Close()
	data, err = io.ReadAll(r)
	return data, trailing, err
}

func TestTrailingDataIsHandledAsByTools(t *testing.T) {
	imagetest.Long(t)
	data := make([]byte, 70_000)
	rand.NewChaCha8([32]byte{1}).Read(data[:40_000])
	tails := []string{"", "\x00", "\x00\x00\x00\x00", strings.Repeat("\x00", 512), strings.Repeat("\x00", 8192), "X", "\x1f", "B", "BZ", "BZh", "BZh9", "BZh9abcdefghi",
		"\x00\x00\x00\x00\x00\x00\x00\x00{\"metadata_version\": \"1.1\"}FWx0", "some text", "\x1f\x8b", "\xfd7zXZ", "\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"}
	for _, command := range []string{"gzip", "bzip2", "xz", "zstd", "lz4"} {
		one := pack(t, data, command, "-c")
		for _, front := range [][]byte{one, append(bytes.Clone(one), one...)} {
			for _, tail := range tails {
				packed := append(bytes.Clone(front), tail...)
				want, ok, ignored := byTool(t, command, packed)
				got, trailing, err := byPackage(t, packed)
				name := fmt.Sprintf("%s, %d bytes and then %.20q", command, len(front), tail)
				switch zeros := strings.Trim(tail, "\x00") == ""; {
				case ok != (err == nil):
					t.Errorf("%s: the tool accepts it: %v, the package: %v", name, ok, err)
				case ok && !bytes.Equal(got, want):
					t.Errorf("%s: %d bytes, by the tool %d", name, len(got), len(want))
				case ok && !zeros && ignored && trailing != int64(len(tail)):
					t.Errorf("%s: %d bytes are reported as ignored, want %d", name, trailing, len(tail))
				case ok && zeros && trailing != -1:
					t.Errorf("%s: %d bytes of zeros are reported", name, trailing)
				}
			}
		}
	}
}

// A second member or stream with a damaged header is an error. The tools ignore it.
func TestDamagedMemberIsNotIgnored(t *testing.T) {
	data := bytes.Repeat([]byte("imgtool "), 5000)
	for _, command := range []string{"gzip", "bzip2"} {
		one := pack(t, data, command, "-c")
		for at := range 4 {
			for _, more := range []int{1, 3} {
				packed := bytes.Clone(one)
				for range more {
					packed = append(packed, one...)
				}
				packed[len(one)+at] ^= 0x04
				if more > 1 { // the header of the third one is intact
					packed[len(one)+(at+1)%4] ^= 0x04
				}
				if got, _, err := byPackage(t, packed); err == nil {
					t.Errorf("%s: byte %d of the second of %d is damaged: %d bytes of %d, and no error", command, at, more+1, len(got), (more+1)*len(data))
				}
			}
		}
	}
}

func TestTrailingDataIsErrorByDefault(t *testing.T) {
	for _, command := range []string{"gzip", "bzip2"} {
		packed := append(pack(t, []byte("abc"), command, "-c"), "more"...)
		r, err := compress.NewReader(bytes.NewReader(packed), compress.Detect(packed))
		if err == nil {
			_, err = io.ReadAll(r)
		}
		if tail := new(compress.TrailingError); !errors.As(err, &tail) || tail.N != 4 {
			t.Errorf("%s: %v", command, err)
		}
	}
}

func TestLZ4AndZstdVariants(t *testing.T) {
	imagetest.Long(t)
	data := make([]byte, 20<<20)
	rand.NewChaCha8([32]byte{2}).Read(data[:9<<20])
	skip := []byte("\x5a\x2a\x4d\x18\x04\x00\x00\x00abcd")
	modern, legacy, z := pack(t, data, "lz4", "-c"), pack(t, data, "lz4", "-lc"), pack(t, data, "zstd", "-1c")
	long := pack(t, data, "zstd", "-1c", "--long=31")
	for name, c := range map[string]struct {
		command string
		packed  []byte
	}{
		"modern": {"lz4", modern}, "legacy": {"lz4", legacy},
		"small blocks": {"lz4", pack(t, data, "lz4", "-c", "-B4", "-BD", "--content-size", "-BX")}, "skippable first": {"lz4", append(bytes.Clone(skip), modern...)},
		"skippable before legacy": {"lz4", append(bytes.Clone(skip), legacy...)}, "skippable twice": {"lz4", append(append(bytes.Clone(skip), skip...), modern...)},
		"skippable between": {"lz4", append(append(bytes.Clone(modern), skip...), modern...)}, "two legacy": {"lz4", append(bytes.Clone(legacy), legacy...)},
		"legacy, modern": {"lz4", append(bytes.Clone(legacy), modern...)}, "zstd skippable": {"zstd", append(append(bytes.Clone(skip), z...), skip...)},
		"zstd, two": {"zstd", append(bytes.Clone(z), z...)}, "zstd without checksum": {"zstd", pack(t, data, "zstd", "-1c", "--no-check")},
		"zstd --long=31": {"zstd -d --long=31", long},
	} {
		want := data
		if c.command != "zstd -d --long=31" {
			var ok bool
			if want, ok, _ = byTool(t, c.command, c.packed); !ok {
				t.Fatalf("%s: %s refuses it", name, c.command)
			}
		}
		if got, _, err := byPackage(t, c.packed); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(want), err)
		}
		if got, _, err := byPackage(t, c.packed[:len(c.packed)-5]); err == nil && name != "zstd skippable" {
			t.Errorf("%s, cut by 5 bytes: %d bytes of %d, and no error", name, len(got), len(want))
		}
	}
}

func TestMemoryErrorHasWindowSize(t *testing.T) {
	data := bytes.Repeat([]byte("imgtool "), 100_000)
	for _, front := range []string{"", "\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"} {
		for _, first := range [][]byte{nil, pack(t, data, "zstd", "-c")} {
			packed := append([]byte(front), append(first, pack(t, data, "zstd", "-c", "--long=29")...)...)
			r, err := compress.NewReader(bytes.NewReader(packed), compress.Zstd)
			if err == nil {
				_, err = io.Copy(io.Discard, r)
			}
			memory := new(compress.MemoryError)
			if !errors.As(err, &memory) || memory.Want != 1<<29 || memory.Max != compress.MaxMemory {
				t.Errorf("%d bytes before: %v", len(packed), err)
			}
		}
	}
}

func TestXZFilters(t *testing.T) {
	imagetest.Long(t)
	// Data with branch instructions: the test binary, and noise.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	code = code[:min(len(code), 1<<20)]
	noise := make([]byte, 200<<10)
	rand.NewChaCha8([32]byte{3}).Read(noise)
	// Opcodes of all filters at all alignments, with near and far addresses.
	dense := make([]byte, 300<<10)
	rng := rand.New(rand.NewPCG(4, 5))
	for i := range dense {
		dense[i] = []byte{0xE8, 0xE9, 0x00, 0xFF, 0xEB, 0x48, 0x01, 0x94, 0x90, 0x40, 0x7F, 0xF0, 0xF8, 0x16, 0x17, 0xEF, byte(rng.Uint32())}[rng.IntN(17)]
	}
	file := filepath.Join(t.TempDir(), "x")
	for name, data := range map[string][]byte{"code": code, "noise": noise, "dense": dense, "short": dense[:13], "nothing": nil} {
		os.WriteFile(file, data, 0o644)
		for _, filters := range [][]string{{"--x86"}, {"--arm"}, {"--armthumb"}, {"--arm64"}, {"--powerpc"}, {"--sparc"}, {"--ia64"}, {"--delta=dist=1"}, {"--delta=dist=256"},
			{"--x86=start=4096"}, {"--arm64=start=65536"}, {"--ia64=start=160"}, {"--delta=dist=4", "--x86"}, {"--x86", "--delta=dist=2"}, {"--arm", "--arm64", "--delta=dist=3"}} {
			args := append(append([]string{"--format=xz", "-T1", "--block-size=150KiB"}, filters...), "--lzma2=preset=0", "-c", file)
			packed := []byte(imagetest.Run(t, "xz", args...))
			if got, _, err := byPackage(t, packed); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%v of %s: %d bytes of %d, %v", filters, name, len(got), len(data), err)
			}
		}
	}
}

// A frame of a single segment has no window: its decoder keeps the whole content.
func TestLimitOfSingleSegment(t *testing.T) {
	const want = 3 << 20
	frame := []byte("\x28\xb5\x2f\xfd\xa0\x00\x00\x30\x00") // content size of 4 bytes
	for i := range want >> 17 {
		last := byte(0)
		if i == want>>17-1 {
			last = 1
		}
		frame = append(frame, last|1<<1, 0, 1<<17>>13, 0) // 128 KiB of zeros
	}
	for _, ahead := range []bool{false, true} {
		for _, limit := range []int64{want, want - 1} {
			r, err := compress.Options{MaxMemory: limit, Ahead: ahead}.NewReader(bytes.NewReader(frame), compress.Zstd)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(r)
			r.Close()
			large, ok := errors.AsType[*compress.MemoryError](err)
			if limit >= want && (err != nil || len(b) != want) || limit < want && (!ok || large.Want != want) {
				t.Errorf("ahead %v, limit %d: %d bytes, %v", ahead, limit, len(b), err)
			}
		}
	}
}
