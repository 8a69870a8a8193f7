package usage

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"

	"imgtool/flash/disk"
	"imgtool/image/fault"
)

// WithSudo adds the command that works as root to an error of a disk that this user may not
// open.
func WithSudo(err error, args []string) error {
	denied, ok := errors.AsType[*disk.PermissionError](err)
	if !ok || os.Geteuid() == 0 {
		return err
	}
	words := append([]string{"sudo", os.Args[0]}, args...)
	chosen := slices.Contains(args, "flash") && !slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "/dev/") })
	if strings.HasPrefix(denied.Disk, "/dev/") && chosen {
		words = append(words, denied.Disk)
	}
	for i, word := range words {
		if !plainWord.MatchString(word) {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return fault.WithHint(err, "run: %s", strings.Join(words, " "))
}

// plainWord is a word that a shell does not change.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:=@%,+-]+$`)
