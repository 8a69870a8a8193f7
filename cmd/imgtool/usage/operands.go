package usage

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/image/fault"
)

// Operands returns a check for commands with these arguments, each given by what it is, such as
// "image". Those from the first that begins with "?" may be left out, and the last may be repeated
// if it ends with "...".
func Operands(nouns ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		most := len(nouns)
		if strings.HasSuffix(nouns[most-1], "...") {
			most = len(args)
		}
		err := tooMany(cmd, args, most, "")
		if err == nil {
			err = anyEmpty(cmd, args)
		}
		if err == nil && len(args) < len(nouns) && nouns[len(args)][0] != '?' {
			err = fmt.Errorf("say which %s: %s", strings.TrimSuffix(nouns[len(args)], "..."), line(cmd))
		}
		return asUsage(cmd, err)
	}
}

// Any is the check of a command that takes any number of arguments.
func Any(cmd *cobra.Command, args []string) error { return asUsage(cmd, anyEmpty(cmd, args)) }

// None returns a check for commands without arguments. instead says what the user may have meant,
// such as "-o names the output", or is empty.
func None(instead string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error { return asUsage(cmd, tooMany(cmd, args, 0, instead)) }
}

func tooMany(cmd *cobra.Command, args []string, most int, instead string) error {
	if len(args) <= most {
		return nil
	}
	extra := args[most]
	switch {
	case cmd.HasAvailableSubCommands() && most > 0 && Meant(cmd, args[0]) != "":
		return fmt.Errorf("unexpected argument %q%s", extra, Meant(cmd, args[0]))
	case cmd.Flags().Lookup(extra) != nil:
		return fmt.Errorf("unexpected argument %q; did you mean --%s?", extra, extra)
	case most > 0:
		return fmt.Errorf("unexpected argument %q: write %s", extra, line(cmd))
	case instead == "":
		return fmt.Errorf("unexpected argument %q: %s takes none", extra, cmd.CommandPath())
	}
	return fmt.Errorf("unexpected argument %q: %s takes none; %s", extra, cmd.CommandPath(), instead)
}

func anyEmpty(cmd *cobra.Command, args []string) error {
	for i, arg := range args {
		if arg == "" {
			return fmt.Errorf("argument %d is empty: write %s", i+1, line(cmd))
		}
	}
	return nil
}

func line(cmd *cobra.Command) string {
	if cmd.HasParent() {
		return cmd.Parent().CommandPath() + " " + cmd.Use
	}
	return cmd.Use
}

func asUsage(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	return fault.As(fault.Usage, withHelp(cmd, err))
}
