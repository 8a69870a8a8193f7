package seed

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// The device's validator is written in Python, whose notions of white space,
// digits, addresses and URLs these follow.

// strip cuts white space off both ends.
func strip(s string) string { return strings.TrimFunc(s, isSpace) }

// isSpace has the four separators that Unicode's own White_Space has not.
func isSpace(c rune) bool { return unicode.IsSpace(c) || c >= 0x1c && c <= 0x1f }

// typographic are the digits that are no decimal ones, such as superscripts
// (Numeric_Type=Digit in Unicode).
var typographic = &unicode.RangeTable{
	R16: []unicode.Range16{{0xb2, 0xb3, 1}, {0xb9, 0xb9, 1}, {0x1369, 0x1371, 1}, {0x19da, 0x19da, 1}, {0x2070, 0x2070, 1},
		{0x2074, 0x2079, 1}, {0x2080, 0x2089, 1}, {0x2460, 0x2468, 1}, {0x2474, 0x247c, 1}, {0x2488, 0x2490, 1}, {0x24ea, 0x24ea, 1},
		{0x24f5, 0x24fd, 1}, {0x24ff, 0x24ff, 1}, {0x2776, 0x277e, 1}, {0x2780, 0x2788, 1}, {0x278a, 0x2792, 1}},
	R32:         []unicode.Range32{{0x10a40, 0x10a43, 1}, {0x10e60, 0x10e68, 1}, {0x11052, 0x1105a, 1}, {0x1f100, 0x1f10a, 1}},
	LatinOffset: 2,
}

func allDigits(s string) bool {
	for _, c := range s {
		if !unicode.IsDigit(c) && !unicode.Is(typographic, c) {
			return false
		}
	}
	return s != ""
}

func asciiDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

const (
	userPattern      = `^[a-z_][a-z0-9_-]{0,31}$`
	interfacePattern = `^eth[0-9]+$`
	resourcePattern  = `^[A-Za-z0-9_][A-Za-z0-9_-]*$`
	directivePattern = `^[A-Za-z][A-Za-z0-9]*$`
	// One label or more; the length of the whole is not in it.
	dnsPattern = `^\s*([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.*\s*$`
)

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	digits = "0123456789"
)

// made says whether s begins with one of first and goes on with any of rest.
func made(s, first, rest string) bool {
	return s != "" && strings.IndexByte(first, s[0]) >= 0 && strings.Trim(s[1:], rest) == ""
}

// Accounts of the system itself.
var reserved = strings.Fields("appsvc bin chrony daemon dnsmasq nobody root systemd-network systemd-resolve systemd-timesync")

func checkUser(name string) string {
	if len(name) > 32 || !made(name, lower+"_", lower+digits+"_-") {
		return "is no user name; one is a small letter or _, then up to 31 of a-z, 0-9, _ and -"
	}
	if slices.Contains(reserved, name) {
		return "is an account of the system; these are taken: " + strings.Join(reserved, ", ")
	}
	return ""
}

func checkInterface(name string) string {
	if n, ok := strings.CutPrefix(name, "eth"); !ok || !asciiDigits(n) {
		return "is no interface; they are eth0, eth1, …"
	}
	return ""
}

func checkResource(name string) string {
	if made(name, bareKey, bareKey) && name[0] != '-' {
		return ""
	}
	return "is no name; one is a letter, digit or _, then letters, digits, _ and -"
}

func checkDirective(name string) string {
	if letters := lower + strings.ToUpper(lower); made(name, letters, letters+digits) {
		return ""
	}
	return "is no directive; one is a letter, then letters and digits"
}

// dnsName is a name without its final dots in small letters, or "".
func dnsName(s string) string {
	// Python makes two characters of this one.
	if strings.ContainsRune(s, 'İ') {
		return ""
	}
	s = strings.ToLower(strings.TrimRight(s, "."))
	if len(s) > 253 {
		return ""
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) > 63 || !made(label, lower+digits, lower+digits+"-") || strings.HasSuffix(label, "-") {
			return ""
		}
	}
	return s
}

const dnsAllowed = "one has up to 253 characters, in labels of up to 63 letters, digits and inner hyphens"

func checkDNS(s string, show func(string) string) string {
	if dnsName(s) == "" {
		return fmt.Sprintf("%s is no DNS name; %s", show(s), dnsAllowed)
	}
	return ""
}

// parseIP reads an address of either kind, with a zone in one of IPv6.
func parseIP(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || strings.Contains(s, "/") || strings.Count(s, "%") > 1 {
		return netip.Addr{}, false
	}
	return a, true
}

func parseIPv4(s string) (netip.Addr, bool) {
	a, ok := parseIP(s)
	return a, ok && a.Is4()
}

func checkIP(s string, show func(string) string) string {
	if _, ok := parseIP(s); !ok {
		return show(s) + " is no address; it must be one of IPv4 or IPv6, such as 9.9.9.9"
	}
	return ""
}

func checkIPv4(s string, show func(string) string) string {
	if _, ok := parseIPv4(s); !ok {
		return show(s) + " is no IPv4 address; it must be one, such as 192.0.2.1"
	}
	return ""
}

// parseCIDR reads an IPv4 address with the length of its prefix, with a netmask
// or a hostmask, or alone, which means /32. The address keeps its host bits.
func parseCIDR(s string) (netip.Prefix, bool) {
	host, mask, given := strings.Cut(s, "/")
	a, ok := parseIPv4(host)
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
	m, ok := parseIPv4(mask)
	if !ok {
		return netip.Prefix{}, false
	}
	b := m.As4()
	bits := binary.BigEndian.Uint32(b[:])
	for n := range 33 {
		if net := ^uint32(0) << (32 - n); bits == net {
			return netip.PrefixFrom(a, n), true
		}
	}
	for n := range 33 {
		if net := ^uint32(0) << (32 - n); bits == ^net {
			return netip.PrefixFrom(a, n), true
		}
	}
	return netip.Prefix{}, false
}

func checkCIDR(s string, show func(string) string) string {
	if _, ok := parseCIDR(s); !ok {
		return show(s) + " is no IPv4 address with a prefix; it must be one, such as 192.0.2.5/24"
	}
	return ""
}

// checkPattern checks a pattern of host names, with an address filled in.
func checkPattern(s string, show func(string) string) string {
	if !strings.Contains(s, "{mac}") {
		return show(s) + " has no {mac}; the pattern must have it, such as node-{mac}"
	}
	if dnsName(strings.ReplaceAll(s, "{mac}", "001122334455")) == "" {
		return fmt.Sprintf("%s makes no DNS name when {mac} is twelve digits; %s", show(s), dnsAllowed)
	}
	return ""
}

func checkServer(s string, show func(string) string) string {
	if strings.ContainsFunc(s, isSpace) {
		return show(s) + " has white space in it; a server is a name or an address, without options"
	}
	if _, ok := parseIP(s); !ok && dnsName(s) == "" {
		return show(s) + " is neither an address nor a DNS name"
	}
	return ""
}

func checkURL(s string, show func(string) string) string {
	const allowed = "it must be https://HOST[:PORT][/PATH]"
	bad := func(what string) string { return fmt.Sprintf("%s %s; %s", show(s), what, allowed) }
	if strings.ContainsFunc(s, func(c rune) bool { return isSpace(c) || c < ' ' || c == 0x7f }) {
		return bad("has white space or a control character in it")
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || !strings.EqualFold(scheme, "https") {
		return bad("is no https address")
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
		a, isIP := parseIP(host)
		port, _ = strings.CutPrefix(after, ":")
		if !ok || !isIP || !a.Is6() || after != "" && after[0] != ':' {
			return bad("has no IPv6 address in its brackets")
		}
	} else {
		host, port, _ = strings.Cut(host, ":")
		if host == "" {
			return bad("has no host")
		}
		if dnsName(host) == "" {
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

// keyTypes are the kinds of keys the device takes.
var keyTypes = strings.Fields("ssh-ed25519 sk-ssh-ed25519@openssh.com ecdsa-sha2-nistp256 ecdsa-sha2-nistp384 ecdsa-sha2-nistp521" +
	" sk-ecdsa-sha2-nistp256@openssh.com ssh-rsa")

// checkKey checks a line of an SSH public key. What follows the kind within the
// base64 is not looked at by the device either.
func checkKey(s string, show func(string) string) string {
	if i := strings.IndexFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }); i >= 0 {
		return fmt.Sprintf("the key has the control character %q; it must be one line without tabs", s[i])
	}
	fields := strings.FieldsFunc(s, isSpace)
	if !slices.Contains(keyTypes, fields[0]) {
		return fmt.Sprintf("%s is no kind of key the device takes; a key is KIND BASE64 [COMMENT], with one of %s", show(fields[0]), strings.Join(keyTypes, ", "))
	}
	if len(fields) < 2 {
		return "the key has a kind only; a key is KIND BASE64 [COMMENT]"
	}
	data := fields[1]
	// More padding after whole groups passes.
	if whole := strings.TrimRight(data, "="); len(whole)%4 == 0 {
		data = whole
	}
	blob, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return "the second part of the key is no base64; a key is KIND BASE64 [COMMENT]"
	}
	if len(blob) < 4 {
		return fmt.Sprintf("the key has %d bytes, which is no key", len(blob))
	}
	n := binary.BigEndian.Uint32(blob)
	if inner := blob[4:]; int64(n) > int64(len(inner)) || string(inner[:n]) != fields[0] {
		return fmt.Sprintf("the key says %s, but is not of that kind inside", fields[0])
	}
	return ""
}
