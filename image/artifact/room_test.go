package artifact_test

import (
	"crypto/sha256"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/imagetest"
)

// However a room is written, what it says of a piece is the hash of what is there; and of
// what is written in order it says it.
func TestARoomKnowsWhatIsInIt(t *testing.T) {
	const size = 6 * image.PieceSize
	for seed := range uint64(12) {
		room := artifact.NewRoom(filepath.Join(t.TempDir(), "x.img"))
		if room == nil {
			imagetest.Skip(t, "the file system has no files without a name")
		}
		defer room.Close()
		r := rand.New(rand.NewPCG(seed, 3))
		there := make([]byte, size)
		write := func(off, n int) {
			b := there[off : off+n]
			for i := range b {
				b[i] = byte(r.Uint32() >> 9)
			}
			if _, err := room.WriteAt(b, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
		// As a squashfs is: all in order, and then its beginning.
		begin := r.IntN(image.PieceSize)
		for off := begin; off < size; {
			n := min(1+r.IntN(image.PieceSize/3), size-off)
			write(off, n)
			off += n
		}
		first := (begin + image.PieceSize - 1) / image.PieceSize
		touched := map[int]bool{}
		for range r.IntN(4) {
			off := r.IntN(size)
			n := min(1+r.IntN(2000), size-off)
			write(off, n)
			touched[off/image.PieceSize], touched[(off+n-1)/image.PieceSize] = true, true
		}
		for i := range size / image.PieceSize {
			got, ok := room.Sum(int64(i) * image.PieceSize)
			if want := sha256.Sum256(there[i*image.PieceSize:][:image.PieceSize]); ok && got != want {
				t.Errorf("seed %d: piece %d is %x, not %x", seed, i, got, want)
			}
			if want := i >= first && !touched[i]; ok != want {
				t.Errorf("seed %d: piece %d, written from %d on, again in %v: known is %v", seed, i, begin, touched, ok)
			}
		}
	}
}
