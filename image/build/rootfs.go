package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"imgtool/image"
	"imgtool/image/compress"
	"imgtool/image/erofs"
	"imgtool/image/fault"
	"imgtool/image/source"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
	"imgtool/layouts"
)

// rootfs returns the root file system of a partition, with its hash tree if the board has
// dm-verity. A given squashfs or erofs is used as it
// is. Otherwise the tree is written as one, to the output file at its offset in the image or to a scratch
// file.
func (b *builder) rootfs(ctx context.Context, d *disk, p layouts.Part) (image.Content, error) {
	if !b.Board.Verity {
		return b.bareRootfs(ctx, d, p, p.Len)
	}
	c, err := b.bareRootfs(ctx, d, p, protected(p.Len))
	if err != nil {
		return nil, err
	}
	if c, err = b.protect(ctx, c); err != nil {
		return nil, fmt.Errorf("%s: dm-verity: %w", p.Name, err)
	}
	return c, nil
}

// bareRootfs returns the root file system without a hash tree. It has at most max bytes unless it
// was given.
func (b *builder) bareRootfs(ctx context.Context, d *disk, p layouts.Part, max int64) (image.Content, error) {
	if given := b.root.Ready; given != nil {
		t, err := b.rootTree()
		if err != nil && !errors.Is(err, erofs.ErrCompressed) {
			return nil, &source.CorruptError{Name: "rootfs", Err: err}
		}
		if t != nil && b.root.Tree == nil && b.Root == nil {
			b.warnNoInit(t)
		}
		return given, nil
	}
	root, n, first := b.root.Tree.WithoutXattrs(func(name string) bool { return name == tree.ACL || name == tree.DefaultACL })
	if n > 0 {
		b.Warn(fmt.Sprintf("rootfs: access control lists of %d files are left out, because squashfs cannot store them; the first file is %s", n, first))
	}
	b.warnTimes("rootfs", "squashfs", root, squashfsFirst, squashfsLast)
	var out ReaderWriterAt
	at := p.Off
	if b.Output != nil {
		out = b.Output(d.Name)
	}
	inPlace := out != nil
	if !inPlace {
		f, err := compress.NewScratch(b.TempDir, nil)
		if err != nil {
			return nil, fmt.Errorf("rootfs: %w", err)
		}
		b.result.scratch = append(b.result.scratch, f)
		out, at = f, 0
	}
	opt := b.squashfs()
	// The checksums of files are not needed after the squashfs is written.
	opt.Max, opt.Sums, b.root.Sums = max, b.root.Sums, nil
	opt.Like, opt.Reused = b.like, b.reused
	var placed []squashfs.Placed
	if b.Cache != nil && !b.result.Private {
		opt.Placed = func(p []squashfs.Placed) { placed = p }
	}
	size, err := squashfs.Write(ctx, io.NewOffsetWriter(out, at), root, opt, b.Phases.Start("squashfs", contentSize(root)))
	if large, ok := errors.AsType[*squashfs.TooLargeError](err); ok {
		return nil, b.tooLarge(p.Name, large.Size, large.Max, large.Gaps)
	}
	if damaged, ok := errors.AsType[*squashfs.LikeError](err); ok {
		return nil, fault.New(fault.Corrupt, "--like: %s: %w", b.likeName, damaged.Unwrap())
	}
	if err != nil {
		return nil, fmt.Errorf("rootfs: %w", err)
	}
	if inPlace {
		d.written = append(d.written, image.Span{Off: at, Len: size})
	}
	c := io.NewSectionReader(out, at, size)
	if opt.Placed != nil {
		b.result.lastKey = b.lastKey()
		if b.result.last, err = b.remember(c, size, placed); err != nil {
			return nil, fmt.Errorf("rootfs: %w", err)
		}
	}
	return c, nil
}

// contentSize returns the size of all files of a tree. Hard links count once.
func contentSize(t *tree.Tree) (size int64) {
	seen := map[*tree.Inode]bool{}
	for _, n := range t.All() {
		if !seen[n] {
			seen[n] = true
			size += n.Size()
		}
	}
	return size
}

func (b *builder) squashfs() squashfs.Options {
	return squashfs.Options{Compression: b.Compression, BlockSize: cmp.Or(b.BlockSize, 1<<20), Packed: b.Packed, ModTime: b.Time, Workers: b.Jobs, Cache: b.Cache}
}

// tooLarge returns the error of a root file system that has more bytes than its partition, gaps of
// them for alignment.
func (b *builder) tooLarge(part string, size, max, gaps int64) error {
	text := fmt.Sprintf("%s: %s of %s do not fit in %s (%d bytes in %d): ", part, image.FormatSize(size), b.rootfsType(), image.FormatSize(max), size, max)
	if b.root.Ready != nil {
		return errors.New(text + "the root file system is used as it is given, make a smaller one")
	}
	text += "remove files from the root file system, or compress more, as with --compression zstd:19"
	if gaps > 0 && size-gaps < max+4096 { // the size is rounded
		text += fmt.Sprintf("; with --align=false it is %s smaller and may fit", image.FormatSize(gaps))
	}
	return errors.New(text)
}

// warnNoInit warns of a root file system without the program that the kernel starts. It is
// probably not a root file system.
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
	b.Warn(fmt.Sprintf("rootfs: %s may not be a root file system: it has no %s; it has %s", b.Inputs["rootfs"], path, cmp.Or(strings.Join(names, ", "), "no files")))
}

// warnTimes warns of times outside of the range of a file system.
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
		b.Warn(fmt.Sprintf("%s: the times of %d files are outside of the years %d to %d of %s, and are set to the nearest year; the first file is %s", where, n,
			time.Unix(first, 0).UTC().Year(), time.Unix(last, 0).UTC().Year(), kind, example))
	}
}

// The ranges of times of the file systems, in seconds since 1970.
const (
	squashfsFirst, squashfsLast = 0, math.MaxUint32
	ext4First, ext4Last         = math.MinInt32, math.MaxInt32 + 3<<32
)
