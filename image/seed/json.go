package seed

import (
	"fmt"
	"strings"
	"unicode/utf16"
)

// entry is a key of an object and its value.
type entry struct {
	key   string
	value any
}

// object is a JSON object, whose keys stay in their order.
type object []entry

// dump formats a value in the layout of Python's json.dumps with an indent of two, and a
// final newline. A value is an object, a []any, a string, or what fmt prints as JSON.
func dump(v any) string {
	var b strings.Builder
	write(&b, v, "\n")
	b.WriteByte('\n')
	return b.String()
}

// write writes a value. newline is a line end followed by the current indent.
func write(b *strings.Builder, v any, newline string) {
	inner := newline + "  "
	switch v := v.(type) {
	case object:
		if len(v) == 0 {
			b.WriteString("{}")
			return
		}
		for i, e := range v {
			b.WriteString(opening(i, "{") + inner + quoteASCII(e.key) + ": ")
			write(b, e.value, inner)
		}
		b.WriteString(newline + "}")
	case []any:
		if len(v) == 0 {
			b.WriteString("[]")
			return
		}
		for i, item := range v {
			b.WriteString(opening(i, "[") + inner)
			write(b, item, inner)
		}
		b.WriteString(newline + "]")
	case string:
		b.WriteString(quoteASCII(v))
	default:
		fmt.Fprint(b, v)
	}
}

// opening returns the text before an item: a bracket or a comma.
func opening(i int, bracket string) string {
	if i == 0 {
		return bracket
	}
	return ","
}

// quoteASCII quotes a string as JSON in ASCII, as Python does.
func quoteASCII(s string) string { return quoteIn(s, false) }

// quoteTOML quotes a string for TOML as the device does: like JSON, except for surrogates and
// the character 0x7f, which TOML does not allow.
func quoteTOML(s string) string { return quoteIn(s, true) }

func quoteIn(s string, toml bool) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		if i := strings.IndexRune("\b\t\n\f\r\"\\", c); i >= 0 {
			b.WriteByte('\\')
			b.WriteByte(`btnfr"\`[i])
			continue
		}
		switch {
		case c >= ' ' && c < 0x7f || c == 0x7f && !toml:
			b.WriteRune(c)
		case c > 0xffff && toml:
			fmt.Fprintf(&b, `\U%08x`, c)
		case c > 0xffff:
			high, low := utf16.EncodeRune(c)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
