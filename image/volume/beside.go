package volume

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"imgtool/image/artifact"
	"imgtool/image/bmap"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/hostfile"
	"imgtool/image/partition"
)

// beside is what was found in the directory of an image file, or of the target of a
// symbolic link.
type beside struct {
	manifest     *artifact.Manifest
	manifestPath string   // set if the manifest was found by its content and not by its name
	manifestErr  error    // why the manifest of that name cannot be used
	ambiguous    []string // different manifests that match

	bmap     *bmap.Map
	bmapPath string
	bmapErr  error // why the block map cannot be used
}

// pathsOf returns path and, if it is a symbolic link, its target.
func pathsOf(path string) []string {
	paths := []string{path}
	if target, err := filepath.EvalSymlinks(path); err == nil && filepath.Clean(target) != filepath.Clean(path) {
		paths = append(paths, target)
	}
	return paths
}

// findBeside looks for a manifest or a block map by the name of the image.
func findBeside(path string) (b beside) {
	for _, name := range pathsOf(path) {
		at := artifact.ManifestPath(name)
		text, err := hostfile.ReadFile(at, artifact.MaxManifest)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			if b.manifest, err = artifact.ParseManifest(text); err != nil {
				err = corrupt("%s: %w", at, err)
			}
		}
		b.manifestErr = err
		return b
	}
	for _, name := range pathsOf(path) {
		for _, at := range bmapPaths(name) {
			text, err := hostfile.ReadFile(at, bmap.MaxSize)
			if err != nil {
				continue
			}
			if b.bmap, err = bmap.Parse(text); err != nil {
				b.bmapErr = corrupt("%s: %w; if it does not belong to the image, move it away", at, err)
			}
			b.bmapPath = at
			return b
		}
	}
	return b
}

// bmapPaths returns where bmaptool looks for the block map of an image: x.wic.xz.bmap,
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

// searchManifest looks for the manifest of an image that was renamed or compressed: a
// manifest with the same disk size and the same partitions.
func (s *Source) searchManifest() (found bool, err error) {
	var paths []string
	for _, name := range pathsOf(s.Name) {
		files, _ := filepath.Glob(artifact.ManifestPath(filepath.Join(filepath.Dir(name), "*")))
		paths = append(paths, files...)
	}
	if len(paths) == 0 {
		return false, nil
	}
	table, err := s.readGPT()
	if err != nil || table == nil {
		return false, nil // reading the image will report the error
	}
	var matches []*artifact.Manifest
	var from []string
	for _, at := range paths {
		other := strings.TrimSuffix(at, artifact.ManifestPath(""))
		if !s.mayBe(other) {
			continue
		}
		m := readManifest(other)
		if m == nil || !matchesTable(m, table) {
			continue
		}
		if !slices.ContainsFunc(matches, func(o *artifact.Manifest) bool { return slices.Equal(o.Pieces, m.Pieces) }) {
			matches, from = append(matches, m), append(from, at)
		}
	}
	switch len(matches) {
	case 0:
		return false, nil
	case 1:
		s.beside.manifest, s.beside.manifestPath = matches[0], from[0]
		return true, nil
	}
	s.beside.ambiguous = from
	return false, nil
}

// mayBe reports whether the source may have been called other: that file is missing, is
// the same file, or is the file that was compressed. If other still exists on its own,
// its manifest need not describe the source.
func (s *Source) mayBe(other string) bool {
	info, err := os.Stat(other)
	return err != nil || os.SameFile(info, s.Info) || strings.HasPrefix(filepath.Base(s.Name), filepath.Base(other)+".")
}

func (s *Source) readGPT() (*gpt.Table, error) {
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
	if s.Image != nil {
		return read(s.Image)
	}
	head := make([]byte, gpt.HeadSize)
	defer s.Restart()
	for c, err := range s.stream.Chunks() {
		if err != nil {
			return nil, err
		}
		copy(head, c.Data)
		break
	}
	return read(bytes.NewReader(head))
}

// matchesTable reports whether a manifest describes a disk with the partition table.
func matchesTable(m *artifact.Manifest, table *gpt.Table) bool {
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

// useBmap limits the content of the image to the ranges of the block map.
func (s *Source) useBmap() error {
	b := s.beside.bmap
	if b == nil || s.Image == nil || s.Manifest != nil {
		return nil
	}
	if s.Image.Size() != b.Size {
		s.beside.bmap = nil
		s.beside.bmapErr = corrupt("the image has %d bytes, and its block map %s says %d; if it does not belong to the image, move it away", s.Image.Size(), s.beside.bmapPath, b.Size)
		return nil
	}
	img, err := b.Image(s.Image)
	if err != nil {
		return err
	}
	s.Image, s.plain = img, nil
	return nil
}

// BlockMap returns the path of the block map that limits the content of the source, or "".
func (s *Source) BlockMap() string {
	if s.beside.bmap == nil {
		return ""
	}
	return s.beside.bmapPath
}

// explain adds a hint to an error of an image whose manifest was found by its content.
func (s *Source) explain(err error) error {
	if s.beside.manifestPath != "" && errors.As(err, new(*artifact.CorruptError)) {
		return fault.WithHint(err, "by its partition table, %s is its manifest: if the image was changed on purpose, move it to another directory", s.beside.manifestPath)
	}
	return err
}

// ReportBeside reports which files beside the image are used, and which are not.
func (s *Source) ReportBeside() {
	r := s.opt.Reporter
	if digest := s.Digest(); digest != "" {
		r.Infof("%s: its digest is %s", s.Name, digest)
	}
	switch b := s.beside; {
	case s.File == nil, s.IsBundle():
	case s.Manifest != nil && b.manifestPath != "":
		r.Infof("%s: its manifest is %s", s.Name, b.manifestPath)
	case s.Manifest != nil:
	case b.bmap != nil:
		r.Infof("%s: its block map %s is used, with %d ranges", s.Name, b.bmapPath, len(b.bmap.Ranges))
	case len(b.ambiguous) > 0:
		r.Infof("%s: no manifest is used: %s match its partition table, and differ", s.Name, strings.Join(b.ambiguous, " and "))
	case s.Format == artifact.Raw:
		r.Infof("%s has no manifest (%s): its board, the disk it needs and its checksums are not known", s.Name, filepath.Base(artifact.ManifestPath(s.Name)))
	}
	others := s.others
	if s.stream != nil && !s.Archive {
		others = s.stream.Others
	}
	if len(others) > 0 {
		r.Infof("%s: not used are the other files in it: %s", s.Name, strings.Join(others, ", "))
	}
}
