package check_test

import (
	"strings"
	"testing"

	"imgtool/image/seed/check"
)

// The documents in package seed's testdata cover these functions with the verdicts of the
// device's own validator. Here are cases in which Python differs from Go.
func TestPythonNotions(t *testing.T) {
	if got := check.Strip("\x1c\u2003a b\u00a0\x1f"); got != "a b" {
		t.Errorf("Strip returns %q", got)
	}
	if !check.AllDigits("1²①٣") || check.AllDigits("1½") || check.AllDigits("") {
		t.Error("AllDigits differs from str.isdigit")
	}
	for s, want := range map[string]string{"192.0.2.5": "192.0.2.5/32", "192.0.2.5/24": "192.0.2.5/24", "192.0.2.5/255.255.255.0": "192.0.2.5/24",
		"192.0.2.5/0.0.0.255": "192.0.2.5/24", "192.0.2.5/33": "", "192.0.2.5/255.0.255.0": "", "192.0.2.05": "", "::1/64": ""} {
		p, ok := check.ParseCIDR(s)
		if ok != (want != "") || ok && p.String() != want {
			t.Errorf("ParseCIDR(%q) returns %v, %v; want %q", s, p, ok, want)
		}
	}
	for s, want := range map[string]string{"Host.Example..": "host.example", "İ.x": "", strings.Repeat("a", 64): "", "a-.b": "", "K.x": "k.x"} {
		if got := check.DNSName(s); got != want {
			t.Errorf("DNSName(%q) returns %q, want %q", s, got, want)
		}
	}
}

// A value appears in messages only as returned by show.
func TestMessagesQuoteByShow(t *testing.T) {
	show := func(string) string { return "(hidden)" }
	for name, f := range map[string]func(string, func(string) string) string{
		"DNS": check.DNS, "IP": check.IP, "IPv4": check.IPv4, "CIDR": check.CIDR, "HostPattern": check.HostPattern, "Server": check.Server, "URL": check.URL, "Key": check.Key,
	} {
		if got := f("se cret", show); !strings.Contains(got, "(hidden)") || strings.Contains(got, "cret") {
			t.Errorf("%s: %s", name, got)
		}
	}
}
