package edit

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// appendLine appends a line, unless the file has it anywhere.
func appendLine(e *Edit, _, text string) (string, error) {
	for l := range strings.Lines(text) {
		if strings.TrimSuffix(l, "\n") == e.Line {
			return text, nil
		}
	}
	return endLine(text) + e.Line + "\n", nil
}

func endLine(text string) string {
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text
}

func checkCommentLine(e *Edit) error {
	if e.has("lines") == e.has("pattern") {
		return errors.New("it needs either lines or pattern")
	}
	_, err := regexp.Compile(e.Pattern)
	return err
}

// commentLine inserts "# " before lines that are equal to an element of lines, or that
// contain a match of pattern. Comments are unchanged; a comment that matches without its
// "# " counts as a match.
func commentLine(e *Edit, path, text string) (string, error) {
	match := []func(line string) bool{}
	for _, want := range e.Lines {
		match = append(match, func(line string) bool { return line == want })
	}
	names := e.Lines
	if e.has("pattern") {
		pattern, err := regexp.Compile(e.Pattern)
		if err != nil {
			return "", err
		}
		match = append(match, pattern.MatchString)
		names = []string{e.Pattern}
	}
	found := make([]bool, len(match))
	matches := func(line string) bool {
		one := false
		for i := range match {
			if match[i](line) {
				found[i], one = true, true
			}
		}
		return one
	}
	var b strings.Builder
	for l := range strings.Lines(text) {
		line := strings.TrimSuffix(l, "\n")
		if strings.HasPrefix(strings.TrimLeft(line, " \t"), "#") {
			if was, ok := strings.CutPrefix(line, "# "); ok {
				matches(was)
			}
		} else if matches(line) {
			b.WriteString("# ")
		}
		b.WriteString(l)
	}
	for i, ok := range found {
		if !ok && !e.MissingOK {
			return "", fmt.Errorf("%s has no line %q", path, names[i])
		}
	}
	return b.String(), nil
}

var varName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func checkSetVar(e *Edit) error {
	if !varName.MatchString(e.Key) {
		return fmt.Errorf("key %q is not a valid variable name", e.Key)
	}
	return nil
}

// assignment matches a line that sets a variable to one word. Its groups are the text
// before the name, the name, the value, and the text after it.
var assignment = regexp.MustCompile(`^([ \t]*(?:export[ \t]+)?)([A-Za-z_][A-Za-z0-9_]*)=("(?:[^"\\]|\\.)*"|'[^']*'|[^ \t"'#;&|<>()\\` + "`" + `]*)([ \t]*(?:[ \t]#.*)?)$`)

var assigns = regexp.MustCompile(`^[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=`)

// setVar sets a variable in a file of shell assignments: in its last assignment, which
// takes effect, or in a new line at the end. It keeps the style of quotes if possible.
func setVar(e *Edit, path, text string) (string, error) {
	lines := strings.SplitAfter(text, "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		line := strings.TrimSuffix(lines[i], "\n")
		if m := assigns.FindStringSubmatch(line); m == nil || m[1] != e.Key {
			continue
		}
		m := assignment.FindStringSubmatch(line)
		if m == nil {
			return "", fmt.Errorf("%s:%d: %q is more than an assignment of one word to %s", path, i+1, line, e.Key)
		}
		lines[i] = m[1] + e.Key + "=" + quote(e.Value, m[3]) + m[4] + lines[i][len(line):]
		return strings.Join(lines, ""), nil
	}
	return endLine(text) + e.Key + "=" + quote(e.Value, "") + "\n", nil
}

var plain = regexp.MustCompile(`^[A-Za-z0-9_./:=,@%+-]*$`)

var quotable = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`")

// quote quotes a value for a shell in the style of the old value.
func quote(value, old string) string {
	switch {
	case strings.HasPrefix(old, "'") && !strings.Contains(value, "'"):
		return "'" + value + "'"
	case plain.MatchString(value) && !strings.HasPrefix(old, `"`) && !strings.HasPrefix(old, "'"):
		return value
	}
	return `"` + quotable.Replace(value) + `"`
}
