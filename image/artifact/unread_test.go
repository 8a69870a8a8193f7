package artifact_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os/exec"
	"syscall"
	"testing"
	"testing/iotest"

	"imgtool/image/artifact"
	"imgtool/image/imagetest"
)

// A read error is returned as it is through all decompressors.
func TestReadErrorIsNotCorruption(t *testing.T) {
	imagetest.Long(t)
	data := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	for _, packer := range [][]string{{"cat"}, {"xz", "-c0"}, {"gzip", "-c1"}, {"bzip2", "-c"}, {"lz4", "-c"}, {"zstd", "-qc"}} {
		cmd := exec.Command(imagetest.Need(t, packer[0]), packer[1:]...)
		cmd.Stdin = bytes.NewReader(data)
		packed, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{100, len(packed) / 2, len(packed) - 1} {
			s, err := artifact.Stream(io.MultiReader(bytes.NewReader(packed[:at]), iotest.ErrReader(syscall.EIO)), nil)
			if err == nil {
				for _, e := range s.Chunks() {
					err = e
				}
			}
			if corrupt := new(*artifact.CorruptError); !errors.Is(err, syscall.EIO) || errors.As(err, corrupt) {
				t.Errorf("%s, byte %d of %d: %v", packer[0], at, len(packed), err)
			}
		}
	}
}
