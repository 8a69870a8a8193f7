package verity_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/verity"
)

func section(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// buffer is memory that can be written at any offset.
type buffer []byte

func (b buffer) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(b)) {
		return 0, fmt.Errorf("%d bytes at %d are outside of %d", len(p), off, len(b))
	}
	return copy(b[off:], p), nil
}

func tree(t *testing.T, data, salt []byte) (verity.Hash, []byte) {
	t.Helper()
	b := make(buffer, verity.TreeSize(int64(len(data))))
	root, err := verity.Write(t.Context(), b, section(data), salt, nil)
	if err != nil {
		t.Fatal(err)
	}
	return root, b
}

// Numbers of blocks with one to four levels, and whole and partly filled blocks in each.
var blocks = []int{1, 2, 127, 128, 129, 1024, 1025, 128 * 128, 128*128 + 1, 3 * 128 * 128}

func TestItIsWhatVeritysetupMakes(t *testing.T) {
	dir := t.TempDir()
	for _, n := range blocks {
		for _, salt := range [][]byte{nil, []byte("a salt"), random(32), random(256)} {
			if n >= 128*128 && len(salt) != 32 {
				continue // it takes long
			}
			data := random(n * verity.BlockSize)
			root, hashes := tree(t, data, salt)
			head, err := verity.Superblock{UUID: [16]byte{15: 1}, Salt: salt, Blocks: int64(n)}.Encode()
			if err != nil {
				t.Fatal(err)
			}
			file, ours, theirs := filepath.Join(dir, "data"), filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
			os.Remove(theirs)
			write(t, file, data)
			write(t, ours, append(head, hashes...))
			text := "-"
			if salt != nil {
				text = hex.EncodeToString(salt)
			}
			out := imagetest.Run(t, "veritysetup", "format", "--salt", text, "--uuid", "00000000-0000-0000-0000-000000000001", file, theirs)
			want := regexp.MustCompile(`Root hash:\s*([0-9a-f]+)`).FindStringSubmatch(out)
			if want == nil || want[1] != hex.EncodeToString(root[:]) {
				t.Errorf("%d blocks with a salt of %d bytes: root %x, veritysetup says\n%s", n, len(salt), root, out)
			}
			if got, err := os.ReadFile(theirs); err != nil || !bytes.Equal(got, append(head, hashes...)) {
				t.Errorf("%d blocks with a salt of %d bytes: the tree differs from veritysetup's (%v)", n, len(salt), err)
			}
			imagetest.Run(t, "veritysetup", "verify", file, ours, hex.EncodeToString(root[:]))
		}
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyFindsEveryFlippedBlock(t *testing.T) {
	salt := []byte("salt")
	for _, n := range []int{1, 2, 129, 128*128 + 1} {
		data := random(n * verity.BlockSize)
		root, hashes := tree(t, data, salt)
		verify := func() error {
			return verity.Verify(t.Context(), section(data), section(hashes), verity.Root{Hash: root, Salt: salt}, nil)
		}
		if err := verify(); err != nil {
			t.Fatalf("%d blocks: %v", n, err)
		}
		check := func(what []byte, block int, inTree bool) {
			t.Helper()
			at := block*verity.BlockSize + block%verity.BlockSize
			what[at] ^= 4
			defer func() { what[at] ^= 4 }()
			e, ok := errors.AsType[*verity.MismatchError](verify())
			if !ok || e.InTree != inTree || e.Off != int64(block)*verity.BlockSize {
				t.Errorf("%d blocks, block %d of the tree (%t): got %+v", n, block, inTree, e)
			}
		}
		for _, block := range []int{0, n / 2, n - 1} {
			check(data, block, false)
		}
		for block := range len(hashes) / verity.BlockSize {
			check(hashes, block, true)
		}
		if len(hashes) > 0 { // zeros after the last hash
			hashes[len(hashes)-1] ^= 1
			if e, ok := errors.AsType[*verity.MismatchError](verify()); n%128 != 0 && (!ok || !e.InTree) {
				t.Errorf("%d blocks: a flipped byte after the last hash gives %v", n, e)
			}
			hashes[len(hashes)-1] ^= 1
		}
		root[31] ^= 1
		if verify() == nil {
			t.Errorf("%d blocks: another root is accepted", n)
		}
		root[31] ^= 1
		if verity.Verify(t.Context(), section(data), section(hashes), verity.Root{Hash: root, Salt: []byte("salT")}, nil) == nil {
			t.Errorf("%d blocks: another salt is accepted", n)
		}
	}
}

func TestSizes(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4097} {
		if _, err := verity.Write(t.Context(), nil, section(random(n)), nil, nil); err == nil {
			t.Errorf("%d bytes are accepted", n)
		}
	}
	data := random(3 * verity.BlockSize)
	root, hashes := tree(t, data, nil)
	if got, err := verity.Write(t.Context(), nil, section(data), nil, nil); err != nil || got != root {
		t.Errorf("without a file the root is %x (%v), with one %x", got, err, root)
	}
	if verity.Verify(t.Context(), section(data), section(hashes[:0]), verity.Root{Hash: root}, nil) == nil {
		t.Error("a tree that is too short is accepted")
	}
}

func TestSuperblock(t *testing.T) {
	want := verity.Superblock{UUID: [16]byte{1, 2}, Salt: []byte("salt"), Blocks: 77}
	b, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := verity.ParseSuperblock(b); err != nil || got.UUID != want.UUID || !bytes.Equal(got.Salt, want.Salt) || got.Blocks != 77 {
		t.Errorf("got %+v (%v)", got, err)
	}
	for _, at := range []int{0, 8, 12, 32, 64, 68, 79, 81} {
		bad := bytes.Clone(b)
		bad[at] ^= 0x80
		if got, err := verity.ParseSuperblock(bad); err == nil {
			t.Errorf("byte %d changed: got %+v", at, got)
		}
	}
	if _, err := verity.ParseSuperblock(b[:100]); err == nil {
		t.Error("a short superblock is accepted")
	}
}
