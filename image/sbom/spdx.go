package sbom

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Document describes an image.
type Document struct {
	Name  string // of the document
	Image Package
	Time  int64  // seconds since 1970
	Tool  string // the program that made the document, NAME-VERSION
}

// none is SPDX's value for what is not known.
const none = "NOASSERTION"

// The fields of an SPDX 2.3 document in the order in which they are written.
// https://spdx.github.io/spdx-spec/v2.3/
type (
	spdxDocument struct {
		Version       string             `json:"spdxVersion"`
		DataLicense   string             `json:"dataLicense"`
		ID            string             `json:"SPDXID"`
		Name          string             `json:"name"`
		Namespace     string             `json:"documentNamespace"`
		Creation      spdxCreation       `json:"creationInfo"`
		Packages      []spdxPackage      `json:"packages"`
		Relationships []spdxRelationship `json:"relationships"`
	}
	spdxCreation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		Name             string         `json:"name"`
		ID               string         `json:"SPDXID"`
		Version          string         `json:"versionInfo,omitempty"`
		FileName         string         `json:"packageFileName,omitempty"`
		Supplier         string         `json:"supplier,omitempty"`
		DownloadLocation string         `json:"downloadLocation"`
		FilesAnalyzed    bool           `json:"filesAnalyzed"`
		Checksums        []spdxChecksum `json:"checksums,omitempty"`
		Homepage         string         `json:"homepage,omitempty"`
		SourceInfo       string         `json:"sourceInfo,omitempty"`
		Concluded        string         `json:"licenseConcluded"`
		Declared         string         `json:"licenseDeclared"`
		Copyright        string         `json:"copyrightText"`
		Comment          string         `json:"comment,omitempty"`
		Purpose          string         `json:"primaryPackagePurpose,omitempty"`
		Refs             []spdxRef      `json:"externalRefs,omitempty"`
	}
	spdxChecksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	spdxRef struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	spdxRelationship struct {
		Element string `json:"spdxElementId"`
		Type    string `json:"relationshipType"`
		Related string `json:"relatedSpdxElement"`
	}
)

// Encode returns the document as JSON.
func (d *Document) Encode() []byte {
	w := &spdxWriter{ids: map[Info]string{}, taken: map[string]bool{}, related: map[spdxRelationship]bool{}}
	w.doc = spdxDocument{Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: d.Name,
		Creation: spdxCreation{Created: time.Unix(d.Time, 0).UTC().Format(time.RFC3339), Creators: []string{"Tool: " + idSafe(d.Tool)}}}
	w.relate(w.doc.ID, "DESCRIBES", w.add(d.Image))
	// The namespace must be unique for each version of a document, so it is derived from all that
	// the document says.
	sum := sha256.Sum256(w.encode())
	id := uuid.UUID(sum[:16])
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80 // version 8: RFC 9562, 5.8
	w.doc.Namespace = "https://spdx.org/spdxdocs/" + idSafe(d.Name) + "-" + id.String()
	return w.encode()
}

type spdxWriter struct {
	doc     spdxDocument
	ids     map[Info]string
	taken   map[string]bool
	related map[spdxRelationship]bool
}

// add adds a package and those below it, each once, and returns its identifier.
func (w *spdxWriter) add(p Package) string {
	id := w.ids[p.Info]
	if id == "" {
		id = w.newID(p.Info)
		w.ids[p.Info] = id
		w.doc.Packages = append(w.doc.Packages, p.spdx(id))
	}
	for _, c := range p.Contains {
		w.relate(id, "CONTAINS", w.add(c))
	}
	for _, f := range p.From {
		w.relate(id, "GENERATED_FROM", w.add(f))
	}
	return id
}

func (w *spdxWriter) relate(element, kind, related string) {
	if r := (spdxRelationship{element, kind, related}); !w.related[r] {
		w.related[r] = true
		w.doc.Relationships = append(w.doc.Relationships, r)
	}
}

// newID returns an identifier that is not taken.
func (w *spdxWriter) newID(p Info) string {
	base := "SPDXRef-" + idSafe(strings.Trim(p.Kind+"-"+p.Name+"-"+p.Version, "-"))
	id := base
	for n := 2; w.taken[id]; n++ {
		id = fmt.Sprintf("%s-%d", base, n)
	}
	w.taken[id] = true
	return id
}

var notInID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func idSafe(text string) string { return notInID.ReplaceAllString(text, "-") }

func (p Info) spdx(id string) spdxPackage {
	s := spdxPackage{Name: p.Name, ID: id, Version: p.Version, FileName: p.File, Supplier: cmp.Or(p.Supplier, none), DownloadLocation: none, Homepage: p.Homepage,
		Concluded: none, Declared: cmp.Or(p.License, none), Copyright: none, Comment: p.Comment, Purpose: p.Purpose}
	if p.SHA256 != "" {
		s.Checksums = []spdxChecksum{{"SHA256", p.SHA256}}
	}
	if p.Source != "" {
		s.SourceInfo = "built from the source package " + p.Source
	}
	if p.PURL != "" {
		s.Refs = []spdxRef{{"PACKAGE-MANAGER", "purl", p.PURL}}
	}
	return s
}

func (w *spdxWriter) encode() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(w.doc); err != nil {
		panic("sbom: internal error: " + err.Error())
	}
	return b.Bytes()
}
