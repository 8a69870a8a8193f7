// Package compare finds the differences between two images, disks, partitions or
// directories: partition tables, data outside of partitions such as boot loaders, and
// files with their metadata.
//
// Outside of file systems only the content that either manifest lists is compared. Without
// a manifest all bytes count, but of a disk only the bytes that the image has. Unknown file
// systems are compared byte by byte.
package compare

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/compose"
	"imgtool/image/fault"
	"imgtool/image/fileinfo"
	"imgtool/image/progress"
	"imgtool/image/tree"
	"imgtool/image/volume"
)

// Difference is a partition, file or range that differs.
type Difference struct {
	Change    string   `json:"change"`              // added, removed or changed
	Partition string   `json:"partition,omitempty"` // "" for the whole image
	Raw       string   `json:"raw,omitempty"`       // a range outside of partitions
	Path      string   `json:"path,omitempty"`      // from the root of the file system
	PathRaw   []byte   `json:"path_raw,omitempty"`  // if the path is not UTF-8
	Details   []Detail `json:"details,omitempty"`
}

// Detail is a property that differs, and its values.
type Detail struct {
	What string `json:"what"`
	A    string `json:"a,omitempty"`
	B    string `json:"b,omitempty"`
	At   *int64 `json:"at,omitempty"` // first byte that differs, in the file, partition or image
}

// String returns the difference in one line.
func (d Difference) String() string {
	where := cmp.Or(d.Raw, d.Partition)
	if d.Path != "" {
		where = fileinfo.Quote(strings.TrimPrefix(where+d.Path, "/"))
		if d.Path == "/" {
			where = d.Partition + "/"
		}
	}
	var parts []string
	for _, x := range d.Details {
		text := x.What
		switch {
		case x.A != "" && x.B != "":
			text += " " + x.A + ", then " + x.B
		case x.A != "" || x.B != "":
			text += " " + x.A + x.B
		}
		if x.At != nil {
			text += fmt.Sprintf(" from byte %d", *x.At)
			if d.Raw != "" {
				text += " of the image"
			}
		}
		parts = append(parts, strings.TrimSpace(text))
	}
	line := fmt.Sprintf("%-8s %s", d.Change, cmp.Or(where, "image"))
	if len(parts) > 0 {
		line += ": " + strings.Join(parts, "; ")
	}
	return line
}

// Locations returns the differences between two places. If either is a disk, the
// other is fitted to it first, as flashing it would.
func Locations(ctx context.Context, a, b *volume.Location, r progress.Reporter) ([]Difference, error) {
	c := &comparison{ctx: ctx, a: a, b: b, disks: map[*volume.Location]bool{}}
	c.disks[a], c.disks[b] = isDisk(a, b), isDisk(b, a)
	if err := c.fit(); err != nil {
		return nil, err
	}
	for _, l := range []*volume.Location{c.a, c.b} {
		if _, err := l.Section(); l.Part != "" && err != nil {
			return nil, err
		}
	}
	if !a.Inside && !b.Inside && a.Partitions.None() != b.Partitions.None() {
		return nil, noTable(c.a, c.b)
	}
	c.progress = r.Phase("comparing", 0)
	defer r.EndPhase()
	compare := c.images
	if a.Inside || b.Inside || a.Partitions.None() && b.Partitions.None() {
		compare = c.places
	}
	if err := compare(); err != nil {
		return nil, err
	}
	return c.list, nil
}

type comparison struct {
	ctx      context.Context
	a, b     *volume.Location
	disks    map[*volume.Location]bool // disks, and files that the other image was flashed to
	progress image.Progress
	list     []Difference
}

// isDisk reports whether l is a disk, or a file that is used like a disk: other, which has a
// manifest, was flashed to it. Such a file has the same identifier as the image and another
// size, which is enough for the board.
func isDisk(l, other *volume.Location) bool {
	s, m := l.Source, other.Source.Manifest
	if s.IsDisk() {
		return true
	}
	if m == nil || s.Manifest != nil || s.Format != artifact.Raw || s.Image.Size() == other.Source.Image.Size() {
		return false
	}
	if s.Image.Size() < m.Floor || m.Disk != 0 && s.Image.Size() != m.Disk {
		return false
	}
	id := identifier(l)
	return id != "" && id == identifier(other)
}

// identifier returns the GUID of a GPT or the identifier of an MBR, or "".
func identifier(l *volume.Location) string {
	if l.Partitions.GPT != nil {
		return l.Partitions.GPT.GUID
	}
	id := make([]byte, 4)
	if _, err := l.Source.Image.ReadAt(id, 440); !l.Partitions.MBR || err != nil || image.IsZero(id) {
		return ""
	}
	return hex.EncodeToString(id)
}

func (c *comparison) fit() error {
	for _, pair := range [][2]**volume.Location{{&c.a, &c.b}, {&c.b, &c.a}} {
		l, disk := *pair[0], *pair[1]
		if !c.disks[disk] || c.disks[l] {
			continue
		}
		fitted, err := compose.Fit(l.Source, disk.Source.Image.Size(), nil)
		if err == nil && fitted != l.Source {
			*pair[0], err = fitted.Locate(l.Place)
		}
		if err != nil {
			return l.Source.Wrap(err)
		}
	}
	return nil
}

func (c *comparison) add(d Difference) { c.list = append(c.list, d) }

// changed adds a difference if it has details.
func (c *comparison) changed(d Difference) {
	if len(d.Details) > 0 {
		d.Change = "changed"
		c.add(d)
	}
}

// differ appends a detail if two values differ.
func differ(list []Detail, what, a, b string) []Detail {
	if a == b {
		return list
	}
	return append(list, Detail{What: what, A: cmp.Or(a, "none"), B: cmp.Or(b, "none")})
}

// places compares a partition or directory of each.
func (c *comparison) places() error {
	a, err := c.a.Section()
	if err != nil {
		return err
	}
	b, err := c.b.Section()
	if err != nil {
		return err
	}
	name := c.a.Part
	if c.b.Part != name {
		name = ""
	}
	if !c.a.Deep && !c.b.Deep || c.a.Path == "" && c.b.Path == "" {
		return c.contents(name, a, b)
	}
	var trees [2]*tree.Tree
	for i, l := range []*volume.Location{c.a, c.b} {
		v, err := l.FileSystem()
		if err != nil {
			return err
		}
		at, err := v.Find(l.Path, true)
		if err != nil {
			return l.Wrap(err)
		}
		if trees[i] = v.Tree.Sub(at); trees[i] == nil {
			return fault.New(fault.Usage, "%s is not a directory: print files with imgtool cat to compare them", l.Name())
		}
	}
	return c.trees("", trees[0], trees[1])
}
