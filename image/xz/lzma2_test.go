package xz

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"testing"
)

// The decoder in Go and the decoder of this build decompress the same data, and
// find the same data cut or changed.
func TestDecodersAgree(t *testing.T) {
	noise := make([]byte, 200_000)
	rand.NewChaCha8([32]byte{6}).Read(noise)
	text := bytes.Repeat([]byte("imgtool reads and writes images. "), 9000)
	r := rand.New(rand.NewPCG(6, 6))
	for _, c := range []struct {
		name string
		data []byte
	}{{"nothing", nil}, {"a byte", []byte{1}}, {"zeros", make([]byte, 5<<20)}, {"noise", noise}, {"mixed", append(append(bytes.Clone(noise), text...), noise...)}} {
		name, data := c.name, c.data
		block, err := AppendBlock(nil, data)
		if err != nil {
			t.Fatal(err)
		}
		body := block[blockHeaderSize:]
		decode := func(newDecoder func(*lzma2, int64) (io.Reader, error), b []byte) ([]byte, error) {
			z, err := newDecoder(&lzma2{r: bytes.NewReader(b)}, dictSize(dictCode(int64(len(data)))))
			if err != nil {
				return nil, err
			}
			return io.ReadAll(z)
		}
		for i, f := range []func(*lzma2, int64) (io.Reader, error){goLZMA2, newLZMA2} {
			decoder := []string{"Go", Library}[i]
			if got, err := decode(f, body); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s, %s: %d bytes of %d, %v", name, decoder, len(got), len(data), err)
			}
			if _, err := decode(f, body[:r.IntN(max(1, len(body)-8))]); err == nil {
				t.Errorf("%s, %s: the data are cut, and no error follows", name, decoder)
			}
		}
		tries := 100
		if os.Getenv("SOAK") != "" {
			tries = 2000
		}
		for i := range min(tries, 8*len(body)) {
			damaged := bytes.Clone(body)
			if i < 64 { // the heads of chunks and coders
				damaged[min(i/8, len(body)-1)] ^= 1 << (i % 8)
			} else {
				damaged[r.IntN(len(damaged))] ^= 1 << r.IntN(8)
			}
			one, oneErr := decode(goLZMA2, damaged)
			two, twoErr := decode(newLZMA2, damaged)
			if (oneErr == nil) != (twoErr == nil) || oneErr == nil && !bytes.Equal(one, two) {
				t.Errorf("%s, changed: Go gives %d bytes and %v, %s %d bytes and %v", name, len(one), oneErr, Library, len(two), twoErr)
			}
		}
	}
}

// A block that is longer than its header says is not reported as a file that is cut short.
func TestParallelReportsWrongSize(t *testing.T) {
	noise := make([]byte, 100_000)
	rand.NewChaCha8([32]byte{7}).Read(noise)
	block, err := AppendBlock(nil, noise)
	if err != nil {
		t.Fatal(err)
	}
	info, err := parseBlock(block[:blockHeaderSize])
	if err != nil {
		t.Fatal(err)
	}
	copy(block, blockHeader((info.packed-4000)&^3, info.unpacked, info.dict))
	file := append(streamStart(0), block...) // neither padding nor a checksum follows the data
	p, err := NewParallel(bytes.NewReader(file), Options{MaxDict: MaxDict, Memory: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := io.ReadAll(p); err != errSize {
		t.Errorf("got %v", err)
	}
}
