package sbom

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/boardinfo"
	"imgtool/image/fault"
	"imgtool/image/foreign"
	"imgtool/image/fsprobe"
	"imgtool/image/gpt"
	"imgtool/image/hostfile"
	"imgtool/image/tree"
	"imgtool/image/volume"
)

// Seed describes a seed, of which nothing may be in a document.
var Seed = Info{Kind: "seed", Name: "seed", Purpose: "OTHER",
	Comment: "The configuration for the first boot. It may contain secrets, so neither its content nor its checksum is given."}

// contentComment is in the comment of an image, before the digest of its content.
const contentComment = "imgtool's digest of its content is "

// SetSubject sets what the document describes.
func (d *Document) SetSubject(s artifact.Subject) {
	d.Image.File, d.Image.SHA256, d.Image.Comment = s.File, s.SHA256, contentComment+s.Content
}

// Outdated reports whether a document says that it describes an image of other content.
func Outdated(text []byte, m *artifact.Manifest) bool {
	return m != nil && bytes.Contains(text, []byte(contentComment)) && !bytes.Contains(text, []byte(contentComment+m.Content()))
}

// maxHashed is the size of the largest image file that is hashed.
const maxHashed = 4 << 30

// OfImage describes the readable parts of an image: the packages in its file systems, boot
// files on its FATs and, if it has a manifest, the inputs that it was built from. The document's
// time is when, unless the manifest has one.
func OfImage(ctx context.Context, l *volume.Location, when int64, tool string, warn func(string)) (*Document, error) {
	s := l.Source
	if err := checkImage(l); err != nil {
		return nil, err
	}
	d := &Document{Name: filepath.Base(s.Name), Time: when, Tool: tool}
	d.Image.Info = Info{Kind: "image", Name: d.Name, Purpose: "OPERATING_SYSTEM"}
	if s.Info != nil && s.Info.Mode().IsRegular() {
		d.Image.File = d.Name
		if s.Info.Size() <= maxHashed {
			var err error
			if d.Image.SHA256, err = hashFile(ctx, s.Name); err != nil {
				return nil, err
			}
		}
	}
	parts := l.Partitions.List
	if l.Partitions.None() {
		parts = []gpt.Part{{Name: "the image", Len: s.Image.Size()}}
	}
	for _, p := range parts {
		if err := d.addPartition(ctx, l, p, warn); err != nil {
			return nil, err
		}
	}
	if !slices.ContainsFunc(d.Image.Contains, func(p Package) bool { return p.PURL != "" }) {
		warn(s.Name + ": " + NoPackages)
	}
	if m := s.Manifest; m != nil {
		d.addManifest(m)
	}
	return d, nil
}

// checkImage returns an error for a file that is no image.
func checkImage(l *volume.Location) error {
	s := l.Source
	if !l.Partitions.None() || fsprobe.Probe(s.Image).Kind != "" {
		return nil
	}
	if kind, err := volume.Detect(s.Image); kind != "" || err != nil {
		return s.Wrap(err)
	}
	head, err := image.Head(s.Image, 128<<10)
	if err == nil {
		err = foreign.Check(artifact.Raw, head)
	}
	if err == nil {
		err = fault.New(fault.Input, "it has no partition table, and no file system that is known: give an image of a disk or of a file system")
	}
	return s.Wrap(err)
}

func hashFile(ctx context.Context, path string) (string, error) {
	f, err := hostfile.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return hash(ctx, f)
}

func hash(ctx context.Context, r io.Reader) (string, error) {
	h := sha256.New()
	_, err := io.CopyBuffer(h, image.NewReader(ctx, r, nil), make([]byte, 1<<20))
	return hex.EncodeToString(h.Sum(nil)), err
}

// ReadFS returns the file system in r, or nil if it has none that can be read. It warns if there is
// one all the same.
func ReadFS(name string, r io.ReaderAt, size int64, warn func(string)) *volume.FileSystem {
	v, err := volume.ReadFS(r, size)
	if kind := fsprobe.Probe(r).Kind; err == nil && v == nil && kind != "" {
		err = fmt.Errorf("%s is not supported", kind)
	}
	if err != nil {
		warn(fmt.Sprintf("%s: its packages are not listed: %v", name, err))
	}
	if err != nil || v == nil || v.Tree == nil {
		return nil
	}
	return v
}

// bootFile matches the names of files that boot a machine. Others on a FAT may be configurations
// with secrets.
var bootFile = regexp.MustCompile(`(?i)^(u?image|[bz]image|vmlinu[xz]|kernel|linux|initrd|initramfs|u-boot)[^/]*$|\.(dtb|dtbo|scr|efi|elf|itb|bin|dat|img)$`)

func (d *Document) addPartition(ctx context.Context, l *volume.Location, p gpt.Part, warn func(string)) error {
	name := l.Source.Name + ":" + volume.PartName(p)
	r, err := l.Partition(p)
	if err != nil {
		return err
	}
	v := ReadFS(name, r, r.Size(), warn)
	if v == nil {
		return nil
	}
	found, err := Scan(v.Tree, func(text string) { warn(name + ": " + text) })
	if err != nil {
		return volume.Unreadable(name, err)
	}
	d.Image.Contains = append(d.Image.Contains, found...)
	if v.FAT == nil {
		return nil
	}
	for path, n := range v.Tree.All() {
		base := path[strings.LastIndexByte(path, '/')+1:]
		if n.Type() != tree.Regular || n.Content == nil || !bootFile.MatchString(base) {
			continue
		}
		sum, err := hash(ctx, io.NewSectionReader(n.Content, 0, n.Size()))
		if err != nil {
			return volume.Unreadable(name+"/"+path, err)
		}
		d.Image.Contains = append(d.Image.Contains, Package{Info: Info{Kind: "file", Name: base, File: base, SHA256: sum, Purpose: "FILE", Comment: "/" + path + " of the partition " + volume.PartName(p)}})
	}
	if m := l.Source.Manifest; m != nil && m.Info != nil && m.Info.Seed != nil && m.Info.Seed.Partition == p.Name && v.Tree.Lookup(strings.Trim(m.Info.Seed.Path, "/")) != nil {
		d.Image.Contains = append(d.Image.Contains, Package{Info: Seed})
	}
	return nil
}

// addManifest adds what the manifest of an image says.
func (d *Document) addManifest(m *artifact.Manifest) {
	d.Time = m.Time
	d.Image.Name, d.Image.Version = m.Board+"-"+m.Medium, m.BuildID
	for _, in := range m.Inputs {
		p := Package{Info: Info{Kind: "input", Name: in.Name, SHA256: in.SHA256, Comment: in.Origin}}
		if in.Name == "rootfs" {
			// Not of a file, unless it was a squashfs.
			p.SHA256, p.Comment = "", strings.Trim(in.Origin+"; imgtool's digest is "+in.SHA256, "; ")
		}
		if m.Info != nil && slices.ContainsFunc(m.Info.Blobs, func(b boardinfo.Blob) bool { return b.Input == in.Name }) {
			p.Kind, p.File, p.Purpose = "file", in.Name, "FIRMWARE"
			d.Image.Contains = append(d.Image.Contains, p)
			continue
		}
		d.Image.From = append(d.Image.From, p)
	}
}
