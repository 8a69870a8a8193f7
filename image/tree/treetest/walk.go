//go:build unix

package treetest

import (
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/image/tree"
)

// Walk makes a tree of a directory, such as a mounted file system, and returns the link count of
// each path. It looks up every name.
func Walk(t testing.TB, root string) (*tree.Tree, map[string]uint64) {
	t.Helper()
	tr, nlink := tree.New(0), map[string]uint64{}
	inodes := map[uint64]*tree.Inode{}
	names, value := make([]byte, 64<<10), make([]byte, 64<<10)
	var visit func(string)
	visit = func(path string) {
		full := filepath.Join(root, path)
		var st unix.Stat_t
		if err := unix.Lstat(full, &st); err != nil {
			t.Fatalf("%s: %v", full, err)
		}
		nlink[path] = uint64(st.Nlink)
		n := inodes[st.Ino]
		if n == nil {
			n = &tree.Inode{Mode: uint32(st.Mode), UID: st.Uid, GID: st.Gid, ModTime: st.Mtim.Sec}
			inodes[st.Ino] = n
			switch n.Type() {
			case tree.Regular:
				if st.Size > 0 {
					n.Content = onDisk{full, st.Size}
				}
			case tree.Symlink:
				target, err := os.Readlink(full)
				if err != nil {
					t.Fatal(err)
				}
				n.Target = target
			case tree.CharDev, tree.BlockDev:
				n.Major, n.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
			}
			k, err := unix.Llistxattr(full, names)
			if err != nil && err != unix.ENOTSUP {
				t.Fatalf("%s: %v", full, err)
			}
			for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:max(k, 0)]), "\x00"), "\x00") {
				if name == "" {
					continue
				}
				k, err := unix.Lgetxattr(full, name, value)
				if err != nil {
					t.Fatalf("%s: %s: %v", full, name, err)
				}
				n.Xattrs = append(n.Xattrs, tree.Xattr{Name: name, Value: string(value[:k])})
			}
			sort.Slice(n.Xattrs, func(i, j int) bool { return n.Xattrs[i].Name < n.Xattrs[j].Name })
		}
		if err := tr.Put(path, n); err != nil {
			t.Fatal(err)
		}
		if n.Type() != tree.Dir {
			return
		}
		f, err := os.Open(full)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		names, err := f.Readdirnames(-1)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			at := name
			if path != "" {
				at = path + "/" + name
			}
			visit(at)
		}
	}
	visit("")
	return tr, nlink
}

// onDisk is a file that is opened for each read.
type onDisk struct {
	path string
	size int64
}

func (f onDisk) Size() int64 { return f.size }

func (f onDisk) ReadAt(p []byte, off int64) (int, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	return file.ReadAt(p, off)
}
