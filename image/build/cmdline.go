package build

import (
	"fmt"
	"strings"

	"imgtool/image/sanitize"
)

// Marks in boot scripts.
const (
	cmdlineMark    = "@CMDLINE@"
	rootfsTypeMark = "@ROOTFS_TYPE@"
)

// argsVariable is the variable for kernel arguments that cannot be written in a string of a
// boot script.
const argsVariable = "imgtool_args"

// checkCmdline checks for arguments that no boot script can have.
func checkCmdline(args string) error {
	for _, c := range []byte(args) {
		if c < ' ' || c == 0x7f {
			return fmt.Errorf("kernel arguments %q: the control character %q ends or changes the line in a boot script", args, c)
		}
	}
	if !sanitize.IsLine(args) {
		return fmt.Errorf("kernel arguments %q: they must be printable characters", args)
	}
	if n := len(args); n > 1500 {
		return fmt.Errorf("kernel arguments of %d bytes: arm64 kernels take 2048 in all, so at most 1500 can be added", n)
	}
	return nil
}

// putCmdline replaces @CMDLINE@ in a boot script by kernel arguments, quoted for U-Boot's
// shell.
//
// The shell (common/cli_hush.c) parses a string with variables twice: a backslash needs
// another one, and an apostrophe is not possible.
func putCmdline(script, args string) (string, error) {
	var out strings.Builder
	quote := byte(0) // the open quote, or 0
	for line := range strings.Lines(script) {
		var made strings.Builder
		for at := 0; at < len(line); at++ {
			switch c := line[at]; {
			case strings.HasPrefix(line[at:], cmdlineMark):
				text, set, err := quoteArgs(args, quote)
				if err != nil {
					return "", err
				}
				if set != "" {
					indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
					out.WriteString(indent + set + "\n")
				}
				made.WriteString(text)
				at += len(cmdlineMark) - 1
				continue
			case c == '\\' && quote != '\'' && at+1 < len(line):
				made.WriteByte(c)
				at++
			case c == quote:
				quote = 0
			case quote == 0 && (c == '"' || c == '\''):
				quote = c
			case quote == 0 && c == '#' && (at == 0 || line[at-1] == ' '):
				made.WriteString(line[at:]) // a comment
				at = len(line)
				continue
			}
			made.WriteByte(line[at])
		}
		out.WriteString(made.String())
	}
	return out.String(), nil
}

// quoteArgs quotes arguments for a place inside of quote (0: outside of quotes). set is a
// command that must precede the line, or "".
func quoteArgs(args string, quote byte) (text, set string, err error) {
	apostrophe := fmt.Errorf("kernel arguments %q: U-Boot's shell cannot have an apostrophe (') in the quoted string of the board's boot script; the kernel groups with double quotes (\")", args)
	switch {
	case quote == '\'' && strings.Contains(args, "'"):
		return "", "", apostrophe
	case quote == '\'':
		return strings.ReplaceAll(args, `\`, `\\`), "", nil
	case quote == 0:
		spaces := strings.Contains(args, "  ") // several spaces would become one
		return escape(args, func(c byte) bool { return isPlain(c) && !(spaces && c == ' ') }), "", nil
	case !strings.ContainsAny(args, "\"'$\\`"):
		return args, "", nil
	case strings.Contains(args, "'"):
		return "", "", apostrophe
	}
	value := strings.ReplaceAll(args, `\`, `\\`)
	return "${" + argsVariable + "}", "setenv " + argsVariable + " " + escape(value, func(c byte) bool { return c != ' ' && isPlain(c) }), nil
}

func isPlain(c byte) bool {
	return c >= 0x80 || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || strings.IndexByte(" %+,-./:=@_^", c) >= 0
}

// escape puts a backslash before characters that are not plain.
func escape(s string, plain func(byte) bool) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if !plain(c) {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}
