package tree

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"

	"imgtool/image"
)

// Change is a path that differs between two trees.
type Change struct {
	Path string
	A, B *Inode // nil if the tree does not have the path
	What Aspect // 0 if A or B is nil

	At           int64  // with Data: the offset of the first byte that differs
	LinkA, LinkB string // with Links: the first path of the same inode
}

// Aspect is a set of properties in which two inodes differ.
type Aspect uint

const (
	Type  Aspect = 1 << iota // nothing else is compared then
	Mode                     // permission bits
	Owner                    // user or group
	Time
	Target
	Device
	Xattrs
	Data
	Links // which other paths are hard links of it
)

// ReadError is an error of reading a file that [Diff] compares.
type ReadError struct {
	Path string
	InB  bool // it is in the second tree
	Err  error
}

func (e *ReadError) Error() string { return fmt.Sprintf("%s: %v", e.Path, e.Err) }
func (e *ReadError) Unwrap() error { return e.Err }

// Diff yields the paths that differ between a and b, in the order of [Tree.All]. It reads
// and compares the contents of files, and of several hard links only one. If a file cannot be read,
// the error is a *[ReadError]; nothing follows an error. Progress counts bytes of files
// that both trees have.
func Diff(ctx context.Context, a, b *Tree, p image.Progress) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		nextA, stopA := iter.Pull2(a.All())
		defer stopA()
		nextB, stopB := iter.Pull2(b.All())
		defer stopB()
		firstA, firstB := map[*Inode]string{}, map[*Inode]string{}
		c := comparison{progress: p}
		pathA, nodeA, okA := nextA()
		pathB, nodeB, okB := nextB()
		for okA || okB {
			if err := ctx.Err(); err != nil {
				yield(Change{}, context.Cause(ctx))
				return
			}
			var change Change
			switch {
			case !okB || okA && pathA < pathB:
				linkTo(firstA, nodeA, pathA)
				change = Change{Path: pathA, A: nodeA}
				pathA, nodeA, okA = nextA()
			case !okA || pathB < pathA:
				linkTo(firstB, nodeB, pathB)
				change = Change{Path: pathB, B: nodeB}
				pathB, nodeB, okB = nextB()
			default:
				change = Change{Path: pathA, A: nodeA, B: nodeB, LinkA: linkTo(firstA, nodeA, pathA), LinkB: linkTo(firstB, nodeB, pathB)}
				if err := c.compare(ctx, &change); err != nil {
					yield(Change{}, err)
					return
				}
				pathA, nodeA, okA = nextA()
				pathB, nodeB, okB = nextB()
				if change.What == 0 {
					continue
				}
			}
			if !yield(change, nil) {
				return
			}
		}
	}
}

// linkTo returns the first path of n. Directories have no hard links.
func linkTo(first map[*Inode]string, n *Inode, path string) string {
	if n.Type() == Dir {
		return path
	}
	if was, ok := first[n]; ok {
		return was
	}
	first[n] = path
	return path
}

type comparison struct {
	progress image.Progress
	a, b     []byte
}

func (c *comparison) compare(ctx context.Context, d *Change) error {
	a, b := d.A, d.B
	if a.Type() != b.Type() {
		d.What = Type
		return nil
	}
	for _, test := range []struct {
		what Aspect
		same bool
	}{
		{Mode, a.Mode == b.Mode},
		{Owner, a.UID == b.UID && a.GID == b.GID},
		{Time, a.ModTime == b.ModTime},
		{Target, a.Target == b.Target},
		{Device, a.Major == b.Major && a.Minor == b.Minor},
		{Xattrs, slices.Equal(a.Xattrs, b.Xattrs)},
		{Links, d.LinkA == d.LinkB},
	} {
		if !test.same {
			d.What |= test.what
		}
	}
	// A hard link in both trees was compared at its first path.
	if a.Type() != Regular || d.LinkA == d.LinkB && d.LinkA != d.Path {
		return nil
	}
	at, err := c.data(ctx, d)
	if err != nil {
		return err
	}
	if at >= 0 {
		d.What |= Data
		d.At = at
	}
	return nil
}

// data returns the offset of the first byte that differs, or -1.
func (c *comparison) data(ctx context.Context, d *Change) (int64, error) {
	const piece = 1 << 20
	if c.a == nil {
		c.a, c.b = make([]byte, piece), make([]byte, piece)
	}
	size := min(d.A.Size(), d.B.Size())
	for off := int64(0); off < size; {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if n := min(size-off, image.Hole(d.A.Content, off), image.Hole(d.B.Content, off)); n > 0 {
			off += n
			c.progress.Add(n)
			continue
		}
		a, b := c.a[:min(piece, size-off)], c.b[:min(piece, size-off)]
		if _, err := image.ReadFull(d.A.Content, a, off); err != nil {
			return 0, &ReadError{d.Path, false, err}
		}
		if _, err := image.ReadFull(d.B.Content, b, off); err != nil {
			return 0, &ReadError{d.Path, true, err}
		}
		if !bytes.Equal(a, b) {
			i := 0
			for a[i] == b[i] {
				i++
			}
			return off + int64(i), nil
		}
		off += int64(len(a))
		c.progress.Add(int64(len(a)))
	}
	if d.A.Size() != d.B.Size() {
		return size, nil
	}
	return -1, nil
}
