package volume

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/rauc"
	"imgtool/image/suggest"
)

var errEncrypted = fault.New(fault.Input, "it is an update bundle that is encrypted for its devices: its files cannot be read without the key of one")

// IsBundle reports whether the source, which must have random access, is an update bundle of
// RAUC, or is named as one.
func (s *Source) IsBundle() bool {
	if s.Image == nil || s.Format != artifact.Raw || s.Manifest != nil {
		return false
	}
	return strings.HasSuffix(s.Name, rauc.Suffix) || rauc.Is(s.Image, s.Image.Size())
}

// bundled returns an image in an update bundle, by the class of its slots or the name of its
// file.
func (l *Location) bundled() (*io.SectionReader, error) {
	s := l.Source
	b, err := rauc.Open(s.Image, s.Image.Size())
	if err != nil {
		return nil, s.Wrap(err)
	}
	if b.Tree == nil {
		return nil, s.Wrap(errEncrypted)
	}
	var names []string
	for _, i := range b.Manifest.Images {
		if i.File != "" {
			names = append(names, i.Name())
		}
	}
	n := slices.IndexFunc(b.Manifest.Images, func(i rauc.Image) bool { return i.File != "" && (i.Name() == l.Part || i.File == l.Part) })
	if n < 0 {
		return nil, fmt.Errorf("%s has no image %q%s (it has %s)", s.Name, l.Part, suggest.DidYouMean(l.Part, names), strings.Join(names, ", "))
	}
	if i := b.Manifest.Images[n]; i.Casync() {
		return nil, fault.New(fault.Input, "%s: the content of %s is in a store of casync, and only the index %s is in the bundle", s.Name, i.Name(), i.File)
	}
	c, err := b.File(b.Manifest.Images[n].File)
	if err != nil {
		return nil, s.Wrap(err)
	}
	return io.NewSectionReader(c, 0, c.Size()), nil
}
