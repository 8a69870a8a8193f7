// Package schematest checks what commands print with --json: that it is one document and events, and
// that both are valid by the schemas in docs/schemas.
package schematest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// shared are the schemas of commands whose document is not their own. Any other command has a
// schema of its name, such as seed-check for seed check.
var shared = map[string]string{
	"":                 "text", // the help
	"cat":              "text",
	"completion":       "text",
	"gen markdown":     "text",
	"gen man":          "done",
	"help":             "text",
	"seed get":         "text",
	"seed":             "text",
	"seed stick":       "flash",
	"seed rm":          "seed-put",
	"cache clear":      "cache-trim",
	"provision set":    "provision",
	"provision unset":  "provision",
	"provision export": "file",
	"seed new":         "file",
	"catalog":          "other",
	"sbom":             "other",
	"seed schema":      "other",
}

// empty are the fields that may be empty strings. All others are absent instead.
var empty = []string{"text", "line", "base64", "xattrs", "got"}

// MayBeEmpty reports whether a string is not absent if it is empty.
func MayBeEmpty(name string) bool { return slices.Contains(empty, name) }

// Schemas are the schemas of a directory.
type Schemas struct {
	dir      string
	compiler *jsonschema.Compiler
	raw      map[string]any // by file name, as JSON
	seen     map[string]bool
}

// Load reads the schemas in a directory.
func Load(dir string) (*Schemas, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Schemas{dir, jsonschema.NewCompiler(), map[string]any{}, map[string]bool{}}
	s.compiler.AssertFormat()
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	for _, file := range files {
		var text []byte
		var value any
		if text, err = os.ReadFile(file); err == nil {
			value, err = jsonschema.UnmarshalJSON(bytes.NewReader(text))
		}
		if err == nil {
			err = s.compiler.AddResource(file, value)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		s.raw[filepath.Base(file)] = value
	}
	return s, err
}

// Of returns the name of the schema of a command, such as "seed check".
func Of(command string) string {
	if name := shared[command]; name != "" {
		return name
	}
	return strings.ReplaceAll(command, " ", "-")
}

// Names returns the names of all schemas.
func (s *Schemas) Names() (names []string) {
	for _, file := range slices.Sorted(maps.Keys(s.raw)) {
		names = append(names, strings.TrimSuffix(file, ".json"))
	}
	return names
}

// Validate checks a document by the schema with a name.
func (s *Schemas) Validate(name string, document []byte) error {
	schema, err := s.compiler.Compile(filepath.Join(s.dir, name+".json"))
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		return err
	}
	if err := schema.Validate(value); err != nil {
		return err
	}
	if name != "other" && name != "manifest" {
		if err := absent("", value); err != nil {
			return err
		}
	}
	s.see(name+".json", s.raw[name+".json"], value)
	return nil
}

// absent returns an error if a value is null or an empty string.
func absent(name string, value any) (err error) {
	switch v := value.(type) {
	case nil:
		return fmt.Errorf("%s is null", name)
	case string:
		if v == "" && !MayBeEmpty(name) {
			return fmt.Errorf("%s is empty", name)
		}
	case []any:
		for _, e := range v {
			if err == nil {
				err = absent(name, e)
			}
		}
	case map[string]any:
		for key, e := range v {
			if name == "xattrs" {
				key = name
			}
			if err == nil {
				err = absent(key, e)
			}
		}
	}
	return err
}

// Run is a run of the program with --json.
type Run struct {
	Command        string // such as "seed check"
	Status         int
	Stdout, Stderr []byte
}

// Check returns what is wrong with the output of a run.
func (s *Schemas) Check(r Run) error {
	if err := s.checkEvents(r); err != nil {
		return fmt.Errorf("standard error: %w", err)
	}
	if bytes.Contains(r.Stderr, []byte(`writing to standard output: `)) {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(r.Stdout))
	var document json.RawMessage
	if err := d.Decode(&document); err != nil {
		return fmt.Errorf("standard output is no document: %w: %.300s", err, r.Stdout)
	}
	if err := d.Decode(&json.RawMessage{}); err != io.EOF {
		return fmt.Errorf("standard output is more than a document: %.300s", r.Stdout)
	}
	var fields struct{ Status *int }
	if json.Unmarshal(document, &fields); fields.Status == nil && r.Status != 0 || fields.Status != nil && *fields.Status != r.Status {
		return fmt.Errorf("the document does not have the status %d: %.300s", r.Status, document)
	}
	if err := s.Validate(Of(r.Command), document); err != nil {
		return fmt.Errorf("%w\n%.2000s", err, document)
	}
	return nil
}

func (s *Schemas) checkEvents(r Run) error {
	last := ""
	for line := range bytes.Lines(r.Stderr) {
		var e struct{ Event string }
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("%w: %.300s", err, line)
		}
		if err := s.Validate("events", line); err != nil {
			return fmt.Errorf("%w: %.300s", err, line)
		}
		last = e.Event
	}
	if failed := r.Status > 1; failed != (last == "error") {
		return fmt.Errorf("with the status %d, the last event is %q", r.Status, last)
	}
	return nil
}

// see marks the properties of a schema that a value has.
func (s *Schemas) see(at string, schema, value any) {
	node, ok := schema.(map[string]any)
	if !ok {
		return
	}
	if ref, ok := node["$ref"].(string); ok {
		at, target := s.resolve(at, ref)
		s.see(at, target, value)
	}
	for _, key := range []string{"allOf", "anyOf", "oneOf"} {
		all, _ := node[key].([]any)
		for i, sub := range all {
			if s.fits(sub, value) {
				s.see(fmt.Sprintf("%s/%s/%d", at, key, i), sub, value)
			}
		}
	}
	switch v := value.(type) {
	case []any:
		for _, e := range v {
			s.see(at+"/items", node["items"], e)
		}
	case map[string]any:
		properties, _ := node["properties"].(map[string]any)
		for name, sub := range properties {
			if e, ok := v[name]; ok {
				s.seen[at+"/properties/"+name] = true
				s.see(at+"/properties/"+name, sub, e)
			}
		}
	}
}

// fits reports whether a schema may be meant for a value: events differ by a constant.
func (s *Schemas) fits(schema, value any) bool {
	node, _ := schema.(map[string]any)
	object, _ := value.(map[string]any)
	properties, _ := node["properties"].(map[string]any)
	for name, sub := range properties {
		if p, _ := sub.(map[string]any); p["const"] != nil && p["const"] != object[name] {
			return false
		}
	}
	return true
}

// resolve returns the place and value that a reference leads to.
func (s *Schemas) resolve(at, ref string) (string, any) {
	file, pointer, _ := strings.Cut(ref, "#")
	if file == "" {
		file, _, _ = strings.Cut(at, "/")
	}
	value := s.raw[file]
	for name := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		if node, ok := value.(map[string]any); ok && name != "" {
			value = node[name]
		}
	}
	return file + pointer, value
}

// Unseen returns the properties of all schemas that no document had.
func (s *Schemas) Unseen() (all []string) {
	for file, schema := range s.raw {
		s.each(file, schema, func(at string, _ map[string]any) {
			if !s.seen[at] {
				all = append(all, at)
			}
		})
	}
	slices.Sort(all)
	return all
}

// Each calls do for every property of every schema, by its place.
func (s *Schemas) Each(do func(at string, property map[string]any)) {
	for file, schema := range s.raw {
		s.each(file, schema, do)
	}
}

func (s *Schemas) each(at string, schema any, do func(string, map[string]any)) {
	switch node := schema.(type) {
	case []any:
		for i, sub := range node {
			s.each(fmt.Sprintf("%s/%d", at, i), sub, do)
		}
	case map[string]any:
		for name, sub := range node {
			here := at + "/" + name
			if properties, ok := sub.(map[string]any); ok && name == "properties" {
				for property, p := range properties {
					definition, _ := p.(map[string]any)
					do(here+"/"+property, definition)
					s.each(here+"/"+property, p, do)
				}
				continue
			}
			s.each(here, sub, do)
		}
	}
}
