package deploy

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image/fault"
	"imgtool/image/suggest"
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
	return fault.WithHint(fault.New(fault.Gone, "%s: there is no such disk or file%s", name, suggest.Missing(name)), "imgtool disks lists the disks there are")
}

// Check refuses a disk as [disk.Disk.Check] does, with the command that unmounts it if that is
// enough.
func Check(d *disk.Disk, need disk.Need) error {
	err := d.Check(need)
	if err == nil || need.Unmount || !d.Releasable() {
		return err
	}
	unmount := "udisksctl unmount -b "
	if os.Geteuid() == 0 {
		unmount = "umount "
	}
	var commands []string
	for _, m := range d.Mounts {
		commands = append(commands, unmount+m.Device)
	}
	return fault.WithHint(err, "to unmount it: %s", strings.Join(commands, " && "))
}

// Permit checks that this user can open the disks with these names, for writing if write is
// set, before anything is asked or read. The user's desktop may ask for a password. A disk that
// does not exist or is refused is left to later checks.
func Permit(ctx context.Context, names []string, write bool) error {
	for _, name := range names {
		d, err := disk.Find("/", name)
		if err != nil || write && d.Check(disk.Need{Unmount: true}) != nil {
			continue
		}
		if err := d.Permit(ctx, write, true); err != nil {
			return err
		}
	}
	return nil
}

// PermitAny is like [Permit] before one of several disks is chosen: it asks for a password only
// if none of them can be written without one.
func PermitAny(ctx context.Context, disks []Candidate) error {
	for i := range disks {
		if disks[i].Permit(ctx, true, false) == nil {
			return nil
		}
	}
	if len(disks) == 0 {
		return nil
	}
	return disks[0].Permit(ctx, true, true)
}

// CheckSource refuses a disk that an image is read from, even under another name.
func CheckSource(d *disk.Disk, src *volume.Source) error {
	if src.Info != nil && d.Contains(src.Info) {
		return &disk.RefusedError{Disk: d.Path, Reason: "the image is on it: give another disk, or a copy of the image elsewhere"}
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
