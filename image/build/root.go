package build

import (
	"fmt"
	"math"
	"strings"
	"time"

	"imgtool/image/tree"
)

// warnNoInit warns of a root file system that has nothing for the kernel to start: most
// likely it is none.
func (b *builder) warnNoInit(root *tree.Tree) {
	path := "/sbin/init"
	for arg := range strings.FieldsSeq(b.Cmdline) {
		if given, ok := strings.CutPrefix(arg, "init="); ok {
			path = given
		}
	}
	if _, err := root.Open(path); err == nil {
		return
	}
	var names []string
	for name := range root.List("") {
		if names = append(names, name); len(names) == 8 {
			names[7] = "and more"
			break
		}
	}
	has := "it is empty"
	if len(names) > 0 {
		has = "it has " + strings.Join(names, ", ")
	}
	b.Warn(fmt.Sprintf("rootfs: %s may be no root file system: there is no %s in it; %s", b.Inputs["rootfs"], path, has))
}

// warnTimes warns of times that a file system cannot hold.
func (b *builder) warnTimes(where, kind string, t *tree.Tree, first, last int64) {
	n, example := 0, ""
	for path, node := range t.All() {
		if node.ModTime >= first && node.ModTime <= last {
			continue
		}
		if n++; n == 1 {
			example = fmt.Sprintf("/%s (%s)", path, time.Unix(node.ModTime, 0).UTC().Format("2006-01-02"))
		}
	}
	if n > 0 {
		b.Warn(fmt.Sprintf("%s: the times of %d files are outside of %d to %d, the years that %s can hold, and become the nearest one: the first is that of %s", where, n,
			time.Unix(first, 0).UTC().Year(), time.Unix(last, 0).UTC().Year(), kind, example))
	}
}

// The times that the file systems hold, in seconds since 1970.
const (
	squashfsFirst, squashfsLast = 0, math.MaxUint32
	ext4First, ext4Last         = math.MinInt32, math.MaxInt32 + 3<<32
)
