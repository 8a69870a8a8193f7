package build

import (
	"maps"
	"slices"
	"strings"

	"imgtool/image/provenance"
	"imgtool/image/sbom"
	"imgtool/image/source"
)

// parameters are the external parameters of a build in its provenance. Values of variables and
// the seed may be secret: it has only the names of the former, and whether there is a seed.
type parameters struct {
	Board       string            `json:"board"`
	Layout      string            `json:"layout"`
	Medium      string            `json:"medium"`
	Size        int64             `json:"size,omitempty"` // of the disk to fill
	Slots       string            `json:"slots"`
	Profile     string            `json:"profile,omitempty"`
	Inputs      map[string]string `json:"inputs"`               // references by name
	Partitions  map[string]string `json:"partitions,omitempty"` // references by name
	Flags       map[string]bool   `json:"flags,omitempty"`
	Variables   []string          `json:"variables,omitempty"`
	Generalize  bool              `json:"generalize,omitempty"`
	Cmdline     string            `json:"cmdline,omitempty"`
	BuildID     string            `json:"buildId,omitempty"`
	Compression string            `json:"compression,omitempty"`
	BlockSize   int               `json:"blockSize,omitempty"`
	Packed      bool              `json:"packed,omitempty"`
	Seed        bool              `json:"seed,omitempty"`
}

// settings are the internal parameters: what follows from the environment.
type settings struct {
	Time  int64 `json:"time"`            // seconds since 1970, of all that is made
	Clamp bool  `json:"clamp,omitempty"` // later times of files are set to it
}

// provenance states how the image of a medium is built, without its subject.
func (b *builder) provenance(d *disk) *provenance.Statement {
	if !b.Provenance {
		return nil
	}
	short := func(refs map[string]string) map[string]string {
		all := map[string]string{}
		for name, ref := range refs {
			if ref != "" {
				all[name] = shortRef(ref)
			}
		}
		return all
	}
	def := provenance.Definition{
		External: parameters{Board: b.Board.Name, Layout: d.LayoutName, Medium: d.Name, Size: b.Sizes[d.Name], Slots: b.Slots, Profile: b.Profile,
			Inputs: short(b.Inputs), Partitions: short(b.Parts), Flags: b.Flags, Variables: slices.Sorted(maps.Keys(b.Vars)), Generalize: b.Generalize,
			Cmdline: b.Cmdline, BuildID: b.BuildID, Compression: b.Compression, BlockSize: b.BlockSize, Packed: b.Packed, Seed: b.Seed != nil},
		Internal: settings{b.Time, b.Clamp},
	}
	add := func(r provenance.Resource) {
		if !slices.ContainsFunc(def.Dependencies, func(o provenance.Resource) bool {
			return o.Name == r.Name && o.URI == r.URI && maps.Equal(o.Digest, r.Digest)
		}) {
			def.Dependencies = append(def.Dependencies, r)
		}
	}
	sha256 := func(sum string) map[string]string { return map[string]string{"sha256": sum} }
	packages := func(list []source.Deb) {
		for _, p := range list {
			add(provenance.Resource{URI: sbom.Debian(p.Name, p.Version, p.Arch, "").PURL, Digest: sha256(p.SHA256)})
		}
	}
	for _, f := range b.definitions(d) {
		add(provenance.Resource{Name: f.name, Digest: sha256(f.sha256)})
	}
	for _, in := range b.inputs {
		r := provenance.Resource{Name: in.Name, Digest: sha256(in.SHA256)}
		if in.Name == "rootfs" && b.root.Ready == nil {
			// Not of a file: imgtool's digest of paths, metadata and contents.
			r.Digest = map[string]string{"imgtoolTree": in.SHA256}
		}
		add(r)
		if f := b.files[in.Name]; f != nil {
			packages(f.Debs)
		}
	}
	if b.root != nil {
		packages(b.root.Debs)
		if kind, digest, ok := strings.Cut(b.root.Origin, " sha256:"); ok {
			r := provenance.Resource{Name: "image of rootfs", Digest: sha256(digest)}
			if kind == "oci" {
				r.URI = sbom.OCI(shortRef(b.Inputs["rootfs"]), "sha256:"+digest)
			}
			add(r)
		}
		for i, l := range b.root.Layers {
			add(provenance.Resource{Name: layerName(i), Digest: sha256(strings.TrimPrefix(l.Digest, "sha256:")), MediaType: l.MediaType})
		}
	}
	s := provenance.New(b.Version, b.buildID, def)
	if b.Clamp {
		s.SetTime(b.Time)
	}
	return s
}
