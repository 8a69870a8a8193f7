package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/tree"
	"imgtool/layouts"
)

func newDiffCommand(u *ui) *cobra.Command {
	return &cobra.Command{
		Use:   "diff A[:PARTITION[/FOLDER]] B[:PARTITION[/FOLDER]]",
		Short: "Show what differs between two images, or an image and a disk",
		Long: `Compare two images of any format, or an image and a disk: the partition tables, what
lies outside of partitions such as boot loaders, and the files: which were added,
removed or changed, and whether in content, mode, owner, time, target, device
numbers, extended attributes or hard links. One line for each, with what is in A and
then what is in B. Exit status 0 if nothing differs, 1 if something does.

Outside of file systems only what an image holds by its manifest is compared: both
manifests' if there are two. With no manifest all bytes count, but of a disk only those
that the image has. A file system is compared by its files, and byte by byte where it
is not known.

` + placeHelp,
		Example: `  imgtool diff old.img.zst new.img.zst
  imgtool diff x.img.zst /dev/sdX
  imgtool diff x.img:rootfs-a x.img:rootfs-b
  imgtool diff root.squashfs x.img.zst:rootfs-a`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return runDiff(cmd.Context(), args[0], args[1], u) },
	}
}

// errDiffers is how diff ends where something differs. It has been said.
var errDiffers = errors.New("they differ")

// difference is a line of diff.
type difference struct {
	Change    string   `json:"change"`              // added, removed, changed
	Partition string   `json:"partition,omitempty"` // "" for the whole, or a file system alone
	Raw       string   `json:"raw,omitempty"`       // what lies outside of partitions
	Path      string   `json:"path,omitempty"`      // from the root of the file system
	PathRaw   []byte   `json:"path_raw,omitempty"`  // where the path is not UTF-8
	Details   []detail `json:"details,omitempty"`
}

type detail struct {
	What string `json:"what"`
	A    string `json:"a,omitempty"`
	B    string `json:"b,omitempty"`
	At   *int64 `json:"at,omitempty"` // the first byte that differs, of the file, partition or image
}

func (d difference) text() string {
	where := cmp.Or(d.Raw, d.Partition)
	if d.Path != "" {
		where = readable(strings.TrimPrefix(where+d.Path, "/"))
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

// comparison collects differences.
type comparison struct {
	ctx      context.Context
	a, b     *located
	progress image.Progress
	list     []difference
}

func runDiff(ctx context.Context, argA, argB string, u *ui) error {
	c := &comparison{ctx: ctx}
	placeA, placeB := parsePlace(argA), parsePlace(argB)
	if placeA.file == "-" && placeB.file == "-" {
		return fault.New(fault.Usage, "only one of the two can be standard input")
	}
	for _, side := range []struct {
		place place
		to    **located
	}{{placeA, &c.a}, {placeB, &c.b}} {
		l, err := side.place.open(ctx, u)
		if err != nil {
			return err
		}
		defer func() { l.pic.Close() }()
		*side.to = l
	}
	if err := c.fit(); err != nil {
		return err
	}
	c.progress = u.phases("comparing", 0)
	// Either may be a file system alone, which needs nothing said.
	err := error(nil)
	if placeA.inside || placeB.inside || c.a.parts.none() && c.b.parts.none() {
		err = c.places()
	} else {
		err = c.images()
	}
	if err != nil {
		return err
	}
	u.endPhase()
	if u.json {
		err = u.print(map[string]any{"a": c.a.name(), "b": c.b.name(), "same": len(c.list) == 0, "differences": append([]difference{}, c.list...)})
	} else {
		for _, d := range c.list {
			if err = u.printf("%s\n", d.text()); err != nil {
				break
			}
		}
	}
	if err == nil && len(c.list) > 0 {
		err = errDiffers
	}
	return err
}

// isDisk says whether the image is what a device has.
func (l *located) isDisk() bool {
	if l.pic.file == nil {
		return false
	}
	info, err := l.pic.file.Stat()
	return err == nil && info.Mode()&fs.ModeDevice != 0
}

// fit makes an image what flash would make it on the disk it is compared with.
func (c *comparison) fit() error {
	for _, sides := range [][2]*located{{c.a, c.b}, {c.b, c.a}} {
		l, disk := sides[0], sides[1]
		if !disk.isDisk() || l.isDisk() {
			continue
		}
		fitted, err := l.pic.fit(disk.pic.img.Size())
		if err != nil {
			return fmt.Errorf("%s: %w", l.pic.name, err)
		}
		if l.pic = fitted; fitted.img == nil {
			continue
		}
		if l.parts, err = readPartitions(fitted.img); err != nil {
			return fmt.Errorf("%s: %w", l.pic.name, err)
		}
	}
	return nil
}

func (c *comparison) add(d difference) { c.list = append(c.list, d) }

// changed adds a difference if there are details.
func (c *comparison) changed(d difference) {
	if len(d.Details) > 0 {
		d.Change = "changed"
		c.add(d)
	}
}

// differ appends a detail where two texts do.
func differ(list []detail, what, a, b string) []detail {
	if a == b {
		return list
	}
	return append(list, detail{What: what, A: cmp.Or(a, "none"), B: cmp.Or(b, "none")})
}

// places compares a partition or folder of each.
func (c *comparison) places() error {
	a, err := c.a.section()
	if err != nil {
		return err
	}
	b, err := c.b.section()
	if err != nil {
		return err
	}
	name := c.a.part
	if c.b.part != name {
		name = ""
	}
	if !c.a.deep && !c.b.deep || c.a.path == "" && c.b.path == "" {
		return c.contents(name, a, b)
	}
	var trees [2]*tree.Tree
	for i, l := range []*located{c.a, c.b} {
		v, err := l.volume()
		if err != nil {
			return err
		}
		at, err := v.find(l.path, true)
		if err != nil {
			return fmt.Errorf("%s: %w", l.name(), err)
		}
		if trees[i] = v.tree.Sub(at); trees[i] == nil {
			return fault.New(fault.Usage, "%s is no folder: print files with imgtool cat to compare them", l.name())
		}
	}
	return c.trees("", trees[0], trees[1])
}

// images compares two images with partitions.
func (c *comparison) images() error {
	a, b := c.a.parts, c.b.parts
	for _, l := range []*located{c.a, c.b} {
		if l.parts.none() {
			return corrupt("%s: it has no partition table: %w", l.pic.name, l.parts.front)
		}
	}
	var whole []detail
	if !c.a.isDisk() && !c.b.isDisk() {
		whole = differ(whole, "size", fmt.Sprint(c.a.pic.img.Size()), fmt.Sprint(c.b.pic.img.Size()))
	}
	kinds := map[bool]string{false: "GPT", true: "MBR"}
	whole = differ(whole, "partition table", kinds[a.mbr], kinds[b.mbr])
	if a.table != nil && b.table != nil {
		whole = differ(whole, "disk GUID", a.table.GUID, b.table.GUID)
		whole = differ(whole, "first usable sector", fmt.Sprint(a.table.FirstUsable/a.table.Sector), fmt.Sprint(b.table.FirstUsable/b.table.Sector))
	}
	c.changed(difference{Details: whole})
	if err := c.raw(); err != nil {
		return err
	}
	return c.partitions()
}

// content is where the two have something to compare.
func (c *comparison) content() []image.Span {
	everything := image.Span{Len: min(c.a.pic.img.Size(), c.b.pic.img.Size())}
	var spans []image.Span
	for _, sides := range [][2]*located{{c.a, c.b}, {c.b, c.a}} {
		switch l, other := sides[0], sides[1]; {
		case l.pic.manifest != nil:
			spans = slices.AppendSeq(spans, l.pic.img.Spans())
		case l.pic.isPlain() && !l.isDisk():
			spans = append(spans, dataOf(l.pic.file, l.pic.img.Size())...)
		case !l.isDisk() || other.isDisk():
			return []image.Span{everything}
		}
	}
	return intersect([]image.Span{everything}, spans)
}

func intersect(a, b []image.Span) []image.Span { return image.Subtract(a, image.Subtract(a, b)) }

// raw compares what lies outside of the tables and of all partitions.
func (c *comparison) raw() error {
	var taken []image.Span
	var cuts []int64
	for _, l := range []*located{c.a, c.b} {
		for _, p := range l.parts.list {
			taken = append(taken, image.Span{Off: p.Off, Len: p.Len})
		}
		// The table of an MBR, and all of a GPT.
		taken = append(taken, image.Span{Off: 446, Len: 66})
		if l.parts.table != nil {
			taken = append(append(taken, l.parts.table.Head()...), l.parts.table.Backup())
		}
		if m := l.pic.manifest; m != nil {
			// What goes on in the next piece is not cut there.
			var last image.Entry
			for _, e := range m.Entries {
				if e.Name != last.Name || e.Off != last.Off+last.Len {
					cuts = append(cuts, last.Off+last.Len, e.Off)
				}
				last = e
			}
			cuts = append(cuts, last.Off+last.Len)
		}
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
			at, err := c.first([]image.Span{part}, c.a.pic.img, c.b.pic.img)
			if err != nil {
				return err
			}
			if at < 0 {
				continue
			}
			name := rawName(c.a.pic.manifest, part.Off)
			if name == "" {
				name = rawName(c.b.pic.manifest, part.Off)
			}
			if name == "" {
				name = fmt.Sprintf("bytes %d to %d", part.Off, part.End())
			}
			// A blob that grew is cut where the other ends.
			if n := len(c.list); n > 0 && c.list[n-1].Raw == name {
				continue
			}
			c.changed(difference{Raw: name, Details: []detail{{What: "content", At: &at}}})
		}
	}
	return nil
}

// rawName is what a manifest calls the extent at a place, "" for a mere gap.
func rawName(m *artifact.Manifest, off int64) string {
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

// first returns the first byte in spans at which a and b differ, or -1. Where one
// ends before the other, that is a difference.
func (c *comparison) first(spans []image.Span, a, b image.Content) (int64, error) {
	bufA, bufB := make([]byte, 1<<20), make([]byte, 1<<20)
	for _, s := range spans {
		for at := s.Off; at < s.End(); {
			if c.ctx.Err() != nil {
				return 0, context.Cause(c.ctx)
			}
			n := min(int64(len(bufA)), s.End()-at, a.Size()-at, b.Size()-at)
			if n <= 0 {
				return at, nil
			}
			for _, side := range []struct {
				l    *located
				r    io.ReaderAt
				into []byte
			}{{c.a, a, bufA[:n]}, {c.b, b, bufB[:n]}} {
				if k, err := side.r.ReadAt(side.into, at); k < len(side.into) {
					if err == nil || err == io.EOF {
						err = io.ErrUnexpectedEOF
					}
					return 0, unreadable(side.l.pic.name, err)
				}
			}
			if !bytes.Equal(bufA[:n], bufB[:n]) {
				i := 0
				for bufA[i] == bufB[i] {
					i++
				}
				return at + int64(i), nil
			}
			at += n
			c.progress.Add(n)
		}
	}
	return -1, nil
}

// partitions compares those of both by name, or by number where names are missing
// or the same.
func (c *comparison) partitions() error {
	key := func(list []gpt.Part, p gpt.Part) string {
		named := 0
		for _, q := range list {
			if q.Name == p.Name {
				named++
			}
		}
		if p.Name == "" || named > 1 {
			return fmt.Sprint("number ", p.Number)
		}
		return "name " + p.Name
	}
	other := map[string]gpt.Part{}
	for _, p := range c.b.parts.list {
		other[key(c.b.parts.list, p)] = p
	}
	describe := func(p gpt.Part) []detail {
		return []detail{{What: fmt.Sprintf("partition %d, %s, %s at byte %d", p.Number, layouts.TypeName(p.Type), human(p.Len), p.Off)}}
	}
	for _, p := range c.a.parts.list {
		k := key(c.a.parts.list, p)
		q, ok := other[k]
		if !ok {
			c.add(difference{Change: "removed", Partition: partName(p), Details: describe(p)})
			continue
		}
		delete(other, k)
		var d []detail
		d = differ(d, "number", fmt.Sprint(p.Number), fmt.Sprint(q.Number))
		d = differ(d, "type", layouts.TypeName(p.Type), layouts.TypeName(q.Type))
		d = differ(d, "GUID", p.GUID, q.GUID)
		d = differ(d, "offset", fmt.Sprint(p.Off), fmt.Sprint(q.Off))
		d = differ(d, "length", fmt.Sprint(p.Len), fmt.Sprint(q.Len))
		d = differ(d, "attributes", fmt.Sprintf("%#x", p.Attrs), fmt.Sprintf("%#x", q.Attrs))
		c.changed(difference{Partition: partName(p), Details: d})
		inA, err := c.a.bytesOf(p)
		if err != nil {
			return err
		}
		inB, err := c.b.bytesOf(q)
		if err != nil {
			return err
		}
		if err := c.contents(partName(p), inA, inB); err != nil {
			return err
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(other), func(a, b string) int { return cmp.Compare(other[a].Off, other[b].Off) }) {
		p := other[k]
		d := describe(p)
		if m := c.a.pic.manifest; m != nil && slices.ContainsFunc(m.Partitions, func(l artifact.Partition) bool { return l.Late && l.Name == p.Name }) {
			d = append(d, detail{What: "made by the device"})
		}
		c.add(difference{Change: "added", Partition: partName(p), Details: d})
	}
	return nil
}

// contents compares what two partitions hold.
func (c *comparison) contents(name string, a, b *io.SectionReader) error {
	_, offA, _ := a.Outer()
	_, offB, _ := b.Outer()
	spans := []image.Span{{Len: max(a.Size(), b.Size())}}
	// Where they lie at the same place, what was never written is left out.
	if offA == offB {
		spans = intersect([]image.Span{{Off: offA, Len: max(a.Size(), b.Size())}}, c.content())
		for i := range spans {
			spans[i].Off -= offA
		}
	}
	at, err := c.first(spans, a, b)
	if err != nil || at < 0 {
		return err
	}
	var vols [2]*volume
	for i, side := range []struct {
		l *located
		r *io.SectionReader
	}{{c.a, a}, {c.b, b}} {
		if vols[i], err = openVolume(side.r, side.r.Size()); err != nil {
			where := side.l.pic.name
			if name != "" {
				where += ":" + name
			}
			return unreadable(where, err)
		}
	}
	before := len(c.list)
	va, vb := vols[0], vols[1]
	factsA, factsB := va.facts(), vb.facts()
	var d []detail
	for i := range factsA {
		if i == 0 || va != nil && vb != nil && strings.TrimRight(va.kind, "0123456789") == strings.TrimRight(vb.kind, "0123456789") {
			d = differ(d, factsA[i][0], factsA[i][1], factsB[i][1])
		}
	}
	c.changed(difference{Partition: name, Details: d})
	if va != nil && vb != nil && va.tree != nil && vb.tree != nil {
		if err := c.trees(name, va.tree, vb.tree); err != nil {
			return err
		}
	}
	// Such as the same files, packed otherwise, and what is no file system.
	if len(c.list) == before {
		what := "content"
		if va != nil {
			what = "files are the same, the bytes that hold them are not,"
		}
		c.changed(difference{Partition: name, Details: []detail{{What: what, At: &at}}})
	}
	return nil
}

// facts is what a file system says of itself.
func (v *volume) facts() [][2]string {
	facts := [][2]string{{"file system", "nothing known"}, {"label", ""}, {"identifier", ""}, {"compression", ""}}
	switch {
	case v == nil:
		return facts
	case v.fat != nil:
		facts[1][1], facts[2][1] = strconv.Quote(v.fat.Label), serialText(v.fat.Serial)
	case v.ext4 != nil:
		facts[1][1], facts[2][1] = strconv.Quote(v.ext4.Label), uuid.UUID(v.ext4.UUID).String()
	case v.kind == "swap":
		facts[1][1], facts[2][1] = strconv.Quote(v.swap.Label), v.swap.UUID
	default:
		facts[3][1] = fmt.Sprintf("%s in blocks of %d", v.squashfs.Codec, v.squashfs.BlockSize)
	}
	facts[0][1] = v.kind
	return facts
}

// trees compares the files of two file systems.
func (c *comparison) trees(name string, a, b *tree.Tree) error {
	for d, err := range tree.Diff(c.ctx, a, b, c.progress) {
		var read *tree.ReadError
		if errors.As(err, &read) {
			l := c.a
			if read.InB {
				l = c.b
			}
			part := l.name()
			if !l.inside && name != "" {
				part += ":" + name
			}
			return unreadable(part+"/"+read.Path, read.Err)
		}
		if err != nil {
			return err
		}
		line := difference{Partition: name, Path: "/" + d.Path}
		if !strings.HasPrefix(readable(d.Path), d.Path) {
			line.PathRaw = []byte(d.Path)
		}
		switch {
		case d.A == nil:
			line.Change, line.Details = "added", []detail{{What: describeInode(d.B)}}
		case d.B == nil:
			line.Change, line.Details = "removed", []detail{{What: describeInode(d.A)}}
		default:
			line.Change, line.Details = "changed", detailsOf(d)
		}
		c.add(line)
	}
	return nil
}

// describeInode says what an inode is in few words.
func describeInode(n *tree.Inode) string {
	text := typeNames[n.Type()].name
	switch n.Type() {
	case tree.Regular:
		text += fmt.Sprintf(" of %d bytes", n.Size())
	case tree.Symlink:
		return text + " to " + readable(n.Target)
	case tree.CharDev, tree.BlockDev:
		text += fmt.Sprintf(" %d,%d", n.Major, n.Minor)
	}
	return text + fmt.Sprintf(", %s %d:%d", octal(n.Mode), n.UID, n.GID)
}

// detailsOf says what of a path differs.
func detailsOf(d tree.Change) []detail {
	var list []detail
	a, b := d.A, d.B
	for _, test := range []struct {
		aspect tree.Aspect
		what   string
		text   func(*tree.Inode) string
	}{
		{tree.Type, "type", describeInode},
		{tree.Mode, "mode", func(n *tree.Inode) string { return octal(n.Mode) }},
		{tree.Owner, "owner", func(n *tree.Inode) string { return fmt.Sprintf("%d:%d", n.UID, n.GID) }},
		{tree.Time, "time", func(n *tree.Inode) string { return timeText(n.ModTime) }},
		{tree.Target, "target", func(n *tree.Inode) string { return strconv.Quote(n.Target) }},
		{tree.Device, "device", func(n *tree.Inode) string { return fmt.Sprintf("%d,%d", n.Major, n.Minor) }},
	} {
		if d.What&test.aspect != 0 {
			list = append(list, detail{What: test.what, A: test.text(a), B: test.text(b)})
		}
	}
	if d.What&tree.Xattrs != 0 {
		values := map[string]*[2]string{}
		for i, n := range []*tree.Inode{a, b} {
			for _, x := range n.Xattrs {
				if values[x.Name] == nil {
					values[x.Name] = &[2]string{}
				}
				values[x.Name][i] = xattrText(x)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(values)) {
			list = differ(list, readable(name), values[name][0], values[name][1])
		}
	}
	if d.What&tree.Data != 0 {
		x := detail{What: "content", At: &d.At}
		if a.Size() != b.Size() {
			x.A, x.B = fmt.Sprintf("of %d bytes", a.Size()), fmt.Sprintf("of %d", b.Size())
		}
		list = append(list, x)
	}
	if d.What&tree.Links != 0 {
		link := func(first string) string {
			if first == d.Path {
				return "a file of its own"
			}
			return "the same as /" + first
		}
		list = append(list, detail{What: "file", A: link(d.LinkA), B: link(d.LinkB)})
	}
	return list
}
