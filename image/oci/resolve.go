package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/registry"
	"imgtool/image/remote"
	"imgtool/image/suggest"
)

// Options are how images in registries are found and read.
type Options struct {
	Network   remote.Network
	PlainHTTP bool   // allow HTTP without TLS
	Medium    string // of the image; empty if there is only one, or all are meant
}

// Image is a disk image in a registry.
type Image struct {
	Reference string  // as the user wrote it
	Digest    v1.Hash // of its manifest, verified
	Board     string  // or ""
	Medium    string  // or ""
	Layer     v1.Descriptor

	client *registry.Client
	read   map[string][]byte // the files that belong to it, if they were read
}

// Find returns the images that a reference names: of all media, or of opt.Medium.
func Find(ctx context.Context, ref string, opt Options) ([]*Image, error) {
	images, err := find(ctx, ref, opt)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	return images, nil
}

// One returns the image that a reference names. If there are several, opt.Medium says which.
func One(ctx context.Context, ref string, opt Options) (*Image, error) {
	images, err := Find(ctx, ref, opt)
	if err != nil {
		return nil, err
	}
	if len(images) > 1 {
		return nil, fault.New(fault.Usage, "%s has images for several media (%s): choose one with --medium", ref, media(images))
	}
	return images[0], nil
}

func media(images []*Image) string {
	var names []string
	for _, i := range images {
		names = append(names, i.Medium)
	}
	return strings.Join(names, ", ")
}

func find(ctx context.Context, ref string, opt Options) ([]*Image, error) {
	in, err := parse(ref, opt.PlainHTTP)
	if err != nil {
		return nil, err
	}
	client, err := registry.Open(ctx, in.Context(), registry.Options{Network: opt.Network})
	if err != nil {
		return nil, err
	}
	at := v1.Descriptor{}
	at.Digest, _ = v1.NewHash(in.Identifier()) // of a tag, it is computed
	r, err := client.Get(ctx, "manifests", in.Identifier())
	top, err := readManifest(r, err, &at)
	if err != nil {
		return nil, err
	}
	if top, err = top.follow(ctx, client, &at); err != nil {
		return nil, err
	}
	if !top.index() {
		one, err := top.image(ref, at.Digest, client)
		if err == nil && opt.Medium != "" && opt.Medium != one.Medium {
			err = noMedium(opt.Medium, []*Image{one})
		}
		return []*Image{one}, err
	}
	var images []*Image
	for _, d := range top.Manifests {
		if !isOurs(d) {
			continue
		}
		images = append(images, &Image{Reference: ref, Digest: d.Digest, Board: d.Annotations[board], Medium: d.Annotations[medium]})
	}
	if len(images) == 0 {
		return nil, top.notOurs(ref)
	}
	if opt.Medium != "" {
		all := images
		images = slices.DeleteFunc(slices.Clone(all), func(i *Image) bool { return i.Medium != opt.Medium })
		if len(images) == 0 {
			return nil, noMedium(opt.Medium, all)
		}
	}
	for k, i := range images {
		n := slices.IndexFunc(top.Manifests, func(d v1.Descriptor) bool { return d.Digest == i.Digest })
		r, err := client.Get(ctx, "manifests", i.Digest.String())
		m, err := readManifest(r, err, &top.Manifests[n])
		if err != nil {
			return nil, err
		}
		if images[k], err = m.image(ref, i.Digest, client); err != nil {
			return nil, err
		}
	}
	return images, nil
}

func noMedium(want string, have []*Image) error {
	var names []string
	for _, i := range have {
		names = append(names, i.Medium)
	}
	if len(have) == 1 && names[0] == "" {
		return fault.New(fault.Usage, "it does not say for which medium it is: leave out --medium")
	}
	return fault.New(fault.Input, "it has no image for the medium %s, only for %s%s", want, media(have), suggest.DidYouMean(want, names))
}

// manifest is a manifest or an index.
type manifest struct {
	v1.Manifest
	Manifests []v1.Descriptor `json:"manifests"`
	FSLayers  []any           `json:"fsLayers"` // of Docker schema 1
}

// isOurs reports whether an entry of an index is an image of ours. Programs from before artifact
// types drop them when they copy an index.
func isOurs(d v1.Descriptor) bool {
	return d.ArtifactType == ArtifactType || d.Annotations[medium] != ""
}

// maxNested is the number of indexes that are followed.
const maxNested = 3

// follow returns the only manifest of an index that another program made, which may be in
// another such index, and sets its descriptor.
func (m *manifest) follow(ctx context.Context, client *registry.Client, at *v1.Descriptor) (*manifest, error) {
	for range maxNested {
		if len(m.Manifests) != 1 || isOurs(m.Manifests[0]) {
			break
		}
		*at = m.Manifests[0]
		r, err := client.Get(ctx, "manifests", at.Digest.String())
		if m, err = readManifest(r, err, at); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *manifest) index() bool { return m.MediaType.IsIndex() || len(m.Manifests) > 0 }

// maxReferrers is the largest number of manifests that refer to an image and are read.
const maxReferrers = 1000

// maxEntries is the largest number of manifests in an index, and of layers in a manifest.
const maxEntries = 1000

// readManifest reads a manifest or index and verifies its digest and size, or computes the
// digest if it is not known.
func readManifest(r io.ReadCloser, err error, d *v1.Descriptor) (*manifest, error) {
	var raw []byte
	if d.Digest.Hex == "" {
		if raw, err = registry.ReadAll(r, err, 0); err == nil {
			d.Digest, _, err = v1.SHA256(bytes.NewReader(raw))
		}
	} else {
		raw, err = registry.ReadVerified(r, err, *d)
	}
	if _, ok := errors.AsType[*registry.MismatchError](err); ok {
		err = fmt.Errorf("manifest: %w", err)
	}
	if err != nil {
		return nil, err
	}
	m := &manifest{}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fault.New(fault.Corrupt, "it is not a manifest: the server may not be a registry (%w)", err)
	}
	if !m.index() && m.Config.Digest.Hex == "" && m.FSLayers == nil {
		return nil, fault.New(fault.Corrupt, "%s is neither a manifest nor an index: the server may not be a registry", d.Digest)
	}
	if n := max(len(m.Manifests), len(m.Layers)); n > maxEntries {
		return nil, fmt.Errorf("manifest %s has %d entries, the limit is %d", d.Digest, n, maxEntries)
	}
	return m, nil
}

// image returns the image that a manifest describes.
func (m *manifest) image(ref string, digest v1.Hash, client *registry.Client) (*Image, error) {
	if m.ArtifactType != ArtifactType && !m.other() {
		return nil, m.notOurs(ref)
	}
	if len(m.Layers) != 1 {
		return nil, fault.New(fault.Corrupt, "manifest %s has %d layers, that of an image has one", digest, len(m.Layers))
	}
	l := m.Layers[0]
	if l.Size <= 0 || l.Digest.Algorithm != "sha256" {
		return nil, fault.New(fault.Corrupt, "manifest %s has a layer of %d bytes with the digest %s; an image has a size and a SHA-256", digest, l.Size, l.Digest)
	}
	return &Image{Reference: ref, Digest: digest, Board: m.Annotations[board], Medium: m.Annotations[medium], Layer: l, client: client}, nil
}

// other reports whether a manifest may be of an image file that another program pushed: an
// artifact of one file with a name. Some programs give every file the type of a layer.
func (m *manifest) other() bool {
	container := m.ArtifactType == "" && (m.Config.MediaType.IsConfig() || m.Config.MediaType == "")
	return !m.index() && len(m.Layers) == 1 && m.Layers[0].Annotations[title] != "" && !(container && isContainer(m.Layers[0].MediaType))
}

func isContainer(t types.MediaType) bool { return t.IsLayer() || strings.Contains(string(t), ".tar") }

// notOurs returns the error for what is not a disk image.
func (m *manifest) notOurs(ref string) error {
	kind := m.ArtifactType
	switch {
	case m.index() && len(m.Manifests) == 0:
		return errors.New("it is an index without images")
	case m.index() && m.Manifests[0].ArtifactType != "":
		return fmt.Errorf("it is an index of %d artifacts of other programs: name one by its digest, such as %s", len(m.Manifests), m.Manifests[0].Digest)
	case kind == "" && (m.index() || m.FSLayers != nil || slices.ContainsFunc(m.Layers, func(l v1.Descriptor) bool { return isContainer(l.MediaType) })):
		name := strings.TrimPrefix(ref, Scheme)
		return fault.WithHint(errors.New("it is a container image and not a disk image"), "build a disk image from it with imgtool build --rootfs docker://%s", name)
	case kind == "":
		kind = string(m.Config.MediaType)
	}
	if len(m.Layers) == 1 {
		return fmt.Errorf("it is not a disk image, but %q with a layer that has no file name", kind)
	}
	return fmt.Errorf("it is not a disk image, but %q with %d layers; a disk image has one", kind, len(m.Layers))
}

// parts returns what belongs to the image, by the names of parts. The layer's annotations name
// the block map and the manifest; signatures are joined, and of several others it is the first that is listed.
func (i *Image) parts(ctx context.Context) (map[string][]byte, error) {
	list, _, err := i.client.Referrers(ctx, i.Digest)
	if err != nil {
		return nil, err
	}
	seen := map[v1.Hash]bool{}
	list = slices.DeleteFunc(list, func(d v1.Descriptor) bool {
		again := seen[d.Digest]
		seen[d.Digest] = true
		return again || partOf(d.ArtifactType) == nil && d.ArtifactType != "" && d.ArtifactType != emptyType
	})
	if len(list) > maxReferrers {
		return nil, fmt.Errorf("%d manifests that may belong to an image refer to it, the limit is %d", len(list), maxReferrers)
	}
	found := map[string][]byte{}
	for _, d := range list {
		name, data, err := i.part(ctx, d)
		if err != nil {
			return nil, err
		}
		switch have := found[name]; {
		case data == nil:
		case name == artifact.Signature || name == artifact.Minisig:
			if found[name] = join(have, data); len(found[name]) > maxPart {
				return nil, fmt.Errorf("its signatures have more than the limit of %d bytes", maxPart)
			}
		case have == nil:
			found[name] = data
		}
	}
	return found, nil
}

// join returns what two files of signatures have: a file may have several, and every push of an
// image that was signed again adds one.
func join(a, b []byte) []byte {
	switch {
	case bytes.Contains(b, a):
		return b
	case bytes.Contains(a, b):
		return a
	case bytes.Compare(a, b) > 0: // in the same order, however they are listed
		a, b = b, a
	}
	return slices.Concat(bytes.TrimRight(a, "\n"), []byte("\n"), b)
}

// part reads a part and its name. Without data it belongs to another image, or is not known. Some
// registries list the type of the config as that of the artifact, so it is read from the manifest.
func (i *Image) part(ctx context.Context, d v1.Descriptor) (name string, data []byte, err error) {
	r, err := i.client.Get(ctx, "manifests", d.Digest.String())
	m, err := readManifest(r, err, &d)
	if err != nil {
		return "", nil, err
	}
	p := partOf(m.ArtifactType)
	switch {
	case p == nil || len(m.Layers) != 1: // of another program
		return "", nil, nil
	case m.Subject == nil || m.Subject.Digest != i.Digest:
		return "", nil, fault.New(fault.Corrupt, "manifest %s is listed for %s, and does not name it as its subject", d.Digest, i.Digest)
	}
	want := map[string]string{"manifest": i.Layer.Annotations[manifestSHA256], "block map": i.Layer.Annotations[bmapSHA256]}
	if sha, ok := want[p.Name]; ok && m.Layers[0].Digest.Hex != sha {
		return "", nil, nil
	}
	r, err = i.client.Get(ctx, "blobs", m.Layers[0].Digest.String())
	if data, err = registry.ReadLimited(r, err, m.Layers[0], p.Limit); err != nil {
		return "", nil, fmt.Errorf("its %s: %w", p.Name, err)
	}
	return p.Name, data, nil
}
