package remote

import (
	"errors"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"imgtool/image/fault"
	"imgtool/image/hostfile"
)

// maxNetrc limits the size of a file of logins.
const maxNetrc = 1 << 20

// withLogin returns the user and password of a URL. If it has none, they come from the
// file of logins that curl and others use, $NETRC or ~/.netrc, if the connection is encrypted or
// to this computer.
func withLogin(u *url.URL) (*url.Userinfo, error) {
	if _, complete := u.User.Password(); complete || u.Scheme != "https" && !isLoopback(u.Hostname()) {
		return u.User, nil
	}
	path, named := os.LookupEnv("NETRC")
	if !named || path == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return u.User, nil
		}
		path, named = filepath.Join(home, ".netrc"), false
	}
	text, err := hostfile.ReadFile(path, maxNetrc)
	if !named && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
		return u.User, nil
	}
	if err != nil {
		return nil, fault.New(fault.Input, "reading the logins of servers: %w", err)
	}
	login, password, found, err := findLogin(string(text), u.Hostname(), u.User.Username())
	if err != nil {
		return nil, fault.New(fault.Input, "%s: %w", path, err)
	}
	if !found {
		return u.User, nil
	}
	return url.UserPassword(login, password), nil
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// findLogin returns the first login for a host in a netrc file: that of a user, if it is not "".
func findLogin(text, host, user string) (login, password string, found bool, err error) {
	words, err := netrcWords(text)
	if err != nil {
		return "", "", false, err
	}
	matches := false // the entry is for the host
	has := func() bool { return matches && (login != "" || password != "") && (user == "" || login == user) }
	for i := 0; i < len(words); i++ {
		value := ""
		if i+1 < len(words) {
			value = words[i+1]
		}
		switch words[i] {
		case "machine", "default":
			if has() {
				return login, password, true, nil
			}
			matches, login, password = words[i] == "default", "", ""
			if !matches {
				matches = strings.EqualFold(value, host)
				i++
			}
		case "login":
			login = value
			i++
		case "password":
			password = value
			i++
		case "account":
			i++
		}
	}
	return login, password, has(), nil
}

// netrcWords returns the words of a netrc file, without comments and macros. A word in quotes
// may have spaces, and escapes with a backslash.
func netrcWords(text string) (words []string, err error) {
	macro := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if macro {
			macro = line != "" // it ends with an empty line
			continue
		}
		for line != "" && line[0] != '#' {
			var word string
			if line[0] == '"' {
				if word, line, err = quoted(line[1:]); err != nil {
					return nil, err
				}
			} else {
				end := strings.IndexAny(line, " \t")
				if end < 0 {
					end = len(line)
				}
				word, line = line[:end], line[end:]
			}
			if macro = word == "macdef"; macro {
				break
			}
			words = append(words, word)
			line = strings.TrimLeft(line, " \t")
		}
	}
	return words, nil
}

// quoted returns a word that begins after a quote, and the rest of the line.
func quoted(line string) (word, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '"':
			return b.String(), line[i+1:], nil
		case c == '\\' && i+1 < len(line):
			i++
			b.WriteString(strings.NewReplacer("n", "\n", "r", "\r", "t", "\t").Replace(line[i : i+1]))
		default:
			b.WriteByte(c)
		}
	}
	return "", "", errors.New("a word that begins with a quote has no second quote in its line")
}
