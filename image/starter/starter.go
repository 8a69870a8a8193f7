package build

import (
	"bytes"
	"cmp"
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

	"imgtool/image"
	"imgtool/image/compress"
	"imgtool/image/source"
	"imgtool/image/tree"
)

var (
	//go:embed starter/functions.sh
	initrdFunctions string
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
	ip ifconfig route ping wget nc udhcpc blkid lsblk blockdev dd tar gzip gunzip xz unxz mdev getty login env test swapon swapoff
	true false touch readlink basename dirname printf clear reset which xargs seq tee`)

// planter puts things into a tree, all of one time. After an error it does
// nothing more.
type planter struct {
	tree *tree.Tree
	time int64
	err  error
}

func newPlanter(modTime int64) *planter { return &planter{tree: tree.New(modTime), time: modTime} }

func (p *planter) put(path string, n *tree.Inode) {
	if p.err == nil {
		n.ModTime = p.time
		p.err = p.tree.Put(path, n)
	}
}

func (p *planter) dirs(mode uint32, paths string) {
	for path := range strings.FieldsSeq(paths) {
		p.put(path, &tree.Inode{Mode: tree.Dir | mode})
	}
}

// parents makes the directories of a path that are not there.
func (p *planter) parents(dir string) {
	for i, c := range dir + "/" {
		if c != '/' || p.err != nil {
			continue
		}
		if _, err := p.tree.Open("/" + dir[:i]); errors.Is(err, fs.ErrNotExist) {
			p.dirs(0o755, dir[:i])
		}
	}
}

func (p *planter) file(path string, mode uint32, c image.Content) {
	p.put(path, &tree.Inode{Mode: tree.Regular | mode, Content: c})
}

func (p *planter) text(path, text string)    { p.file(path, 0o644, strings.NewReader(text)) }
func (p *planter) program(path, text string) { p.file(path, 0o755, strings.NewReader(text)) }

func (p *planter) link(path, target string) {
	p.put(path, &tree.Inode{Mode: tree.Symlink | 0o777, Target: target})
}

// busybox puts it into bin, under the names of all its applets.
func (p *planter) busybox(pkg *source.Package) {
	c, err := program(pkg)
	if p.err = cmp.Or(p.err, err); p.err != nil {
		return
	}
	p.file("bin/busybox", 0o755, c)
	for _, name := range applets {
		p.link("bin/"+name, "busybox")
	}
}

// starterInitrd has a static busybox, the modules the board names with all they depend
// on, and our scripts by their paths.
func starterInitrd(busybox *source.Package, modules []module, scripts map[string]string, modTime int64) *planter {
	p := newPlanter(modTime)
	p.dirs(0o755, "bin dev lib lib/modules proc run sys sysroot")
	p.busybox(busybox)
	var list strings.Builder
	for _, m := range modules {
		file := "lib/modules/" + m.name + ".ko"
		p.file(file, 0o644, bytes.NewReader(m.data))
		list.WriteString("/" + file + "\n")
	}
	p.text("modules", list.String())
	p.text("functions", initrdFunctions)
	for path, text := range scripts {
		p.program(path, text)
	}
	return p
}

// pack is an initrd of folders, files and links as a cpio, with gzip.
func (p *planter) pack() ([]byte, error) {
	if p.err != nil {
		return nil, p.err
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w := cpio.NewWriter(z)
	for name, n := range p.tree.All() {
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

type module struct {
	name string
	data []byte
}

// moduleClosure is the modules in the order they can be loaded in. Debian makes
// modules.dep when a kernel is installed, so it is read from the modules. What is
// built in, or this kernel does not have, is left out.
func moduleClosure(kernel *source.Package, names []string) (_ []module, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("package %s: %w", kernel.Name, err)
		}
	}()
	files := map[string]*tree.Inode{}
	ext := map[string]string{}
	for p, n := range kernel.Tree.All() {
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

// maxModule bounds what a kernel module may unpack to: the largest have some 10 MiB.
const maxModule = 256 << 20

func unpackModule(n *tree.Inode, ext string) ([]byte, error) {
	format, ok := map[string]compress.Format{"": compress.None, ".xz": compress.XZ, ".zst": compress.Zstd, ".gz": compress.Gzip}[ext]
	if !ok {
		return nil, fmt.Errorf("compressed as %s, which is not known", ext)
	}
	r, err := compress.NewReader(io.NewSectionReader(n.Content, 0, n.Size()), format)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(compress.Limit(r, maxModule))
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

// busyboxRoot is a root file system of busybox whose init runs script once, and
// then gives a console and keeps services running.
func busyboxRoot(busybox *source.Package, host, script string, modTime int64, services ...string) *planter {
	p := newPlanter(modTime)
	p.dirs(0o755, "bin boot dev etc etc/init.d home mnt proc root run sbin sys usr usr/bin usr/sbin var")
	p.dirs(0o1777, "tmp")
	p.busybox(busybox)
	p.link("sbin/init", "../bin/busybox")
	p.program("etc/init.d/rcS", script)
	inittab := "::sysinit:/etc/init.d/rcS\n::respawn:-/bin/sh\n"
	for _, service := range services {
		inittab += "::respawn:" + service + "\n"
	}
	p.text("etc/inittab", inittab+"::ctrlaltdel:/bin/reboot\n::shutdown:/bin/umount -a -r\n")
	p.text("etc/hostname", host+"\n")
	p.text("etc/passwd", "root::0:0:root:/root:/bin/sh\n")
	p.text("etc/group", "root:x:0:\n")
	return p
}

// stamp writes into a starter's root what it is and which build.
func stamp(t *tree.Tree, name, buildID string, modTime int64) error {
	return t.Put("etc/os-release", &tree.Inode{Mode: tree.Regular | 0o644, ModTime: modTime,
		Content: strings.NewReader("NAME=\"" + name + "\"\nID=imgtool-starter\nBUILD_ID=" + buildID + "\n")})
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
	open   func(ctx context.Context, names ...string) ([]*source.Package, error)
	loaded map[string]*source.Package
}

func (p *packages) get(ctx context.Context, name string) (*source.Package, error) {
	all, err := p.gather(ctx, []string{name})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

func (p *packages) gather(ctx context.Context, names []string) (all []*source.Package, err error) {
	lacking := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return p.loaded[name] != nil })
	opened, err := p.open(ctx, lacking...)
	if err != nil {
		return nil, err
	}
	for i, name := range lacking {
		p.loaded[name] = opened[i]
	}
	for _, name := range names {
		all = append(all, p.loaded[name])
	}
	return all, nil
}
