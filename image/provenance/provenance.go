// Package provenance states how an image was built: an in-toto statement, version 1, with the
// SLSA provenance predicate, version 1.
package provenance

import (
	"bytes"
	"encoding/json"
	"time"
)

// The types of the statement and of its parts.
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://slsa.dev/provenance/v1"

	// BuildType names the meaning of the parameters, which docs/reference/sbom.md describes.
	BuildType = "urn:imgtool:build:v1"
	// Builder names the program as the builder; who ran it is not known.
	Builder = "urn:imgtool"
)

// Statement says that its subjects were built as the predicate describes.
type Statement struct {
	Type          string     `json:"_type"`
	Subject       []Resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     Predicate  `json:"predicate"`
}

// Resource is a file or another thing that a digest identifies.
type Resource struct {
	Name      string            `json:"name,omitempty"`
	URI       string            `json:"uri,omitempty"`
	Digest    map[string]string `json:"digest,omitempty"` // by algorithm, such as sha256
	MediaType string            `json:"mediaType,omitempty"`
}

// Predicate is the SLSA provenance of a build.
type Predicate struct {
	Build Definition `json:"buildDefinition"`
	Run   Run        `json:"runDetails"`
}

// Definition is what a build was asked to do, and what it used.
type Definition struct {
	Type         string     `json:"buildType"`
	External     any        `json:"externalParameters"`
	Internal     any        `json:"internalParameters"`
	Dependencies []Resource `json:"resolvedDependencies"`
}

// Run is the run of the builder.
type Run struct {
	Builder struct {
		ID      string            `json:"id"`
		Version map[string]string `json:"version"`
	} `json:"builder"`
	Metadata Metadata `json:"metadata"`
}

// Metadata identifies a run. The times are left out if they are empty.
type Metadata struct {
	InvocationID string `json:"invocationId"`
	StartedOn    string `json:"startedOn,omitempty"`
	FinishedOn   string `json:"finishedOn,omitempty"`
}

// New returns a statement without subjects. version is that of the program, buildID identifies
// the build.
func New(version, buildID string, d Definition) *Statement {
	d.Type = BuildType
	s := &Statement{Type: StatementType, PredicateType: PredicateType, Predicate: Predicate{Build: d}}
	s.Predicate.Run.Builder.ID = Builder
	s.Predicate.Run.Builder.Version = map[string]string{"imgtool": version}
	s.Predicate.Run.Metadata.InvocationID = buildID
	return s
}

// SetTime sets both times of the run, in seconds since 1970.
func (s *Statement) SetTime(when int64) {
	text := time.Unix(when, 0).UTC().Format(time.RFC3339)
	s.Predicate.Run.Metadata.StartedOn, s.Predicate.Run.Metadata.FinishedOn = text, text
}

// Encode returns the statement about subjects as JSON.
func (s *Statement) Encode(subjects ...Resource) []byte {
	c := *s
	c.Subject = subjects
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(c); err != nil {
		panic("provenance: internal error: " + err.Error())
	}
	return b.Bytes()
}
