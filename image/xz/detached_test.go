package xz

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

// fileOf returns a file with a block for each of parts.
func fileOf(t *testing.T, parts ...[]byte) (file []byte, blocks [][]byte) {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range parts {
		b, err := AppendBlock(nil, part)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteBlock(b); err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, b)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), blocks
}

// readParallel reads file, and reports whether blocks of zeros were recognized.
func readParallel(t *testing.T, file []byte, sizes []Size) (data []byte, zeros bool, err error) {
	t.Helper()
	p, err := NewParallel(bytes.NewReader(file), Options{MaxDict: MaxDict, Memory: 1 << 30, Sizes: sizes})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	data, err = io.ReadAll(p)
	return data, p.zeros.Load() != nil, err
}

// Blocks of zeros that are not decompressed are between others, which may look like them.
func TestParallelZeros(t *testing.T) {
	noise := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{8}).Read(noise)
	zeros, ones, short := make([]byte, 5<<19), bytes.Repeat([]byte{1}, 5<<19), make([]byte, 1<<20)
	parts := [][]byte{zeros, ones, zeros, noise, zeros, zeros, short, zeros, ones, nil, short, append(zeros[:5<<19-1:5<<19-1], 1), zeros}
	file, _ := fileOf(t, parts...)
	got, known, err := readParallel(t, file, nil)
	if want := bytes.Join(parts, nil); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
	if !known {
		t.Error("no block of zeros is recognized")
	}
	if _, known, err := readParallel(t, must(fileOf(t, ones, ones, noise)), nil); known || err != nil {
		t.Errorf("blocks without zeros: %v, %v", known, err)
	}
}

func must(file []byte, _ [][]byte) []byte { return file }

// A change in any byte of a block of zeros that follows another one is found.
func TestParallelFindsDamagedZeros(t *testing.T) {
	zeros := make([]byte, 1<<20)
	file, blocks := fileOf(t, zeros, zeros, zeros)
	start := streamHeader + len(blocks[0])
	for at := range blocks[1] {
		damaged := bytes.Clone(file)
		damaged[start+at] ^= 0x10
		if got, _, err := readParallel(t, damaged, nil); err == nil {
			t.Errorf("a change of byte %d of a block is not found: %d bytes", at, len(got))
		}
	}
}

// The sizes in the index are compared with a block of zeros, too.
func TestParallelComparesSizesOfZeros(t *testing.T) {
	zeros := make([]byte, 1<<20)
	_, blocks := fileOf(t, zeros)
	body := blocks[0][blockHeaderSize:]
	info, err := parseBlock(blocks[0][:blockHeaderSize])
	if err != nil {
		t.Fatal(err)
	}
	block := append(blockHeader(-1, -1, info.dict), body...) // without sizes
	unpadded := blockHeaderSize + info.packed + 4
	for _, c := range []struct {
		unpacked int64 // of the second block, in the index
		ok       bool
	}{{1 << 20, true}, {1<<20 - 1, false}, {1<<20 + 1, false}, {0, false}, {1 << 22, false}} {
		index := append(record(unpadded, 1<<20), record(unpadded, c.unpacked)...)
		file := bytes.Join([][]byte{streamStart(checkCRC32), block, block, streamEnd(checkCRC32, 2, index)}, nil)
		sizes := ReadSizes(bytes.NewReader(file), int64(len(file)))
		if len(sizes) != 2 {
			t.Fatalf("%d sizes", len(sizes))
		}
		got, _, err := readParallel(t, file, sizes)
		if (err == nil) != c.ok || c.ok && len(got) != 2<<20 {
			t.Errorf("the index says %d bytes: %d bytes and %v", c.unpacked, len(got), err)
		}
	}
}

// A decoder that is used again after data that were damaged or read in part decompresses others.
func TestDecodersAreUsedAgain(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	for i := range 60 {
		data := make([]byte, 1+r.IntN(300_000))
		for at := range data {
			data[at] = byte(r.IntN(3)) + byte(at>>12)
		}
		file, _ := fileOf(t, data)
		read := func(b []byte, n int64) ([]byte, error) {
			x, err := NewReader(bytes.NewReader(b), MaxDict)
			if err != nil {
				return nil, err
			}
			return io.ReadAll(io.LimitReader(x, n))
		}
		switch i % 3 {
		case 0:
			damaged := bytes.Clone(file)
			damaged[streamHeader+blockHeaderSize+6+r.IntN(len(file)/2)] ^= 1
			if got, err := read(damaged, 1<<30); err == nil {
				t.Errorf("%d bytes of damaged data, and no error", len(got))
			}
		case 1:
			if _, err := read(file, int64(r.IntN(len(data)))); err != nil {
				t.Error(err)
			}
		}
		if got, err := read(file, 1<<30); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes of %d, %v", len(got), len(data), err)
		}
	}
}
