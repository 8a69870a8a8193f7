package build_test

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"imgtool/image/build"
	"imgtool/image/edit/edittest"
	"imgtool/image/imagetest"
	"imgtool/image/provenance"
	"imgtool/image/sbom"
	"imgtool/image/sbom/sbomtest"
	"imgtool/image/tree"
	"imgtool/image/volume"
)

// statement checks a provenance with in-toto's own library and returns its predicate.
func statement(t *testing.T, img build.Image) *slsa.Provenance {
	t.Helper()
	text := img.Provenance.Encode(provenance.Resource{Name: "x.img", Digest: map[string]string{"sha256": strings.Repeat("0", 64)}})
	s := &intoto.Statement{}
	err := protojson.Unmarshal(text, s)
	if err == nil {
		err = s.Validate()
	}
	if err != nil || s.PredicateType != "https://slsa.dev/provenance/v1" {
		t.Fatalf("%s: %v\n%s", s.PredicateType, err, text)
	}
	inner, err := protojson.Marshal(s.Predicate)
	if err != nil {
		t.Fatal(err)
	}
	p := &slsa.Provenance{}
	if err := protojson.Unmarshal(inner, p); err != nil {
		t.Fatal(err)
	}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, d := range p.BuildDefinition.ResolvedDependencies {
		for algorithm, digest := range d.Digest {
			if b, err := hex.DecodeString(digest); err != nil || len(b) != 32 || algorithm != "sha256" && algorithm != "imgtoolTree" {
				t.Errorf("%s%s has the digest %s %q", d.Name, d.Uri, algorithm, digest)
			}
		}
	}
	return p
}

// The starter's documents name the Debian packages that it is made of, with their checksums.
func TestDocumentsOfTheStarter(t *testing.T) {
	imagetest.Long(t)
	r, err := buildBoard(t, "rock64", "", func(o *build.Options) { o.SBOM, o.Provenance, o.Version = true, true, "1.2" })
	if err != nil {
		t.Fatal(err)
	}
	img := r.Images[0]
	doc := img.SBOM.Encode()
	if !bytes.Equal(doc, img.SBOM.Encode()) {
		t.Error("the document differs the second time")
	}
	d := sbomtest.Read(t, doc)
	p := statement(t, img)
	var uris []string
	for _, dep := range p.BuildDefinition.ResolvedDependencies {
		uris = append(uris, dep.Uri)
	}
	for _, name := range []string{"busybox-static", "u-boot-rockchip", "linux-image-"} {
		for what, list := range map[string][]string{"SBOM": sbomtest.PURLs(d, "deb"), "provenance": uris} {
			if !slices.ContainsFunc(list, func(purl string) bool { return strings.HasPrefix(purl, "pkg:deb/debian/"+name) }) {
				t.Errorf("the %s has no %s: %s", what, name, strings.Join(list, "\n"))
			}
		}
	}
	for _, pkg := range d.Packages {
		if strings.HasPrefix(string(pkg.PackageSPDXIdentifier), "deb-") && len(pkg.PackageChecksums) != 1 {
			t.Errorf("%s has no checksum", pkg.PackageName)
		}
	}
	if p.RunDetails.Builder.Version["imgtool"] != "1.2" || p.RunDetails.Metadata.StartedOn != nil {
		t.Errorf("run details %v", p.RunDetails)
	}
}

// Each image of a board with several media has its own documents, about what is on that medium.
func TestDocumentsOfMedia(t *testing.T) {
	root := edittest.L4T()
	put := func(t2 *tree.Tree, path, text string) {
		if err := t2.Put(path, &tree.Inode{Mode: tree.Regular | 0o644, Content: strings.NewReader(text)}); err != nil {
			t.Fatal(err)
		}
	}
	put(root, "var/lib/dpkg/status", "Package: nvidia-l4t-core\nStatus: install ok installed\nArchitecture: arm64\nVersion: 32.4.4\n")
	given := tree.New(0)
	put(given, "lib/apk/db/installed", "P:busybox\nV:1.36.1-r5\nA:aarch64\n")
	r, err := buildBoard(t, "photon-nx", squashed(t, root), func(o *build.Options) {
		o.SBOM, o.Provenance, o.Clamp = true, true, true
		o.Parts = map[string]string{"nvme/plugin-data": squashed(t, given)}
	})
	if err != nil {
		t.Fatal(err)
	}
	namespaces := map[string]bool{}
	for medium, want := range map[string]struct{ deb, apk int }{"emmc": {1, 0}, "sd": {1, 0}, "nvme": {0, 1}} {
		img := r.Images[slices.IndexFunc(r.Images, func(m build.Image) bool { return m.Manifest.Medium == medium })]
		d := sbomtest.Read(t, img.SBOM.Encode())
		namespaces[d.DocumentNamespace] = true
		if deb, apk := sbomtest.PURLs(d, "deb"), sbomtest.PURLs(d, "apk"); len(deb) != want.deb || len(apk) != want.apk {
			t.Errorf("%s has %v and %v, want %d and %d", medium, deb, apk, want.deb, want.apk)
		}
		// The image itself says the same.
		l, err := volume.FromImage(medium+".img", img.Image, img.Manifest).Locate(volume.Place{File: medium + ".img"})
		if err != nil {
			t.Fatal(err)
		}
		read, err := sbom.OfImage(t.Context(), l, 1, "imgtool", func(text string) { t.Errorf("unexpected warning: %s", text) })
		if err != nil {
			t.Fatal(err)
		}
		again := sbomtest.Read(t, read.Encode())
		if deb, apk := sbomtest.PURLs(again, "deb"), sbomtest.PURLs(again, "apk"); len(deb) != want.deb || len(apk) != want.apk {
			t.Errorf("%s itself has %v and %v, want %d and %d", medium, deb, apk, want.deb, want.apk)
		}
		if p := statement(t, img); p.RunDetails.Metadata.StartedOn.GetSeconds() != build.DefaultTime || p.BuildDefinition.ExternalParameters.AsMap()["medium"] != medium {
			t.Errorf("%s: provenance %v", medium, p)
		}
	}
	if len(namespaces) != 3 {
		t.Errorf("%d documents have %d namespaces", 3, len(namespaces))
	}
}
