package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"mvdan.cc/sh/v3/syntax"

	"imgtool/cmd/imgtool/exit"
	"imgtool/cmd/imgtool/terminal"
	"imgtool/cmd/imgtool/usage"
)

// commands returns all commands that users see, by their paths.
func commands() map[string]*cobra.Command {
	all := map[string]*cobra.Command{}
	for cmd := range usage.All(newCommand(terminal.New(strings.NewReader(""), io.Discard, io.Discard))) {
		all[cmd.CommandPath()] = cmd
	}
	return all
}

// The help of every command fits a terminal of 80 columns, and has examples.
func TestHelpFits(t *testing.T) {
	all := commands()
	if len(all) < 30 {
		t.Fatalf("there are %d commands", len(all))
	}
	for path, cmd := range all {
		var out bytes.Buffer
		if status := run(append(strings.Fields(path)[1:], "--help"), strings.NewReader(""), &out, io.Discard); status != exit.OK {
			t.Errorf("%s --help: exit status %d", path, status)
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
				t.Errorf("%s: %d columns: %s", path, n, line)
			}
		}
		if cmd.Example == "" || !strings.Contains(out.String(), cmd.Example) {
			t.Errorf("%s has no examples", path)
		}
		if cmd.Short == "" || len(cmd.Short) > 75 || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: short help %q", path, cmd.Short)
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || !strings.Contains(out.String(), "--"+f.Name) {
				t.Errorf("%s: --%s has no help", path, f.Name)
			}
		})
	}
}

// Every example is a command line that imgtool takes: its commands, flags and numbers of
// arguments exist, and the flags have possible values.
func TestExamplesParse(t *testing.T) {
	n := 0
	for path, owner := range commands() {
		file, err := syntax.NewParser().Parse(strings.NewReader(owner.Example), path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		syntax.Walk(file, func(node syntax.Node) bool {
			call, ok := node.(*syntax.CallExpr)
			if !ok {
				return true
			}
			var args []string
			for _, word := range call.Args {
				var b strings.Builder
				for _, part := range word.Parts {
					switch p := part.(type) {
					case *syntax.Lit:
						b.WriteString(p.Value)
					case *syntax.SglQuoted:
						b.WriteString(p.Value)
					default:
						b.WriteString("x")
					}
				}
				args = append(args, b.String())
			}
			if len(args) == 0 || args[0] != "imgtool" {
				return true
			}
			n++
			root := commands()["imgtool"]
			err := usage.Check(root, args[1:])
			if err == nil {
				var cmd *cobra.Command
				if cmd, args, err = root.Find(args[1:]); err == nil {
					if err = cmd.ParseFlags(args); err == nil {
						err = cmd.ValidateArgs(cmd.Flags().Args())
					}
				}
			}
			if err != nil {
				t.Errorf("%s: example %q: %v", path, args, err)
			}
			return true
		})
	}
	if n < 60 {
		t.Errorf("only %d examples were found", n)
	}
}
