package compare

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"imgtool/image"
	"imgtool/image/fileinfo"
	"imgtool/image/tree"
	"imgtool/image/volume"
)

// contents compares the content of two partitions, whose name is "" if it differs.
func (c *comparison) contents(name string, a, b *io.SectionReader) error {
	_, offA, _ := a.Outer()
	_, offB, _ := b.Outer()
	spans := []image.Span{{Len: max(a.Size(), b.Size())}}
	// If both are at the same offset, ranges that no manifest lists are skipped.
	if offA == offB {
		spans = intersect([]image.Span{{Off: offA, Len: max(a.Size(), b.Size())}}, c.content())
		for i := range spans {
			spans[i].Off -= offA
		}
	}
	at, err := c.firstDifference(spans, a, b)
	if err != nil || at < 0 {
		return err
	}
	va, err := c.read(c.a, name, a)
	if err != nil {
		return err
	}
	vb, err := c.read(c.b, name, b)
	if err != nil {
		return err
	}
	before := len(c.list)
	factsA, factsB := facts(va), facts(vb)
	var d []Detail
	for i := range factsA {
		if i == 0 || va != nil && vb != nil && strings.TrimRight(va.Kind, "0123456789") == strings.TrimRight(vb.Kind, "0123456789") {
			d = differ(d, factsA[i][0], factsA[i][1], factsB[i][1])
		}
	}
	c.changed(Difference{Partition: name, Details: d})
	if va != nil && vb != nil && va.Tree != nil && vb.Tree != nil {
		if err := c.trees(name, va.Tree, vb.Tree); err != nil {
			return err
		}
	}
	// The bytes differ, and nothing above: the same files are stored in another way, or
	// the content is not a known file system.
	if len(c.list) == before {
		what := "content"
		if va != nil {
			if same, err := c.rest(a, b, at); same || err != nil {
				return err
			}
			what = "the files are the same, and are stored differently"
		}
		c.changed(Difference{Partition: name, Details: []Detail{{What: what, At: &at}}})
	}
	return nil
}

// rest reports whether the only difference, at byte at, is that one has zeros after the end of
// the other: a partition has them after its file system.
func (c *comparison) rest(a, b *io.SectionReader, at int64) (bool, error) {
	if at != min(a.Size(), b.Size()) {
		return false, nil
	}
	spans, zeros := []image.Span{{Off: at, Len: max(a.Size(), b.Size()) - at}}, image.Zeros(max(a.Size(), b.Size()))
	var err error
	if a.Size() > b.Size() {
		at, err = c.firstDifference(spans, a, zeros)
	} else {
		at, err = c.firstDifference(spans, zeros, b)
	}
	return at < 0, err
}

// read returns the file system in a partition, or nil if it is not a known one.
func (c *comparison) read(l *volume.Location, name string, r *io.SectionReader) (*volume.FileSystem, error) {
	v, err := volume.ReadFS(r, r.Size())
	if err != nil {
		where := l.Source.Name
		if name != "" {
			where += ":" + name
		}
		return nil, volume.Unreadable(where, err)
	}
	return v, nil
}

func facts(v *volume.FileSystem) [][2]string {
	facts := [][2]string{{"file system", "not known"}, {"label", ""}, {"identifier", ""}, {"compression", ""}}
	switch {
	case v == nil:
		return facts
	case v.FAT != nil:
		facts[1][1], facts[2][1] = strconv.Quote(v.FAT.Label), fileinfo.FATSerial(v.FAT.Serial)
	case v.Ext4 != nil:
		facts[1][1], facts[2][1] = strconv.Quote(v.Ext4.Label), uuid.UUID(v.Ext4.UUID).String()
	case v.Kind == "swap":
		facts[1][1], facts[2][1] = strconv.Quote(v.Swap.Label), v.Swap.UUID
	case v.Kind == "erofs":
		facts[1][1], facts[2][1], facts[3][1] = strconv.Quote(v.Erofs.Label), v.Erofs.UUID, v.Erofs.Compression()
	default:
		facts[3][1] = fmt.Sprintf("%s in blocks of %d", v.Squashfs.Codec, v.Squashfs.BlockSize)
	}
	facts[0][1] = v.Kind
	return facts
}

func (c *comparison) trees(name string, a, b *tree.Tree) error {
	for d, err := range tree.Diff(c.ctx, a, b, c.progress) {
		var read *tree.ReadError
		if errors.As(err, &read) {
			l := c.a
			if read.InB {
				l = c.b
			}
			part := l.Name()
			if !l.Inside && name != "" {
				part += ":" + name
			}
			return volume.Unreadable(part+"/"+read.Path, read.Err)
		}
		if err != nil {
			return err
		}
		line := Difference{Partition: name, Path: "/" + d.Path}
		if !strings.HasPrefix(fileinfo.Quote(d.Path), d.Path) {
			line.PathRaw = []byte(d.Path)
		}
		switch {
		case d.A == nil:
			line.Change, line.Details = "added", []Detail{{What: fileinfo.Short(d.B)}}
		case d.B == nil:
			line.Change, line.Details = "removed", []Detail{{What: fileinfo.Short(d.A)}}
		default:
			line.Change, line.Details = "changed", details(d)
		}
		c.add(line)
	}
	return nil
}

// properties are the properties of inodes that are compared as text.
var properties = []struct {
	aspect tree.Aspect
	what   string
	text   func(*tree.Inode) string
}{
	{tree.Type, "type", fileinfo.Short},
	{tree.Mode, "mode", func(n *tree.Inode) string { return fileinfo.Octal(n.Mode) }},
	{tree.Owner, "owner", fileinfo.Owner},
	{tree.Time, "time", func(n *tree.Inode) string { return fileinfo.Time(n.ModTime) }},
	{tree.Target, "target", func(n *tree.Inode) string { return strconv.Quote(n.Target) }},
	{tree.Device, "device", fileinfo.Device},
}

func details(d tree.Change) []Detail {
	var list []Detail
	a, b := d.A, d.B
	for _, p := range properties {
		if d.What&p.aspect != 0 {
			list = append(list, Detail{What: p.what, A: p.text(a), B: p.text(b)})
		}
	}
	if d.What&tree.Xattrs != 0 {
		values := map[string]*[2]string{}
		for i, n := range []*tree.Inode{a, b} {
			for _, x := range n.Xattrs {
				if values[x.Name] == nil {
					values[x.Name] = &[2]string{}
				}
				values[x.Name][i] = fileinfo.Xattr(x)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(values)) {
			list = differ(list, fileinfo.Quote(name), values[name][0], values[name][1])
		}
	}
	if d.What&tree.Data != 0 {
		x := Detail{What: "content", At: &d.At}
		if a.Size() != b.Size() {
			x.A, x.B = fmt.Sprintf("of %d bytes", a.Size()), fmt.Sprintf("of %d", b.Size())
		}
		list = append(list, x)
	}
	if d.What&tree.Links != 0 {
		link := func(first string) string {
			if first == d.Path {
				return "not a hard link"
			}
			return "a hard link to /" + first
		}
		list = append(list, Detail{What: "file", A: link(d.LinkA), B: link(d.LinkB)})
	}
	return list
}
