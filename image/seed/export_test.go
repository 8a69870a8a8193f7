package seed

import (
	"fmt"
	"slices"
	"testing"
)

// SameWhenRead describes how a filled template differs from the template that was read, or
// returns "". ok reports whether it could be filled in.
func SameWhenRead(t testing.TB, template []byte, columns map[string]string) (what string, ok bool) {
	t.Helper()
	r := newReader(template, columns)
	text, _ := r.filled()
	if text == nil {
		return "", false
	}
	again := newReader(text, nil)
	if len(again.faults) > 0 {
		return fmt.Sprintf("%v in\n%s", again.faults, text), true
	}
	return differ("", r.root, again.root), true
}

func differ(at string, a, b *value) string {
	switch {
	case a.kind != b.kind || a.line != b.line || a.text != b.text || a.boolean != b.boolean || !slices.Equal(a.keys, b.keys) || len(a.items) != len(b.items):
		return fmt.Sprintf("%s: %+v, and %+v", at, a, b)
	case a.integer != nil && a.integer.Cmp(b.integer) != 0:
		return fmt.Sprintf("%s: %v, and %v", at, a.integer, b.integer)
	}
	for i := range a.items {
		if what := differ(fmt.Sprintf("%s[%d]", at, i), a.items[i], b.items[i]); what != "" {
			return what
		}
	}
	for _, key := range a.keys {
		if what := differ(at+"."+key, a.table[key], b.table[key]); what != "" {
			return what
		}
	}
	return ""
}
