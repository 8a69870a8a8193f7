package seed

import (
	"imgtool/image/seed/check"

	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Change changes one place of a document, and returns the document as the device rewrites it,
// without its comments and layout. The place is one of:
//
//	users NAME
//	network
//	containers container NAME
//	containers network NAME
//	containers volume NAME
//
// The change is a JSON object that replaces the value at the place, or nil to delete it. A change
// of network is merged instead, and null deletes a key. The result is not checked. Errors contain
// keys, but no values.
func Change(doc []byte, place []string, change []byte) ([]byte, error) {
	r := newReader(doc, nil)
	if len(r.faults) > 0 {
		return nil, errors.New("the existing configuration cannot be read")
	}
	var given *value
	if change != nil {
		var err error
		if given, err = readJSON(change); err != nil {
			return nil, err
		}
		if given.kind != table {
			return nil, errors.New("the change must be a JSON object")
		}
	}
	at := strings.Join(place, ".")
	var checkName func(string) string
	var must []string // keys
	switch {
	case at == "network" && given != nil:
		if err := onlyKeys(at, given, document.at(at)); err != nil {
			return nil, err
		}
		r.root.tableAt(at).merge(given)
		return canonical(r.root)
	case len(place) == 2 && place[0] == "users":
		checkName, must = check.User, []string{"isAdmin"}
	case len(place) == 3 && place[0] == "containers" && slices.Contains([]string{"container", "network", "volume"}, place[1]):
		checkName = check.Resource
	default:
		return nil, fmt.Errorf("%s is not a place that can be changed alone", at)
	}
	within, name := place[:len(place)-1], place[len(place)-1]
	if what := checkName(name); what != "" {
		return nil, fmt.Errorf("%q %s", clip(name), what)
	}
	if given != nil {
		if err := onlyKeys(at, given, document.at(within...).each, must...); err != nil {
			return nil, err
		}
	}
	parent := r.root
	for _, key := range within {
		parent = parent.tableAt(key)
	}
	parent.set(name, given)
	return canonical(r.root)
}

// Canonical returns a document as the device rewrites it; see [Change].
func Canonical(document []byte) ([]byte, error) {
	r := newReader(document, nil)
	if len(r.faults) > 0 {
		return nil, errors.New(r.faults[0].String())
	}
	return canonical(r.root)
}

func canonical(root *value) ([]byte, error) {
	var b strings.Builder
	if err := writeTOML(&b, nil, root); err != nil {
		return nil, err
	}
	return []byte(strings.TrimSpace(b.String()) + "\n"), nil
}

// onlyKeys returns an error if a table has unknown keys, or if keys are missing that the rule or
// must requires.
func onlyKeys(at string, v *value, r *rule, must ...string) error {
	var known []string
	for _, k := range r.keys {
		known = append(known, k.name)
		if k.need {
			must = append(must, k.name)
		}
	}
	for _, key := range v.keys {
		if !slices.Contains(known, key) {
			return fmt.Errorf("%s is unknown; the keys here are %s", join(at, key), strings.Join(known, ", "))
		}
	}
	for _, key := range must {
		if v.table[key] == nil {
			return fmt.Errorf("%s is missing", join(at, key))
		}
	}
	return nil
}

// tableAt returns a table in a table, which it adds if it is missing.
func (v *value) tableAt(key string) *value {
	if v.table[key] == nil {
		v.put(key, newTable(0))
	}
	return v.table[key]
}

// set replaces the value of a key, or adds it at the end; nil deletes it.
func (v *value) set(key string, w *value) {
	_, there := v.table[key]
	switch {
	case w == nil && there:
		delete(v.table, key)
		v.keys = slices.DeleteFunc(v.keys, func(k string) bool { return k == key })
	case w == nil:
	case there:
		v.table[key] = w
	default:
		v.put(key, w)
	}
}

// merge merges the values of a table into v, table by table. A null deletes a key.
func (v *value) merge(change *value) {
	for _, key := range change.keys {
		w, old := change.table[key], v.table[key]
		switch {
		case w.kind == null:
			v.set(key, nil)
		case w.kind == table && old != nil && old.kind == table:
			old.merge(w)
		default:
			v.set(key, w)
		}
	}
}

// readJSON reads a JSON value. Keys keep their order.
func readJSON(src []byte) (*value, error) {
	if !utf8.Valid(src) {
		return nil, errors.New("the change is not UTF-8")
	}
	if halfPair.Match(wholePair.ReplaceAll(src, nil)) {
		// The decoder would replace it by U+FFFD.
		return nil, errSurrogate
	}
	d := json.NewDecoder(bytes.NewReader(src))
	d.UseNumber()
	v, err := nextJSON(d, 0)
	if err == nil {
		if _, err = d.Token(); err == io.EOF {
			return v, nil
		}
	}
	// The decoder's messages quote the input.
	return nil, fmt.Errorf("the change is not JSON (at byte %d)", d.InputOffset())
}

// Escapes of surrogates, after an even number of backslashes.
var (
	wholePair = regexp.MustCompile(`(?i)\\\\|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}`)
	halfPair  = regexp.MustCompile(`(?i)\\ud[89a-f][0-9a-f]{2}`)
)

var errSurrogate = errors.New("the change contains half of a surrogate pair, which is not a character")

func nextJSON(d *json.Decoder, depth int) (*value, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("nested deeper than %d", maxNesting)
	}
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token := token.(type) {
	case nil:
		return &value{kind: null}, nil
	case string:
		return &value{kind: text, text: token}, nil
	case bool:
		return &value{kind: boolean, boolean: token}, nil
	case json.Number:
		if n, ok := new(big.Int).SetString(token.String(), 10); ok && len(token) <= maxDigits {
			return &value{kind: integer, integer: n}, nil
		}
		return &value{kind: float}, nil
	}
	v := newTable(0)
	if token == json.Delim('[') {
		v = &value{kind: list}
	}
	for d.More() {
		if v.kind == list {
			item, err := nextJSON(d, depth+1)
			if err != nil {
				return nil, err
			}
			v.items = append(v.items, item)
			continue
		}
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		item, err := nextJSON(d, depth+1)
		if err != nil {
			return nil, err
		}
		v.set(key.(string), item)
	}
	_, err = d.Token()
	return v, err
}

// writeTOML writes a table: first its values, then the tables in it.
func writeTOML(b *strings.Builder, path []string, t *value) error {
	tables := 0
	for _, key := range t.keys {
		if t.table[key].kind == table {
			tables++
		}
	}
	if len(path) > 0 && (tables < len(t.keys) || len(t.keys) == 0) {
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(b, "[%s]\n", joined(quoteTOML, path...))
	}
	for _, key := range t.keys {
		if v := t.table[key]; v.kind != table {
			s, err := v.toml()
			if err != nil {
				return fmt.Errorf("%s: %w", dotted(append(slices.Clone(path), key)...), err)
			}
			fmt.Fprintf(b, "%s = %s\n", joined(quoteTOML, key), s)
		}
	}
	for _, key := range t.keys {
		if v := t.table[key]; v.kind == table {
			if err := writeTOML(b, append(slices.Clone(path), key), v); err != nil {
				return err
			}
		}
	}
	return nil
}

// toml formats a value as the device does.
func (v *value) toml() (string, error) {
	switch v.kind {
	case text:
		return quoteTOML(v.text), nil
	case integer:
		return v.integer.String(), nil
	case boolean:
		return strconv.FormatBool(v.boolean), nil
	case list:
		var items []string
		for _, item := range v.items {
			s, err := item.toml()
			if err != nil {
				return "", err
			}
			items = append(items, s)
		}
		return "[" + strings.Join(items, ", ") + "]", nil
	}
	return "", fmt.Errorf("is %v; it must be a string, an integer, a boolean or a list of these", v.kind)
}

// JSON converts a TOML document, such as a part of a configuration, to a JSON object.
func JSON(src []byte) ([]byte, error) {
	r := newReader(src, nil)
	if len(r.faults) > 0 {
		return nil, errors.New(r.faults[0].String())
	}
	if _, err := canonical(r.root); err != nil {
		return nil, err
	}
	return []byte(dump(plain(r.root))), nil
}
