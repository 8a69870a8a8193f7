// Package shconf reads configuration files with shell assignments, without running a shell.
// Values are texts, lists of texts, and variables that were set before. Other shell syntax is
// an error.
package shconf

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// Value is the value of a variable.
type Value struct {
	Text string
	List []string // of NAME=(…), not nil; nil for a text
}

// Items returns the values of a list, or the words of a text.
func (v Value) Items() []string { return append(slices.Clone(v.List), strings.Fields(v.Text)...) }

// maxSrc and maxText bound the memory for a file that doubles a variable in each line.
const (
	maxSrc  = 1 << 20
	maxText = 1 << 16
)

// Parse reads assignments as bash does: NAME=text and NAME=(text …), with quotes, and with
// $NAME and ${NAME} of variables that were assigned before. The last assignment of a name
// counts. Errors have the file and the line.
func Parse(name string, src []byte) (map[string]Value, error) {
	if len(src) > maxSrc {
		return nil, fmt.Errorf("%s: %d bytes; configuration has at most %d", name, len(src), maxSrc)
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(bytes.NewReader(src), name)
	if err != nil {
		var parse syntax.ParseError
		var lang syntax.LangError
		switch {
		case errors.As(err, &parse):
			return nil, fmt.Errorf("%s:%d: %s", name, parse.Pos.Line(), parse.Text)
		case errors.As(err, &lang):
			return nil, fmt.Errorf("%s:%d: %s is not bash", name, lang.Pos.Line(), lang.Feature)
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r := &reader{name, map[string]Value{}}
	for _, stmt := range file.Stmts {
		if err := r.stmt(stmt); err != nil {
			return nil, err
		}
	}
	return r.vars, nil
}

type reader struct {
	name string // of the file
	vars map[string]Value
}

func (r *reader) refuse(n syntax.Node, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", r.name, n.Pos().Line(), fmt.Sprintf(format, args...))
}

func (r *reader) stmt(s *syntax.Stmt) error {
	call, ok := s.Cmd.(*syntax.CallExpr)
	switch {
	case !ok || len(call.Args) > 0 || s.Negated || s.Background || s.Coprocess || s.Disown:
		return r.refuse(s, "only assignments can be read, and nothing is run")
	case len(s.Redirs) > 0:
		return r.refuse(s, "only assignments can be read, without redirection")
	}
	for _, a := range call.Assigns {
		if a.Naked || a.Append || a.Index != nil {
			return r.refuse(a, "%s: only NAME=text and NAME=(text …) can be read", a.Name.Value)
		}
		v, err := r.value(a)
		if err != nil {
			return err
		}
		r.vars[a.Name.Value] = v
	}
	return nil
}

func (r *reader) value(a *syntax.Assign) (Value, error) {
	if a.Array == nil {
		if a.Value == nil {
			return Value{}, nil
		}
		text, err := r.word(a.Value, false)
		return Value{Text: text}, err
	}
	list := []string{}
	for _, e := range a.Array.Elems {
		if e.Index != nil || e.Value == nil {
			return Value{}, r.refuse(e, "%s: a list has no indices here", a.Name.Value)
		}
		text, err := r.word(e.Value, true)
		if err != nil {
			return Value{}, err
		}
		list = append(list, text)
	}
	return Value{List: list}, nil
}

// word returns the text of a word. In a list bash splits and expands unquoted text: text that
// it would change is an error.
func (r *reader) word(w *syntax.Word, list bool) (string, error) {
	return r.join(w.Parts, func(part syntax.WordPart) (text string, err error) {
		switch p := part.(type) {
		case *syntax.Lit:
			if strings.HasPrefix(p.Value, "~") && part == w.Parts[0] || strings.Contains(p.Value, ":~") {
				return "", r.refuse(p, "~ is not expanded: quote it or write the path")
			}
			if list && strings.ContainsAny(p.Value, "*?[{") {
				return "", r.refuse(p, "%s would be expanded: quote it", p.Value)
			}
			text = unescape(p.Value, "")
		case *syntax.SglQuoted:
			if p.Dollar {
				return "", r.refuse(p, "$'…' is not read")
			}
			text = p.Value
		case *syntax.DblQuoted:
			text, err = r.quoted(p)
		case *syntax.ParamExp:
			text, err = r.param(p)
			if err == nil && list && (text == "" || strings.ContainsAny(text, " \t\n*?[\\")) {
				err = r.refuse(p, "$%s is %q, which would be split or expanded: quote it", p.Param.Value, text)
			}
		default:
			err = r.refuse(part, "only text, quotes and variables can be read, and nothing is run")
		}
		return text, err
	})
}

func (r *reader) join(parts []syntax.WordPart, textOf func(syntax.WordPart) (string, error)) (string, error) {
	var b strings.Builder
	for _, part := range parts {
		text, err := textOf(part)
		if err != nil {
			return "", err
		}
		if b.Len()+len(text) > maxText {
			return "", r.refuse(part, "the text has more than %d bytes", maxText)
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

func (r *reader) quoted(q *syntax.DblQuoted) (string, error) {
	if q.Dollar {
		return "", r.refuse(q, `$"…" is not read`)
	}
	return r.join(q.Parts, func(part syntax.WordPart) (string, error) {
		switch p := part.(type) {
		case *syntax.Lit:
			return unescape(p.Value, "$`\"\\"), nil
		case *syntax.ParamExp:
			return r.param(p)
		}
		return "", r.refuse(part, "only text and variables can be read in quotes, and nothing is run")
	})
}

func (r *reader) param(p *syntax.ParamExp) (string, error) {
	if p.Param == nil || !syntax.ValidName(p.Param.Value) || p.Excl || p.Length || p.Width || p.IsSet || p.Index != nil ||
		p.Slice != nil || p.Repl != nil || p.Names != 0 || p.Exp != nil || p.NestedParam != nil || p.Flags != nil || len(p.Modifiers) > 0 {
		return "", r.refuse(p, "of variables only $NAME and ${NAME} can be read")
	}
	v, ok := r.vars[p.Param.Value]
	switch {
	case !ok:
		return "", r.refuse(p, "$%s is not set above", p.Param.Value)
	case v.List != nil:
		return "", r.refuse(p, "$%s is a list", p.Param.Value)
	}
	return v.Text, nil
}

// unescape removes the backslashes before the characters in only, or before all characters if
// only is empty. A line that ends in a backslash continues in the next one.
func unescape(s, only string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			switch next := s[i+1]; {
			case next == '\n':
				i++
				continue
			case only == "" || strings.IndexByte(only, next) >= 0:
				i++
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
