package seed

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

type kind int

const (
	broken kind = iota // invalid, and reported already
	text
	integer
	boolean
	float
	date
	list
	table
	null // in JSON only
)

func (k kind) String() string {
	return [...]string{"broken", "a string", "an integer", "a boolean", "a float", "a date or time", "a list", "a table", "null"}[k]
}

type value struct {
	kind    kind
	line    int
	text    string
	integer *big.Int
	boolean bool
	shown   string // text of the template, which messages quote instead if it contains per-unit values
	items   []*value
	keys    []string // of a table, in their order
	table   map[string]*value

	declared  bool // by a [header]
	sectionOf int  // section whose dotted keys created it
	inline    bool // cannot be extended
}

func newTable(line int) *value { return &value{kind: table, line: line, table: map[string]*value{}} }

func (v *value) put(key string, w *value) {
	v.keys = append(v.keys, key)
	v.table[key] = w
}

// at returns the value at a path of keys, or nil.
func (v *value) at(path ...string) *value {
	for _, key := range path {
		if v == nil || v.kind != table {
			return nil
		}
		v = v.table[key]
	}
	return v
}

// show quotes a part of a string for messages.
func (v *value) show(part string) string {
	if v.shown != "" {
		part = v.shown
	}
	return strconv.Quote(clip(part))
}

// quoted is show for arguments of messages.
func (v *value) quoted(part string) shown { return shown(v.show(part)) }

// or returns what as an argument of a message, or the template's text if it was derived from a
// value with per-unit values. v may be nil.
func (v *value) or(what any) shown {
	if v != nil && v.shown != "" {
		return shown(v.shown)
	}
	return shown(fmt.Sprint(what))
}

func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	for i := range s {
		if i > most {
			return s[:i] + "…"
		}
	}
	return s
}

// dotted joins the parts of a key with dots, and quotes parts where necessary.
func dotted(key ...string) string { return joined(strconv.Quote, key...) }

// joined is dotted with a function that quotes a part.
func joined(quote func(string) string, key ...string) string {
	var parts []string
	for _, k := range key {
		if k == "" || strings.Trim(k, bareKey) != "" {
			k = quote(k)
		}
		parts = append(parts, k)
	}
	return strings.Join(parts, ".")
}
