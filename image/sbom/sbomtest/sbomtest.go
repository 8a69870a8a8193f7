// Package sbomtest checks SPDX documents with the schema of SPDX and with SPDX's own library.
package sbomtest

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdxlib"

	"imgtool/image/imagetest"
)

// Read checks a document and returns it: it is valid by the JSON schema of SPDX 2.3, and SPDX's
// library reads it, finds every element of its relationships, and reaches every package from
// the one that the document describes.
func Read(t testing.TB, doc []byte) *spdx.Document {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err == nil {
		err = schema(t).Validate(value)
	}
	if err != nil {
		t.Fatalf("the document is not valid by the schema: %v\n%.2000s", err, doc)
	}
	d, err := spdxjson.Read(bytes.NewReader(doc))
	if err == nil {
		err = spdxlib.ValidateDocument(d)
	}
	if err != nil {
		t.Fatal(err)
	}
	described, err := spdxlib.GetDescribedPackageIDs(d)
	if err != nil || len(described) != 1 {
		t.Fatalf("it describes %v, not one package: %v", described, err)
	}
	reached := map[common.ElementID]bool{described[0]: true}
	for range d.Packages {
		for _, r := range d.Relationships {
			if reached[r.RefA.ElementRefID] {
				reached[r.RefB.ElementRefID] = true
			}
		}
	}
	taken := map[common.ElementID]bool{}
	for _, p := range d.Packages {
		if taken[p.PackageSPDXIdentifier] {
			t.Errorf("two packages are %s", p.PackageSPDXIdentifier)
		}
		taken[p.PackageSPDXIdentifier] = true
		if p.PackageName == "" || p.PackageDownloadLocation == "" || p.PackageSupplier == nil {
			t.Errorf("%s has no name, download location or supplier", p.PackageSPDXIdentifier)
		}
		if !reached[p.PackageSPDXIdentifier] {
			t.Errorf("%s is not related to the image", p.PackageSPDXIdentifier)
		}
	}
	return d
}

// PURLs returns the package URLs of a kind, such as deb, sorted.
func PURLs(d *spdx.Document, kind string) (all []string) {
	for _, p := range d.Packages {
		for _, ref := range p.PackageExternalReferences {
			if ref.RefType == "purl" && strings.HasPrefix(ref.Locator, "pkg:"+kind+"/") {
				all = append(all, ref.Locator)
			}
		}
	}
	slices.Sort(all)
	return all
}

// schema returns the JSON schema of SPDX 2.3. It is in the module of a program that writes such
// documents; only its file is used.
func schema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	dir := imagetest.Module(t, "github.com/anchore/syft@v1.57.1")
	s, err := jsonschema.NewCompiler().Compile(filepath.Join(dir, "schema/spdx-json/spdx-schema-2.3.json"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
