package imagetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// Random returns a source of random numbers for a test that tries many inputs. With SOAK=1 each
// run has another seed, which is printed. SEED=N repeats the run with the seed N.
func Random(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(23)
	if os.Getenv("SOAK") != "" {
		seed = uint64(time.Now().UnixNano())
	}
	if text := os.Getenv("SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("SEED: %v", err)
		}
		seed = n
	}
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// Corrupt changes a file in one or several of the ways in which storage, networks and programs
// do, and describes the changes. The frames of an .img.zst with a table are changed too. The
// result may be equal to the file.
func Corrupt(r *rand.Rand, file []byte) (b []byte, how string) {
	b = bytes.Clone(file)
	for range 1 + r.IntN(12)/10*r.IntN(3) {
		var what string
		b, what = corrupt(r, b)
		how += "; " + what
	}
	return b, how[min(len(how), 2):]
}

func corrupt(r *rand.Rand, b []byte) ([]byte, string) {
	if len(b) == 0 {
		return b, "empty"
	}
	at, other, n := r.IntN(len(b)), r.IntN(len(b)), 1+r.IntN(min(len(b), 9000))
	end, otherEnd := min(len(b), at+n), min(len(b), other+n)
	switch r.IntN(12) {
	case 0, 1:
		bit := r.IntN(8)
		b[at] ^= 1 << bit
		return b, fmt.Sprintf("bit %d of byte %d flipped", bit, at)
	case 2:
		b[at], b[other] = b[other], b[at]
		return b, fmt.Sprintf("bytes %d and %d swapped", at, other)
	case 3:
		clear(b[at:end])
		return b, fmt.Sprintf("%d bytes of zeros at %d", n, at)
	case 4:
		return b[:at], fmt.Sprintf("cut at %d", at)
	case 5:
		return slices.Delete(b, at, end), fmt.Sprintf("%d bytes missing at %d", end-at, at)
	case 6:
		return slices.Insert(b, at, bytes.Clone(b[other:otherEnd])...), fmt.Sprintf("%d bytes from %d inserted at %d", otherEnd-other, other, at)
	case 7:
		copy(b[at:], bytes.Clone(b[other:otherEnd]))
		return b, fmt.Sprintf("%d bytes from %d copied to %d", otherEnd-other, other, at)
	case 8:
		for i := at; i < end; i++ {
			b[i] = byte(r.Uint32())
		}
		return b, fmt.Sprintf("%d random bytes at %d", end-at, at)
	}
	if f := parseFrames(b); f != nil {
		return f.corrupt(r)
	}
	b[at]++
	return b, fmt.Sprintf("byte %d incremented", at)
}

// frames are the frames of a file in the zstd seekable format and their entries in the table,
// of 8 bytes.
type frames struct{ data, entries [][]byte }

func parseFrames(b []byte) *frames {
	le := binary.LittleEndian
	if len(b) < 17 || le.Uint32(b[len(b)-4:]) != 0x8F92EAB1 {
		return nil
	}
	n := int(le.Uint32(b[len(b)-9:]))
	start := len(b) - 17 - 8*n
	if n < 1 || start < 0 {
		return nil
	}
	f := &frames{}
	at := 0
	for e := range slices.Chunk(b[start+8:][:8*n], 8) {
		size := int(le.Uint32(e))
		if size > start-at {
			return nil
		}
		f.data, f.entries = append(f.data, b[at:at+size]), append(f.entries, e)
		at += size
	}
	return f
}

// bytes returns the file, with a table of the entries.
func (f *frames) bytes() []byte {
	le := binary.LittleEndian
	b := bytes.Join(f.data, nil)
	b = le.AppendUint32(b, 0x184D2A5E)
	b = le.AppendUint32(b, uint32(8*len(f.entries)+9))
	b = append(b, bytes.Join(f.entries, nil)...)
	b = append(le.AppendUint32(b, uint32(len(f.entries))), 0)
	return le.AppendUint32(b, 0x8F92EAB1)
}

// corrupt swaps, removes or repeats frames, their entries in the table, or both.
func (f *frames) corrupt(r *rand.Rand) ([]byte, string) {
	i, j := r.IntN(len(f.data)), r.IntN(len(f.data))
	data, entries := &f.data, &f.entries
	lists := [][]*[][]byte{{data}, {entries}, {data, entries}}[r.IntN(3)]
	what := ""
	kind := r.IntN(4)
	for _, list := range lists {
		l := *list
		switch kind {
		case 0, 1:
			l[i], l[j] = l[j], l[i]
			what = fmt.Sprintf("frames %d and %d swapped", i, j)
		case 2:
			l = slices.Delete(l, i, i+1)
			what = fmt.Sprintf("frame %d removed", i)
		case 3:
			l = slices.Insert(l, j, l[i])
			what = fmt.Sprintf("frame %d repeated before %d", i, j)
		}
		*list = l
	}
	return f.bytes(), fmt.Sprintf("%s, in %d lists", what, len(lists))
}
