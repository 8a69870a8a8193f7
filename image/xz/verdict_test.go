package xz

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os/exec"
	"slices"
	"testing"

	"imgtool/image/imagetest"
)

// rawBlock is a block of a file that need not be valid. Fields that are nil have their right values.
type rawBlock struct {
	header []byte // without its size and CRC-32
	body   []byte // LZMA2 data
	data   []byte // that the body has
	sum    []byte // of the CRC-32 checks
	pad    []byte
	rec    []byte // record in the index
}

// vli is a number in n bytes, of which the last ones are not needed.
func vli(v uint64, n int) []byte {
	b := binary.AppendUvarint(nil, v)
	for len(b) < n {
		b[len(b)-1] |= 0x80
		b = append(b, 0)
	}
	return b
}

func sealed(b []byte) []byte { return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b)) }

func (b rawBlock) bytes() (block, rec []byte) {
	h := append([]byte{0}, b.header...)
	h = append(h, make([]byte, -len(h)&3)...)
	h[0] = byte(len(h) / 4)
	block = append(sealed(h), b.body...)
	unpadded := int64(len(block)) + 4
	if b.pad == nil {
		b.pad = make([]byte, -len(b.body)&3)
	}
	if b.sum == nil {
		b.sum = binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(b.data))
	}
	if b.rec == nil {
		b.rec = record(unpadded, int64(len(b.data)))
	}
	return slices.Concat(block, b.pad, b.sum), b.rec
}

// rawFile is a file with a stream of blocks.
func rawFile(blocks ...rawBlock) []byte {
	file, index := streamStart(checkCRC32), []byte(nil)
	for _, b := range blocks {
		block, rec := b.bytes()
		file, index = append(file, block...), append(index, rec...)
	}
	return append(file, streamEnd(checkCRC32, uint64(len(blocks)), index)...)
}

// header returns a block header with sizes of n bytes each, or without those that are negative.
func header(packed, unpacked int64, n int, dict byte) []byte {
	h := []byte{0}
	if packed >= 0 {
		h[0] |= 0x40
		h = append(h, vli(uint64(packed), n)...)
	}
	if unpacked >= 0 {
		h[0] |= 0x80
		h = append(h, vli(uint64(unpacked), n)...)
	}
	return append(h, filterLZMA2, 1, dict)
}

// bodyOf returns data as LZMA2.
func bodyOf(t *testing.T, data []byte) []byte {
	t.Helper()
	b, err := AppendBlock(nil, data)
	if err != nil {
		t.Fatal(err)
	}
	info, err := parseBlock(b[:blockHeaderSize])
	if err != nil {
		t.Fatal(err)
	}
	return b[blockHeaderSize:][:info.packed]
}

// files returns valid and invalid files by name.
func files(t *testing.T) map[string][]byte {
	text := bytes.Repeat([]byte("imgtool reads images. "), 500)
	noise := make([]byte, 5000)
	rand.NewChaCha8([32]byte{3}).Read(noise)
	body, stored, zeros := bodyOf(t, text), bodyOf(t, noise), bodyOf(t, make([]byte, 1<<20))
	const dict = 22
	good := rawBlock{header: header(-1, -1, 0, dict), body: body, data: text}
	empty := rawBlock{header: header(-1, -1, 0, dict), body: []byte{0}}
	all := map[string][]byte{
		"one block":                rawFile(good),
		"no blocks":                rawFile(),
		"an empty block":           rawFile(empty),
		"empty blocks between":     rawFile(empty, good, empty, empty, good, empty),
		"no blocks, four times":    bytes.Repeat(rawFile(), 4),
		"two streams":              append(rawFile(good), rawFile(good)...),
		"an empty stream between":  slices.Concat(rawFile(good), rawFile(), rawFile(good)),
		"nothing":                  {},
		"the magic alone":          []byte(streamMagic),
		"a stream header alone":    streamStart(checkCRC32),
		"garbage after it":         append(rawFile(good), "garbage"...),
		"half a stream after it":   append(rawFile(good), rawFile(good)[:20]...),
		"two checksums":            append(rawFile(good), slices.Concat(streamStart(0), streamEnd(0, 0, nil))...),
		"no checksums":             slices.Concat(streamStart(0), streamEnd(0, 0, nil)),
		"footer of other flags":    slices.Concat(streamStart(1), streamEnd(4, 0, nil)),
		"a reserved stream flag":   append(append([]byte(streamMagic), sealed([]byte{1, 1})...), streamEnd(1, 0, nil)...),
		"a reserved block flag":    rawFile(rawBlock{header: append([]byte{4}, good.header[1:]...), body: body, data: text}),
		"padding in the header":    rawFile(rawBlock{header: append(slices.Clone(good.header), make([]byte, 60)...), body: body, data: text}),
		"other data in the header": rawFile(rawBlock{header: append(slices.Clone(good.header), 0, 0, 1), body: body, data: text}),
		"no dictionary reset":      rawFile(rawBlock{header: good.header, body: []byte{2, 0, 0, 'a', 0}, data: []byte("a")}),
		"stored, reset":            rawFile(rawBlock{header: good.header, body: []byte{1, 0, 0, 'a', 2, 0, 0, 'b', 0}, data: []byte("ab")}),
		"control byte 3":           rawFile(rawBlock{header: good.header, body: []byte{3, 0, 0, 'a', 0}, data: []byte("a")}),
		"a wrong sum":              rawFile(rawBlock{header: good.header, body: body, data: text, sum: []byte{1, 2, 3, 4}}),
		"block padding of ones":    rawFile(rawBlock{header: good.header, body: []byte{0}, pad: []byte{0, 1, 0}}),
		"too much block padding":   rawFile(rawBlock{header: good.header, body: []byte{0}, pad: make([]byte, 7)}),
		"delta last":               rawFile(rawBlock{header: []byte{1, filterLZMA2, 1, dict, filterDelta, 1, 0}, body: body, data: text}),
		"LZMA2 twice":              rawFile(rawBlock{header: []byte{1, filterLZMA2, 1, dict, filterLZMA2, 1, dict}, body: body, data: text}),
		"delta alone":              rawFile(rawBlock{header: []byte{0, filterDelta, 1, 0}, body: body, data: text}),
		"delta without a distance": rawFile(rawBlock{header: []byte{1, filterDelta, 0, filterLZMA2, 1, dict}, body: body, data: text}),
		"x86 from byte 3":          rawFile(rawBlock{header: []byte{1, filterX86, 4, 3, 0, 0, 0, filterLZMA2, 1, dict}, body: body, data: text}),
		"ARM from byte 3":          rawFile(rawBlock{header: []byte{1, filterARM, 4, 3, 0, 0, 0, filterLZMA2, 1, dict}, body: body, data: text}),
		"LZMA2 without properties": rawFile(rawBlock{header: []byte{0, filterLZMA2, 0}, body: body, data: text}),
		"LZMA2 with two bytes":     rawFile(rawBlock{header: []byte{0, filterLZMA2, 2, dict, 0}, body: body, data: text}),
		"a long filter number":     rawFile(rawBlock{header: []byte{0, filterLZMA2 | 0x80, 0, 1, dict}, body: body, data: text}),
		"a long properties' size":  rawFile(rawBlock{header: []byte{0, filterLZMA2, 0x81, 0, dict}, body: body, data: text}),
		"a record too many":        slices.Concat(streamStart(1), streamEnd(1, 1, record(20, 0))),
		"a record missing":         slices.Concat(rawFile(good)[:len(rawFile(good))-len(streamEnd(1, 1, record(20, 1)))], streamEnd(1, 0, nil)),
		"a record of zeros":        rawFile(rawBlock{header: good.header, body: body, data: text, rec: []byte{0, 0}}),
		"index with a long number": slices.Concat(streamStart(1), streamEnd(1, 0, nil)[:0], longIndex()),
		"blocks of zeros":          rawFile(slices.Repeat([]rawBlock{{header: header(int64(len(zeros)), 1<<20, 0, dict), body: zeros, data: make([]byte, 1<<20)}}, 5)...),
	}
	for code := byte(0); code < 44; code++ {
		all[fmt.Sprintf("dictionary %d", code)] = rawFile(rawBlock{header: header(-1, int64(len(text)), 0, code), body: body, data: text})
	}
	for n := range 13 {
		pad := make([]byte, n)
		all[fmt.Sprintf("%d zeros after it", n)] = append(rawFile(good), pad...)
		all[fmt.Sprintf("%d zeros before it", n)] = append(pad, rawFile(good)...)
		all[fmt.Sprintf("%d zeros between", n)] = slices.Concat(rawFile(good), pad, rawFile(good))
	}
	for _, c := range []struct{ body, data []byte }{{body, text}, {stored, noise}, {[]byte{0}, nil}, {zeros, make([]byte, 1<<20)}} {
		p, u := int64(len(c.body)), int64(len(c.data))
		for _, packed := range []int64{-1, p, p - 1, p + 1, p - 4, p + 4, p + 1000, 0, 1 << 40, 1<<63 - 1} {
			for _, unpacked := range []int64{-1, u, u - 1, u + 1, 0, 1 << 40, 1<<63 - 1} {
				h := header(packed, unpacked, 0, dict)
				name := fmt.Sprintf("%d to %d bytes, in the header %d to %d", p, u, packed, unpacked)
				all[name] = rawFile(rawBlock{header: h, body: c.body, data: c.data}, good)
			}
		}
		for n := 1; n < 11; n++ {
			all[fmt.Sprintf("%d to %d bytes, numbers of %d", p, u, n)] = rawFile(rawBlock{header: header(p, u, n, dict), body: c.body, data: c.data})
			size := int64(4 + 4 + 4 + len(c.body) + 4 - 4)
			all[fmt.Sprintf("%d to %d bytes, numbers of %d in the index", p, u, n)] = rawFile(rawBlock{header: good.header, body: c.body, data: c.data, rec: append(vli(uint64(size), n), vli(uint64(u), n)...)})
		}
		for _, rec := range [][2]int64{{0, 0}, {1, 0}, {-4, 0}, {4, 0}, {0, 1}, {0, -1}, {1 << 40, 0}, {0, 1 << 40}} {
			size := int64(8+4+len(c.body)) + rec[0]
			if u+rec[1] >= 0 {
				all[fmt.Sprintf("%d to %d bytes, other sizes in the index by %v", p, u, rec)] = rawFile(rawBlock{header: good.header, body: c.body, data: c.data, rec: record(size, u+rec[1])}, good)
			}
		}
	}
	whole := rawFile(good, empty, good)
	for n := 0; n < len(whole); n += 3 {
		all[fmt.Sprintf("cut to %d", n)] = whole[:n]
	}
	for at := range whole {
		b := bytes.Clone(whole)
		b[at] ^= 1 << (at % 8)
		all[fmt.Sprintf("byte %d changed", at)] = b
	}
	return all
}

// longIndex is an empty index whose count is in two bytes, with a footer.
func longIndex() []byte {
	index := sealed([]byte{0, 0x80, 0, 0})
	footer := binary.LittleEndian.AppendUint32(nil, uint32(len(index)/4-1))
	footer = append(footer, 0, 1)
	index = binary.LittleEndian.AppendUint32(index, crc32.ChecksumIEEE(footer))
	return append(append(index, footer...), "YZ"...)
}

// Every way to read a file accepts the same files as xz, and reads the same data.
func TestVerdictsAsByXZ(t *testing.T) {
	imagetest.Long(t)
	imagetest.Need(t, "xz")
	const limit = 1 << 30 // xz has no limit, a dictionary above it is refused here
	for name, file := range files(t) {
		cmd := exec.Command("xz", "-dc", "-T1")
		cmd.Stdin = bytes.NewReader(file)
		want, wantErr := cmd.Output()
		sizes := ReadSizes(bytes.NewReader(file), int64(len(file)))
		for way, open := range map[string]func() (io.Reader, error){
			"in order":            func() (io.Reader, error) { return NewReader(bytes.NewReader(file), limit) },
			"in parallel":         func() (io.Reader, error) { return NewParallel(bytes.NewReader(file), Options{limit, limit, nil}) },
			"with the index":      func() (io.Reader, error) { return NewParallel(bytes.NewReader(file), Options{limit, limit, sizes}) },
			"with a small memory": func() (io.Reader, error) { return NewParallel(bytes.NewReader(file), Options{limit, 3 << 20, sizes}) },
		} {
			var got []byte
			r, err := open()
			if err == nil {
				got, err = io.ReadAll(r)
				if c, ok := r.(io.Closer); ok {
					c.Close()
				}
			}
			switch _, dict := err.(*DictError); {
			case dict:
			case (err == nil) != (wantErr == nil):
				t.Errorf("%s, %s: %v, xz: %v", name, way, err, wantErr)
			case err == nil && !bytes.Equal(got, want):
				t.Errorf("%s, %s: %d bytes, xz: %d", name, way, len(got), len(want))
			}
		}
	}
}
