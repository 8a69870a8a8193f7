package build

import (
	"bytes"
	"context"
	"debug/elf"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"imgtool/image"
	"imgtool/image/source"
	"imgtool/image/tree"
	"imgtool/image/xz"
)

var (
	//go:embed starter/initrd-init.sh
	initrdInit string
	//go:embed starter/rcS.sh
	rcS string
)

// applets are the commands of busybox that the starter's scripts and a person at
// its console use.
var applets = strings.Fields(`sh ash mount umount insmod lsmod modprobe switch_root cat echo ls sleep mkdir
	rm cp mv ln chmod chown df du free ps kill top dmesg cut sed grep awk find head tail sort uniq wc tr vi
	less hexdump md5sum sha256sum sync uname hostname date id reboot poweroff halt setsid cttyhack stty
	ip ifconfig ping wget udhcpc blkid lsblk blockdev dd tar gzip gunzip xz unxz mdev getty login env test
	true false touch readlink basename dirname printf clear reset which xargs seq tee`)

// starterInitrd assembles an initrd from a static busybox, the modules the board
// names with all they depend on, and our init.
func starterInitrd(busybox *source.Package, kernel *source.Package, modules []string, modTime int64) ([]byte, error) {
	bb, err := program(busybox)
	if err != nil {
		return nil, err
	}
	ordered, err := moduleClosure(kernel.Tree, modules)
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", kernel.Name, err)
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w := cpio.NewWriter(z)
	put := func(name string, mode cpio.FileMode, data []byte) {
		if err == nil {
			err = w.WriteHeader(&cpio.Header{Name: name, Mode: mode, Size: int64(len(data)), ModTime: time.Unix(modTime, 0), Links: 1})
		}
		if err == nil {
			_, err = w.Write(data)
		}
	}
	for _, dir := range []string{"bin", "dev", "lib", "lib/modules", "proc", "run", "sys", "sysroot"} {
		put(dir, cpio.TypeDir|0o755, nil)
	}
	put("init", cpio.TypeReg|0o755, []byte(initrdInit))
	data := make([]byte, bb.Size())
	if _, err := bb.ReadAt(data, 0); err != nil && err != io.EOF {
		return nil, fmt.Errorf("package %s: %w", busybox.Name, err)
	}
	put("bin/busybox", cpio.TypeReg|0o755, data)
	for _, name := range applets {
		put("bin/"+name, cpio.TypeSymlink|0o777, []byte("busybox"))
	}
	var list strings.Builder
	for _, m := range ordered {
		file := "lib/modules/" + m.name + ".ko"
		put(file, cpio.TypeReg|0o644, m.data)
		list.WriteString("/" + file + "\n")
	}
	put("modules", cpio.TypeReg|0o644, []byte(list.String()))
	if err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}

type module struct {
	name string
	data []byte
}

// moduleClosure is the modules in the order they can be loaded in. Debian makes
// modules.dep when a kernel is installed, so it is read from the modules. What is
// built in, or this kernel does not have, is left out.
func moduleClosure(kernel *tree.Tree, names []string) ([]module, error) {
	files := map[string]*tree.Inode{}
	ext := map[string]string{}
	for p, n := range kernel.All() {
		base := path.Base(p)
		name, rest, ok := strings.Cut(base, ".ko")
		if !ok || n.Type() != tree.Regular || !strings.Contains(p, "lib/modules/") {
			continue
		}
		name = strings.ReplaceAll(name, "-", "_")
		files[name], ext[name] = n, rest
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there is no module below lib/modules")
	}
	var out []module
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		n := files[name]
		if seen[name] || n == nil {
			return nil
		}
		seen[name] = true
		data, err := unpackModule(n, ext[name])
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		depends, err := moduleDepends(data)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, d := range depends {
			if err := add(d); err != nil {
				return err
			}
		}
		out = append(out, module{name, data})
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func unpackModule(n *tree.Inode, ext string) ([]byte, error) {
	var r io.Reader = io.NewSectionReader(n.Content, 0, n.Size())
	switch ext {
	case "":
	case ".xz":
		x, err := xz.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = x
	case ".zst":
		z, err := zstd.NewReader(r)
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	case ".gz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = z
	default:
		return nil, fmt.Errorf("compressed as %s, which is not known", ext)
	}
	return io.ReadAll(r)
}

func moduleDepends(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, nil
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	var depends []string
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			depends = append(depends, strings.Split(list, ",")...)
		}
		// Some are needed without a symbol that says so.
		if list, ok := strings.CutPrefix(field, "softdep=pre:"); ok {
			list, _, _ = strings.Cut(list, "post:")
			depends = append(depends, strings.Fields(list)...)
		}
	}
	return slices.DeleteFunc(depends, func(s string) bool { return s == "" }), nil
}

// starterRoot is a root file system of busybox with an init that says which slot
// and build it is and gives a console. host is its name.
func starterRoot(busybox *source.Package, host string, modTime int64) (*tree.Tree, error) {
	bb, err := program(busybox)
	if err != nil {
		return nil, err
	}
	t := tree.New(modTime)
	put := func(p string, mode uint32, text string) {
		if err == nil {
			err = t.Put(p, &tree.Inode{Mode: mode, ModTime: modTime, Content: strings.NewReader(text)})
		}
	}
	for _, dir := range strings.Fields("bin boot dev data etc etc/init.d home mnt proc root run sbin sys usr usr/bin usr/sbin var") {
		put(dir, tree.Dir|0o755, "")
	}
	put("tmp", tree.Dir|0o1777, "")
	if err == nil {
		err = t.Put("bin/busybox", &tree.Inode{Mode: tree.Regular | 0o755, ModTime: modTime, Content: bb})
	}
	for _, name := range applets {
		if err == nil {
			err = t.Put("bin/"+name, &tree.Inode{Mode: tree.Symlink | 0o777, ModTime: modTime, Target: "busybox"})
		}
	}
	if err == nil {
		err = t.Put("sbin/init", &tree.Inode{Mode: tree.Symlink | 0o777, ModTime: modTime, Target: "../bin/busybox"})
	}
	put("etc/init.d/rcS", tree.Regular|0o755, rcS)
	put("etc/inittab", tree.Regular|0o644, "::sysinit:/etc/init.d/rcS\n::respawn:-/bin/sh\n::ctrlaltdel:/bin/reboot\n::shutdown:/bin/umount -a -r\n")
	put("etc/hostname", tree.Regular|0o644, host+"\n")
	put("etc/passwd", tree.Regular|0o644, "root::0:0:root:/root:/bin/sh\n")
	put("etc/group", tree.Regular|0o644, "root:x:0:\n")
	return t, err
}

// stamp writes into a starter's root which build it is.
func stamp(t *tree.Tree, buildID string, modTime int64) error {
	return t.Put("etc/os-release", &tree.Inode{Mode: tree.Regular | 0o644, ModTime: modTime,
		Content: strings.NewReader("NAME=\"imgtool starter\"\nID=imgtool-starter\nBUILD_ID=" + buildID + "\n")})
}

// program is busybox itself, which Debian moved to /usr/bin.
func program(busybox *source.Package) (image.Content, error) {
	n, err := busybox.Tree.Open("/bin/busybox")
	if errors.Is(err, fs.ErrNotExist) {
		n, err = busybox.Tree.Open("/usr/bin/busybox")
	}
	if err == nil && n.Size() == 0 {
		err = errors.New("busybox is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", busybox.Name, err)
	}
	return n.Content, nil
}

// packages are the Debian packages a starter is made of, opened once.
type packages struct {
	open   func(ctx context.Context, name string) (*source.Package, error)
	loaded map[string]*source.Package
}

func (p *packages) get(ctx context.Context, name string) (*source.Package, error) {
	if pkg := p.loaded[name]; pkg != nil {
		return pkg, nil
	}
	pkg, err := p.open(ctx, name)
	if err == nil {
		p.loaded[name] = pkg
	}
	return pkg, err
}
