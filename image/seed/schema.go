package seed

import "strings"

// Schema returns a JSON Schema (draft 2020-12) of the document, for editors. It contains the
// rules for single values, but not those between values, which [Check] has.
func Schema() []byte {
	s := document.schema()
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "AtomixOS config.toml, version 1"
	return indented(s)
}

func (r *rule) schema() map[string]any {
	s := map[string]any{}
	if r.about != "" {
		s["description"] = r.about
	}
	if r.fallback != nil {
		s["default"] = r.fallback
	}
	if r.scalar {
		one := map[string]any{"type": []string{"string", "integer", "boolean"}}
		s["oneOf"] = []any{one, map[string]any{"type": "array", "minItems": 1, "items": one}}
		return s
	}
	switch r.kind {
	case table:
		s["type"] = "object"
		s["additionalProperties"] = false
		known, need := map[string]any{}, []string{}
		for _, k := range r.keys {
			known[k.name] = k.rule.schema()
			if k.need {
				need = append(need, k.name)
			}
		}
		if len(known) > 0 {
			s["properties"] = known
		}
		if len(need) > 0 {
			s["required"] = need
		}
		if r.each != nil {
			s["patternProperties"] = map[string]any{r.names: r.each.schema()}
			if r.least > 0 {
				s["minProperties"] = r.least
			}
		}
		if r.not != nil {
			s["propertyNames"] = map[string]any{"not": map[string]any{"enum": r.not}}
		}
	case list:
		s["type"] = "array"
		s["items"] = r.each.schema()
		if r.least > 0 {
			s["minItems"] = r.least
		}
	case integer:
		s["type"] = "integer"
		s["minimum"], s["maximum"] = r.min, r.max
	case boolean:
		s["type"] = "boolean"
		if r.on {
			s["const"] = true
		}
	case text:
		s["type"] = "string"
		switch {
		case r.stripped:
			s["pattern"] = `^\s*(` + strings.Join(r.only, "|") + `)\s*$`
		case r.only != nil:
			s["enum"] = r.only
		case r.pattern != "":
			s["pattern"] = r.pattern
		case !r.blank && !r.none:
			s["pattern"] = `\S`
		}
	}
	return s
}
