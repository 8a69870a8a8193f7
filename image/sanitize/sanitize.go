// Package sanitize makes text from other sources safe to print on a terminal: names in
// images and archives, labels, disk models, messages of registries, file names. Such text
// may contain escape sequences that move the cursor and so hide or forge a line, or
// characters that change the order of the displayed text.
//
// Control characters, invalid UTF-8, invisible format characters (for example marks for the
// direction of text) and all spaces except U+0020 are replaced by Go escapes:
// \x1b, \n, \u202e. Other characters are unchanged. Backslashes are not escaped, so that
// sanitizing twice has no further effect; callers quote text that must not be ambiguous.
package sanitize

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Line returns s sanitized, on one line.
func Line(s string) string { return escape(s, "") }

// IsLine reports whether s is one line that [Line] does not change.
func IsLine(s string) bool { return Line(s) == s }

// Text returns s sanitized, but with its newlines and tabs.
func Text(s string) string { return escape(s, "\n\t") }

func escape(s, keep string) string {
	clean := func(r rune, size int) bool {
		return r == utf8.RuneError && size > 1 || r != utf8.RuneError && unicode.IsPrint(r) || r < utf8.RuneSelf && strings.IndexByte(keep, byte(r)) >= 0
	}
	var b strings.Builder
	done := 0 // bytes of s that are in b
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if !clean(r, size) {
			b.WriteString(s[done:i])
			writeEscape(&b, s[i:i+size], r)
			done = i + size
		}
		i += size
	}
	if done == 0 {
		return s
	}
	b.WriteString(s[done:])
	return b.String()
}

func writeEscape(b *strings.Builder, s string, r rune) {
	if r == utf8.RuneError || r < utf8.RuneSelf && !strings.ContainsRune("\n\r\t", r) {
		fmt.Fprintf(b, `\x%02x`, s[0])
		return
	}
	b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
}

// Sprintf is like [fmt.Sprintf], with each argument sanitized as by [Line]. The format is
// not changed.
func Sprintf(format string, args ...any) string {
	for i, a := range args {
		switch a.(type) {
		case bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64, nil:
		default:
			args[i] = line{a}
		}
	}
	return fmt.Sprintf(format, args...)
}

// line formats its value sanitized, on one line.
type line struct{ value any }

func (l line) Format(f fmt.State, verb rune) {
	format := fmt.FormatString(f, verb)
	if s, ok := l.value.(string); ok && (verb == 's' || verb == 'v') {
		fmt.Fprintf(f, format, Line(s))
		return
	}
	io.WriteString(f, Line(fmt.Sprintf(format, l.value)))
}

// JSON returns JSON of the same value with the characters that [Line] would replace in
// JSON's escapes. The argument may be part of a document, but must end at a character.
func JSON(b []byte) []byte {
	s := string(b)
	odd := func(r rune) bool { return r >= 0x7f && !unicode.IsPrint(r) }
	if strings.IndexFunc(s, odd) < 0 {
		return b
	}
	var out strings.Builder
	for _, r := range s {
		if !odd(r) {
			out.WriteRune(r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			fmt.Fprintf(&out, `\u%04x`, unit)
		}
	}
	return []byte(out.String())
}

// Writer writes text sanitized as by [Text].
type Writer struct {
	w    io.Writer
	rest []byte // an incomplete character, or a carriage return
}

// NewWriter returns a Writer that writes to w. Its Close does not close w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

func (w *Writer) Write(p []byte) (int, error) {
	b := append(w.rest, p...)
	end := len(b)
	for i := max(0, end-utf8.UTFMax); i < end; i++ {
		if utf8.RuneStart(b[i]) && !utf8.FullRune(b[i:]) || b[i] == '\r' && i == end-1 {
			end = i
		}
	}
	w.rest = append([]byte(nil), b[end:]...)
	// Consoles and other systems end lines with \r\n.
	text := strings.ReplaceAll(string(b[:end]), "\r\n", "\n")
	if _, err := io.WriteString(w.w, Text(text)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close writes the rest.
func (w *Writer) Close() error {
	_, err := io.WriteString(w.w, Text(string(w.rest)))
	w.rest = nil
	return err
}
