package oci

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/progress"
	"imgtool/image/registry"
	"imgtool/image/remote"
	"imgtool/image/sanitize"
)

// PushOptions are how images are pushed.
type PushOptions struct {
	Network     remote.Network
	PlainHTTP   bool              // allow HTTP without TLS
	Tags        []string          // more tags than the one in the reference
	Annotations map[string]string // of the manifests of images and of the index
	Reporter    progress.Reporter
}

// Pushed is what [Push] stored.
type Pushed struct {
	Reference string        `json:"reference"` // with the tag
	Digest    string        `json:"digest"`    // of the manifest or index with the tags
	MediaType string        `json:"media_type"`
	Tags      []string      `json:"tags"`
	Images    []PushedImage `json:"images"`
	Uploaded  int64         `json:"uploaded"` // bytes of blobs that the registry did not have
}

// PushedImage is an image of what was pushed.
type PushedImage struct {
	Path   string   `json:"path"`
	Medium string   `json:"medium,omitempty"`
	Digest string   `json:"digest"`    // of its manifest
	Layer  string   `json:"layer"`     // the digest of the file
	Size   int64    `json:"file_size"` // of the file
	Parts  []string `json:"parts"`     // files that belong to it and were pushed too
}

// Push stores images in a registry: several as an index, for the media of a board. Tags are set
// last. The same files give the same digests.
func Push(ctx context.Context, ref string, files []*File, opt PushOptions) (*Pushed, error) {
	p := &push{opt: opt, blobs: map[v1.Hash]source{}}
	if err := p.check(ref, files); err != nil {
		return nil, err
	}
	total := int64(0)
	for _, f := range files {
		if info, err := os.Stat(f.Path); err == nil {
			total += info.Size()
		}
	}
	reading := opt.Reporter.Phase("reading", total)
	for _, f := range files {
		if err := f.read(ctx, reading); err != nil {
			return nil, err
		}
	}
	// A part of an index is never tagged, so its order need not be that of the command line.
	slices.SortFunc(files, func(a, b *File) int { return strings.Compare(a.medium(), b.medium()) })
	if err := p.describe(files); err != nil {
		return nil, err
	}
	err := p.send(ctx)
	opt.Reporter.EndPhase()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	return &p.done, nil
}

// push is a push.
type push struct {
	opt    PushOptions
	in     name.Tag
	client *registry.Client
	blobs  map[v1.Hash]source
	order  []v1.Descriptor // of blobs
	images []blob          // manifests
	parts  []part
	top    blob // what is tagged
	done   Pushed
}

// source is where a blob is: in a file, or in memory.
type source struct {
	path string
	data []byte
}

// part is the manifest of a part of an image.
type part struct {
	blob
	subject     v1.Hash
	kind        string
	annotations map[string]string
}

// check checks what needs no registry.
func (p *push) check(ref string, files []*File) error {
	in, err := parse(ref, p.opt.PlainHTTP)
	if err != nil {
		return err
	}
	tag, ok := in.(name.Tag)
	if !ok {
		return fault.New(fault.Usage, "%s names a digest, which only the registry gives: name a tag, as in %s:latest", ref, in.Context())
	}
	p.in = tag
	p.done.Reference, p.done.Tags = tag.String(), []string{tag.TagStr()}
	for _, t := range p.opt.Tags {
		if !goodTag.MatchString(t) {
			return fault.New(fault.Usage, "--tag %s: a tag has up to 128 letters, digits and . _ -, and begins with a letter, a digit or _", t)
		}
		if !slices.Contains(p.done.Tags, t) {
			p.done.Tags = append(p.done.Tags, t)
		}
	}
	for key, value := range p.opt.Annotations {
		if !sanitize.IsLine(key) || sanitize.Text(value) != value {
			return fault.New(fault.Usage, "--annotation %q: its key must be one line of printable characters, and its value text without other control characters than line ends and tabs", key+"="+value)
		}
	}
	if err := checkSet(files); err != nil {
		return err
	}
	for _, f := range files {
		if _, err := f.arch(); err != nil {
			return err
		}
		if f.private() {
			p.opt.Reporter.Warnf("%s can be read by its owner alone, as an image with secrets: everybody who can pull %s gets them", f.Path, tag)
		}
	}
	return nil
}

// describe makes the manifests.
func (p *push) describe(files []*File) error {
	var list []v1.Descriptor
	for _, f := range files {
		d, err := p.image(f)
		if err != nil {
			return err
		}
		list = append(list, d)
	}
	p.top = p.images[0]
	if len(files) == 1 {
		p.done.Digest, p.done.MediaType = p.top.Digest.String(), string(p.top.MediaType)
		return nil
	}
	first := files[0]
	about := annotations(title, first.board(), board, first.board(), description, "disk images of "+first.board())
	about[created] = slices.MaxFunc(files, func(a, b *File) int { return strings.Compare(timeOf(a.Manifest), timeOf(b.Manifest)) }).created()
	if id := first.Manifest.BuildID; id != "" && !slices.ContainsFunc(files, func(f *File) bool { return f.Manifest.BuildID != id }) {
		about[version] = id
	}
	for k, v := range p.opt.Annotations {
		about[k] = v
	}
	var err error
	p.top, err = encode(types.OCIImageIndex, v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, ArtifactType: ArtifactType, Manifests: list, Annotations: about})
	p.done.Digest, p.done.MediaType = p.top.Digest.String(), string(p.top.MediaType)
	return err
}

func (f *File) created() string { return timeOf(f.Manifest) }

// image makes the manifests of an image and of its parts. It returns the descriptor for an
// index.
func (p *push) image(f *File) (v1.Descriptor, error) {
	config, err := f.config()
	if err != nil {
		return v1.Descriptor{}, err
	}
	p.add(config.Descriptor, source{data: config.data})
	p.add(f.layer, source{path: f.Path})
	m, err := encode(types.OCIManifestSchema1, v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: ArtifactType,
		Config: config.Descriptor, Layers: []v1.Descriptor{f.layer}, Annotations: f.about(p.opt.Annotations),
	})
	if err != nil {
		return v1.Descriptor{}, err
	}
	p.images = append(p.images, m)
	done := PushedImage{Path: f.Path, Medium: f.medium(), Digest: m.Digest.String(), Layer: f.layer.Digest.String(), Size: f.layer.Size, Parts: []string{}}
	for _, part := range f.parts {
		if err := p.part(f, m.Descriptor, part); err != nil {
			return v1.Descriptor{}, err
		}
		done.Parts = append(done.Parts, part.Name)
	}
	p.done.Images = append(p.done.Images, done)
	arch, err := f.arch()
	d := m.Descriptor
	d.ArtifactType, d.Platform = ArtifactType, &v1.Platform{OS: "linux", Architecture: arch}
	d.Annotations = annotations(board, f.board(), medium, f.medium())
	return d, err
}

// part makes the manifest of a part of an image.
func (p *push) part(f *File, subject v1.Descriptor, of filePart) error {
	config := newBlob(emptyType, emptyConfig)
	config.Data = emptyConfig
	layer := newBlob(types.MediaType(of.Type), of.data)
	layer.Annotations = annotations(title, baseOf(of.Path(f.Path)))
	p.add(config.Descriptor, source{data: emptyConfig})
	p.add(layer.Descriptor, source{data: of.data})
	about := annotations(title, baseOf(of.Path(f.Path)), created, timeOf(f.Manifest))
	m, err := encode(types.OCIManifestSchema1, v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: of.Type,
		Config: config.Descriptor, Layers: []v1.Descriptor{layer.Descriptor}, Subject: &subject, Annotations: about,
	})
	p.parts = append(p.parts, part{m, subject.Digest, of.Type, about})
	return err
}

func baseOf(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

func (p *push) add(d v1.Descriptor, s source) {
	if _, ok := p.blobs[d.Digest]; !ok {
		p.blobs[d.Digest] = s
		p.order = append(p.order, d)
	}
}

// send sends blobs, manifests and tags, in this order: what has a name is complete.
func (p *push) send(ctx context.Context) (err error) {
	if p.client, err = registry.Open(ctx, p.in.Context(), registry.Options{Network: p.opt.Network, Push: true}); err != nil {
		return err
	}
	if err := p.sendBlobs(ctx); err != nil {
		return err
	}
	for _, m := range p.images {
		if _, err := p.client.PutManifest(ctx, m.Digest.String(), m.MediaType, m.data); err != nil {
			return err
		}
	}
	for _, part := range p.parts {
		listed, err := p.client.PutManifest(ctx, part.Digest.String(), part.MediaType, part.data)
		if err == nil && !listed {
			err = p.list(ctx, part)
		}
		if err != nil {
			return err
		}
	}
	for _, tag := range p.done.Tags {
		if _, err := p.client.PutManifest(ctx, tag, p.top.MediaType, p.top.data); err != nil {
			return err
		}
	}
	return nil
}

func (p *push) sendBlobs(ctx context.Context) error {
	var missing []v1.Descriptor
	for _, d := range p.order {
		has, err := p.client.Has(ctx, "blobs", d.Digest)
		if err != nil {
			return err
		}
		if !has {
			missing = append(missing, d)
			p.done.Uploaded += d.Size
		}
	}
	if len(missing) == 0 {
		return nil
	}
	sent := p.opt.Reporter.Phase("uploading", p.done.Uploaded)
	for _, d := range missing {
		if err := p.sendBlob(ctx, d, sent.Add); err != nil {
			return err
		}
	}
	return nil
}

func (p *push) sendBlob(ctx context.Context, d v1.Descriptor, sent func(int64)) error {
	s := p.blobs[d.Digest]
	var content io.ReaderAt = bytes.NewReader(s.data)
	if s.path != "" {
		f, err := hostfile.Open(s.path)
		if err != nil {
			return err
		}
		defer f.Close()
		content = hostfile.NewReaderAt(s.path, f)
	}
	return p.client.PutBlob(ctx, d, content, sent)
}

// list adds a part to the index under the fallback tag of its image, for a registry that does
// not keep the list itself.
func (p *push) list(ctx context.Context, part part) error {
	list, api, err := p.client.Referrers(ctx, part.subject)
	if err != nil || api {
		return err
	}
	if slices.ContainsFunc(list, func(d v1.Descriptor) bool { return d.Digest == part.Digest }) {
		return nil
	}
	d := part.Descriptor
	d.ArtifactType, d.Annotations = part.kind, part.annotations
	index, err := encode(types.OCIImageIndex, v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: append(list, d)})
	if err != nil {
		return err
	}
	_, err = p.client.PutManifest(ctx, registry.FallbackTag(part.subject), index.MediaType, index.data)
	return err
}
