package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"imgtool/image"
	"imgtool/image/tree"
)

// dockerImage is an entry of manifest.json in an archive of "docker save".
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func isDockerArchive(t *tree.Tree) bool {
	n := t.Lookup("manifest.json")
	if n == nil || n.Type() != tree.Regular || n.Size() > maxManifest {
		return false
	}
	images, err := dockerImages(t)
	return err == nil && len(images) > 0
}

// dockerImages returns the entries that have a config; others may be null.
func dockerImages(t *tree.Tree) (images []dockerImage, err error) {
	r, err := openIn(t, "manifest.json")
	raw, err := readAll(r, err, 0)
	if err != nil {
		return nil, err
	}
	err = json.Unmarshal(raw, &images)
	return slices.DeleteFunc(images, func(im dockerImage) bool { return im.Config == "" }), err
}

// id returns the digest of the config, if its name contains it.
func (im dockerImage) id() (v1.Hash, error) {
	name := strings.TrimSuffix(im.Config[strings.LastIndexByte(im.Config, '/')+1:], ".json")
	return v1.NewHash("sha256:" + strings.TrimPrefix(name, "sha256:"))
}

func (o *Opener) dockerArchive(ctx context.Context, in within, t *tree.Tree) (*Root, error) {
	ref := in.ref
	images, err := dockerImages(t)
	if err != nil {
		return nil, named(ref, err)
	}
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
	if len(im.Layers) > maxLayers {
		return nil, tooManyLayers(ref, len(im.Layers))
	}

	r, err := openIn(t, im.Config)
	raw, err := readAll(r, err, 0)
	if err != nil {
		return nil, blobError(ref, "config", v1.Hash{}, err)
	}
	sum := sha256.Sum256(raw)
	if want, err := im.id(); err == nil {
		if err := compare("digest", sum[:], want); err != nil {
			return nil, blobError(ref, "config", want, err)
		}
	}
	config, err := o.config(ref, raw)
	if err != nil {
		return nil, err
	}
	if n, d := len(im.Layers), len(config.RootFS.DiffIDs); n != d {
		return nil, &CorruptError{ref, fmt.Errorf("%d layers in the manifest, %d in the config", n, d)}
	}
	root, err := o.layers(ctx, ref, len(im.Layers), func(ctx context.Context, i int) (image.Content, error) {
		diffID := config.RootFS.DiffIDs[i]
		r, err := openIn(t, im.Layers[i])
		if err == nil {
			var c image.Content
			if c, err = o.layer(ctx, fmt.Sprintf("%s: layer %d", ref, i+1), r, nil, diffID); err == nil {
				return c, nil
			}
		}
		return nil, blobError(ref, fmt.Sprintf("layer %d", i+1), diffID, err)
	})
	if err != nil {
		return nil, err
	}
	return &Root{Tree: root, Origin: "docker sha256:" + hex.EncodeToString(sum[:])}, nil
}
