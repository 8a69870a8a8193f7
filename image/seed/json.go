package seed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf16"
)

type entry struct {
	key   string
	value any
}

// object is a JSON object, whose keys stay in their order.
type object []entry

func (o object) MarshalJSON() ([]byte, error) {
	b := []byte("{")
	for i, e := range o {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, indented(e.key)...), ':'), indented(e.value)...)
	}
	return append(b, '}'), nil
}

// indented returns a value as JSON with an indent of two, and a final newline.
func indented(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		panic("seed: internal error: " + err.Error())
	}
	return b.Bytes()
}

// dump formats a value in the layout of Python's json.dumps with an indent of two, and a
// final newline.
func dump(v any) string {
	return escaped(indented(v), func(c rune) string {
		if c > 0xffff {
			high, low := utf16.EncodeRune(c)
			return fmt.Sprintf(`\u%04x\u%04x`, high, low)
		}
		return fmt.Sprintf(`\u%04x`, c)
	})
}

// quoteTOML quotes a string for TOML as the device does: like dump, except for surrogates and
// the character 0x7f, which TOML does not allow.
func quoteTOML(s string) string {
	text := escaped(bytes.TrimSuffix(indented(s), []byte("\n")), func(c rune) string {
		if c > 0xffff {
			return fmt.Sprintf(`\U%08x`, c)
		}
		return fmt.Sprintf(`\u%04x`, c)
	})
	return strings.ReplaceAll(text, "\x7f", `\u007f`)
}

// escaped replaces the characters of JSON that are not ASCII.
func escaped(text []byte, escape func(c rune) string) string {
	var b strings.Builder
	for _, c := range string(text) {
		if c <= 0x7f {
			b.WriteRune(c)
		} else {
			b.WriteString(escape(c))
		}
	}
	return b.String()
}
