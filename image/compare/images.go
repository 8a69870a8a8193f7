package compare

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/volume"
	"imgtool/layouts"
)

// noTable returns the error that one of two images has no partition table.
// noTable returns the error of two images of which one has no partition table.
func noTable(a, b *volume.Location) error {
	if a.Partitions.None() {
		b = a
	}
	if b.Source.IsBundle() {
		return fault.New(fault.Input, "%s is an update bundle, and the other is not: compare one of its images with a partition, as in %s:rootfs", b.Source.Name, b.Source.Name)
	}
	return fault.New(fault.Corrupt, "%s: %w", b.Source.Name, b.Partitions.Primary)
}

func (c *comparison) images() error {
	a, b := c.a.Partitions, c.b.Partitions
	var whole []Detail
	if !c.disks[c.a] && !c.disks[c.b] {
		whole = differ(whole, "size", fmt.Sprint(c.a.Source.Image.Size()), fmt.Sprint(c.b.Source.Image.Size()))
	}
	kinds := map[bool]string{false: "GPT", true: "MBR"}
	whole = differ(whole, "partition table", kinds[a.MBR], kinds[b.MBR])
	if a.GPT != nil && b.GPT != nil {
		whole = differ(whole, "disk GUID", a.GPT.GUID, b.GPT.GUID)
		whole = differ(whole, "first usable sector", fmt.Sprint(a.GPT.FirstUsable/a.GPT.Sector), fmt.Sprint(b.GPT.FirstUsable/b.GPT.Sector))
	}
	c.changed(Difference{Details: whole})
	if err := c.outside(); err != nil {
		return err
	}
	return c.partitions()
}

// content returns where the two images have content to compare.
func (c *comparison) content() []image.Span {
	everything := image.Span{Len: min(c.a.Source.Image.Size(), c.b.Source.Image.Size())}
	var spans []image.Span
	for _, pair := range [][2]*volume.Location{{c.a, c.b}, {c.b, c.a}} {
		s, disk, other := pair[0].Source, c.disks[pair[0]], c.disks[pair[1]]
		if s.Manifest != nil {
			spans = slices.AppendSeq(spans, s.Image.Spans())
		} else if data, ok := s.Data(); ok && !disk {
			spans = append(spans, data...)
		} else if !disk || other {
			return []image.Span{everything}
		}
	}
	return intersect([]image.Span{everything}, spans)
}

func intersect(a, b []image.Span) []image.Span { return image.Subtract(a, image.Subtract(a, b)) }

// outside compares the data outside of the partition tables and of all partitions.
func (c *comparison) outside() error {
	var taken []image.Span
	var cuts []int64
	for _, l := range []*volume.Location{c.a, c.b} {
		for _, p := range l.Partitions.List {
			taken = append(taken, image.Span{Off: p.Off, Len: p.Len})
		}
		taken = append(taken, image.Span{Off: 446, Len: 66}) // the partition table of an MBR
		if g := l.Partitions.GPT; g != nil {
			taken = append(append(taken, g.Head()...), g.Backup())
		}
		cuts = append(cuts, boundaries(l.Source.Manifest)...)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	for _, s := range image.Subtract(c.content(), taken) {
		for s.Len > 0 {
			part := s
			if i, _ := slices.BinarySearch(cuts, s.Off+1); i < len(cuts) {
				part.Len = min(s.Len, cuts[i]-s.Off)
			}
			s = image.Span{Off: s.Off + part.Len, Len: s.Len - part.Len}
			if err := c.rawRange(part); err != nil {
				return err
			}
		}
	}
	return nil
}

// boundaries returns where the extents of a manifest begin and end. Consecutive pieces of
// one extent are not separated.
func boundaries(m *artifact.Manifest) (cuts []int64) {
	if m == nil {
		return nil
	}
	var last image.Entry
	for _, e := range m.Entries {
		if e.Name != last.Name || e.Off != last.Off+last.Len {
			cuts = append(cuts, last.Off+last.Len, e.Off)
		}
		last = e
	}
	return append(cuts, last.Off+last.Len)
}

func (c *comparison) rawRange(s image.Span) error {
	at, err := c.firstDifference([]image.Span{s}, c.a.Source.Image, c.b.Source.Image)
	if err != nil || at < 0 {
		return err
	}
	name := cmp.Or(extentName(c.a.Source.Manifest, s.Off), extentName(c.b.Source.Manifest, s.Off), fmt.Sprintf("bytes %d to %d", s.Off, s.End()))
	// If an extent has another length in the other image, its rest is a separate range.
	if n := len(c.list); n > 0 && c.list[n-1].Raw == name {
		return nil
	}
	c.changed(Difference{Raw: name, Details: []Detail{{What: "content", At: &at}}})
	return nil
}

// extentName returns the name of the extent at an offset in a manifest, or "" for a gap.
func extentName(m *artifact.Manifest, off int64) string {
	if m == nil {
		return ""
	}
	for _, e := range m.Entries {
		if e.Off <= off && off < e.Off+e.Len && e.Name != "gap" {
			return e.Name
		}
	}
	return ""
}

// firstDifference returns the offset of the first byte in spans at which a and b differ,
// or -1. The end of a or b within spans is a difference.
func (c *comparison) firstDifference(spans []image.Span, a, b image.Content) (int64, error) {
	bufs := [2][]byte{make([]byte, 1<<20), make([]byte, 1<<20)}
	for _, s := range spans {
		for at := s.Off; at < s.End(); {
			if c.ctx.Err() != nil {
				return 0, context.Cause(c.ctx)
			}
			n := min(1<<20, s.End()-at, a.Size()-at, b.Size()-at)
			if n <= 0 {
				return at, nil
			}
			for i, r := range []image.Content{a, b} {
				if _, err := image.ReadFull(r, bufs[i][:n], at); err != nil {
					return 0, volume.Unreadable([]*volume.Location{c.a, c.b}[i].Source.Name, err)
				}
			}
			if !bytes.Equal(bufs[0][:n], bufs[1][:n]) {
				for bufs[0][0] == bufs[1][0] {
					bufs[0], bufs[1], at = bufs[0][1:], bufs[1][1:], at+1
				}
				return at, nil
			}
			at += n
			c.progress.Add(n)
		}
	}
	return -1, nil
}

// key identifies a partition by its name, or by its number if the name is empty or not
// unique.
func key(list []gpt.Part, p gpt.Part) string {
	same := 0
	for _, q := range list {
		if q.Name == p.Name {
			same++
		}
	}
	if p.Name == "" || same > 1 {
		return "number " + strconv.Itoa(p.Number)
	}
	return "name " + p.Name
}

// partitions compares the entries of both tables, and the content of the partitions that
// both have.
func (c *comparison) partitions() error {
	other := map[string]gpt.Part{}
	for _, p := range c.b.Partitions.List {
		other[key(c.b.Partitions.List, p)] = p
	}
	describe := func(p gpt.Part) []Detail {
		return []Detail{{What: fmt.Sprintf("partition %d, %s, %s at byte %d", p.Number, layouts.TypeName(p.Type), image.FormatSize(p.Len), p.Off)}}
	}
	for _, p := range c.a.Partitions.List {
		k := key(c.a.Partitions.List, p)
		q, ok := other[k]
		if !ok {
			c.add(Difference{Change: "removed", Partition: volume.PartName(p), Details: describe(p)})
			continue
		}
		delete(other, k)
		if err := c.partition(p, q); err != nil {
			return err
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(other), func(a, b string) int { return cmp.Compare(other[a].Off, other[b].Off) }) {
		p := other[k]
		d := describe(p)
		if slices.ContainsFunc(c.a.Source.Late(), func(r volume.Row) bool { return r.Name == p.Name }) {
			d = append(d, Detail{What: "made by the device"})
		}
		c.add(Difference{Change: "added", Partition: volume.PartName(p), Details: d})
	}
	return nil
}

func (c *comparison) partition(p, q gpt.Part) error {
	name := volume.PartName(p)
	var d []Detail
	d = differ(d, "number", fmt.Sprint(p.Number), fmt.Sprint(q.Number))
	d = differ(d, "type", layouts.TypeName(p.Type), layouts.TypeName(q.Type))
	d = differ(d, "GUID", p.GUID, q.GUID)
	d = differ(d, "offset", fmt.Sprint(p.Off), fmt.Sprint(q.Off))
	d = differ(d, "length", fmt.Sprint(p.Len), fmt.Sprint(q.Len))
	d = differ(d, "attributes", fmt.Sprintf("%#x", p.Attrs), fmt.Sprintf("%#x", q.Attrs))
	c.changed(Difference{Partition: name, Details: d})
	a, err := c.a.Partition(p)
	if err != nil {
		return err
	}
	b, err := c.b.Partition(q)
	if err != nil {
		return err
	}
	return c.contents(name, a, b)
}
