package reference

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"imgtool/cmd/imgtool/usage"
)

// Markdown writes a page with all commands, options, exit statuses, variables and files.
func (r Reference) Markdown(w io.Writer) error {
	var p page
	name := r.Root.Name()
	p.line("<!-- This page is made from the program: " + name + " gen markdown -->")
	p.line("# Commands of " + name)
	for _, c := range commands(r.Root) {
		r.command(&p, c)
	}
	p.entries("Exit statuses", "status", r.Statuses)
	p.entries("Environment variables", "variable", r.Environment)
	p.entries("Files", "file", r.Files)
	_, err := io.WriteString(w, strings.TrimRight(p.String(), "\n")+"\n")
	return err
}

func (r Reference) command(p *page, c *cobra.Command) {
	p.line("## " + c.CommandPath())
	p.code("text", usage.Lines(c))
	if c.Long == "" {
		p.line(plain(strings.TrimSuffix(c.Short, ".") + "."))
	}
	for _, b := range blocks(c.Long) {
		if b.kept {
			p.code("text", b.lines)
		} else {
			p.line(plain(b.lines[0]))
		}
	}
	for _, s := range usage.Commands(c) {
		p.line("**" + s.Title + "**")
		rows := [][2]string{}
		for _, sub := range s.Items {
			path := sub.CommandPath()
			rows = append(rows, [2]string{fmt.Sprintf("[`%s`](#%s)", path, strings.ReplaceAll(path, " ", "-")), sub.Short})
		}
		p.table("command", "purpose", rows)
	}
	for _, s := range usage.Flags(c) {
		if c != r.Root { // its page has these
			s.Items = slices.DeleteFunc(s.Items, func(f *pflag.Flag) bool { return s.Title == usage.Global || f.Name == "help" })
		}
		p.flags(s.Title, s.Items)
	}
	if c.Example != "" {
		p.line("**Examples**")
		p.code("sh", unindent(strings.Split(c.Example, "\n")))
	}
}

// page is a text in Markdown.
type page struct{ strings.Builder }

// line writes a paragraph of one line.
func (p *page) line(text string) { p.WriteString(text + "\n\n") }

func (p *page) code(language string, lines []string) {
	p.line("```" + language + "\n" + strings.Join(lines, "\n") + "\n```")
}

func (p *page) flags(title string, flags []*pflag.Flag) {
	if len(flags) == 0 {
		return
	}
	p.line("**" + title + "**")
	rows := [][2]string{}
	for _, f := range flags {
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		value, about := usage.Describe(f)
		if value != "" {
			name += " *" + plain(value) + "*"
		}
		rows = append(rows, [2]string{name, about})
	}
	p.table("flag", "meaning", rows)
}

func (p *page) entries(title, kind string, all []Entry) {
	if len(all) == 0 {
		return
	}
	p.line("## " + title)
	rows := [][2]string{}
	for _, e := range all {
		rows = append(rows, [2]string{"`" + e.Name + "`", e.Meaning})
	}
	p.table(kind, "meaning", rows)
}

// table writes a table; the first cells of its rows are Markdown already.
func (p *page) table(first, second string, rows [][2]string) {
	fmt.Fprintf(p, "| %s | %s |\n|---|---|\n", first, second)
	for _, row := range rows {
		fmt.Fprintf(p, "| %s | %s |\n", strings.ReplaceAll(row[0], "|", `\|`), strings.ReplaceAll(plain(row[1]), "|", `\|`))
	}
	p.WriteByte('\n')
}

// plain returns text that Markdown shows as it is.
var plain = strings.NewReplacer(`\`, `\\`, "*", `\*`, "_", `\_`, "<", "&lt;", "`", "\\`", "[", `\[`, "]", `\]`).Replace
