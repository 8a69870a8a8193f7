package catalog

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/bmap"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/sanitize"
	"imgtool/image/volume"
)

// Request is what a catalog is made from. Name and Description are for a single image only.
type Request struct {
	Images  []string        // paths of files
	URL     string          // of the directory in which programs find the files
	Boards  []*boards.Board // definitions of boards that are not built in
	Devices []string        // tags in place of the names of boards

	Name        string
	Description string
	Icon        string // URL, or a name below URL
	Website     string
	Date        string // release date, YYYY-MM-DD; empty: of the manifest
	When        int64  // release date of images without a manifest, in seconds since 1970; 0: none

	Opening volume.Options
}

// Make returns the catalog of the images. Each is read once, compared with its manifest, and
// unpacked once.
func Make(ctx context.Context, r Request) (*Catalog, error) {
	base, err := r.check()
	if err != nil {
		return nil, err
	}
	m := maker{Request: r, base: base, used: map[string]bool{}}
	for _, path := range r.Images {
		if err := m.add(ctx, path); err != nil {
			return nil, err
		}
	}
	for _, b := range r.Boards {
		if !m.used[b.Name] {
			return nil, fault.New(fault.WrongBoard, "--board %s: no image is for it", b.Name)
		}
	}
	m.tellApart()
	return &m.Catalog, nil
}

// check checks all that can be checked without reading an image.
func (r *Request) check() (*url.URL, error) {
	base, err := parseURL("--url", r.URL, "http", "https", "file")
	if err != nil {
		return nil, err
	}
	if base.RawQuery != "" || base.Fragment != "" {
		return nil, fault.New(fault.Usage, "--url %q: names of files are appended to it, so it must end in neither ?%s nor #%s", r.URL, base.RawQuery, base.Fragment)
	}
	if r.Icon != "" {
		if icon, err := url.Parse(r.Icon); err == nil && icon.Scheme == "" {
			r.Icon = base.JoinPath(r.Icon).String()
		}
		if _, err := parseURL("--icon", r.Icon, "http", "https", "file"); err != nil {
			return nil, err
		}
	}
	if r.Website != "" {
		if _, err := parseURL("--website", r.Website, "http", "https"); err != nil {
			return nil, err
		}
	}
	if _, err := time.Parse(time.DateOnly, r.Date); r.Date != "" && err != nil {
		return nil, fault.New(fault.Usage, "--date %q: it must be a date such as 2026-01-31", r.Date)
	}
	if len(r.Images) > 1 && r.Name+r.Description != "" {
		return nil, fault.New(fault.Usage, "--name and --description are for one image, and there are %d: make a catalog of each", len(r.Images))
	}
	texts := []struct{ flag, text string }{{"--name", r.Name}, {"--description", r.Description}}
	for _, tag := range r.Devices {
		texts = append(texts, struct{ flag, text string }{"--device", tag})
	}
	for _, t := range texts {
		if !sanitize.IsLine(t.text) {
			return nil, fault.New(fault.Usage, "%s is %q: it must be one line of printable characters", t.flag, t.text)
		}
	}
	if i := slices.Index(r.Devices, ""); i >= 0 {
		return nil, fault.New(fault.Usage, "--device is empty: give the tag of a device, such as pi5-64bit")
	}
	names := map[string]string{}
	for _, path := range r.Images {
		name := filepath.Base(path)
		if path == "-" {
			return nil, notAFile("standard input")
		}
		if first, ok := names[name]; ok {
			return nil, fault.New(fault.Usage, "%s and %s would have the same URL: rename the second", first, path)
		}
		names[name] = path
	}
	return base, nil
}

// parseURL parses an absolute URL. Only the given schemes are allowed.
func parseURL(flag, text string, schemes ...string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
	case !slices.Contains(schemes, u.Scheme):
		err = fmt.Errorf("it must begin with %s://", strings.Join(schemes, ":// or "))
	case u.User != nil:
		err = errors.New("everyone who reads the catalog can read the password in it: leave it out")
	case u.Scheme != "file" && u.Host == "":
		err = errors.New("it has no host")
	case u.Scheme == "file" && !strings.HasPrefix(u.Path, "/"):
		err = errors.New("the path of a file:// URL begins with a third /")
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if err != nil {
		return nil, fault.New(fault.Usage, "%s %q: %w", flag, text, err)
	}
	return u, nil
}

func notAFile(name string) error {
	return fault.New(fault.Usage, "%s: a catalog lists files that can be downloaded: give an image file", name)
}

type maker struct {
	Catalog
	Request
	base *url.URL
	used map[string]bool // boards by name
}

func (m *maker) add(ctx context.Context, path string) error {
	s, err := volume.Open(path, m.Opening)
	if err != nil {
		return err
	}
	defer s.Close()
	if s.Info == nil || !s.Info.Mode().IsRegular() {
		return notAFile(s.Name)
	}
	if s.Format == artifact.Sparse {
		return fault.New(fault.Input, "%s: neither rpi-imager nor bb-imager reads Android sparse images: build an .img.xz", path)
	}
	if s.IsBundle() {
		return fault.New(fault.Input, "%s: it is an update bundle, not a disk image: a catalog lists images that are written to disks", path)
	}
	e := Entry{
		URL:     m.base.JoinPath(url.PathEscape(filepath.Base(path))).String(),
		Icon:    cmp.Or(m.Icon, noIcon),
		Website: m.Website,
	}
	if err := m.describe(&e, s); err != nil {
		return err
	}
	if e.SizeOfFile, e.SHA256OfFile, err = m.hashFile(ctx, path); err != nil {
		return err
	}
	if e.Size, e.SHA256, err = s.Sum(ctx); err != nil {
		return err
	}
	if err := m.addBmap(&e, path); err != nil {
		return err
	}
	if s.Format != artifact.Raw && s.Format != artifact.XZ && s.Format != artifact.Zip {
		m.warn("%s: rpi-imager reads it, but bb-imager writes %s data to a disk without unpacking them: for bb-imager build an .img.xz", path, s.Format)
	}
	m.Catalog.Images = append(m.Catalog.Images, e)
	return nil
}

func (m *maker) warn(format string, args ...any) {
	if m.Opening.Reporter != nil {
		m.Opening.Reporter.Warnf(format, args...)
	}
}

func (m *maker) hashFile(ctx context.Context, path string) (size int64, sum string, err error) {
	f, err := hostfile.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, "", err
	}
	var p image.Progress
	if m.Opening.Reporter != nil {
		p = m.Opening.Reporter.Phase("hashing the file", info.Size())
	}
	h := sha256.New()
	size, err = io.CopyBuffer(h, image.NewReader(ctx, hostfile.NewReader(path, f), p), make([]byte, 1<<20))
	return size, hex.EncodeToString(h.Sum(nil)), err
}

// addBmap adds the block map beside an image, if there is one.
func (m *maker) addBmap(e *Entry, path string) error {
	file := artifact.BmapPath(path)
	text, err := hostfile.ReadFile(file, artifact.MaxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	b, err := bmap.Parse(text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if b.Size != e.Size {
		return fault.New(fault.Corrupt, "%s is for an image of %d bytes, and %s has %d: remove it, or build the image again", file, b.Size, path, e.Size)
	}
	e.BmapURL = m.base.JoinPath(url.PathEscape(filepath.Base(file))).String()
	e.Bmap = e.BmapURL
	return nil
}
