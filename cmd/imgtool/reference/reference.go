// Package reference writes the reference of a program's command line from its commands: man
// pages and a page in Markdown. They have the texts of the help.
package reference

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/usage"
)

// A Reference describes a program.
type Reference struct {
	Root    *cobra.Command
	Version string
	Date    time.Time // of the man pages
	// Exit statuses, environment variables and files of all commands.
	Statuses, Environment, Files []Entry
	SeeAlso                      []string // man pages of other programs, such as "dd(1)"
}

// An Entry is a name and its meaning.
type Entry struct{ Name, Meaning string }

// commands returns the commands of the program that help shows, in its order: each is
// followed by its subcommands.
func commands(root *cobra.Command) (all []*cobra.Command) {
	all = append(all, root)
	for _, s := range usage.Commands(root) {
		for _, c := range s.Items {
			all = append(all, commands(c)...)
		}
	}
	return all
}

// A block is a part of a text: prose, which may be wrapped, or lines that are kept, such as
// commands.
type block struct {
	kept  bool
	lines []string
}

// blocks returns the blocks of a help text. Its indented lines are kept.
func blocks(text string) (all []block) {
	last := -1 // the block that the next line may continue
	for line := range strings.Lines(text) {
		line = strings.TrimRight(strings.ReplaceAll(line, "\t", "  "), " \n")
		kept := strings.HasPrefix(line, " ")
		switch {
		case line == "" && last >= 0 && !all[last].kept:
			last = -1
		case line == "" && last >= 0:
			all[last].lines = append(all[last].lines, "")
		case line == "":
		case last >= 0 && all[last].kept == kept:
			all[last].lines = append(all[last].lines, line)
		default:
			all = append(all, block{kept, []string{line}})
			last = len(all) - 1
		}
	}
	for i, b := range all {
		if !b.kept {
			all[i].lines = []string{strings.TrimLeft(strings.Join(b.lines, " "), "# ")}
			continue
		}
		for b.lines[len(b.lines)-1] == "" {
			b.lines = b.lines[:len(b.lines)-1]
		}
		all[i].lines = unindent(b.lines)
	}
	return all
}

// unindent removes the spaces with which all lines begin.
func unindent(lines []string) []string {
	indent := -1
	for _, l := range lines {
		if n := len(l) - len(strings.TrimLeft(l, " ")); l != "" && (indent < 0 || n < indent) {
			indent = n
		}
	}
	var out []string
	for _, l := range lines {
		out = append(out, l[min(indent, len(l)):])
	}
	return out
}

// lowerFirst returns a text with a small first letter, unless it begins with an abbreviation.
func lowerFirst(text string) string {
	first, n := utf8.DecodeRuneInString(text)
	if second, _ := utf8.DecodeRuneInString(text[n:]); unicode.IsUpper(second) {
		return text
	}
	return string(unicode.ToLower(first)) + text[n:]
}
