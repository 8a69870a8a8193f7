package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"mvdan.cc/sh/v3/syntax"

	"imgtool/cmd/imgtool/reference"
	"imgtool/cmd/imgtool/terminal"
)

// A block is a code block of a page.
type block struct {
	page string // path below the top of the project
	line int    // of its first line
	lang string
	text string
	file string // the name of the file that the sentence before asks to save it as, or ""
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

// A command is a statement of a block in a shell's language.
type command struct {
	block
	line  int
	text  string
	calls [][]string // the arguments of imgtool, sudo and make in it, beginning with the program
}

func (c command) String() string { return fmt.Sprintf("%s:%d: %s", c.page, c.line, c.text) }

// documentedPages returns the pages for users, by path below the top of the project.
func documentedPages(t *testing.T) map[string]string {
	t.Helper()
	pages := map[string]string{}
	files := []string{"README.md"}
	err := filepath.WalkDir("../../docs", func(name string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(name) == ".md" {
			files = append(files, filepath.ToSlash(strings.TrimPrefix(name, "../../")))
		}
		return err
	})
	if err != nil || len(files) < 15 {
		t.Fatalf("%q: %v", files, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(filepath.Join("../..", file))
		if err != nil {
			t.Fatal(err)
		}
		pages[file] = string(b)
	}
	return pages
}

// generated is the page with all commands, which shows their forms, too.
const generated = "docs/reference/commands.md"

// saveAs is how a page asks to save the next block.
var saveAs = regexp.MustCompile("[Ss]ave this as `([^`]+)`[^`(]*:$")

// blocksOf returns the code blocks of a page, and its prose as a single text.
func blocksOf(t *testing.T, page, text string) (blocks []block, prose string) {
	t.Helper()
	var b *block
	for i, line := range strings.Split(text, "\n") {
		lang, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence && b == nil:
			b = &block{page: page, line: i + 2, lang: lang}
			if m := saveAs.FindStringSubmatch(strings.TrimSpace(prose)); m != nil {
				b.file = m[1]
			}
		case fence:
			blocks = append(blocks, *b)
			b = nil
			prose += "\n(code)\n"
		case b != nil:
			b.text += line + "\n"
		default:
			prose += line + "\n"
		}
	}
	if b != nil {
		t.Errorf("%s: the code block has no end", b)
	}
	return blocks, prose
}

// languages are the languages of code blocks. Only blocks in sh contain commands, and the run keys of
// workflows in yaml.
var languages = []string{"sh", "text", "toml", "json", "csv", "yaml", "js"}

var lookLikeCommands = regexp.MustCompile(`(?m)^\s*(?:\$ |sudo |\./)?imgtool (?:build|bundle|flash|verify|inspect|ls|cat|diff|seed|provision|vm|disks|boards|factory|cache) `)

// commandsOf returns the statements of a block in the language of a shell.
func commandsOf(t *testing.T, b block) (commands []command) {
	t.Helper()
	text := b.text
	switch {
	case !slices.Contains(languages, b.lang):
		t.Errorf("%s: the code block is in the language %q, not one of %s", b, b.lang, strings.Join(languages, ", "))
	case b.lang == "yaml":
		text = runsOf(text)
	case b.lang != "sh":
		if m := lookLikeCommands.FindString(text); m != "" && b.page != generated {
			t.Errorf("%s: the code block is not in sh and has the command %q", b, m)
		}
		return nil
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), b.page)
	if err != nil {
		t.Errorf("%s: %v", b, err)
		return nil
	}
	for _, s := range file.Stmts {
		c := command{block: b, line: b.line + int(s.Pos().Line()) - 1, text: text[s.Pos().Offset():s.End().Offset()]}
		syntax.Walk(s, func(n syntax.Node) bool {
			if call, ok := n.(*syntax.CallExpr); ok {
				if words := wordsOf(call.Args); len(words) > 0 && slices.Contains([]string{"imgtool", "make"}, words[0]) {
					c.calls = append(c.calls, words)
				}
			}
			return true
		})
		commands = append(commands, c)
	}
	return commands
}

// wordsOf returns the words of a command without sudo. Parts that the shell would expand are
// replaced with the letter x.
func wordsOf(args []*syntax.Word) (words []string) {
	for _, arg := range args {
		var s strings.Builder
		for _, part := range arg.Parts {
			switch p := part.(type) {
			case *syntax.Lit:
				s.WriteString(strings.NewReplacer("\\\n", "", `\`, "").Replace(p.Value))
			case *syntax.SglQuoted:
				s.WriteString(p.Value)
			case *syntax.DblQuoted:
				for _, part := range p.Parts {
					if lit, ok := part.(*syntax.Lit); ok {
						s.WriteString(lit.Value)
					} else {
						s.WriteByte('x')
					}
				}
			default:
				s.WriteByte('x')
			}
		}
		words = append(words, s.String())
	}
	for len(words) > 0 && (words[0] == "sudo" || strings.Contains(words[0], "=") || strings.HasPrefix(words[0], "-")) {
		words = words[1:]
	}
	if len(words) > 0 {
		words[0] = strings.TrimPrefix(words[0], "./")
	}
	return words
}

// runsOf returns the commands of a workflow, each on its line; other lines are empty.
func runsOf(text string) string {
	lines := strings.Split(text, "\n")
	indent := -1
	for i, line := range lines {
		depth := len(line) - len(strings.TrimLeft(line, " "))
		if indent >= 0 && (depth > indent || strings.TrimSpace(line) == "") {
			continue
		}
		indent = -1
		lines[i] = ""
		if _, run, ok := strings.Cut(line, "run: "); ok {
			if lines[i] = run; run == "|" {
				lines[i], indent = "", depth
			}
		}
	}
	return strings.Join(lines, "\n")
}

// parse checks the arguments of a command without running it: the command and its flags
// exist, flags have valid values, and the number of arguments is right. A mention of a command
// in a sentence may lack arguments, and the value of its last flag.
func parse(args []string, mention bool) error {
	u := terminal.New(strings.NewReader(""), os.Stderr, os.Stderr)
	root := newCommand(u)
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if cmd == root && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") && rest[0] != "help" && rest[0] != "completion" {
		return fmt.Errorf("unknown command %q", rest[0])
	}
	if err := cmd.ParseFlags(rest); err != nil {
		if mention && errors.As(err, new(*pflag.ValueRequiredError)) {
			return nil
		}
		return err
	}
	if help, _ := cmd.Flags().GetBool("help"); help || cmd == root || mention && cmd.Flags().NArg() == 0 {
		return nil
	}
	return errors.Join(cmd.ValidateArgs(cmd.Flags().Args()), cmd.ValidateRequiredFlags(), cmd.ValidateFlagGroups())
}

// Every command of imgtool in the docs, in code blocks and in sentences, is accepted by
// imgtool, and every flag in a sentence is a flag of imgtool or listed with its program.
func TestDocumentedCommandsAreAccepted(t *testing.T) {
	targets := makeTargets(t)
	accepted := 0
	check := func(where string, call []string, mention bool) {
		accepted++
		if call[0] == "make" {
			for _, target := range call[1:] {
				if !strings.Contains(target, "=") && !targets[target] {
					t.Errorf("%s: the Makefile has no target %s", where, target)
				}
			}
		} else if err := parse(call[1:], mention); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
	flags := flagNames()
	for page, text := range documentedPages(t) {
		blocks, prose := blocksOf(t, page, text)
		for _, b := range blocks {
			for _, c := range commandsOf(t, b) {
				for _, call := range c.calls {
					check(c.String(), call, false)
				}
			}
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(prose, -1) {
			span := strings.Join(strings.Fields(m[1]), " ")
			if name := regexp.MustCompile(`^--[a-z0-9-]+`).FindString(span); name != "" && !flags[name] && !slices.Contains(flagsOfOthers, span) {
				t.Errorf("%s: no command has the flag in `%s`", page, span)
			}
			if !regexp.MustCompile(`^(sudo )?(\./)?imgtool [a-z-]`).MatchString(span) || strings.Contains(span, "…") {
				continue
			}
			for _, c := range commandsOf(t, block{page: page, lang: "sh", text: span}) {
				for _, call := range c.calls {
					check(fmt.Sprintf("%s: `%s`", page, span), call, true)
				}
			}
		}
	}
	if accepted < 100 {
		t.Errorf("only %d commands were found", accepted)
	}
}

// flagsOfOthers are flags in sentences that belong to other programs.
var flagsOfOthers = []string{"--long=31", "--long", "--empty=allow --discard=no"}

// flagNames returns the flags of all commands.
func flagNames() map[string]bool {
	names := map[string]bool{"--help": true, "--version": true}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names["--"+f.Name] = true })
		cmd.PersistentFlags().VisitAll(func(f *pflag.Flag) { names["--"+f.Name] = true })
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newCommand(terminal.New(strings.NewReader(""), os.Stderr, os.Stderr)))
	return names
}

func makeTargets(t *testing.T) map[string]bool {
	t.Helper()
	b, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllStringSubmatch(string(b), -1) {
		targets[m[1]] = true
	}
	return targets
}

// Paths of the host in the code are in the table of files.
func TestPathsAreDocumented(t *testing.T) {
	documented := ""
	for _, f := range reference.Files {
		documented += f.Name + " " + f.Meaning + "\n"
	}
	path := regexp.MustCompile(`"(/(?:etc|proc|sys|dev|run|usr|var|lib)/?[^"%* ]*)[^" ]*"`)
	found := 0
	for _, dir := range []string{".", "../../flash", "../../image/source", "../../image/cache", "../../image/vm", "../../image/hostfile", "../../image/artifact", "../../image/compress", "../../image/volume"} {
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || name == "reference/tables.go" {
				return err
			}
			text, err := os.ReadFile(name)
			for line := range strings.Lines(string(text)) {
				for _, m := range path.FindAllStringSubmatch(line, -1) {
					found++
					covered := slices.ContainsFunc(strings.FieldsFunc(documented, func(r rune) bool { return strings.ContainsRune(" ,:;\n", r) }), func(word string) bool {
						return word == m[1] || strings.HasSuffix(word, "/") && strings.HasPrefix(word, "/") && strings.HasPrefix(m[1]+"/", word)
					})
					if !covered && !strings.Contains(line, "systemMounts") {
						t.Errorf("%s: %s is not in the table of files", name, m[1])
					}
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 20 {
		t.Errorf("only %d paths were found", found)
	}
}
