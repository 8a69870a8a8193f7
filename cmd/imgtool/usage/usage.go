// Package usage explains command lines that are wrong, and shows the help of commands.
//
// Its errors name the argument that is wrong and what to write instead. [Install] sets it up for
// a command and all commands below it.
package usage

import (
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"imgtool/image/fault"
	"imgtool/image/suggest"
)

// Install sets up the help and the errors of a root command, which has all its commands.
func Install(root *cobra.Command) {
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) { io.WriteString(cmd.OutOrStdout(), Help(cmd)) })
	root.SetUsageFunc(func(cmd *cobra.Command) error { return nil })
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelpCommand(root))
	root.InitDefaultHelpCmd()
	root.InitDefaultVersionFlag()
	root.Flags().Lookup("version").Usage = "print the version"
	for cmd := range All(root) {
		cmd.InitDefaultHelpFlag()
		if cmd.Flags().Lookup("help") != nil {
			cmd.Flags().Lookup("help").Usage = "show this help"
		}
	}
}

func newHelpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:        "help [COMMAND...]",
		Short:      "Show the help of a command",
		SuggestFor: []string{"man", "usage", "docs", "manual"},
		Example:    "  imgtool help seed new",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := root.Find(args)
			if err == nil && len(rest) > 0 {
				err = unknownCommand(found, rest[0])
			} else if err != nil {
				err = unknownCommand(root, args[0])
			}
			if err == nil {
				err = found.Help()
			}
			return err
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var names []cobra.Completion
			if found, rest, err := root.Find(args); err == nil && len(rest) == 0 {
				for _, c := range found.Commands() {
					if c.IsAvailableCommand() {
						names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// Check finds mistakes that the parser takes for something else: an unknown command, which it
// takes for an argument, and a long flag with one dash, which it takes for a short flag with a
// value.
func Check(root *cobra.Command, args []string) error {
	if Completing(args) {
		return nil
	}
	cmd, rest, _ := root.Find(args)
	if cmd.HasAvailableSubCommands() && takesNone(cmd) {
		if word := firstWord(cmd, rest); word != "" {
			return unknownCommand(cmd, word)
		}
		if slices.Contains(rest, "") {
			return withHelp(cmd, fault.New(fault.Usage, "an argument is empty: write %s COMMAND", cmd.CommandPath()))
		}
	}
	for i, arg := range rest {
		if arg == "--" {
			break
		}
		if f := valued(cmd, arg); f != nil && i+1 < len(rest) && isLong(cmd, rest[i+1]) {
			return fault.As(fault.Usage, withHelp(cmd, needsValue(f)))
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "-"), "=")
		if f := cmd.Flags().Lookup(name); f != nil && oneDash.MatchString(arg) {
			return fault.As(fault.Usage, withHelp(cmd, errors.New(arg+" has one dash: write "+spelled(f))))
		}
	}
	return nil
}

// Completing reports whether a shell asks what can be typed.
func Completing(args []string) bool {
	return len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd)
}

// AsksJSON reports whether a command line that may be wrong has the flag --json.
func AsksJSON(args []string) (asks bool) {
	for _, arg := range args {
		switch name, value, given := strings.Cut(arg, "="); {
		case arg == "--":
			return asks
		case name == "--json":
			is, err := strconv.ParseBool(value)
			asks = is || !given || err != nil
		}
	}
	return asks
}

// valued returns the flag that takes its value from the argument after arg, or nil.
func valued(cmd *cobra.Command, arg string) (f *pflag.Flag) {
	if name, long := strings.CutPrefix(arg, "--"); long {
		f = cmd.Flags().Lookup(name)
	} else if len(arg) == 2 && arg[0] == '-' {
		f = cmd.Flags().ShorthandLookup(arg[1:])
	}
	if f == nil || f.NoOptDefVal != "" {
		return nil
	}
	return f
}

// isLong reports whether an argument is a long flag of a command.
func isLong(cmd *cobra.Command, arg string) bool {
	name, long := strings.CutPrefix(arg, "--")
	name, _, _ = strings.Cut(name, "=")
	return long && cmd.Flags().Lookup(name) != nil
}

var oneDash = regexp.MustCompile(`^-[a-z][a-z-]+(=|$)`)

// firstWord returns the first argument that is neither a flag nor the value of one, or "".
func firstWord(cmd *cobra.Command, args []string) string {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if !strings.HasPrefix(arg, "-") || arg == "-" {
			return arg
		}
		var f *pflag.Flag
		switch name, long := strings.CutPrefix(arg, "--"); {
		case strings.Contains(arg, "="):
			continue
		case long:
			f = cmd.Flags().Lookup(name)
		case len(arg) == 2:
			f = cmd.Flags().ShorthandLookup(arg[1:])
		}
		if f == nil {
			return "" // the parser reports it
		}
		if f.NoOptDefVal == "" {
			i++
		}
	}
	return ""
}

func takesNone(cmd *cobra.Command) bool {
	return cmd.ValidateArgs([]string{"x"}) != nil && cmd.ValidateArgs(nil) == nil
}

// unknownCommand is the error of a word in place of a command below cmd.
func unknownCommand(cmd *cobra.Command, word string) error {
	of := ""
	if cmd.HasParent() {
		of = " of " + cmd.CommandPath()
	}
	question := suggest.Question(meant(cmd, word)...)
	err := fault.New(fault.Usage, "unknown command %q%s%s", word, of, question)
	return withHelp(cmd, err)
}

// Meant returns a clause that asks whether an argument of cmd is a mistyped command below it, or "".
func Meant(cmd *cobra.Command, arg string) string {
	names := meant(cmd, arg)
	for i, name := range names {
		names[i] = cmd.CommandPath() + " " + name
	}
	return suggest.Question(names...)
}

// meant returns the commands below cmd that a word may stand for, without the path of cmd.
func meant(cmd *cobra.Command, word string) (names []string) {
	var known []string
	for _, c := range cmd.Commands() {
		if !c.IsAvailableCommand() && c.Name() != "help" {
			continue
		}
		known = append(known, c.Name())
		for _, other := range c.SuggestFor {
			if strings.EqualFold(other, word) {
				names = append(names, c.Name())
			}
		}
	}
	if len(names) == 0 {
		if name := suggest.Closest(word, known); name != "" {
			return []string{name}
		}
		for c := range All(cmd) { // a command of a command
			if c.Name() == word && c != cmd {
				names = append(names, strings.TrimPrefix(c.CommandPath(), cmd.CommandPath()+" "))
			}
		}
	}
	return names
}

// All returns cmd and all commands below it.
func All(cmd *cobra.Command) func(yield func(*cobra.Command) bool) {
	var walk func(*cobra.Command, func(*cobra.Command) bool) bool
	walk = func(cmd *cobra.Command, yield func(*cobra.Command) bool) bool {
		if !yield(cmd) {
			return false
		}
		for _, c := range cmd.Commands() {
			if !walk(c, yield) {
				return false
			}
		}
		return true
	}
	return func(yield func(*cobra.Command) bool) { walk(cmd, yield) }
}

// withHelp names the help that explains an error.
func withHelp(cmd *cobra.Command, err error) error {
	return fault.WithHint(err, "see %s --help", cmd.CommandPath())
}

// Explain names the help of cmd in an error of usage that has no other hint.
func Explain(cmd *cobra.Command, err error) error {
	if fault.Kind(err) != fault.Usage || fault.Hint(err) != "" {
		return err
	}
	return withHelp(cmd, err)
}

// spelled returns how a flag is written, such as "-i or --image".
func spelled(f *pflag.Flag) string {
	if f.Shorthand != "" {
		return "-" + f.Shorthand + " or --" + f.Name
	}
	return "--" + f.Name
}
