package starter

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/gzip"

	"imgtool/image"
	"imgtool/image/source"
	"imgtool/image/tree"
)

// applets are the commands of busybox that the scripts use, and a few for the console.
var applets = strings.Fields(`sh ash mount umount insmod lsmod modprobe switch_root cat echo ls sleep mkdir
	rm cp mv ln chmod chown df du free ps kill top dmesg cut sed grep awk find head tail sort uniq wc tr vi
	less hexdump md5sum sha256sum sync uname hostname date id reboot poweroff halt setsid cttyhack stty
	ip ifconfig route ping wget nc udhcpc blkid lsblk blockdev dd tar gzip gunzip xz unxz mdev getty login env test swapon swapoff
	true false touch readlink basename dirname printf clear reset which xargs seq tee`)

// treeBuilder adds files to a tree. All get the same time. The first error stays in err,
// after which the methods do nothing.
type treeBuilder struct {
	tree *tree.Tree
	time int64
	err  error
}

func newTreeBuilder(modTime int64) *treeBuilder {
	return &treeBuilder{tree: tree.New(modTime), time: modTime}
}

func (b *treeBuilder) put(path string, n *tree.Inode) {
	if b.err == nil {
		n.ModTime = b.time
		b.err = b.tree.Put(path, n)
	}
}

func (b *treeBuilder) dirs(mode uint32, paths string) {
	for path := range strings.FieldsSeq(paths) {
		b.put(path, &tree.Inode{Mode: tree.Dir | mode})
	}
}

// parents adds a directory and those above it that are missing.
func (b *treeBuilder) parents(dir string) {
	for i, c := range dir + "/" {
		if c != '/' || b.err != nil {
			continue
		}
		if _, err := b.tree.Open("/" + dir[:i]); errors.Is(err, fs.ErrNotExist) {
			b.dirs(0o755, dir[:i])
		}
	}
}

func (b *treeBuilder) file(path string, mode uint32, c image.Content) {
	b.put(path, &tree.Inode{Mode: tree.Regular | mode, Content: c})
}

func (b *treeBuilder) text(path, text string)   { b.file(path, 0o644, strings.NewReader(text)) }
func (b *treeBuilder) script(path, text string) { b.file(path, 0o755, strings.NewReader(text)) }

func (b *treeBuilder) link(path, target string) {
	b.put(path, &tree.Inode{Mode: tree.Symlink | 0o777, Target: target})
}

func (b *treeBuilder) files(from embed.FS, dir string) {
	err := fs.WalkDir(from, dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := from.ReadFile(path)
		b.text(strings.TrimPrefix(path, dir+"/"), string(text))
		return err
	})
	b.err = cmp.Or(b.err, err)
}

// busybox adds /bin/busybox and links to it with the names of its applets.
func (b *treeBuilder) busybox(pkg *source.Package) {
	c, err := busyboxIn(pkg)
	if b.err = cmp.Or(b.err, err); b.err != nil {
		return
	}
	b.file("bin/busybox", 0o755, c)
	for _, name := range applets {
		b.link("bin/"+name, "busybox")
	}
}

// busyboxIn returns busybox. Newer versions of Debian have it in /usr/bin.
func busyboxIn(pkg *source.Package) (image.Content, error) {
	n, err := pkg.Tree.Open("/bin/busybox")
	if errors.Is(err, fs.ErrNotExist) {
		n, err = pkg.Tree.Open("/usr/bin/busybox")
	}
	if err == nil && n.Size() == 0 {
		err = errors.New("busybox is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", pkg.Name, err)
	}
	return n.Content, nil
}

// newRoot begins a root file system of busybox whose init runs script once, gives a
// console and restarts services when they end.
func newRoot(busybox *source.Package, host, script string, modTime int64, services ...string) *treeBuilder {
	b := newTreeBuilder(modTime)
	b.dirs(0o755, "bin boot dev etc etc/init.d home mnt proc root run sbin sys usr usr/bin usr/sbin var")
	b.dirs(0o1777, "tmp")
	b.busybox(busybox)
	b.link("sbin/init", "../bin/busybox")
	b.script("etc/init.d/rcS", script)
	inittab := "::sysinit:/etc/init.d/rcS\n::respawn:-/bin/sh\n"
	for _, service := range services {
		inittab += "::respawn:" + service + "\n"
	}
	b.text("etc/inittab", inittab+"::ctrlaltdel:/bin/reboot\n::shutdown:/bin/umount -a -r\n")
	b.text("etc/hostname", host+"\n")
	b.text("etc/passwd", "root::0:0:root:/root:/bin/sh\n")
	b.text("etc/group", "root:x:0:\n")
	return b
}

// newInitrd begins an initrd with busybox, modules and scripts, which are texts by their
// paths.
func newInitrd(busybox *source.Package, modules []module, scripts map[string]string, modTime int64) *treeBuilder {
	b := newTreeBuilder(modTime)
	b.dirs(0o755, "bin dev lib lib/modules proc run sys sysroot")
	b.busybox(busybox)
	var list strings.Builder
	for _, m := range modules {
		file := "lib/modules/" + m.name + ".ko"
		b.file(file, 0o644, bytes.NewReader(m.data))
		list.WriteString("/" + file + "\n")
	}
	b.text("modules", list.String())
	b.text("functions", initrdFunctions)
	for path, text := range scripts {
		b.script(path, text)
	}
	return b
}

// initrd packs the tree as a cpio archive, compressed with gzip.
func (b *treeBuilder) initrd() ([]byte, error) {
	if b.err != nil {
		return nil, b.err
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w := cpio.NewWriter(z)
	for name, n := range b.tree.All() {
		if name == "" {
			continue
		}
		c := n.Content
		if n.Type() == tree.Symlink {
			c = strings.NewReader(n.Target)
		}
		h := &cpio.Header{Name: name, Mode: cpio.FileMode(n.Mode), ModTime: time.Unix(n.ModTime, 0), Links: 1}
		if c != nil {
			h.Size = c.Size()
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if c == nil {
			continue
		}
		if _, err := io.Copy(w, io.NewSectionReader(c, 0, c.Size())); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}
