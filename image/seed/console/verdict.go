package console

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"imgtool/image/seed"
)

// maxFaults is the maximum number of faults that are reported.
const maxFaults = 20

// Judge returns the warnings among the faults of a document, and an error if there are other
// faults. The texts contain no values of the document, since anyone can read jobs, logs and the
// health of a device.
func Judge(faults []seed.Fault) (warnings []string, err error) {
	var wrong []string
	for _, f := range faults {
		switch {
		case f.Warning && len(warnings) < maxFaults:
			warnings = append(warnings, f.Public())
		case !f.Warning:
			wrong = append(wrong, "config.toml:"+f.Public())
		}
	}
	if wrong == nil {
		return warnings, nil
	}
	if n := len(wrong); n > maxFaults {
		wrong = append(wrong[:maxFaults], fmt.Sprintf("and %d more", n-maxFaults))
	}
	return warnings, errors.New(strings.Join(wrong, "; "))
}

// verdict is the result of checking the configuration in the page's form. It is shown only to the
// sender of the configuration, so that it can quote it.
type verdict struct {
	File     string // name of the file; empty for pasted text
	Broken   string // why it cannot be read
	Faults   []remark
	More     int // faults that are not shown
	Warnings []remark
	Text     string // of a document; empty for a bundle
}

// remark is a fault or a warning.
type remark struct {
	Line      int
	Key, Text string
	Quote     string // the line
}

// OK reports whether the device takes the configuration.
func (v *verdict) OK() bool { return v.Broken == "" && len(v.Faults) == 0 }

// Count returns the number of faults in words.
func (v *verdict) Count() string {
	if n := len(v.Faults) + v.More; n != 1 {
		return fmt.Sprintf("%d faults", n)
	}
	return "1 fault"
}

const (
	maxText  = 256 << 10 // bytes of a document that the form keeps
	maxQuote = 100       // characters of a line
)

// document returns the text of a document, or "" for a bundle.
func document(body io.ReadSeeker) string {
	body.Seek(0, io.SeekStart)
	text, err := io.ReadAll(io.LimitReader(body, maxText+1))
	body.Seek(0, io.SeekStart)
	if err != nil || len(text) > maxText || !utf8.Valid(text) || strings.ContainsRune(string(text), 0) {
		return ""
	}
	return string(text)
}

// newVerdict returns the verdict on a configuration.
func newVerdict(file, text string, faults []seed.Fault, err error) *verdict {
	v := &verdict{File: file, Text: text}
	if err != nil {
		v.Broken = err.Error()
	}
	lines := strings.Split(text, "\n")
	for _, f := range faults {
		r := remark{Line: f.Line, Key: f.Key, Text: f.Text}
		if f.Line > 0 && f.Line <= len(lines) {
			if quote := []rune(strings.TrimSpace(lines[f.Line-1])); len(quote) > maxQuote {
				r.Quote = string(quote[:maxQuote]) + "…"
			} else {
				r.Quote = string(quote)
			}
		}
		switch {
		case f.Warning && len(v.Warnings) < maxFaults:
			v.Warnings = append(v.Warnings, r)
		case !f.Warning && len(v.Faults) < maxFaults:
			v.Faults = append(v.Faults, r)
		case !f.Warning:
			v.More++
		}
	}
	return v
}
