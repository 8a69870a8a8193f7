package sign_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"imgtool/image/imagetest"
	"imgtool/image/sign"
)

// Allowed signers, certificates and revocations are judged as by ssh-keygen.
func TestVerdictsAsSSHKeygen(t *testing.T) {
	b := newBench(t)
	// In winter: ssh-keygen takes a local time in summer for one without daylight saving time.
	local, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TZ", "America/New_York")
	defer func(was *time.Location) { time.Local = was }(time.Local)
	time.Local = local

	for _, name := range []string{"key", "other", "ca", "otherca", "revoked"} {
		b.key(name, "-t", "ed25519")
	}
	certify := func(name string, args ...string) {
		data := b.read("key.pub")
		b.write(name+".pub", data)
		imagetest.Run(t, "ssh-keygen", append(append([]string{"-q", "-s", b.path("ca"), "-I", "id-" + name}, args...), b.path(name+".pub"))...)
		os.Link(b.path("key"), b.path(name+"-cert"))
	}
	certify("cert", "-n", "a@example.com,b@example.com", "-z", "7", "-V", "20200101000000Z:20400101000000Z")
	certify("nameless", "-z", "8")
	certify("host", "-h", "-n", "a@example.com")
	certify("forced", "-n", "a@example.com", "-O", "force-command=/bin/true")
	certify("strange", "-n", "a@example.com", "-O", "critical:x@example.com=1")

	keys := strings.NewReplacer("KEY", b.public("key"), "OTHERCA", b.public("otherca"), "OTHER", b.public("other"), "CA", b.public("ca"))
	signatures := map[string][]byte{
		"": b.keygenSign("key", sign.Namespace), "git": b.keygenSign("key", "git"), "other": b.keygenSign("other", sign.Namespace),
	}
	for _, cert := range []string{"cert", "nameless", "host", "forced", "strange"} {
		signatures[cert] = b.keygenSign(cert+"-cert", sign.Namespace)
	}
	revoke := func(name string, args ...string) {
		imagetest.Run(t, "ssh-keygen", append([]string{"-q", "-k", "-f", b.path(name)}, args...)...)
	}
	b.write("spec", []byte("serial: 5-7\n"))
	b.write("bits", []byte("serial: 3\nserial: 5\nserial: 7\nserial: 8\nserial: 11\nserial: 20\n"))
	b.write("id", []byte("id: id-cert\n"))
	b.write("wrong", []byte("serial: 1-6\nserial: 8\nid: id\n"))
	b.write("sha1", []byte("sha1: "+string(b.read("key.pub"))))
	b.write("sha256", []byte("sha256: "+string(b.read("key.pub"))))
	revoke("krl-key", b.path("key.pub"))
	revoke("krl-other", b.path("other.pub"))
	revoke("krl-ca", b.path("ca.pub"))
	revoke("krl-sha1", b.path("sha1"))
	revoke("krl-sha256", b.path("sha256"))
	for _, name := range []string{"spec", "bits", "id", "wrong"} {
		revoke("krl-"+name, "-s", b.path("ca.pub"), b.path(name))
		revoke("krl-other-"+name, "-s", b.path("otherca.pub"), b.path(name))
	}
	b.write("list-key", []byte("# lost\n\n"+b.public("other")+" comment\n"+b.public("key")+"\n"))
	b.write("list-ca", []byte(b.public("ca")))
	b.write("list-other", []byte(b.public("other")))

	const a, at = "a@example.com", "20260114120000"
	for _, c := range []struct {
		signature, signers, principal, time, revoked, want string
	}{
		{"", "a@example.com KEY", a, "", "", ""},
		{"", "  \t a@example.com \t KEY comment here", a, "", "", ""},
		{"", "# comment\n\n   # another\na@example.com KEY\r\n", a, "", "", ""},
		{"", "a@example.com OTHER\na@example.com KEY", a, "", "", ""},
		{"", "a@example.com OTHER", a, "", "", sign.UnknownSigner},
		{"other", "a@example.com KEY", a, "", "", sign.UnknownSigner},
		{"", "", a, "", "", sign.UnknownSigner},
		{"", "b@example.com KEY", a, "", "", sign.WrongPrincipal},
		{"", "*@example.com KEY", a, "", "", ""},
		{"", "?@example.com KEY", a, "", "", ""},
		{"", "??@example.com KEY", a, "", "", sign.WrongPrincipal},
		{"", "A@EXAMPLE.COM KEY", a, "", "", sign.WrongPrincipal},
		{"", "b@*,a@example.* KEY", a, "", "", ""},
		{"", "*,!a@* KEY", a, "", "", sign.WrongPrincipal},
		{"", "!a@*,* KEY", a, "", "", sign.WrongPrincipal},
		{"", "!b@*,* KEY", a, "", "", ""},
		{"", "!a@* KEY\na@example.com KEY", a, "", "", ""},
		{"", `"a@example.com" KEY`, a, "", "", ""},
		{"", `"Ann Example,a@example.com" KEY`, a, "", "", ""},
		{"", `"Ann Example" KEY`, "Ann Example", "", "", ""},
		{"", `"a@example.com KEY`, a, "", "", sign.UnknownSigner},
		{"", `a@example.com namespaces="imgtool-image" KEY`, a, "", "", ""},
		{"", `a@example.com namespaces="git,imgtool-*" KEY`, a, "", "", ""},
		{"", `a@example.com namespaces="*,!imgtool-image" KEY`, a, "", "", sign.WrongNamespace},
		{"", `a@example.com namespaces="git" KEY`, a, "", "", sign.WrongNamespace},
		{"", "a@example.com namespaces=\"git\" KEY\na@example.com KEY", a, "", "", ""},
		{"git", "a@example.com KEY", a, "", "", sign.WrongNamespace},
		{"", `a@example.com NameSpaces="imgtool-image" KEY`, a, "", "", ""},
		{"", `a@example.com namespaces=imgtool-image KEY`, a, "", "", sign.UnknownSigner},
		{"", `a@example.com namespaces="" KEY`, a, "", "", sign.UnknownSigner},
		{"", `a@example.com namespaces="a",namespaces="imgtool-image" KEY`, a, "", "", sign.UnknownSigner},
		{"", `a@example.com namespaces="imgtool-image KEY`, a, "", "", sign.UnknownSigner},
		{"", `a@example.com no-touch-required KEY`, a, "", "", sign.UnknownSigner},
		{"", `a@example.com valid-after="20260101", KEY`, a, at, "", sign.UnknownSigner},
		{"", `a@example.com cert-authority KEY`, a, "", "", sign.UnknownSigner},
		{"", `a@example.com valid-after="20260114" KEY`, a, at, "", ""},
		{"", `a@example.com valid-after="20260115" KEY`, a, at, "", sign.NotYetValid},
		{"", `a@example.com valid-before="20260114" KEY`, a, at, "", sign.Expired},
		{"", `a@example.com valid-before="20260115" KEY`, a, at, "", ""},
		{"", `a@example.com valid-before="202601141200" KEY`, a, at, "", ""},
		{"", `a@example.com valid-before="20260114115959" KEY`, a, at, "", sign.Expired},
		{"", `a@example.com valid-after="20260114120000" KEY`, a, at, "", ""},
		{"", `a@example.com valid-after="20260114120001" KEY`, a, at, "", sign.NotYetValid},
		{"", `a@example.com valid-before="202601141659Z" KEY`, a, at, "", sign.Expired},
		{"", `a@example.com valid-before="202601141700z" KEY`, a, at, "", ""},
		{"", `a@example.com valid-before="202601141700Z" KEY`, a, at + "Z", "", ""},
		{"", `a@example.com valid-after="20260101",valid-before="20270101",namespaces="imgtool-image" KEY`, a, at, "", ""},
		{"", `a@example.com valid-after="20270101",valid-before="20260101" KEY`, a, at, "", sign.UnknownSigner},
		{"", `a@example.com valid-after="2026" KEY`, a, at, "", sign.UnknownSigner},
		{"", `a@example.com valid-after="20261301" KEY`, a, at, "", sign.UnknownSigner},
		{"", `a@example.com valid-after= KEY`, a, at, "", sign.UnknownSigner},
		{"", "a@example.com ssh-ed25519 AAAA\na@example.com KEY", a, "", "", ""},
		{"", "a@example.com RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\na@example.com KEY", a, "", "", ""},

		{"", "a@example.com KEY", a, "", "krl-key", sign.Revoked},
		{"", "a@example.com KEY", a, "", "krl-sha1", sign.Revoked},
		{"", "a@example.com KEY", a, "", "krl-sha256", sign.Revoked},
		{"", "a@example.com KEY", a, "", "list-key", sign.Revoked},
		{"", "a@example.com KEY", a, "", "krl-other", ""},
		{"", "a@example.com KEY", a, "", "list-other", ""},

		{"cert", "*@example.com cert-authority CA", a, "", "", ""},
		{"cert", "*@example.com CERT-AUTHORITY CA", a, "", "", ""},
		{"cert", "*@example.com cert-authority CA", "b@example.com", "", "", ""},
		{"cert", "*@example.com cert-authority CA", "c@example.com", "", "", sign.WrongPrincipal},
		{"cert", "b@example.com cert-authority CA", a, "", "", sign.WrongPrincipal},
		{"cert", "*@example.com CA", a, "", "", sign.UnknownSigner},
		{"cert", "*@example.com cert-authority OTHERCA", a, "", "", sign.UnknownSigner},
		{"cert", "*@example.com KEY", a, "", "", sign.UnknownSigner},
		{"cert", "*@example.com cert-authority CA", a, "20191231000000", "", sign.NotYetValid},
		{"cert", "*@example.com cert-authority CA", a, "20400102000000", "", sign.Expired},
		{"cert", `*@example.com cert-authority,valid-before="20250101" CA`, a, at, "", sign.Expired},
		{"cert", `*@example.com cert-authority,namespaces="git" CA`, a, at, "", sign.WrongNamespace},
		{"nameless", "*@example.com cert-authority CA", a, "", "", sign.WrongPrincipal},
		{"host", "*@example.com cert-authority CA", a, "", "", sign.BadCertificate},
		{"forced", "*@example.com cert-authority CA", a, "", "", ""},
		{"cert", "*@example.com cert-authority CA", a, "", "krl-key", sign.Revoked},
		{"cert", "*@example.com cert-authority CA", a, "", "list-key", sign.Revoked},
		{"cert", "*@example.com cert-authority CA", a, "", "krl-ca", sign.Revoked},
		{"cert", "*@example.com cert-authority CA", a, "", "list-ca", sign.Revoked},
		{"cert", "*@example.com cert-authority CA", a, "", "krl-spec", sign.Revoked},
		{"cert", "*@example.com cert-authority CA", a, "", "krl-bits", sign.Revoked},
		{"cert", "*@example.com cert-authority CA", a, "", "krl-id", sign.Revoked},
		{"cert", "*@example.com cert-authority CA", a, "", "krl-wrong", ""},
		{"cert", "*@example.com cert-authority CA", a, "", "krl-other-spec", ""},
		{"cert", "*@example.com cert-authority CA", a, "", "krl-other-bits", ""},
		{"cert", "*@example.com cert-authority CA", a, "", "krl-other-id", ""},
	} {
		t.Run(strings.Join([]string{c.signature, c.signers, c.time, c.revoked}, "|"), func(t *testing.T) {
			b := &bench{t, b.dir, b.manifest}
			var args []string
			p := sign.Policy{Principal: c.principal}
			if c.time != "" {
				args = append(args, "-Overify-time="+c.time)
				if p.Time, err = sign.ParseTime(c.time); err != nil {
					t.Fatal(err)
				}
			}
			if c.revoked != "" {
				args = append(args, "-r", b.path(c.revoked))
				r, err := sign.ParseRevoked(c.revoked, b.read(c.revoked))
				if err != nil {
					t.Fatal(err)
				}
				p.Revoked = append(p.Revoked, r)
			}
			signers := keys.Replace(c.signers)
			accepted := b.keygenAccepts(b.manifest, signatures[c.signature], signers, c.principal, args...)
			if accepted != (c.want == "") {
				t.Errorf("ssh-keygen accepts it: %v", accepted)
			}
			if got := b.verify(b.manifest, signatures[c.signature], signers, p); got != c.want {
				t.Errorf("got the reason %q, want %q", got, c.want)
			}
		})
	}
	// ssh-keygen ignores critical options that it does not know.
	if got := b.verify(b.manifest, signatures["strange"], keys.Replace("*@example.com cert-authority CA"), sign.Policy{}); got != sign.BadCertificate {
		t.Errorf("a certificate with an unknown critical option: got the reason %q", got)
	}
}

// A line whose principals match no name allows nothing, also if no principal is asked for.
func TestPrincipalsThatMatchNoName(t *testing.T) {
	const mini = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG8w+mM5VeOWos5B4BUhCgXqDrcbOsBiYWGKG/kv1z6H"
	for line, allows := range map[string]bool{
		"!a@example.com ": false, "!* ": false, "*,!* ": false, "!**,a ": false, `"" `: false, ", ": false, "!a,!b ": false,
		"a ": true, "!a,* ": true, "*,!a* ": true, "*,! ": true,
	} {
		for _, k := range []string{key, mini} {
			s, faults := sign.ParseSigners("f", []byte(line+k))
			if s.Empty() == allows || (len(faults) == 0) != allows {
				t.Errorf("%s%s: allows %v, %v", line, k, !s.Empty(), faults)
			}
		}
	}
}
