// Package plist reads the property lists that programs of macOS print.
package plist

import (
	"bytes"
	"errors"
	"math"
	"strings"

	"howett.net/plist"
)

// Parse reads an XML property list. It returns nil for empty input: ioreg prints nothing
// if it finds nothing.
func Parse(b []byte) (any, error) {
	// ioreg copies strings from devices, which may contain characters that XML forbids:
	// https://www.w3.org/TR/xml/#charsets
	b = bytes.TrimSpace(bytes.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff {
			return -1
		}
		return r
	}, b))
	if len(b) == 0 {
		return nil, nil
	}
	// The library would read a line of plain text as an OpenStep property list.
	if !bytes.HasPrefix(b, []byte("<?xml")) && !bytes.HasPrefix(b, []byte("<plist")) {
		return nil, errors.New("it is not an XML property list")
	}
	var v any
	_, err := plist.Unmarshal(b, &v)
	return v, err
}

// Dict is a dictionary. A key that is missing or has a value of another type counts as
// empty.
type Dict map[string]any

// Text returns a string without surrounding white space.
func (d Dict) Text(key string) string {
	s, _ := d[key].(string)
	return strings.TrimSpace(s)
}

// Bool returns a boolean.
func (d Dict) Bool(key string) bool {
	b, _ := d[key].(bool)
	return b
}

// Int returns a number, or 0 if it is negative or too large.
func (d Dict) Int(key string) int64 {
	switch n := d[key].(type) {
	case uint64:
		if n <= math.MaxInt64 {
			return int64(n)
		}
	case int64:
		return max(n, 0)
	}
	return 0
}

// Dicts returns the dictionaries in an array, or a dictionary that is not in an array.
func (d Dict) Dicts(key string) []Dict {
	var all []Dict
	switch v := d[key].(type) {
	case map[string]any:
		all = append(all, v)
	case []any:
		for _, e := range v {
			if sub, ok := e.(map[string]any); ok {
				all = append(all, sub)
			}
		}
	}
	return all
}
