package artifact

import (
	"os"

	"golang.org/x/sys/unix"
)

// openDirect opens a file that is being written once more, without the page
// cache. Not every file system has it.
func openDirect(f *os.File) (*os.File, error) {
	return os.OpenFile(f.Name(), os.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
}
