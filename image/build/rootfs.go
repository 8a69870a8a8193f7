package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"syscall"
	"time"

	"imgtool/image"
	"imgtool/image/source"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
	"imgtool/layouts"
)

// rootfs is the squashfs: the one given, or the tree as one, made in its place in the
// image, or in a scratch file.
func (b *builder) rootfs(ctx context.Context, d *disk, p layouts.Part) (image.Content, error) {
	if given := b.root.Squashfs; given != nil {
		r, err := squashfs.Open(given, given.Size())
		var t *tree.Tree
		if err == nil {
			t, err = r.Tree()
		}
		if err != nil {
			return nil, &source.CorruptError{Name: "rootfs", Err: err}
		}
		if b.root.Tree == nil && b.Root == nil {
			b.warnNoInit(t)
		}
		return given, nil
	}
	root, n, first := b.root.Tree.WithoutXattrs(func(name string) bool { return name == tree.ACL || name == tree.DefaultACL })
	if n > 0 {
		b.Warn(fmt.Sprintf("rootfs: access control lists of %d files are left out, for which squashfs has no place: the first is that of %s", n, first))
	}
	b.warnTimes("rootfs", "squashfs", root, squashfsFirst, squashfsLast)
	var room Room
	at := p.Off
	if b.Room != nil {
		room = b.Room(d.Name)
	}
	inPlace := room != nil
	if !inPlace {
		f, err := scratch(b.TempDir)
		if err != nil {
			return nil, err
		}
		b.result.scratch = append(b.result.scratch, f)
		room, at = f, 0
	}
	var total int64
	seen := map[*tree.Inode]bool{}
	for _, n := range root.All() {
		if !seen[n] {
			seen[n] = true
			total += n.Size()
		}
	}
	opt := b.squashfs()
	// They are not held on to here: once it is written, nobody needs them.
	opt.Max, opt.Sums, b.root.Sums = p.Len, b.root.Sums, nil
	size, err := squashfs.Write(ctx, io.NewOffsetWriter(room, at), root, opt, b.Phases.Start("squashfs", total))
	if errors.Is(err, syscall.ENOSPC) && !inPlace {
		return nil, fmt.Errorf("rootfs: scratch file in %s (TMPDIR names another folder): %w", cmp.Or(b.TempDir, os.TempDir()), err)
	}
	var large *squashfs.TooLargeError
	if errors.As(err, &large) {
		return nil, tooLarge(p.Name, large.Size, large.Max)
	}
	if err != nil {
		return nil, fmt.Errorf("rootfs: %w", err)
	}
	return io.NewSectionReader(room, at, size), nil
}

func (b *builder) squashfs() squashfs.Options {
	size := b.BlockSize
	if size == 0 {
		size = 1 << 20
	}
	return squashfs.Options{Compression: b.Compression, BlockSize: size, ModTime: b.Time, Workers: b.Jobs, Cache: b.Cache}
}

func tooLarge(part string, size, max int64) error {
	return fmt.Errorf("%s: %s of squashfs do not fit in %s (%d bytes in %d): take something out of the root file system or compress it harder, as with --compression zstd:19",
		part, human(size), human(max), size, max)
}

func human(n int64) string {
	switch {
	case n >= layouts.GiB:
		return fmt.Sprintf("%.2f GiB", float64(n)/layouts.GiB)
	case n >= layouts.MiB:
		return fmt.Sprintf("%.1f MiB", float64(n)/layouts.MiB)
	}
	return fmt.Sprintf("%d bytes", n)
}

// scratch is a file that is gone when it is closed, or the program ends.
func scratch(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "imgtool-*")
	if err != nil {
		return nil, fmt.Errorf("scratch file (TMPDIR names the folder): %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("scratch file (TMPDIR names the folder): %w", err)
	}
	return f, nil
}

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
