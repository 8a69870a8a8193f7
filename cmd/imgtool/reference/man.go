package reference

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"imgtool/cmd/imgtool/usage"
)

// Man writes a man page of each command into a directory, in the man macros of roff.
func (r Reference) Man(dir string) error {
	for _, c := range commands(r.Root) {
		if err := os.WriteFile(filepath.Join(dir, pageName(c)+".1"), []byte(r.page(c)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// pageName returns the name of a command's page, such as "imgtool-seed-new".
func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

func (r Reference) page(c *cobra.Command) string {
	var p roff
	// mandoc knows no date with escapes.
	p.line(fmt.Sprintf(`.TH "%s" "1" "%s" "%s" "User Commands"`, escape(strings.ToUpper(pageName(c))), r.Date.UTC().Format("2006-01-02"),
		escape(strings.TrimSpace(r.Root.Name()+" "+r.Version))))
	// Names of commands and flags are not divided.
	p.line(".nh")
	p.line(".ad l")
	p.macro("SH", "NAME")
	p.text(pageName(c) + ` \- ` + escape(lowerFirst(c.Short)))
	p.macro("SH", "SYNOPSIS")
	p.synopsis(c)
	p.macro("SH", "DESCRIPTION")
	if c.Long != "" {
		p.prose(c.Long)
	} else {
		p.prose(strings.TrimSuffix(c.Short, ".") + ".")
	}
	for i, s := range usage.Commands(c) {
		if i == 0 {
			p.macro("SH", "COMMANDS")
		}
		if c == r.Root {
			p.macro("SS", s.Title)
		}
		for _, sub := range s.Items {
			p.tag(bold(sub.CommandPath()), sub.Short)
		}
	}
	p.macro("SH", "OPTIONS")
	for i, s := range usage.Flags(c) {
		if i > 0 {
			p.macro("SS", s.Title)
		}
		for _, f := range s.Items {
			p.flag(f)
		}
	}
	if c.Example != "" {
		p.macro("SH", "EXAMPLES")
		p.kept(unindent(strings.Split(c.Example, "\n")))
	}
	see := []string{}
	if c == r.Root {
		p.entries("EXIT STATUS", r.Statuses)
		p.entries("ENVIRONMENT", r.Environment)
		p.entries("FILES", r.Files)
		for _, other := range commands(c)[1:] {
			see = append(see, pageName(other)+"(1)")
		}
		slices.Sort(see)
		see = append(see, r.SeeAlso...)
	} else {
		p.macro("SH", "EXIT STATUS")
		p.prose("See " + pageName(r.Root) + "(1), which also lists environment variables and files.")
		for parent := c.Parent(); parent != nil; parent = parent.Parent() {
			see = append(see, pageName(parent)+"(1)")
		}
		for _, sub := range commands(c)[1:] {
			see = append(see, pageName(sub)+"(1)")
		}
		slices.Sort(see)
	}
	p.macro("SH", "SEE ALSO")
	for i, page := range see {
		name, rest, _ := strings.Cut(page, "(")
		rest = "(" + rest
		if i < len(see)-1 {
			rest += ","
		}
		p.line(".BR " + escape(name) + " " + rest)
	}
	return p.String()
}

// roff is a text with macros and escapes.
type roff struct{ strings.Builder }

func (p *roff) line(text string) {
	p.WriteString(text)
	p.WriteByte('\n')
}

func (p *roff) macro(name string, args ...string) {
	p.WriteString("." + name)
	for _, a := range args {
		fmt.Fprintf(p, ` "%s"`, escape(a))
	}
	p.WriteByte('\n')
}

// text writes text that is escaped already, in lines of up to 78 bytes.
func (p *roff) text(escaped string) {
	const width = 78
	line := ""
	for _, word := range strings.Fields(escaped) {
		if line != "" && len(line)+1+len(word) > width {
			p.line(guard(line))
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	p.line(guard(line))
}

// prose writes paragraphs and blocks of kept lines.
func (p *roff) prose(text string) {
	for i, b := range blocks(text) {
		if i > 0 {
			p.line(".PP")
		}
		if b.kept {
			p.kept(b.lines)
		} else {
			p.text(escape(b.lines[0]))
		}
	}
}

// kept writes lines as they are.
func (p *roff) kept(lines []string) {
	p.line(".RS 4")
	p.line(".EX")
	for _, l := range lines {
		p.line(guard(escape(l)))
	}
	p.line(".EE")
	p.line(".nh") // .EE allows it again
	p.line(".RE")
}

func (p *roff) synopsis(c *cobra.Command) {
	for i, line := range usage.Lines(c) {
		if i > 0 {
			p.line(".br")
		}
		p.text(bold(c.CommandPath()) + escape(strings.TrimPrefix(line, c.CommandPath())))
	}
}

func (p *roff) flag(f *pflag.Flag) {
	tag := bold("--" + f.Name)
	if f.Shorthand != "" {
		tag = bold("-"+f.Shorthand) + ", " + tag
	}
	value, about := usage.Describe(f)
	if value != "" {
		tag += ` \fI` + escape(value) + `\fR`
	}
	p.tag(tag, about)
}

func (p *roff) entries(title string, all []Entry) {
	if len(all) > 0 {
		p.macro("SH", title)
	}
	for _, e := range all {
		p.tag(bold(e.Name), e.Meaning)
	}
}

// tag writes a paragraph with a tag, which is escaped already.
func (p *roff) tag(tag, text string) {
	p.line(".TP")
	p.line(tag)
	p.text(escape(text))
}

func bold(text string) string { return `\fB` + escape(text) + `\fR` }

// escape returns text as roff shows it as it is. Dashes are those of the command line, which
// can be copied and searched.
func escape(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\\':
			b.WriteString(`\e`)
		case r == '-':
			b.WriteString(`\-`)
		case r == '"':
			b.WriteString(`\(dq`)
		case r == '\'':
			b.WriteString(`\(aq`)
		case r == '`':
			b.WriteString(`\(ga`)
		case r == '^':
			b.WriteString(`\(ha`)
		case r == '~':
			b.WriteString(`\(ti`)
		case r > 0x7e:
			fmt.Fprintf(&b, `\[u%04X]`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// guard keeps a line of text from being taken for a macro.
func guard(line string) string {
	if strings.HasPrefix(line, ".") {
		return `\&` + line
	}
	return line
}
