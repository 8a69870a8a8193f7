package rauc

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// keyFile is a file of groups, keys and values as GLib's GKeyFile has it, see
// https://docs.gtk.org/glib/struct.KeyFile.html. The order is kept.
type keyFile []group

type group struct {
	name   string
	values []keyValue
}

type keyValue struct{ key, value string }

func parseKeyFile(text string) (keyFile, error) {
	var f keyFile
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("it is not UTF-8")
	}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimLeft(strings.TrimSuffix(line, "\r"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		if name, ok := strings.CutPrefix(line, "["); ok {
			name, ok = strings.CutSuffix(strings.TrimRight(name, " \t"), "]")
			if !ok || name == "" || strings.ContainsAny(name, "[]") {
				return nil, fmt.Errorf("line %d is %q: it must be [GROUP]", i+1, line)
			}
			f.group(name)
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key = strings.TrimRight(key, " \t")
		if !ok || key == "" || len(f) == 0 {
			return nil, fmt.Errorf("line %d is %q: it must be KEY=VALUE in a group", i+1, line)
		}
		value = strings.TrimLeft(value, " \t")
		g := &f[len(f)-1]
		if _, again := g.get(key); again {
			return nil, fmt.Errorf("line %d: %s is in [%s] twice", i+1, key, g.name)
		}
		g.values = append(g.values, keyValue{key, value})
	}
	seen := map[string]bool{}
	for _, g := range f {
		if seen[g.name] {
			return nil, fmt.Errorf("[%s] is there twice", g.name)
		}
		seen[g.name] = true
	}
	return f, nil
}

// group appends an empty group.
func (f *keyFile) group(name string) *group {
	*f = append(*f, group{name: name})
	return &(*f)[len(*f)-1]
}

func (g *group) get(key string) (string, bool) {
	for _, v := range g.values {
		if v.key == key {
			return v.value, true
		}
	}
	return "", false
}

// text returns the value of a key without its escapes, or "".
func (g *group) text(key string) string {
	value, _ := g.get(key)
	return unescape.Replace(value)
}

// list returns a value with elements that end with semicolons.
func (g *group) list(key string) (all []string) {
	value, _ := g.get(key)
	for item := range strings.SplitSeq(value, ";") {
		if item != "" {
			all = append(all, unescape.Replace(item))
		}
	}
	return all
}

var unescape = strings.NewReplacer(`\s`, " ", `\n`, "\n", `\t`, "\t", `\r`, "\r", `\\`, `\`)

// set adds a value, unless it is empty.
func (g *group) set(key, value string) {
	if value == "" {
		return
	}
	escaped := strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\t", `\t`, "\r", `\r`).Replace(value)
	spaces := len(escaped) - len(strings.TrimLeft(escaped, " "))
	g.values = append(g.values, keyValue{key, strings.Repeat(`\s`, spaces) + escaped[spaces:]})
}

func (g *group) setList(key string, list []string) {
	if len(list) > 0 {
		g.values = append(g.values, keyValue{key, strings.Join(list, ";") + ";"})
	}
}

// encode returns the text. Groups without values are left out.
func (f keyFile) encode() []byte {
	var b strings.Builder
	for _, g := range f {
		if len(g.values) == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "[%s]\n", g.name)
		for _, v := range g.values {
			fmt.Fprintf(&b, "%s=%s\n", v.key, v.value)
		}
	}
	return []byte(b.String())
}
