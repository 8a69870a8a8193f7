package disk

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Need is what an image requires of a disk. Fields that are zero require nothing.
type Need struct {
	Size       int64  // of the image, in bytes
	Floor      int64  // smallest disk that Who supports, in bytes
	Who        string // what requires Floor, such as "rock64"
	Exact      int64  // the only supported size of the disk, in bytes
	SectorSize int    // of the image's partition table, in bytes
	Unmount    bool   // a disk that is [Disk.Releasable] will be unmounted

	// Fixed allows to write a fixed disk with this Serial: the serial number of the disk,
	// or its WWN if it has none.
	Fixed  bool
	Serial string
}

// Check returns a [*RefusedError] if the disk must not be written: it is in use, does not
// fit need, or is a fixed disk without Need.Fixed and the right Need.Serial. A serial is
// compared on any disk.
//
// With the zero Need, only use of the disk counts, and fixed disks pass.
func (d *Disk) Check(need Need) error {
	users := strings.Join(d.InUse, "; ")
	switch {
	case d.System && users != "":
		return d.refuse("this system runs from it (%s)", users)
	case d.System:
		return d.refuse("this system runs from it")
	case d.Internal:
		return d.refuse("it is an internal disk: use an external disk or a card")
	case users != "" && !(need.Unmount && d.Releasable()):
		return d.refuse("%s: unmount or release it first", users)
	case d.Size == 0 && d.File:
		return d.refuse("the file is empty: give it the size of a disk first, with truncate -s")
	case d.Size == 0:
		return d.refuse("it contains no medium: insert one")
	case d.ReadOnly:
		return d.refuse("it is read-only: look for a write-protect switch")
	case need.SectorSize != 0 && d.SectorSize != need.SectorSize && !d.File:
		return d.refuse("its sectors have %d bytes and the image is made for %d: use a disk with %d-byte sectors",
			d.SectorSize, need.SectorSize, need.SectorSize)
	case d.Size < need.Floor && need.Floor >= need.Size:
		has, needs := sizes(d.Size, need.Floor)
		return d.refuse("%s is too small: %s needs %s: use a larger disk", has, cmp.Or(need.Who, "the board"), needs)
	case need.Exact != 0 && d.Size > need.Exact:
		return d.refuse("it is not the disk of %s: that has %d bytes, this one has %d", cmp.Or(need.Who, "the board"), need.Exact, d.Size)
	case d.Size < need.Size:
		has, needs := sizes(d.Size, need.Size)
		return d.refuse("%s is too small: the image needs %s: use a larger disk", has, needs)
	}
	if need == (Need{}) {
		return nil
	}
	return d.checkIdentity(need)
}

// checkIdentity is the last check: users look up a serial number only for a disk that can
// be written.
func (d *Disk) checkIdentity(need Need) error {
	id, fixed := cmp.Or(d.Serial, d.WWN), d.Fixed()
	about := "it is a fixed disk"
	if d.Bus != "" {
		about += " (" + d.Bus + ")"
	}
	switch {
	case fixed && id == "":
		return d.refuse("%s with neither a serial number nor a WWN: it cannot be distinguished from others", about)
	case fixed && (!need.Fixed || need.Serial == ""):
		return d.refuse("%s: if it is really meant, pass --fixed --serial %s", about, quote(id))
	case need.Serial == "" || need.Serial == id:
		return nil
	case id == "":
		return d.refuse("it has no serial number, and --serial is %s: name the disk with that serial number", quote(need.Serial))
	}
	return d.refuse("its serial number is %s, not %s: name the disk with that serial number", quote(id), quote(need.Serial))
}

// quote quotes s for a shell if necessary.
func quote(s string) string {
	if plain.MatchString(s) {
		return s
	}
	return strconv.Quote(s)
}

var plain = regexp.MustCompile(`^[A-Za-z0-9._:-]*$`)

// sizes formats two different sizes in the same unit, so that the texts differ.
func sizes(a, b int64) (string, string) {
	const mib, gib = 1 << 20, 1 << 30
	unit, name := int64(1), "bytes"
	switch least := min(a, b); {
	case least >= 10*gib:
		unit, name = gib, "GiB"
	case least >= mib:
		unit, name = mib, "MiB"
	}
	in := func(n int64) string {
		if a%unit == 0 && b%unit == 0 {
			return fmt.Sprintf("%d %s", n/unit, name)
		}
		return fmt.Sprintf("%.1f %s", float64(n)/float64(unit), name)
	}
	if in(a) == in(b) {
		unit, name = 1, "bytes"
	}
	return in(a), in(b)
}
