package source

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"imgtool/image/registry"
	"imgtool/image/tree"
)

// dockerImage is an entry of manifest.json in an archive of "docker save".
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerImages returns the entries that have a config, because others may be null. A tar
// without any is not an archive of "docker save".
func dockerImages(t *tree.Tree) (images []dockerImage) {
	r, err := openIn(t, "manifest.json")
	raw, err := registry.ReadAll(r, err, 0)
	if err != nil || json.Unmarshal(raw, &images) != nil {
		return nil
	}
	return slices.DeleteFunc(images, func(im dockerImage) bool { return im.Config == "" })
}

// id returns the digest of the config, if its name contains it.
func (im dockerImage) id() (v1.Hash, error) {
	name := strings.TrimSuffix(im.Config[strings.LastIndexByte(im.Config, '/')+1:], ".json")
	return v1.NewHash("sha256:" + strings.TrimPrefix(name, "sha256:"))
}

func (o *Opener) dockerArchive(ctx context.Context, in within, t *tree.Tree, images []dockerImage) (*Root, error) {
	ref := in.ref
	var all []held
	for _, im := range images {
		h := held{full: im.RepoTags, id: im.Config}
		if id, err := im.id(); err == nil {
			h.id = id.String()
		}
		all = append(all, h)
	}
	picked, err := in.pick(all)
	if err != nil {
		return nil, err
	}
	first := all[picked[0]]
	if i := slices.IndexFunc(picked, func(i int) bool { return all[i].id != first.id }); i > 0 && in.name == "" {
		return nil, fmt.Errorf("%s: several images: choose one: %s", ref, in.list(all))
	}
	im := images[picked[0]]
	r, err := openIn(t, im.Config)
	raw, err := registry.ReadAll(r, err, 0)
	if err != nil {
		return nil, blobError(ref, "config", v1.Hash{}, err)
	}
	digest, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	if want, err := im.id(); err == nil {
		if err := registry.Compare("digest", digest.Hex, want); err != nil {
			return nil, blobError(ref, "config", want, err)
		}
	}
	var layers []layer
	for _, name := range im.Layers {
		layers = append(layers, layer{open: func(context.Context) (io.ReadCloser, error) { return openIn(t, name) }})
	}
	return o.layers(ctx, ref, "docker "+digest.String(), raw, layers)
}
