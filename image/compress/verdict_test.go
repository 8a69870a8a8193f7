package compress_test

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"imgtool/image/imagetest"
)

// Every way to decompress accepts the same zstd and gzip files as the tools, and has the same data.
func TestVerdictsAsByTools(t *testing.T) {
	imagetest.Long(t)
	text := bytes.Repeat([]byte("imgtool reads and writes images. "), 3000)
	noise := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{9}).Read(noise)
	data := slices.Concat(text, noise, make([]byte, 1<<20), text)
	for command, files := range map[string]map[string][]byte{"zstd": zstdFiles(t, data), "gzip": gzipFiles(t, text)} {
		for name, packed := range files {
			want, ok, _ := byTool(t, command, packed)
			got, _, err := byPackage(t, packed)
			switch {
			case ok != (err == nil):
				t.Errorf("%s, %s: the tool accepts it: %v, the package: %v", command, name, ok, err)
			case ok && !bytes.Equal(got, want):
				t.Errorf("%s, %s: %d bytes, by the tool %d", command, name, len(got), len(want))
			}
		}
	}
}

func zstdFiles(t *testing.T, data []byte) map[string][]byte {
	file := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	sized := []byte(imagetest.Run(t, "zstd", "-qc", file))
	unsized, plain := pack(t, data, "zstd", "-c"), pack(t, data, "zstd", "-c", "--no-check")
	none, small := pack(t, nil, "zstd", "-c"), pack(t, data[:1000], "zstd", "-c")
	skip := func(magic byte, n int) []byte {
		return append([]byte{magic, 0x2a, 0x4d, 0x18, byte(n), byte(n >> 8), 0, 0}, make([]byte, n)...)
	}
	all := map[string][]byte{
		"with its size": sized, "without": unsized, "no checksum": plain, "nothing": none, "small": small,
		"two": slices.Concat(sized, unsized), "empty ones between": slices.Concat(none, small, none, none, plain, none),
		"skippable first": slices.Concat(skip(0x50, 0), skip(0x5f, 300), sized), "skippable between": slices.Concat(small, skip(0x51, 70_000), small),
		"skippable last": slices.Concat(small, skip(0x5e, 3)), "skippable cut": slices.Concat(small, skip(0x5e, 30)[:20]),
		"skippable head cut": slices.Concat(small, skip(0x5e, 30)[:6]), "garbage after it": append(bytes.Clone(small), "garbage"...),
		"a magic after it": append(bytes.Clone(small), "\x28\xb5\x2f\xfd"...), "three bytes after it": append(bytes.Clone(small), 0x28, 0xb5, 0x2f),
		"a block of type 3": []byte("\x28\xb5\x2f\xfd\x00\x58\x07\x00\x00"), "a reserved bit": []byte("\x28\xb5\x2f\xfd\x08\x58\x01\x00\x00"),
		"an RLE block": []byte("\x28\xb5\x2f\xfd\x00\x58\x53\x00\x00a"), "an empty RLE block": []byte("\x28\xb5\x2f\xfd\x00\x58\x03\x00\x00a"),
		"an empty block": []byte("\x28\xb5\x2f\xfd\x00\x58\x01\x00\x00"), "size 5 of 10": []byte("\x28\xb5\x2f\xfd\x20\x05\x53\x00\x00a"),
		"size 20 of 10": []byte("\x28\xb5\x2f\xfd\x20\x14\x53\x00\x00a"), "size 10 of 10": []byte("\x28\xb5\x2f\xfd\x20\x0a\x53\x00\x00a"),
		"a block above the window": []byte("\x28\xb5\x2f\xfd\x00\x00\x03\x40\x00a"), "a dictionary is needed": []byte("\x28\xb5\x2f\xfd\x21\x07\x0a\x53\x00\x00a"),
	}
	for level := range []int{1, 19} {
		all[fmt.Sprintf("level %d, long", level)] = pack(t, data, "zstd", "-c", fmt.Sprint("-", level+1), "--long=27")
	}
	return withDamage(all, small, slices.Concat(small, skip(0x50, 9), small))
}

func gzipFiles(t *testing.T, data []byte) map[string][]byte {
	one, none := pack(t, data, "gzip", "-nc"), pack(t, nil, "gzip", "-nc")
	with := func(flags byte, fields ...byte) []byte {
		return slices.Concat(one[:3], []byte{flags}, one[4:10], fields, one[10:])
	}
	head := []byte{0x1f, 0x8b, 8, 2, 0, 0, 0, 0, one[8], one[9]}
	sum := crc32.ChecksumIEEE(head)
	all := map[string][]byte{
		"one": one, "nothing": none, "empty members": slices.Concat(none, one, none, none, one, none),
		"extra field": with(4, 3, 0, 1, 2, 3), "extra field above the end": with(4, 0xff, 0xff), "name": with(8, 'a', 0), "empty name": with(8, 0),
		"comment": with(16, 'a', 0), "all fields": with(28, 1, 0, 1, 'a', 0, 'b', 0), "header sum": with(2, byte(sum), byte(sum>>8)),
		"text": with(1), "long name": with(8, append(bytes.Repeat([]byte{'a'}, 255), 0)...),
	}
	return withDamage(all, one, slices.Concat(one, none, one))
}

// withDamage adds cut and changed files.
func withDamage(all map[string][]byte, files ...[]byte) map[string][]byte {
	for i, file := range files {
		for n := 8; n < len(file); n += 1 + len(file)/60 {
			all[fmt.Sprintf("%d cut to %d", i, n)] = file[:n]
		}
		for at := 4; at < len(file); at += 1 + len(file)/60 {
			b := bytes.Clone(file)
			b[at] ^= 1 << (at % 8)
			all[fmt.Sprintf("%d with another byte %d", i, at)] = b
		}
	}
	return all
}
