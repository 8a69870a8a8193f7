package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/gzip"

	"imgtool/image/edit/edittest"
	"imgtool/image/tree"
)

// makeL4T writes a tar of a root file system with the paths that provisioning a Photon NX
// needs.
func makeL4T(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	if err := writeTree(w, edittest.L4T()); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.Close()
}

func writeTree(w *tar.Writer, t *tree.Tree) error {
	names := map[*tree.Inode]string{}
	for path, n := range t.All() {
		if path == "" {
			continue
		}
		h := &tar.Header{Name: path, Mode: int64(n.Mode & 0o7777), Uid: int(n.UID), Gid: int(n.GID), ModTime: time.Unix(n.ModTime, 0), Format: tar.FormatPAX,
			Devmajor: int64(n.Major), Devminor: int64(n.Minor), Linkname: n.Target}
		switch n.Type() {
		case tree.Dir:
			h.Typeflag, h.Name = tar.TypeDir, path+"/"
		case tree.Symlink:
			h.Typeflag = tar.TypeSymlink
		case tree.CharDev:
			h.Typeflag = tar.TypeChar
		case tree.BlockDev:
			h.Typeflag = tar.TypeBlock
		case tree.Fifo:
			h.Typeflag = tar.TypeFifo
		case tree.Regular:
			h.Typeflag, h.Size = tar.TypeReg, n.Size()
			if first := names[n]; first != "" {
				h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			}
			names[n] = path
		}
		for _, x := range n.Xattrs {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords["SCHILY.xattr."+x.Name] = x.Value
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if h.Size > 0 {
			if _, err := io.Copy(w, io.NewSectionReader(n.Content, 0, n.Size())); err != nil {
				return err
			}
		}
	}
	return nil
}

// liveTree is the root of a unit that was flashed and has registered.
func liveTree() *tree.Tree {
	t := edittest.L4T()
	put := func(path, text string, mode uint32) {
		if err := t.Put(path, &tree.Inode{Mode: tree.Regular | mode, ModTime: edittest.ModTime, Content: strings.NewReader(text)}); err != nil {
			panic(err)
		}
	}
	put("etc/waggle/node-id", "000048B02D012345", 0o644)
	put("etc/waggle/vsn", "W123\n", 0o644)
	put("etc/waggle/bk_pubkey.pem", "not a key\n", 0o600)
	put("etc/waggle/bk_key.pem-cert.pub", "not a certificate\n", 0o600)
	realPing(t)
	put("boot/initrd.img-"+edittest.Kernel, string(initrdWith("init", "scripts/init-bottom/overlayroot")), 0o644)
	return t
}

// realPing gives /bin/ping a valid capability.
func realPing(t *tree.Tree) {
	ping := *t.Lookup("bin/ping")
	ping.Xattrs = []tree.Xattr{{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x20" + strings.Repeat("\x00", 14)}}
	t.Put("bin/ping", &ping)
	t.Put("bin/ping4", &ping)
}

// liveAgent is the root of an agent that was flashed.
func liveAgent() *tree.Tree {
	t := edittest.Agent()
	realPing(t)
	return t
}

// makeLive writes the root of a unit to a directory.
func makeLive(root string) error {
	all := liveTree().Without(func(p string) bool { return strings.HasPrefix(p, "media/rpi/") })
	all.Put("etc/waggle/bk_key.pem", &tree.Inode{Mode: tree.Regular | 0o600, ModTime: edittest.ModTime, Content: strings.NewReader("not a private key\n")})
	return extract(all, root)
}

// makeAgent writes the root of a flashed agent to a directory.
func makeAgent(root string) error { return extract(liveAgent(), root) }

func extract(all *tree.Tree, root string) error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := writeTree(w, all); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	cmd := exec.Command("tar", "-C", root, "--xattrs", "--xattrs-include=*", "-xp")
	cmd.Stdin = &b
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	return nil
}

// initrdWith returns a cpio archive with files of these names.
func initrdWith(names ...string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := cpio.NewWriter(z)
	for _, name := range names {
		w.WriteHeader(&cpio.Header{Name: name, Mode: cpio.TypeReg | 0o755, Links: 1})
	}
	w.Close()
	z.Close()
	return b.Bytes()
}
