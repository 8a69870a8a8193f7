package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/hostfile"
	"imgtool/image/partition"
)

// beside is what was found in the directory of an image file, or of the file that a
// symbolic link leads to.
type beside struct {
	manifest *artifact.Manifest
	searched string // the manifest's file, if it has another name than the image
	unfit    error  // why the manifest cannot be used, which matters if there is none inside
	several  []string

	bmap      *artifact.Bmap
	bmapPath  string
	unfitBmap error // why the block map that is there cannot be used
}

// namesOf is a path and, if it is a symbolic link, that of the file it leads to.
func namesOf(path string) []string {
	names := []string{path}
	if real, err := filepath.EvalSymlinks(path); err == nil && filepath.Clean(real) != filepath.Clean(path) {
		names = append(names, real)
	}
	return names
}

// findBeside looks for a manifest and a block map by the name of the image.
func findBeside(path string) (b beside) {
	for _, name := range namesOf(path) {
		text, err := hostfile.ReadFile(artifact.ManifestPath(name), artifact.MaxManifest)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			if b.manifest, err = artifact.ParseManifest(text); err != nil {
				err = corrupt("%s: %w", artifact.ManifestPath(name), err)
			}
		}
		b.unfit = err
		break
	}
	if b.manifest != nil || b.unfit != nil {
		return b
	}
	for _, name := range namesOf(path) {
		for _, at := range bmapPaths(name) {
			text, err := hostfile.ReadFile(at, artifact.MaxBmap)
			if err != nil {
				continue
			}
			if b.bmap, err = artifact.ParseBmap(text); err != nil {
				b.unfitBmap = corrupt("%s: %w; if it does not belong to the image, move it away", at, err)
			}
			b.bmapPath = at
			return b
		}
	}
	return b
}

// bmapPaths are where bmaptool looks for the block map of an image: x.wic.xz.bmap,
// x.wic.bmap and x.bmap.
func bmapPaths(path string) (paths []string) {
	dir, base := filepath.Split(path)
	for {
		paths = append(paths, artifact.BmapPath(dir+base))
		ext := filepath.Ext(base)
		if ext == "" || ext == base {
			return paths
		}
		base = strings.TrimSuffix(base, ext)
	}
}

// searchManifest looks for the manifest of an image that was renamed or packed: one that has the GUIDs and places of its partitions.
func (p *picture) searchManifest(path string) (found bool, err error) {
	var paths []string
	for _, name := range namesOf(path) {
		files, _ := filepath.Glob(artifact.ManifestPath(filepath.Join(filepath.Dir(name), "*")))
		paths = append(paths, files...)
	}
	if len(paths) == 0 {
		return false, nil
	}
	table, err := p.table()
	if err != nil || table == nil {
		return false, nil // whoever reads the image says what is wrong with it
	}
	var fits []*artifact.Manifest
	var from []string
	for _, at := range paths {
		if of := strings.TrimSuffix(at, artifact.ManifestPath("")); !p.mayBe(path, of) {
			continue
		}
		text, err := hostfile.ReadFile(at, artifact.MaxManifest)
		if err != nil {
			continue
		}
		m, err := artifact.ParseManifest(text)
		if err != nil || !isOf(m, table) {
			continue
		}
		if !slices.ContainsFunc(fits, func(o *artifact.Manifest) bool { return slices.Equal(o.Pieces, m.Pieces) }) {
			fits, from = append(fits, m), append(from, at)
		}
	}
	switch len(fits) {
	case 0:
		return false, nil
	case 1:
		p.beside.manifest, p.beside.searched = fits[0], from[0]
		return true, nil
	}
	p.beside.several = from
	return false, nil
}

// mayBe says whether an image may be that of another name: it is gone, the same file, or
// the one that was packed. Another file that is there may have been changed since.
func (p *picture) mayBe(path, of string) bool {
	info, err := os.Stat(of)
	return err != nil || os.SameFile(info, p.source) || strings.HasPrefix(filepath.Base(path), filepath.Base(of)+".")
}

// table is the partition table at the start of the image, or nil.
func (p *picture) table() (*gpt.Table, error) {
	read := func(r io.ReaderAt) (*gpt.Table, error) {
		table, err := partition.Read(r, 512)
		if err != nil {
			return nil, err
		}
		if table.GPT == nil {
			return nil, partition.ErrNone
		}
		return table.GPT, nil
	}
	if p.img != nil {
		return read(p.img)
	}
	head := make([]byte, gpt.HeadSize)
	defer p.restart()
	for c, err := range p.stream.Chunks() {
		if err != nil {
			return nil, err
		}
		copy(head, c.Data)
		break
	}
	return read(bytes.NewReader(head))
}

// isOf says whether a manifest has the partitions of a table.
func isOf(m *artifact.Manifest, table *gpt.Table) bool {
	some := false
	for _, part := range m.Partitions {
		if part.Late {
			continue
		}
		some = some || part.GUID != ""
		if !slices.ContainsFunc(table.Parts, func(p gpt.Part) bool {
			return p.Number == part.Number && strings.EqualFold(p.GUID, part.GUID) && p.Off == part.Off && p.Len == part.Len
		}) {
			return false
		}
	}
	return some && m.Size == table.Size
}

// useBmap makes the ranges of a block map the content of an image that can be read
// anywhere.
func (p *picture) useBmap() error {
	b := p.beside.bmap
	if b == nil || p.img == nil {
		return nil
	}
	if p.img.Size() != b.Size {
		p.beside.bmap = nil
		p.beside.unfitBmap = corrupt("the image has %d bytes, and its block map %s says %d; if it does not belong to the image, move it away", p.img.Size(), p.beside.bmapPath, b.Size)
		return nil
	}
	img, err := b.Image(p.img)
	if err != nil {
		return err
	}
	p.img, p.plain = img, nil
	return nil
}

// explain adds to an error of an image whose manifest was searched for where that is.
func (p *picture) explain(err error) error {
	if p.beside.searched != "" && errors.As(err, new(*artifact.CorruptError)) {
		return fault.WithHint(err, "by its partition table, %s is its manifest: if the image was changed on purpose, move it to another directory", p.beside.searched)
	}
	return err
}

// describeBeside says what is known of an image file besides its bytes.
func (p *picture) describeBeside(u *ui) {
	switch b := p.beside; {
	case p.file == nil:
	case p.manifest != nil && b.searched != "":
		u.say("%s: its manifest is %s", p.name, b.searched)
	case p.manifest != nil:
	case b.bmap != nil:
		u.say("%s: its block map %s is used, with %d ranges", p.name, b.bmapPath, len(b.bmap.Ranges))
	case len(b.several) > 0:
		u.say("%s: no manifest is used: %s fit its partition table, and differ", p.name, strings.Join(b.several, " and "))
	case p.format == artifact.Raw:
		u.say("%s has no manifest (%s): its board, the disk it needs and its checksums are not known", p.name, filepath.Base(artifact.ManifestPath(p.name)))
	}
	if p.stream != nil && len(p.stream.Others) > 0 {
		u.say("%s: not used are the other files in it: %s", p.name, strings.Join(p.stream.Others, ", "))
	}
}

// check reads an image file that can be read anywhere once, and compares it with all that
// is known of it. An image from a stream was checked when it was unpacked.
func (p *picture) check(ctx context.Context, u *ui) error {
	if err := p.beside.unfitBmap; err != nil && p.manifest == nil {
		return named(p.name, err)
	}
	if p.opened == nil {
		return nil
	}
	defer u.endPhase()
	if b := p.beside.bmap; b != nil && p.manifest == nil {
		progress := u.phases("checking", b.Size)
		whole := &cancelable{ctx, b.Reader(io.NewSectionReader(p.opened, 0, b.Size)), progress}
		if _, err := io.Copy(io.Discard, whole); err != nil {
			return named(p.name, err)
		}
		return nil
	}
	n := p.opened.CheckSize()
	if n == 0 {
		return nil
	}
	var data func(int64) int64
	if info, err := p.file.Stat(); err == nil && info.Mode().IsRegular() {
		data = func(off int64) int64 { return nextData(p.file, off, p.size) }
	}
	if err := p.opened.Check(ctx, data, u.phases("checking", n)); err != nil {
		return named(p.name, p.explain(err))
	}
	return nil
}

// cancelable reads until the context ends, and tells of what was read.
type cancelable struct {
	ctx context.Context
	r   io.Reader
	p   image.Progress
}

func (c *cancelable) Read(b []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(b)
	c.p.Add(int64(n))
	return n, err
}
