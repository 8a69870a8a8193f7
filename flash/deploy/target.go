package deploy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image/fault"
	"imgtool/image/volume"
)

// Target is a disk that an image is written to.
type Target struct {
	Disk    *disk.Disk
	Receipt Receipt
	Err     error // why it was not written
	Touched bool  // something was written to it

	job   flash.Job
	dev   *disk.Target // nil: not open
	ended atomic.Bool
}

// NewTarget returns the target that a plan is written to.
func NewTarget(d *disk.Disk, p *Plan) (*Target, error) {
	t := &Target{Disk: d}
	return t, t.setPlan(p)
}

func (t *Target) setPlan(p *Plan) (err error) {
	if t.job, err = p.Job(t.Disk.Size); err != nil {
		return corrupt("it cannot be put on %s: %w", t.Disk.Path, err)
	}
	return nil
}

// Find returns the disk with a name.
func Find(name string) (*disk.Disk, error) {
	d, err := disk.Find("/", name)
	if _, statErr := os.Stat(name); errors.Is(err, fs.ErrNotExist) && statErr != nil {
		return nil, NoDisk(name)
	}
	return d, err
}

// NoDisk is the error of a disk that does not exist.
func NoDisk(name string) error {
	return fault.WithHint(fault.New(fault.Gone, "%s: there is no such disk or file", name), "imgtool disks lists the disks there are")
}

// Same reports whether two names led to the same disk.
func Same(a, b *disk.Disk) bool {
	if a.Name != b.Name || a.File != b.File {
		return false
	}
	if !a.File {
		return true
	}
	x, err1 := os.Stat(a.Path)
	y, err2 := os.Stat(b.Path)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// Candidates returns the removable disks that satisfy a need. Loop devices are left out.
func Candidates(need disk.Need) ([]disk.Disk, error) {
	disks, err := disk.List("/")
	if err != nil {
		return nil, err
	}
	var fit []disk.Disk
	for _, d := range disks {
		if d.Bus != "loop" && d.Bus != "nbd" && d.Check(need) == nil {
			fit = append(fit, d)
		}
	}
	if len(fit) == 0 && need.Serial != "" {
		return nil, NoDisk("serial " + need.Serial)
	}
	return fit, nil
}

// CheckSource refuses a disk that an image is read from, under whatever name.
func CheckSource(d *disk.Disk, src *volume.Source) error {
	info := src.Info
	if info == nil {
		return nil
	}
	refused := &disk.RefusedError{Disk: d.Path, Reason: "the image is on it: give another disk, or a copy of the image elsewhere"}
	if other, err := os.Stat(d.Path); err == nil && os.SameFile(info, other) {
		return refused
	}
	// The image may be the file behind a loop device,
	if made, known := d.MadeOf(info); known {
		if made {
			return refused
		}
	} else if backing, err := os.ReadFile("/sys/block/" + d.Name + "/loop/backing_file"); err == nil && !d.File {
		if other, err := os.Stat(strings.TrimSpace(string(backing))); err == nil && os.SameFile(info, other) {
			return refused
		}
	}
	// or the disk itself, or one of its partitions.
	if dev, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode()&fs.ModeDevice != 0 {
		at, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(dev.Rdev)), unix.Minor(uint64(dev.Rdev))))
		if err == nil && (filepath.Base(at) == d.Name || filepath.Base(filepath.Dir(at)) == d.Name) {
			return refused
		}
	}
	return nil
}

// CheckBoard refuses an image for another board. It accepts images without a manifest.
func CheckBoard(src *volume.Source, board string) error {
	if m := src.Manifest; m != nil && m.Board != board {
		return fault.New(fault.WrongBoard, "%s is an image for %s, and the board is %s", src.Name, m.Board, board)
	}
	return nil
}

// LeftText returns a clause that says what is on a disk after a failure.
func LeftText(path string, left flash.State) string {
	switch left {
	case flash.Unchanged:
		return path + " is unchanged"
	case flash.NoTable:
		return path + " is not bootable and has no partition table now; flash it again"
	case flash.PartWritten:
		return path + " is partly written, and its start is not as the image has it; flash it again"
	}
	return "the content of " + path + " is not known, because it could not be read back; flash it again"
}

func paths(targets []*Target) (paths []string) {
	for _, t := range targets {
		paths = append(paths, t.Disk.Path)
	}
	return paths
}
