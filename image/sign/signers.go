package sign

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"aead.dev/minisign"
	"golang.org/x/crypto/ssh"

	"imgtool/image/sshkey"
)

// Signers are the signers whose signatures are accepted: the lines of an allowed_signers file
// (ssh-keygen(1)), and public keys of minisign.
type Signers struct {
	Name string // of the file, for messages
	ssh  []allowed
	mini []allowedMinisign
}

// allowed is a line of an allowed_signers file.
type allowed struct {
	principals string // patterns
	key        ssh.PublicKey
	authority  bool   // the key signs certificates
	namespaces string // patterns; empty: all

	after, before time.Time // zero: no limit
}

type allowedMinisign struct {
	principals string // may be empty
	key        minisign.PublicKey
}

// ParseSigners parses an allowed_signers file, which may also have public keys of minisign: the
// file that minisign -G writes, or lines of a key or of principals and a key. Lines with a fault
// are returned as errors, and allow nothing.
func ParseSigners(name string, text []byte) (s *Signers, faults []error) {
	s = &Signers{Name: name}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if err := s.parseLine(strings.TrimRight(string(line), " \t\r\n")); err != nil {
			faults = append(faults, fmt.Errorf("%s:%d: %w", name, n, err))
		}
	}
	return s, faults
}

// Empty reports whether there is no signer.
func (s *Signers) Empty() bool { return len(s.ssh)+len(s.mini) == 0 }

func (s *Signers) parseLine(line string) error {
	line = strings.TrimLeft(line, " \t\r\n")
	if line == "" || line[0] == '#' || strings.HasPrefix(line, minisignBegin) {
		return nil
	}
	if key, ok := minisignPublic(line); ok {
		s.mini = append(s.mini, allowedMinisign{"", key})
		return nil
	}
	principals, rest, err := cutPrincipals(line)
	if err != nil {
		return err
	}
	if !matchesSome(principals) {
		return fmt.Errorf("the principals %.80q match no name", principals)
	}
	if key, ok := minisignPublic(rest); ok {
		s.mini = append(s.mini, allowedMinisign{principals, key})
		return nil
	}
	a := allowed{principals: principals}
	if a.key, err = parseKey(rest); err != nil {
		if kind, _, _ := strings.Cut(rest, " "); slices.Contains(sshkey.Types, kind) || strings.Contains(kind, "-cert-v01@") {
			return err
		}
		options, key, cutErr := cutOptions(rest)
		if cutErr != nil {
			return cutErr
		}
		if a.key, err = parseKey(key); err != nil {
			return err
		}
		if err := a.parseOptions(options); err != nil {
			return err
		}
	}
	s.ssh = append(s.ssh, a)
	return nil
}

func minisignPublic(text string) (key minisign.PublicKey, ok bool) {
	return key, strings.HasPrefix(text, "RW") && len(text) == 56 && key.UnmarshalText([]byte(text)) == nil
}

// cutPrincipals cuts the first field off a line. It may be in double quotes.
func cutPrincipals(line string) (principals, rest string, err error) {
	i := strings.IndexAny(line, " \t\"")
	if i < 0 {
		return "", "", errors.New("the key is missing")
	}
	principals, rest = line[:i], line[i:]
	if rest[0] == '"' {
		inside, after, ok := strings.Cut(rest[1:], `"`)
		if !ok {
			return "", "", errors.New("a double quote is missing")
		}
		principals, rest = principals+inside, after
	}
	if rest = strings.TrimLeft(rest, " \t"); rest == "" {
		return "", "", errors.New("the key is missing")
	}
	return principals, rest, nil
}

// cutOptions cuts the options off the rest of a line: up to a space that is not in double quotes.
func cutOptions(text string) (options, rest string, err error) {
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text) && text[i+1] == '"':
			i++
		case c == '"':
			quoted = !quoted
		case (c == ' ' || c == '\t') && !quoted:
			return text[:i], strings.TrimLeft(text[i:], " \t"), nil
		}
	}
	if quoted {
		return "", "", errors.New("a double quote is missing")
	}
	return "", "", fmt.Errorf("there is no key after %.80q", text)
}

// parseKey parses a key: its type, base64, and a comment.
func parseKey(text string) (ssh.PublicKey, error) {
	fields := strings.Fields(text)
	if len(fields) < 2 {
		return nil, fmt.Errorf("%.80q is not a public key, which is TYPE BASE64", text)
	}
	blob, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return nil, fmt.Errorf("%.80q is not a public key: it is not base64", text)
	}
	key, err := ssh.ParsePublicKey(blob)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%.80q is not a public key: %w", text, err)
	case key.Type() != fields[0]:
		return nil, fmt.Errorf("the key is of type %.80q, and not %.80q", key.Type(), fields[0])
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return nil, errors.New("it is a certificate: list the key that signed it, with cert-authority")
	}
	return key, checkKey(key)
}

// minRSA is the length of the shortest RSA keys that are accepted, in bits.
const minRSA = 2048

// checkKey refuses keys that are too weak.
func checkKey(key ssh.PublicKey) error {
	if !slices.Contains(sshkey.Types, key.Type()) {
		return fmt.Errorf("keys of type %.80s are not accepted", key.Type())
	}
	if n := rsaBits(key); n > 0 && n < minRSA {
		return fmt.Errorf("the RSA key has %d bits, at least %d are needed", n, minRSA)
	}
	return nil
}

func (a *allowed) parseOptions(text string) error {
	seen := map[string]bool{}
	for rest := text; ; {
		name, value, after, err := cutOption(rest)
		if err != nil {
			return err
		}
		if seen[name] && name != "cert-authority" {
			return fmt.Errorf("the option %s is there twice", name)
		}
		seen[name] = true
		switch name {
		case "cert-authority":
			a.authority = true
		case "namespaces":
			a.namespaces = value
		case "valid-after":
			a.after, err = ParseTime(value)
		case "valid-before":
			a.before, err = ParseTime(value)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if after == "" {
			break
		}
		rest = after
	}
	if !a.after.IsZero() && !a.before.IsZero() && !a.before.After(a.after) {
		return errors.New("valid-before is not after valid-after")
	}
	return nil
}

// cutOption cuts an option off a list. Only cert-authority has no value.
func cutOption(text string) (name, value, after string, err error) {
	end := strings.IndexAny(text, "=,")
	if end < 0 {
		end = len(text)
	}
	name = strings.ToLower(text[:end])
	after = text[end:]
	switch name {
	case "cert-authority":
	case "namespaces", "valid-after", "valid-before":
		if value, after, err = unquote(strings.TrimPrefix(after, "=")); err != nil {
			return "", "", "", fmt.Errorf("the option %s: %w", name, err)
		}
		if name == "namespaces" && value == "" {
			return "", "", "", errors.New("the option namespaces is empty")
		}
	default:
		return "", "", "", fmt.Errorf("unknown option %.80q: known are cert-authority, namespaces, valid-after and valid-before", text[:end])
	}
	if after == "" {
		return name, value, "", nil
	}
	if after[0] != ',' || after == "," {
		return "", "", "", fmt.Errorf("after the option %s is %.80q; it must be a comma and another option", name, after)
	}
	return name, value, after[1:], nil
}

// unquote returns a value in double quotes, in which \" is a double quote.
func unquote(text string) (value, after string, err error) {
	if !strings.HasPrefix(text, `"`) {
		return "", "", errors.New("its value must be in double quotes")
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '"':
			return b.String(), text[i+1:], nil
		case text[i] == '\\' && i+1 < len(text) && text[i+1] == '"':
			i++
			b.WriteByte('"')
		default:
			b.WriteByte(text[i])
		}
	}
	return "", "", errors.New("a double quote is missing")
}

// ParseTime parses a time as ssh-keygen does: YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, in local
// time, or in UTC if Z follows.
func ParseTime(text string) (time.Time, error) {
	digits, zone := text, time.Local
	upper := strings.ToUpper(text)
	for _, suffix := range []string{"Z", "UTC"} {
		if strings.HasSuffix(upper, suffix) {
			digits, zone = text[:len(text)-len(suffix)], time.UTC
			break
		}
	}
	layout := map[int]string{8: "20060102", 12: "200601021504", 14: "20060102150405"}[len(digits)]
	t, err := time.ParseInLocation(layout, digits, zone)
	if layout == "" || err != nil || t.Unix() <= 0 {
		return time.Time{}, fmt.Errorf("invalid time %.80q: it must be YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, and Z after it for UTC", text)
	}
	return t, nil
}

// matchList reports whether a name matches a list of patterns with the wildcards * and ?,
// separated by commas. A pattern after ! that matches rules the name out (ssh_config(5)).
func matchList(name, patterns string) bool {
	found := false
	for p := range strings.SplitSeq(patterns, ",") {
		p, not := strings.CutPrefix(p, "!")
		if !match(name, p) {
			continue
		}
		if not {
			return false
		}
		found = true
	}
	return found
}

// matchesSome reports whether a list of patterns can match a name: one with exceptions only, as
// "!a@example.com", or with an exception of all names, cannot.
func matchesSome(patterns string) bool {
	some := false
	for p := range strings.SplitSeq(patterns, ",") {
		p, not := strings.CutPrefix(p, "!")
		if not && p != "" && strings.Trim(p, "*") == "" {
			return false
		}
		some = some || !not && p != ""
	}
	return some
}

func match(name, pattern string) bool {
	for ; pattern != ""; pattern = pattern[1:] {
		if pattern[0] == '*' {
			pattern = strings.TrimLeft(pattern, "*")
			for i := len(name); i >= 0; i-- {
				if match(name[i:], pattern) {
					return true
				}
			}
			return false
		}
		if name == "" || pattern[0] != '?' && pattern[0] != name[0] {
			return false
		}
		name = name[1:]
	}
	return name == ""
}
