package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"

	"imgtool/image/fault"
	"imgtool/image/oci"
	"imgtool/image/remote"
)

// IsRemote reports whether a name is that of an image on a server: a URL, or oci:// and the name
// of an image in a registry.
func IsRemote(name string) bool { return remote.IsURL(name) || oci.IsReference(name) }

// RemoteName returns the name of an image on a server without what may be secret.
func RemoteName(name string) string {
	if oci.IsReference(name) {
		return name
	}
	return remote.Name(name)
}

// openOCI opens an image in a registry. Raw images and .img.zst whose manifest the layer names
// are read at any offset, if the registry sends ranges: the digest of the layer covers the
// SHA-256 of the manifest, and the manifest everything that is read. Others are fetched as a
// whole first, and compared with the digest.
func openOCI(ref string, opt Options) (*Source, error) {
	ctx := opt.context()
	if opt.Sums {
		return nil, fault.New(fault.Usage, "%s: a registry has no %s, and the digest is always compared: leave out --sha256sums", ref, sumsName)
	}
	img, err := oci.One(ctx, ref, opt.Registry)
	if err != nil {
		return nil, err
	}
	if sum := img.Layer.Digest.Hex; opt.SHA256 != "" && !strings.EqualFold(opt.SHA256, sum) {
		return nil, corrupt("%s: the SHA-256 of its file is %s, --sha256 says %s: it is another file", ref, sum, opt.SHA256)
	}
	f, err := img.Open(ctx, opt.Count)
	if err != nil {
		return nil, wrap(ref, err)
	}
	s := &Source{Name: ref, opt: opt, remote: f, registry: img, size: f.Size()}
	if err := s.loadOCI(ctx); err != nil {
		s.Close()
		return nil, s.Wrap(err)
	}
	return s, nil
}

func (s *Source) loadOCI(ctx context.Context) error {
	if s.remote.Ranges() && s.registry.ManifestSHA256() != "" && s.registry.Seekable() {
		err := s.loadURL(ctx)
		if err == nil && s.Image != nil && s.Manifest != nil {
			return s.checkManifest()
		}
		if err != nil {
			return err
		}
	}
	if s.stream != nil {
		s.stream.Close()
	}
	s.Image, s.Manifest, s.opened, s.plain, s.stream = nil, nil, nil, nil, nil
	r, err := s.remote.Stream(ctx, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	s.opt.Reporter.Infof("%s: it is fetched into a scratch file first, to compare its digest", s.Name)
	if err := s.spool(ctx, r, s.registry.Layer.Digest.Hex, "its manifest in the registry"); err != nil {
		return err
	}
	return s.loadURL(ctx)
}

// checkManifest compares the manifest of the image with the SHA-256 that the layer names.
func (s *Source) checkManifest() error {
	sum := sha256.Sum256(s.Manifest.Text())
	if got, want := hex.EncodeToString(sum[:]), s.registry.ManifestSHA256(); got != want {
		return corrupt("the SHA-256 of its manifest is %s, its layer in the registry says %s", got, want)
	}
	return nil
}

// Digest returns the digest of an image in a registry, or "".
func (s *Source) Digest() string {
	if s.registry == nil {
		return ""
	}
	return s.registry.Digest.String()
}

// ociPlace matches oci://HOST/REPOSITORY[:TAG][@DIGEST] and what follows a colon after it.
var ociPlace = regexp.MustCompile(`^(oci://[^/]+(?:/[a-z0-9._-]+)+(?::[A-Za-z0-9_][A-Za-z0-9._-]*)?(?:@sha256:[0-9a-fA-F]{64})?)(?::.*)?$`)

// cutOCI returns the reference that an argument begins with.
func cutOCI(arg string) string {
	if m := ociPlace.FindStringSubmatch(arg); m != nil {
		return m[1]
	}
	return arg
}
