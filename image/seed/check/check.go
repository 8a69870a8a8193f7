// Package check validates the strings of config.toml: names, addresses, URLs and keys.
//
// The device's validator is written in Python. The functions follow Python's notions of
// white space, digits, addresses and URLs. Functions for names return a message that follows the
// quoted name. Functions for values get a value without white space at its ends, and quote it in
// their message with show. All return "" for a valid string.
package check

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Strip removes white space at both ends.
func Strip(s string) string { return strings.TrimFunc(s, IsSpace) }

// IsSpace reports white space as Python's str.isspace does: Unicode's White_Space, and the
// separators U+001C to U+001F.
func IsSpace(c rune) bool { return unicode.IsSpace(c) || c >= 0x1c && c <= 0x1f }

// typographic are the digits with Numeric_Type=Digit in Unicode, such as superscripts.
var typographic = &unicode.RangeTable{
	R16: []unicode.Range16{{0xb2, 0xb3, 1}, {0xb9, 0xb9, 1}, {0x1369, 0x1371, 1}, {0x19da, 0x19da, 1}, {0x2070, 0x2070, 1},
		{0x2074, 0x2079, 1}, {0x2080, 0x2089, 1}, {0x2460, 0x2468, 1}, {0x2474, 0x247c, 1}, {0x2488, 0x2490, 1}, {0x24ea, 0x24ea, 1},
		{0x24f5, 0x24fd, 1}, {0x24ff, 0x24ff, 1}, {0x2776, 0x277e, 1}, {0x2780, 0x2788, 1}, {0x278a, 0x2792, 1}},
	R32:         []unicode.Range32{{0x10a40, 0x10a43, 1}, {0x10e60, 0x10e68, 1}, {0x11052, 0x1105a, 1}, {0x1f100, 0x1f10a, 1}},
	LatinOffset: 2,
}

// AllDigits reports what Python's str.isdigit does.
func AllDigits(s string) bool {
	for _, c := range s {
		if !unicode.IsDigit(c) && !unicode.Is(typographic, c) {
			return false
		}
	}
	return s != ""
}

func asciiDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// Regular expressions of JSON Schema for names. They accept every valid name.
const (
	UserPattern      = `^[a-z_][a-z0-9_-]{0,31}$`
	InterfacePattern = `^eth[0-9]+$`
	ResourcePattern  = `^[A-Za-z0-9_][A-Za-z0-9_-]*$`
	DirectivePattern = `^[A-Za-z][A-Za-z0-9]*$`
	DNSPattern       = `^\s*([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.*\s*$`
)

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	digits = "0123456789"
	// resource are the characters of a resource name, the same as in a bare key of TOML.
	resource = lower + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + digits + "_-"
)

// consists reports whether s begins with a character of first, followed by characters of rest.
func consists(s, first, rest string) bool {
	return s != "" && strings.IndexByte(first, s[0]) >= 0 && strings.Trim(s[1:], rest) == ""
}

// Reserved are the names of system accounts.
var Reserved = strings.Fields("appsvc bin chrony daemon dnsmasq nobody root systemd-network systemd-resolve systemd-timesync")

// User checks the name of a user.
func User(name string) string {
	if len(name) > 32 || !consists(name, lower+"_", lower+digits+"_-") {
		return "is not a valid user name, which is a lower-case letter or _, then up to 31 of a-z, 0-9, _ and -"
	}
	if slices.Contains(Reserved, name) {
		return "is a system account; reserved names are " + strings.Join(Reserved, ", ")
	}
	return ""
}

// Interface checks the name of a network interface.
func Interface(name string) string {
	if n, ok := strings.CutPrefix(name, "eth"); !ok || !asciiDigits(n) {
		return "is not an interface; interfaces are eth0, eth1, …"
	}
	return ""
}

// Resource checks the name of a container, network, volume or build.
func Resource(name string) string {
	if consists(name, resource, resource) && name[0] != '-' {
		return ""
	}
	return "is not a valid name, which is a letter, digit or _, then letters, digits, _ and -"
}

// Directive checks the key of a Quadlet section.
func Directive(name string) string {
	if letters := lower + strings.ToUpper(lower); consists(name, letters, letters+digits) {
		return ""
	}
	return "is not a valid directive, which is a letter, then letters and digits"
}

// DNSName returns a DNS name in lower case without final dots, or "" if it is invalid.
func DNSName(s string) string {
	// Python's lower case of this character has two characters.
	if strings.ContainsRune(s, 'İ') {
		return ""
	}
	s = strings.ToLower(strings.TrimRight(s, "."))
	if len(s) > 253 {
		return ""
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) > 63 || !consists(label, lower+digits, lower+digits+"-") || strings.HasSuffix(label, "-") {
			return ""
		}
	}
	return s
}

const dnsAllowed = "a name has up to 253 characters, in labels of up to 63 letters, digits and inner hyphens"

// DNS checks a DNS name.
func DNS(s string, show func(string) string) string {
	if DNSName(s) == "" {
		return fmt.Sprintf("%s is not a DNS name; %s", show(s), dnsAllowed)
	}
	return ""
}

// ParseIP parses an IPv4 address, or an IPv6 address, which may have a zone.
func ParseIP(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || strings.Contains(s, "/") || strings.Count(s, "%") > 1 {
		return netip.Addr{}, false
	}
	return a, true
}

// ParseIPv4 parses an IPv4 address.
func ParseIPv4(s string) (netip.Addr, bool) {
	a, ok := ParseIP(s)
	return a, ok && a.Is4()
}

// IP checks an IP address.
func IP(s string, show func(string) string) string {
	if _, ok := ParseIP(s); !ok {
		return show(s) + " is not an IP address, such as 9.9.9.9"
	}
	return ""
}

// IPv4 checks an IPv4 address.
func IPv4(s string, show func(string) string) string {
	if _, ok := ParseIPv4(s); !ok {
		return show(s) + " is not an IPv4 address, such as 192.0.2.1"
	}
	return ""
}

// ParseCIDR parses an IPv4 address with a prefix length, a netmask or a hostmask, or alone,
// which means /32. The address keeps its host bits.
func ParseCIDR(s string) (netip.Prefix, bool) {
	host, mask, given := strings.Cut(s, "/")
	a, ok := ParseIPv4(host)
	if !ok {
		return netip.Prefix{}, false
	}
	if !given {
		return netip.PrefixFrom(a, 32), true
	}
	if asciiDigits(mask) {
		n, err := strconv.Atoi(mask)
		return netip.PrefixFrom(a, n), err == nil && n <= 32
	}
	m, ok := ParseIPv4(mask)
	if !ok {
		return netip.Prefix{}, false
	}
	b := m.As4()
	mask32 := binary.BigEndian.Uint32(b[:])
	switch ones := bits.OnesCount32(mask32); {
	case ^mask32&(^mask32+1) == 0:
		return netip.PrefixFrom(a, ones), true
	case mask32&(mask32+1) == 0:
		return netip.PrefixFrom(a, 32-ones), true
	}
	return netip.Prefix{}, false
}

// CIDR checks an IPv4 address with a prefix.
func CIDR(s string, show func(string) string) string {
	if _, ok := ParseCIDR(s); !ok {
		return show(s) + " is not an IPv4 address with a prefix, such as 192.0.2.5/24"
	}
	return ""
}

// HostPattern checks a pattern of host names, which contains {mac}.
func HostPattern(s string, show func(string) string) string {
	if !strings.Contains(s, "{mac}") {
		return show(s) + " does not contain {mac}; a pattern must, such as node-{mac}"
	}
	if DNSName(strings.ReplaceAll(s, "{mac}", "001122334455")) == "" {
		return fmt.Sprintf("%s is not a DNS name when {mac} is replaced by twelve digits; %s", show(s), dnsAllowed)
	}
	return ""
}

// Server checks the name or address of a time server.
func Server(s string, show func(string) string) string {
	if strings.ContainsFunc(s, IsSpace) {
		return show(s) + " contains white space; a server is a name or an address, without options"
	}
	if _, ok := ParseIP(s); !ok && DNSName(s) == "" {
		return show(s) + " is neither an address nor a DNS name"
	}
	return ""
}

// URL checks the URL of an update server.
func URL(s string, show func(string) string) string {
	const allowed = "it must be https://HOST[:PORT][/PATH]"
	bad := func(what string) string { return fmt.Sprintf("%s %s; %s", show(s), what, allowed) }
	if strings.ContainsFunc(s, func(c rune) bool { return IsSpace(c) || c < ' ' || c == 0x7f }) {
		return bad("contains white space or a control character")
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || !strings.EqualFold(scheme, "https") {
		return bad("is not an https URL")
	}
	rest, fragment, _ := strings.Cut(rest, "#")
	rest, query, _ := strings.Cut(rest, "?")
	if fragment != "" || query != "" {
		return bad("has a query or a fragment")
	}
	host, _, _ := strings.Cut(rest, "/")
	if strings.Contains(host, "@") {
		return bad("has credentials")
	}
	port := ""
	if strings.HasPrefix(host, "[") {
		var after string
		host, after, ok = strings.Cut(host[1:], "]")
		a, isIP := ParseIP(host)
		port, _ = strings.CutPrefix(after, ":")
		if !ok || !isIP || !a.Is6() || after != "" && after[0] != ':' {
			return bad("does not have an IPv6 address in its brackets")
		}
	} else {
		host, port, _ = strings.Cut(host, ":")
		if host == "" {
			return bad("has no host")
		}
		if DNSName(host) == "" {
			return fmt.Sprintf("the host %s is neither an address nor a DNS name; %s", show(host), allowed)
		}
	}
	if port == "" {
		return ""
	}
	if n, err := strconv.Atoi(port); !asciiDigits(port) || err != nil || n > 65535 {
		return bad("has no valid port")
	}
	return ""
}

// KeyTypes are the types of SSH keys that the device takes.
var KeyTypes = strings.Fields("ssh-ed25519 sk-ssh-ed25519@openssh.com ecdsa-sha2-nistp256 ecdsa-sha2-nistp384 ecdsa-sha2-nistp521" +
	" sk-ecdsa-sha2-nistp256@openssh.com ssh-rsa")

// Key checks a line of an SSH public key. Within the base64, only the type is checked, as by
// the device.
func Key(s string, show func(string) string) string {
	if i := strings.IndexFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }); i >= 0 {
		return fmt.Sprintf("the key contains the control character %q; it must be one line without tabs", s[i])
	}
	fields := strings.FieldsFunc(s, IsSpace)
	if !slices.Contains(KeyTypes, fields[0]) {
		return fmt.Sprintf("%s is not a type of key that the device takes; a key is TYPE BASE64 [COMMENT], with the type one of %s", show(fields[0]), strings.Join(KeyTypes, ", "))
	}
	if len(fields) < 2 {
		return "the key has a type only; a key is TYPE BASE64 [COMMENT]"
	}
	data := fields[1]
	// Extra padding after complete groups is accepted.
	if whole := strings.TrimRight(data, "="); len(whole)%4 == 0 {
		data = whole
	}
	blob, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return "the second part of the key is not base64; a key is TYPE BASE64 [COMMENT]"
	}
	if len(blob) < 4 {
		return fmt.Sprintf("the key has %d bytes, which is too short", len(blob))
	}
	n := binary.BigEndian.Uint32(blob)
	if inner := blob[4:]; int64(n) > int64(len(inner)) || string(inner[:n]) != fields[0] {
		return fmt.Sprintf("the key says %s, but its base64 contains another type", fields[0])
	}
	return ""
}
