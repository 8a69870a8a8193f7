package edit

import (
	"fmt"
	"regexp"
	"strings"
)

// userName matches the names that useradd(8) accepts, up to the length of utmp(5).
var userName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?$`)

func checkUser(e *Edit) error {
	if !userName.MatchString(e.User) {
		return fmt.Errorf("user %q is not a valid user name", e.User)
	}
	return nil
}

// lockUser locks the password of a user as passwd -l does: with a "!" before the hash in
// /etc/shadow. SSH keys stay valid.
func lockUser(e *Edit, path, text string) (string, error) {
	var b strings.Builder
	found := false
	for line := range strings.Lines(text) {
		// name:password:...
		name, rest, ok := strings.Cut(line, ":")
		if ok && name == e.User {
			found = true
			if !strings.HasPrefix(rest, "!") {
				line = name + ":!" + rest
			}
		}
		b.WriteString(line)
	}
	if !found && !e.MissingOK {
		return "", fmt.Errorf("%s has no user %s", path, e.User)
	}
	return b.String(), nil
}
