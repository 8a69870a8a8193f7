package build

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"imgtool/image/artifact"
	"imgtool/image/sbom"
	"imgtool/image/source"
	"imgtool/image/tree"
	"imgtool/layouts"
)

// scan lists the packages in all partitions, so that a database that cannot be read is found
// before the long compression.
func (b *builder) scan() error {
	if !b.SBOM {
		return nil
	}
	b.installed = map[string][]sbom.Package{}
	known := map[*tree.Tree][]sbom.Package{}
	for _, d := range b.disks {
		for _, p := range d.placed.Parts {
			full := d.Name + "/" + p.Name
			t, err := b.treeIn(d, p)
			if err == nil && t == nil {
				continue
			}
			if _, ok := known[t]; err == nil && !ok {
				known[t], err = sbom.Scan(t, b.Warn)
			}
			if err != nil {
				return fmt.Errorf("partition %s: listing its packages: %w", full, err)
			}
			b.installed[full] = known[t]
		}
	}
	if b.root != nil && b.root.Debs == nil && !slices.ContainsFunc(slices.Collect(maps.Values(b.installed)), func(found []sbom.Package) bool { return len(found) > 0 }) {
		b.Warn("--sbom: " + sbom.NoPackages)
	}
	return nil
}

// treeIn returns the files in a partition, or nil if it has no file system that can be read.
func (b *builder) treeIn(d *disk, p layouts.Part) (*tree.Tree, error) {
	full := d.Name + "/" + p.Name
	switch c := b.parts[full]; {
	case p.Deferred:
		return nil, nil
	case c != nil:
		if v := sbom.ReadFS("partition "+full, c, c.Size(), b.Warn); v != nil {
			return v.Tree, nil
		}
		return nil, nil
	case p.Content == "rootfs":
		return b.rootTree()
	}
	return b.trees[p.Tree], nil
}

// bom describes the image of a medium, without its file name and checksum.
func (b *builder) bom(d *disk) *sbom.Document {
	if !b.SBOM {
		return nil
	}
	name := b.Board.Name
	if d.prefix != "" {
		name += "-" + d.Name
	}
	img := sbom.Package{Info: sbom.Info{Kind: "image", Name: name, Version: b.buildID, Purpose: "OPERATING_SYSTEM"}}
	rooted := false
	for _, p := range d.placed.Parts {
		full := d.Name + "/" + p.Name
		if b.parts[full] != nil {
			i := slices.IndexFunc(b.inputs, func(in artifact.Input) bool { return in.Name == "partition "+full })
			img.Contains = append(img.Contains, sbom.Package{Contains: b.installed[full],
				Info: sbom.Info{Kind: "partition", Name: p.Name, SHA256: b.inputs[i].SHA256, Purpose: "FILE", Comment: "given as the content of the partition " + p.Name}})
			continue
		}
		img.Contains = append(img.Contains, b.installed[full]...)
		rooted = rooted || !p.Deferred && (p.Content == "rootfs" || b.trees[p.Tree] != nil)
	}
	for _, name := range slices.Sorted(maps.Keys(b.files)) {
		if purpose := b.purpose(d, name, rooted); purpose != "" {
			f := b.files[name]
			img.Contains = append(img.Contains, sbom.Package{From: debs(f.Debs),
				Info: sbom.Info{Kind: "file", Name: name, File: path.Base(name), SHA256: f.SHA256, Purpose: purpose, Comment: f.Origin}})
		}
	}
	if rooted && b.root != nil {
		img.Contains = append(img.Contains, debs(b.root.Debs)...)
		img.From = append(img.From, b.rootInput())
	}
	if b.Seed != nil && b.Board.Seed.Path != "" {
		img.Contains = append(img.Contains, sbom.Package{Info: sbom.Seed})
	}
	for _, def := range b.definitions(d) {
		img.From = append(img.From, sbom.Package{Info: sbom.Info{Kind: "definition", Name: def.name, SHA256: def.sha256, Purpose: "SOURCE"}})
	}
	return &sbom.Document{Name: name + "-" + b.buildID, Image: img, Time: b.Time, Tool: "imgtool-" + b.Version}
}

// purpose returns the purpose of an input in the image of a medium, or "" if it is not in it.
func (b *builder) purpose(d *disk, input string, rooted bool) string {
	for _, blob := range d.Blobs {
		if blob.Input == input {
			return "FIRMWARE"
		}
	}
	for _, p := range d.placed.Parts {
		if p.Content == "input" && p.Input == input {
			return "FIRMWARE"
		}
		for _, f := range b.Board.Boot {
			if p.Content == "boot" && f.Input == input {
				return "FILE"
			}
		}
	}
	for _, o := range b.Board.Optional {
		if rooted && o.Input == input && o.Path != "" {
			return "FILE"
		}
	}
	return ""
}

func debs(list []source.Deb) (all []sbom.Package) {
	for _, p := range list {
		all = append(all, sbom.Package{Info: sbom.Debian(p.Name, p.Version, p.Arch, p.SHA256)})
	}
	return all
}

// rootInput describes the root file system as it was given.
func (b *builder) rootInput() sbom.Package {
	ref := shortRef(b.Inputs["rootfs"])
	digest, ok := strings.CutPrefix(b.root.Origin, "oci ")
	if ok || strings.HasPrefix(b.root.Origin, "docker ") {
		p := sbom.Package{Info: sbom.Info{Kind: "oci", Name: ref, Version: digest, Purpose: "CONTAINER"}}
		if ok {
			p.SHA256, p.PURL = strings.TrimPrefix(digest, "sha256:"), sbom.OCI(ref, digest)
		} else {
			p.Version = strings.TrimPrefix(b.root.Origin, "docker ")
			p.Comment = "an archive of docker save; the version is the digest of its config"
		}
		for i, l := range b.root.Layers {
			about := "uncompressed"
			if l.MediaType != "" {
				about = fmt.Sprintf("%s of %d bytes", l.MediaType, l.Size)
			}
			p.Contains = append(p.Contains, sbom.Package{Info: sbom.Info{Kind: "layer", Name: layerName(i), Version: l.Digest, SHA256: strings.TrimPrefix(l.Digest, "sha256:"), Purpose: "ARCHIVE", Comment: about}})
		}
		return p
	}
	p := sbom.Info{Kind: "input", Name: "rootfs", Purpose: "ARCHIVE", Comment: ref}
	if b.root.Ready != nil {
		p.SHA256 = b.root.Digest
	} else {
		p.Comment = fmt.Sprintf("%s; imgtool's digest of its files is %s", ref, b.root.Digest)
	}
	return sbom.Package{Info: p}
}

func layerName(i int) string { return fmt.Sprintf("layer %d", i+1) }

// shortRef returns a reference, of a path only the last element: where a file was on the machine
// that built the image is not part of the build.
func shortRef(ref string) string {
	for _, scheme := range []string{"deb:", "rootfs:", "starter", "docker://", "oci://"} {
		if strings.HasPrefix(ref, scheme) {
			return ref
		}
	}
	return path.Base(ref)
}

// definition is a text that a build is defined by.
type definition struct{ name, sha256 string }

// definitions returns the definition of the board, the layout of a medium, and all edits.
func (b *builder) definitions(d *disk) (all []definition) {
	add := func(name string, text []byte) {
		sum := sha256.Sum256(text)
		if def := (definition{name, hex.EncodeToString(sum[:])}); !slices.Contains(all, def) {
			all = append(all, def)
		}
	}
	add("board "+b.Board.Name, b.Board.Source)
	add("layout "+path.Base(d.LayoutName), d.LayoutSource)
	for _, t := range b.Board.Trees {
		for _, s := range t.Steps {
			add("edits "+path.Base(s.Edits), s.Text)
		}
	}
	if b.EditsText != nil {
		add("edits of the command line", b.EditsText)
	}
	return all
}
