package source

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"imgtool/image"
	"imgtool/image/compress"
	"imgtool/image/hostfile"
	"imgtool/image/registry"
	"imgtool/image/tree"
	"imgtool/image/tree/tarfs"
)

// maxLayers is the largest number of layers of an image. Docker allows 127.
const maxLayers = 1000

// blobs opens a part of a container image, kind "manifests" or "blobs", by digest. The caller
// verifies the digest: the layouts of go-containerregistry do not, and it has no type for a
// mismatch.
type blobs func(ctx context.Context, kind, digest string) (io.ReadCloser, error)

// container is a source of container images and the reference to it.
type container struct {
	ref  string
	open blobs
}

func isLayout(dir string) bool {
	for _, name := range []string{"oci-layout", "index.json"} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || !fi.Mode().IsRegular() {
			return false
		}
	}
	return true
}

func isLayoutArchive(t *tree.Tree) bool {
	l, i := t.Lookup("oci-layout"), t.Lookup("index.json")
	return l != nil && i != nil && l.Type() == tree.Regular && i.Type() == tree.Regular
}

// file is a blob that can be read at any offset until the Opener is closed.
type file struct{ *io.SectionReader }

func (file) Close() error { return nil }

func (o *Opener) openInDir(dir, name string) (io.ReadCloser, error) {
	f, err := hostfile.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, reason(name, err)
	}
	o.keep(f.Close)
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return file{io.NewSectionReader(f, 0, fi.Size())}, nil
}

func openIn(t *tree.Tree, path string) (io.ReadCloser, error) {
	n, err := t.Open(path)
	if err != nil {
		return nil, err
	}
	if n.Type() != tree.Regular {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	return file{io.NewSectionReader(contentOf(n), 0, n.Size())}, nil
}

func contentOf(n *tree.Inode) image.Content {
	if n.Content == nil {
		return image.Zeros(0)
	}
	return n.Content
}

// layout opens the image of an OCI layout that in selects. open opens a file of the layout. t
// is the tar that the layout is in, or nil.
func (o *Opener) layout(ctx context.Context, in within, t *tree.Tree, open func(name string) (io.ReadCloser, error)) (*Root, error) {
	r, err := open("index.json")
	raw, err := registry.ReadAll(r, err, 0)
	if err != nil {
		return nil, named(in.ref, err)
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, &CorruptError{in.ref + ": index.json", err}
	}
	// docker save writes both lists; the index may be empty.
	if len(index.Manifests) == 0 && t != nil {
		if images := dockerImages(t); len(images) > 0 {
			return o.dockerArchive(ctx, in, t, images)
		}
	}
	var all []held
	for _, d := range index.Manifests {
		all = append(all, heldOf(d))
	}
	picked, err := in.pick(all)
	if err != nil {
		return nil, err
	}
	var fit []v1.Descriptor
	for _, i := range picked {
		fit = append(fit, index.Manifests[i])
	}
	return o.choose(ctx, container{in.ref, func(_ context.Context, _, digest string) (io.ReadCloser, error) {
		return open("blobs/" + strings.Replace(digest, ":", "/", 1))
	}}, fit, 0)
}

// choose opens the image for the architecture of the board among the descriptors.
func (o *Opener) choose(ctx context.Context, in container, descs []v1.Descriptor, depth int) (*Root, error) {
	var fit []v1.Descriptor
	var there []string
	for _, d := range descs {
		p := d.Platform
		switch {
		case d.Annotations["vnd.docker.reference.type"] != "": // an attestation, not an image
		case p == nil || p.OS == "" && p.Architecture == "":
			fit = append(fit, d)
		case p.OS == "linux" && p.Architecture == o.arch() && (p.Architecture != "arm" || p.Variant <= "v7"):
			fit = append(fit, d)
		default:
			there = append(there, p.String())
		}
	}
	// Prefer images that state their platform, then the newest variant of the architecture,
	// then the first.
	slices.SortStableFunc(fit, func(a, b v1.Descriptor) int { return cmp.Compare(variant(b), variant(a)) })
	switch {
	case len(fit) == 0 && len(there) == 0:
		return nil, fmt.Errorf("%s: no images in the index", in.ref)
	case len(fit) == 0:
		return nil, fmt.Errorf("%s: no image for linux/%s, only for %s", in.ref, o.arch(), strings.Join(there, ", "))
	}
	d := fit[0] // the first, as the specification says
	r, err := in.open(ctx, "manifests", d.Digest.String())
	raw, err := registry.ReadVerified(r, err, d)
	if err != nil {
		return nil, blobError(in.ref, "manifest", d.Digest, err)
	}
	return o.manifest(ctx, in, d.Digest, raw, depth)
}

func (o *Opener) arch() string { return cmp.Or(o.opt.Arch, runtime.GOARCH) }

func variant(d v1.Descriptor) string {
	if d.Platform == nil {
		return ""
	}
	return d.Platform.OS + d.Platform.Variant
}

// manifest opens the image or index that raw describes. Its digest has been verified.
func (o *Opener) manifest(ctx context.Context, in container, digest v1.Hash, raw []byte, depth int) (*Root, error) {
	var m struct {
		v1.Manifest
		Manifests []v1.Descriptor `json:"manifests"`
		FSLayers  []any           `json:"fsLayers"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, &CorruptError{in.ref + ": manifest " + digest.String(), err}
	}
	switch {
	case len(m.Manifests) > 0 || m.MediaType.IsIndex():
		if depth == 4 {
			return nil, fmt.Errorf("%s: more than 4 nested indexes", in.ref)
		}
		return o.choose(ctx, in, m.Manifests, depth+1)
	case m.SchemaVersion == 1 || m.FSLayers != nil:
		return nil, fmt.Errorf("%s: images of Docker schema 1 are not supported", in.ref)
	case m.Config.Digest.Hex == "":
		return nil, &CorruptError{in.ref + ": manifest " + digest.String(), errors.New("the config is missing")}
	}
	var layers []layer
	for _, l := range m.Layers {
		if !isLayer(l.MediaType) {
			return nil, fmt.Errorf("%s: not a root file system, but %s", in.ref, l.MediaType)
		}
		layers = append(layers, layer{&l, func(ctx context.Context) (io.ReadCloser, error) { return in.open(ctx, "blobs", l.Digest.String()) }})
	}
	r, err := in.open(ctx, "blobs", m.Config.Digest.String())
	conf, err := registry.ReadVerified(r, err, m.Config)
	if err != nil {
		return nil, blobError(in.ref, "config", m.Config.Digest, err)
	}
	return o.layers(ctx, in.ref, "oci "+digest.String(), conf, layers)
}

// IsLayer does not know Docker's zstd layers, nor all nondistributable ones.
func isLayer(m types.MediaType) bool { return m.IsLayer() || strings.Contains(string(m), ".tar") }

func blobError(ref, part string, d v1.Hash, err error) error {
	name := fmt.Sprintf("%s: %s", ref, part)
	if errors.As(err, new(*registry.MismatchError)) {
		return &CorruptError{name, err}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return &CorruptError{name, fmt.Errorf("%s is missing", d)}
	}
	return named(name, err)
}

// config parses the config of an image. Another architecture is only a warning, because tools
// that pack files into an image state the architecture of the machine they run on.
func (o *Opener) config(ref string, raw []byte) (*v1.ConfigFile, error) {
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, &CorruptError{ref + ": config", err}
	}
	os, arch := cmp.Or(config.OS, "linux"), config.Architecture
	if os != "linux" {
		return nil, fmt.Errorf("%s: the image is for %s, not for linux", ref, os)
	}
	if o.opt.Arch != "" && arch != "" && arch != o.opt.Arch && o.opt.Warn != nil {
		o.opt.Warn(fmt.Sprintf("%s: the image says it is for %s, the board is %s: it is used anyway", ref, arch, o.opt.Arch))
	}
	return config, nil
}

// layer is a layer of an image. desc is nil in archives of "docker save", which state neither
// size nor digest of the file.
type layer struct {
	desc *v1.Descriptor
	open func(ctx context.Context) (io.ReadCloser, error)
}

// layers decompresses the layers of an image, several at once, and applies them in order. raw
// is its config.
func (o *Opener) layers(ctx context.Context, ref, origin string, raw []byte, layers []layer) (*Root, error) {
	if len(layers) > maxLayers {
		return nil, fmt.Errorf("%s: the image has %d layers, the limit is %d", ref, len(layers), maxLayers)
	}
	config, err := o.config(ref, raw)
	if err != nil {
		return nil, err
	}
	if n, d := len(layers), len(config.RootFS.DiffIDs); n != d {
		return nil, &CorruptError{ref, fmt.Errorf("%d layers in the manifest, %d in the config", n, d)}
	}
	contents := make([]image.Content, len(layers))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(min(4, runtime.GOMAXPROCS(0)))
	for i, l := range layers {
		g.Go(func() error {
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			part, diffID := fmt.Sprintf("layer %d", i+1), config.RootFS.DiffIDs[i]
			r, err := l.open(gctx)
			if err == nil {
				defer r.Close()
				contents[i], err = o.layer(gctx, ref+": "+part, r, l.desc, diffID)
			}
			if err == nil {
				return nil
			}
			if l.desc != nil {
				diffID = l.desc.Digest
			}
			return blobError(ref, part, diffID, err)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	t := tree.New(o.opt.ModTime)
	for i, c := range contents {
		if c.Size() == 0 {
			continue
		}
		if err := tarfs.ApplyLayer(t, c, c.Size()); err != nil {
			return nil, named(fmt.Sprintf("%s: layer %d", ref, i+1), err)
		}
	}
	root := &Root{Tree: t, Origin: origin}
	for i, l := range layers {
		about := Layer{Digest: config.RootFS.DiffIDs[i].String()}
		if l.desc != nil {
			about = Layer{string(l.desc.MediaType), l.desc.Digest.String(), l.desc.Size}
		}
		root.Layers = append(root.Layers, about)
	}
	return root, nil
}

// maxRest limits the bytes of a layer that are read after the end of its compressed stream, or
// after an error in it.
const maxRest = 64 << 20

// layer verifies a layer and decompresses it if necessary.
func (o *Opener) layer(ctx context.Context, name string, r io.Reader, desc *v1.Descriptor, diffID v1.Hash) (image.Content, error) {
	if f, ok := r.(file); ok {
		if k, err := sniff(f); err != nil {
			return nil, err
		} else if k != packed {
			sum, err := hash(ctx, f)
			if err == nil && desc != nil {
				err = registry.Compare("digest", sum, desc.Digest)
			}
			if err != nil {
				return nil, err
			}
			return f, registry.Compare("diff id", sum, diffID)
		}
	}

	limit := int64(math.MaxInt64)
	if desc != nil {
		if limit = desc.Size; limit > o.opt.Unpacked.Limit() {
			return nil, fmt.Errorf("its manifest announces %d bytes, and --max-unpacked allows %d", limit, o.opt.Unpacked.Limit())
		}
	}
	packed, plain := sha256.New(), sha256.New()
	from := &compress.Input{R: io.LimitReader(r, limit)}
	in := io.TeeReader(from, packed)
	c, err := o.unpack(ctx, name, in, layerLike, plain)
	if from.Err() != nil || ctx.Err() != nil {
		return nil, err
	}
	if desc != nil {
		// The digest is of all bytes, and a wrong one explains more than an error of the
		// decompressor.
		n, rerr := io.CopyN(io.Discard, image.NewReader(ctx, in, nil), maxRest+1)
		switch {
		case rerr != nil && rerr != io.EOF:
			return nil, rerr
		case n > maxRest && err != nil:
			return nil, err
		case n > maxRest:
			return nil, &CorruptError{"compressed stream", fmt.Errorf("more than %d bytes follow its end", maxRest)}
		}
		if err := registry.Compare("digest", hex.EncodeToString(packed.Sum(nil)), desc.Digest); err != nil {
			return nil, err
		}
		if n, _ := r.Read(make([]byte, 1)); n > 0 {
			return nil, &registry.MismatchError{What: "size", Got: fmt.Sprintf("at least %d bytes", desc.Size+1), Want: fmt.Sprint(desc.Size)}
		}
	}
	if err != nil {
		return nil, err
	}
	return c, registry.Compare("diff id", hex.EncodeToString(plain.Sum(nil)), diffID)
}

// layerLike accepts a tar, or nothing: some tools write empty layers of no bytes.
func layerLike(head []byte) error {
	if len(head) == 0 || kindOf(head) == tarball {
		return nil
	}
	return tarfs.ErrNotTar
}
