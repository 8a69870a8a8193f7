// Package complete completes the arguments and flags of imgtool for shells: boards, disks, images,
// what is in images, and the rest of what a shell cannot know.
//
// It opens no disk, prints nothing, and gives up if it takes long.
package complete

import (
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Limit is how long a completion may take on a busy computer: a person waits for it.
var Limit = 400 * time.Millisecond

// source returns the candidates for a word.
type source func(r request) []cobra.Completion

// request is a command line whose last word is completed.
type request struct {
	cmd  *cobra.Command
	args []string // complete arguments before word
	word string
}

// flag returns the value of a flag that was given before, or "".
func (r request) flag(name string) string {
	if f := r.cmd.Flags().Lookup(name); f != nil {
		return f.Value.String()
	}
	return ""
}

// Install adds completions to all commands below root, by the names of their flags and by their
// paths.
func Install(root *cobra.Command) {
	var install func(cmd *cobra.Command)
	install = func(cmd *cobra.Command) {
		path := strings.TrimPrefix(cmd.CommandPath(), root.Name()+" ")
		if args, ok := arguments[path]; ok {
			cmd.ValidArgsFunction = argumentFunc(args)
		} else if cmd.ValidArgs == nil && cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			s, ok := flags[path+" --"+f.Name]
			if !ok {
				s, ok = flags["--"+f.Name]
			}
			if ok {
				cmd.RegisterFlagCompletionFunc(f.Name, completion(s))
			}
		})
		for _, c := range cmd.Commands() {
			install(c)
		}
	}
	install(root)
}

// argumentFunc completes arguments by their position. The last source completes the rest too if
// it is followed by nil.
func argumentFunc(sources []source) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		n := len(args)
		if last := len(sources) - 1; last > 0 && n >= last && sources[last] == nil {
			n = last - 1
		}
		if n >= len(sources) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return completion(sources[n])(cmd, args, word)
	}
}

// completion makes a function for cobra of a source. If there are no candidates for a source of
// files, the shell completes any file.
func completion(s source) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		found := make(chan []cobra.Completion, 1)
		go func() {
			defer func() { // a damaged image must not spoil the command line
				if recover() != nil {
					found <- nil
				}
			}()
			found <- s(request{cmd, args, word})
		}()
		all := []cobra.Completion{anyFile}
		select {
		case all = <-found:
		case <-time.After(Limit):
		}
		directive := cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
		var matching []cobra.Completion
		for _, c := range all {
			if c == anyFile {
				directive &^= cobra.ShellCompDirectiveNoFileComp
				continue
			}
			value, _, _ := strings.Cut(c, "\t")
			if strings.HasPrefix(value, word) {
				matching = append(matching, c)
			}
			if strings.HasPrefix(value, word) && strings.ContainsAny(value[len(value)-1:], "/=:") {
				directive |= cobra.ShellCompDirectiveNoSpace
			}
		}
		return matching, directive
	}
}

// anyFile is a candidate that stands for all files, if there is no other one.
const anyFile = "\x00"

// all joins sources.
func all(sources ...source) source {
	return func(r request) (list []cobra.Completion) {
		for _, s := range sources {
			list = append(list, s(r)...)
		}
		return list
	}
}

// fixed completes values.
func fixed(values ...string) source {
	return func(request) []cobra.Completion { return values }
}

// nothing is the source for a text of the user's own.
func nothing(request) []cobra.Completion { return nil }

func described(value string, about ...string) cobra.Completion {
	text := strings.Join(strings.Fields(strings.Join(about, " ")), " ")
	if text == "" {
		return value
	}
	return cobra.CompletionWithDesc(value, text)
}
