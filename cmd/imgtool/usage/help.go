package usage

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Width is how many columns help has at most.
const Width = 80

// flagColumn is the column of the description of a flag. The text of a longer flag begins on its
// next line.
const flagColumn = 28

const groupKey = "imgtool_group"

// Group puts flags of a command under a heading of its help. Headings are in the order in which
// they are added, after flags without one.
func Group(cmd *cobra.Command, heading string, flags ...string) {
	for _, name := range flags {
		if err := cmd.Flags().SetAnnotation(name, groupKey, []string{heading}); err != nil {
			panic(err)
		}
	}
	cmd.Annotations = addTo(cmd.Annotations, heading)
}

func addTo(annotations map[string]string, heading string) map[string]string {
	if annotations == nil {
		annotations = map[string]string{}
	}
	if list := headings(annotations); !slices.Contains(list, heading) {
		annotations[groupKey] = strings.Join(append(list, heading), "\n")
	}
	return annotations
}

func headings(annotations map[string]string) []string {
	return strings.FieldsFunc(annotations[groupKey], func(r rune) bool { return r == '\n' })
}

// Help returns the help of a command.
func Help(cmd *cobra.Command) string {
	var b strings.Builder
	long := cmd.Long
	if long == "" {
		long = cmd.Short + "."
	}
	fmt.Fprintf(&b, "%s\nUsage:\n", filled(long))
	for _, line := range Lines(cmd) {
		b.WriteString(wrapped("  ", "      ", line))
	}
	if cmd.Example != "" {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", strings.TrimRight(cmd.Example, "\n"))
	}
	writeCommands(&b, cmd)
	writeFlags(&b, cmd)
	if cmd.HasAvailableSubCommands() {
		b.WriteString(wrapped("\n", "", fmt.Sprintf("%s COMMAND --help describes a command.", cmd.CommandPath())))
	}
	return b.String()
}

func useLine(cmd *cobra.Command) string {
	use := line(cmd)
	if !cmd.HasParent() {
		use = cmd.CommandPath()
	}
	return use + " [FLAG...]"
}

// Lines returns the command lines that a command takes.
func Lines(cmd *cobra.Command) (all []string) {
	if cmd.Runnable() {
		all = append(all, useLine(cmd))
	}
	if cmd.HasAvailableSubCommands() {
		all = append(all, cmd.CommandPath()+" COMMAND")
	}
	return all
}

// A Section is a heading of a help text with the commands or flags under it.
type Section[T any] struct {
	Title string
	Items []T
}

// Commands returns the commands below cmd in their groups.
func Commands(cmd *cobra.Command) (all []Section[*cobra.Command]) {
	for _, g := range append(slices.Clone(cmd.Groups()), &cobra.Group{Title: "Commands"}) {
		s := Section[*cobra.Command]{Title: g.Title}
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() && c.GroupID == g.ID {
				s.Items = append(s.Items, c)
			}
		}
		if len(s.Items) > 0 {
			all = append(all, s)
		}
	}
	return all
}

func writeCommands(b *strings.Builder, cmd *cobra.Command) {
	wide := 0
	for _, s := range Commands(cmd) {
		for _, c := range s.Items {
			wide = max(wide, len(c.Name()))
		}
	}
	for _, s := range Commands(cmd) {
		fmt.Fprintf(b, "\n%s:\n", s.Title)
		for _, c := range s.Items {
			b.WriteString(wrapped(fmt.Sprintf("  %-*s  ", wide, c.Name()), strings.Repeat(" ", wide+4), c.Short))
		}
	}
}

// Global is the title of the section of the flags that all commands have.
const Global = "Flags of all commands"

// Flags returns the flags of cmd in their groups. The last section has those of
// all commands.
func Flags(cmd *cobra.Command) (all []Section[*pflag.Flag]) {
	section := func(title string, flags *pflag.FlagSet, heading string) {
		s := Section[*pflag.Flag]{Title: title}
		flags.VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && strings.Join(f.Annotations[groupKey], "") == heading {
				s.Items = append(s.Items, f)
			}
		})
		if len(s.Items) > 0 {
			all = append(all, s)
		}
	}
	local, global := cmd.NonInheritedFlags(), cmd.InheritedFlags()
	if !cmd.HasParent() {
		local, global = cmd.LocalNonPersistentFlags(), cmd.PersistentFlags()
	}
	section("Flags", local, "")
	for _, heading := range headings(cmd.Annotations) {
		section(heading, local, heading)
	}
	section(Global, global, "")
	return all
}

func writeFlags(b *strings.Builder, cmd *cobra.Command) {
	for _, s := range Flags(cmd) {
		fmt.Fprintf(b, "\n%s:\n", s.Title)
		for _, f := range s.Items {
			writeFlag(b, f)
		}
	}
}

// Describe returns what stands for the value of a flag in help, or "", and what the flag does.
func Describe(f *pflag.Flag) (value, about string) {
	value, about = pflag.UnquoteUsage(f)
	if f.Value.Type() == "bool" {
		value = ""
	} else {
		value = metavar(f, value)
	}
	if d := f.DefValue; d != "" && d != "false" && d != "0" && d != "0s" && d != "[]" {
		about += " (default " + d + ")"
	}
	return value, about
}

func writeFlag(b *strings.Builder, f *pflag.Flag) {
	value, about := Describe(f)
	head := "      --" + f.Name
	if f.Shorthand != "" {
		head = "  -" + f.Shorthand + ", --" + f.Name
	}
	if value != "" {
		head += " " + value
	}
	indent := strings.Repeat(" ", flagColumn)
	if len(head)+2 > flagColumn {
		b.WriteString(head + "\n")
		head = ""
	}
	b.WriteString(wrapped(fmt.Sprintf("%-*s", flagColumn, head), indent, about))
}

// metavar returns what stands for the value of a flag in help.
func metavar(f *pflag.Flag, name string) string {
	switch name {
	case "string", "stringArray":
		return "TEXT"
	case "strings":
		return "LIST"
	case "duration":
		return "TIME"
	case "int":
		return "N"
	case "", "bool":
		return f.Value.Type()
	}
	return name
}

// filled returns text with its paragraphs filled to Width columns. Lines that begin with a space
// stay as they are.
func filled(text string) string {
	var b, paragraph strings.Builder
	end := func() {
		if paragraph.Len() > 0 {
			b.WriteString(wrapped("", "", paragraph.String()))
		}
		paragraph.Reset()
	}
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		switch {
		case line == "" || line[0] == ' ':
			end()
			b.WriteString(line + "\n")
		default:
			paragraph.WriteString(line + " ")
		}
	}
	end()
	return b.String()
}

// wrapped returns text in lines of up to Width columns. The first begins with first, the others
// with rest.
func wrapped(first, rest, text string) string {
	var b strings.Builder
	at := first
	for _, word := range strings.Fields(text) {
		if len(at)+1+len(word) > Width && strings.TrimSpace(at) != "" {
			b.WriteString(strings.TrimRight(at, " ") + "\n")
			at = rest
		}
		if at != "" && !strings.HasSuffix(at, " ") && !strings.HasSuffix(at, "\n") {
			at += " "
		}
		at += word
	}
	return b.String() + at + "\n"
}
