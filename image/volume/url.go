package volume

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/bmap"
	"imgtool/image/fault"
	"imgtool/image/remote"
)

// CheckLocal refuses a URL where an image is written to: the image must be a file or a disk.
func CheckLocal(name string) error {
	if IsRemote(name) {
		return fault.New(fault.Usage, "%s is a URL, and images cannot be changed on a server: download it first, and name the file", RemoteName(name))
	}
	return nil
}

// openURL opens an image on a web server. Raw images, .img.zst and Android sparse images are
// read at any offset if the server sends ranges; others are streams.
func openURL(url string, opt Options) (*Source, error) {
	ctx := opt.context()
	f, err := remote.Open(ctx, url, remote.Options{Count: opt.Count, Network: remote.Network{Tries: urlTries}})
	if err != nil {
		return nil, wrap(remote.Name(url), err)
	}
	s := &Source{Name: f.Name(), opt: opt, remote: f, size: f.Size()}
	if opt.SHA256 != "" || opt.Sums || opt.Spool && !f.Ranges() {
		err = s.fetchChecked(ctx)
	} else {
		err = s.loadURL(ctx)
	}
	if err != nil {
		s.Close()
		return nil, s.Wrap(err)
	}
	return s, nil
}

// urlTries is how often a request for an image is tried: with pauses of 1, 2, 4, 8 and 16 s in
// between, it survives that a computer joins its network again.
const urlTries = 6

// loadURL opens the image, with the manifest or block map beside it if it has no manifest.
func (s *Source) loadURL(ctx context.Context) error {
	if err := s.load(); err != nil || s.Manifest != nil {
		return err
	}
	text, err := s.ReadBeside(artifact.ManifestPath, artifact.MaxManifest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if s.beside.manifest, err = artifact.ParseManifest(text); err != nil {
			return corrupt("%s: %w", artifact.ManifestPath(s.Name), err)
		}
		return s.load()
	}
	if s.File == nil && !s.remote.Ranges() {
		return nil
	}
	text, err = s.ReadBeside(artifact.BmapPath, bmap.MaxSize)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	s.beside.bmapPath = artifact.BmapPath(s.Name)
	if s.beside.bmap, err = bmap.Parse(text); err != nil {
		s.beside.bmapErr = corrupt("%s: %w; if it does not belong to the image, move it away", s.beside.bmapPath, err)
		return nil
	}
	if s.Image == nil {
		return s.Restart()
	}
	return s.useBmap()
}

// ReadBeside reads a file beside the image, whose path is that of the image with a suffix.
// Without one, the error is [fs.ErrNotExist].
func (s *Source) ReadBeside(path func(string) string, limit int64) ([]byte, error) {
	if s.remote == nil {
		return nil, fs.ErrNotExist
	}
	ctx := s.opt.context()
	if s.registry != nil {
		return s.registry.Beside(ctx, path(""))
	}
	text, err := s.remote.Beside(ctx, path(""), limit)
	// Servers that do not list directories deny access to files that do not exist.
	if status, ok := errors.AsType[*remote.StatusError](err); ok && (status.Missing() || status.Kind() == fault.Permission) {
		return nil, fs.ErrNotExist
	}
	return text, err
}

// IsURL reports whether the image is read from a server while it is used.
func (s *Source) IsURL() bool { return s.remote != nil && s.File == nil }

// Fetched returns how many bytes were read from a server.
func (s *Source) Fetched() int64 {
	if s.remote == nil {
		return 0
	}
	return s.remote.Fetched()
}

// Plan announces that of an image on a server only these parts of its manifest will be read,
// so that they are fetched with few requests and nothing else is fetched. Without a manifest,
// all is announced. It returns the number of bytes to fetch.
func (s *Source) Plan(pieces []image.Entry) (total int64) {
	var spans []image.Span
	switch {
	case !s.IsURL() || !s.remote.Ranges():
		return 0
	case s.beside.bmap != nil && s.Manifest == nil && s.Format == artifact.Raw:
		for _, r := range s.beside.bmap.Ranges {
			spans = append(spans, r.Span)
		}
	case s.opened == nil || s.Manifest == nil:
		return s.planAll()
	default:
		spans = s.opened.FileSpans(pieces)
	}
	s.remote.Plan(spans)
	for _, span := range spans {
		total += span.Len
	}
	return total
}

// planAll is Plan for all of the file.
func (s *Source) planAll() int64 {
	if s.IsURL() && s.remote.Ranges() {
		s.remote.Plan([]image.Span{{Len: s.size}})
	}
	return s.size
}

// AsInFile reports whether the image is as it is in its file, and has random access.
func (s *Source) AsInFile() bool { return s.opened != nil && s.Image == s.opened.Image }

// UseDisk makes the image take pieces from a disk if they are on it as the manifest says. A nil
// disk ends that. It does nothing for images that are not on a server.
func (s *Source) UseDisk(disk io.ReaderAt) {
	if s.IsURL() && s.opened != nil {
		s.opened.Near = disk
	}
}
