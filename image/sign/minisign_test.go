package sign_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"

	"imgtool/image/imagetest"
	"imgtool/image/sign"
)

// minisign runs minisign, which is given the passphrase of keys.
func (b *bench) minisign(args ...string) error {
	cmd := exec.Command("minisign", args...)
	cmd.Stdin = strings.NewReader("secret\nsecret\n")
	out, err := cmd.CombinedOutput()
	b.t.Logf("minisign: %s", out)
	return err
}

func (b *bench) minisignKey(name string, args ...string) {
	b.t.Helper()
	if err := b.minisign(append([]string{"-G", "-f", "-p", b.path(name + ".pub"), "-s", b.path(name)}, args...)...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) minisignSign(key string, args ...string) []byte {
	b.t.Helper()
	if err := b.minisign(append([]string{"-S", "-s", b.path(key), "-m", b.path("manifest"), "-x", b.path("manifest.minisig")}, args...)...); err != nil {
		b.t.Fatal(err)
	}
	return b.read("manifest.minisig")
}

func (b *bench) minisignAccepts(manifest, signature []byte, key string) bool {
	b.t.Helper()
	return b.minisign("-V", "-p", b.path(key+".pub"), "-m", b.write("m", manifest), "-x", b.write("m.minisig", signature)) == nil
}

func TestMinisign(t *testing.T) {
	imagetest.Need(t, "minisign")
	b := newBench(t)
	b.minisignKey("key", "-W")
	b.minisignKey("other", "-W")
	signers := string(b.read("key.pub"))
	bare := strings.Split(signers, "\n")[1]
	ours := b.sign(b.ring(b.path("key"), ""))
	altered := []byte(strings.Replace(string(b.manifest), "1", "2", 1))
	comment := bytes.Replace(ours, []byte("timestamp:1"), []byte("timestamp:2"), 1)
	for name, c := range map[string]struct {
		signature, manifest []byte
		signers, want       string
	}{
		"ours":                  {ours, b.manifest, signers, ""},
		"theirs":                {b.minisignSign("key"), b.manifest, signers, ""},
		"theirs, not prehashed": {b.minisignSign("key", "-l"), b.manifest, signers, ""},
		"bare key":              {ours, b.manifest, bare, ""},
		"key with a principal":  {ours, b.manifest, "a@example.com " + bare, ""},
		"key of another":        {ours, b.manifest, string(b.read("other.pub")), sign.UnknownSigner},
		"altered manifest":      {ours, altered, signers, sign.Mismatch},
		"altered comment":       {comment, b.manifest, signers, sign.Mismatch},
		"cut short":             {ours[:len(ours)-20], b.manifest, signers, sign.Malformed},
		"none":                  {nil, b.manifest, signers, sign.Unsigned},
	} {
		t.Run(name, func(t *testing.T) {
			b := &bench{t, b.dir, b.manifest}
			key := "key"
			if c.signers == string(b.read("other.pub")) {
				key = "other"
			}
			if accepted := b.minisignAccepts(c.manifest, c.signature, key); accepted != (c.want == "") {
				t.Errorf("minisign accepts it: %v", accepted)
			}
			if got := b.verify(c.manifest, c.signature, c.signers, sign.Policy{}); got != c.want {
				t.Errorf("got the reason %q, want %q", got, c.want)
			}
		})
	}
	revoked, err := sign.ParseRevoked("revoked", []byte(signers))
	if err != nil {
		t.Fatal(err)
	}
	if got := b.verify(b.manifest, ours, signers, sign.Policy{Revoked: []*sign.RevokedKeys{revoked}}); got != sign.Revoked {
		t.Errorf("a revoked key: got the reason %q", got)
	}
	list, _ := sign.ParseSigners("signers", []byte("a@example.com "+bare))
	p := sign.Policy{Signers: list, Time: time.Now(), Principal: "b@example.com"}
	if _, err := p.Verify(b.manifest, ours); err == nil || err.(*sign.Error).Reason != sign.WrongPrincipal {
		t.Errorf("another principal: %v", err)
	}
	p.Principal = "a@example.com"
	all, err := p.Verify(b.manifest, ours)
	if err != nil || all[0].Principal != p.Principal || all[0].Comment != "timestamp:1" {
		t.Errorf("%+v, %v", all, err)
	}
}

// A key with a passphrase takes 1 GiB of memory for some seconds.
func TestMinisignPassphrase(t *testing.T) {
	imagetest.Need(t, "minisign")
	imagetest.Long(t)
	b := newBench(t)
	b.minisignKey("locked")
	ours := b.sign(b.ring(b.path("locked"), ""))
	if !b.minisignAccepts(b.manifest, ours, "locked") {
		t.Error("minisign does not accept our signature")
	}
}

// No byte of a signature can be changed, apart from the untrusted comment of minisign.
func TestCorruptedSignatures(t *testing.T) {
	imagetest.Need(t, "minisign")
	b := newBench(t)
	b.key("ca", "-t", "ed25519")
	b.key("ed25519", "-t", "ed25519")
	b.key("ecdsa", "-t", "ecdsa")
	b.key("rsa", "-t", "rsa", "-b", "2048")
	b.minisignKey("mini", "-W")
	imagetest.Run(t, "ssh-keygen", "-q", "-s", b.path("ca"), "-I", "id", "-n", "a@example.com", b.path("ed25519.pub"))
	for _, name := range []string{"ed25519", "ecdsa", "rsa", "mini", "ed25519-cert.pub"} {
		t.Run(name, func(t *testing.T) {
			b := &bench{t, b.dir, b.manifest}
			text := b.sign(b.ring(b.path(name), ""))
			signers := map[bool]string{true: string(b.read("mini.pub")), false: "*@example.com " + b.public("ed25519") + "\n*@example.com " + b.public("ecdsa") +
				"\n*@example.com " + b.public("rsa") + "\n*@example.com cert-authority " + b.public("ca")}[name == "mini"]
			list, faults := sign.ParseSigners("signers", []byte(signers))
			if faults != nil {
				t.Fatal(faults)
			}
			p := sign.Policy{Signers: list, Time: time.Now()}
			if _, err := p.Verify(b.manifest, text); err != nil {
				t.Fatal(err)
			}
			from := 0
			if name == "mini" {
				from = bytes.IndexByte(text, '\n')
			}
			random := rand.New(rand.NewPCG(1, 2))
			reasons := map[string]int{}
			for at := from; at < len(text)-1; at++ { // the last line end may be missing
				for _, c := range []byte{text[at] ^ 1, text[at] ^ 0x20, 'A', '=', '\n', ' ', '\r', byte(random.Uint32())} {
					if c == text[at] {
						continue
					}
					altered := bytes.Clone(text)
					altered[at] = c
					_, err := p.Verify(b.manifest, altered)
					if err == nil {
						t.Errorf("byte %d of %d is %q instead of %q, and the signature is accepted", at, len(text), c, text[at])
						continue
					}
					reasons[err.(*sign.Error).Reason]++
				}
				if _, err := p.Verify(b.manifest, text[:at]); err == nil {
					t.Errorf("the signature is accepted without its last %d bytes", len(text)-at)
				}
			}
			t.Log(reasons)
		})
	}
}

// Several signatures are in one file. One that is accepted is enough.
func TestSeveralSignatures(t *testing.T) {
	imagetest.Need(t, "minisign")
	b := newBench(t)
	b.key("one", "-t", "ed25519")
	b.key("two", "-t", "ecdsa") // its signatures differ each time
	b.minisignKey("mini", "-W")
	var file []byte
	for range 2 { // signing again replaces
		for _, name := range []string{"one", "two", "mini"} {
			file, _ = sign.Add(file, sign.Parse(b.sign(b.ring(b.path(name), "")))...)
		}
	}
	if n := len(sign.Parse(file)); n != 3 {
		t.Fatalf("%d signatures, want 3", n)
	}
	for signers, want := range map[string]string{
		"a " + b.public("one"): "", "a " + b.public("two"): "", string(b.read("mini.pub")): "",
		"a " + b.public("one") + "\na " + b.public("two"): "", "": sign.UnknownSigner,
	} {
		if got := b.verify(b.manifest, file, signers, sign.Policy{}); got != want {
			t.Errorf("%s: got the reason %q, want %q", signers, got, want)
		}
	}
	// The other programs take the first of their format.
	if !b.keygenAccepts(b.manifest, sign.Of(sign.SSH, file), "a "+b.public("one"), "a") {
		t.Error("ssh-keygen does not accept the first of two signatures")
	}
	if !b.minisignAccepts(b.manifest, sign.Of(sign.Minisign, file), "mini") {
		t.Error("minisign does not accept the signature")
	}
	// Other text does not hide signatures.
	for _, junk := range []string{"x\n", "-----BEGIN SSH SIGNATURE-----\n", "untrusted comment: x\n", "untrusted comment: x\ny\n", "\n\n", "-----END SSH SIGNATURE-----\n"} {
		for i, with := range [][]byte{append([]byte(junk), file...), append(bytes.Clone(file), junk...)} {
			if got := b.verify(b.manifest, with, "a "+b.public("one"), sign.Policy{}); got != "" {
				t.Errorf("%q in place %d: got the reason %q", junk, i, got)
			}
		}
	}
}

func TestWeakKeys(t *testing.T) {
	b := newBench(t)
	b.key("short", "-t", "rsa", "-b", "1024")
	s := b.keygenSign("short", sign.Namespace)
	if got := b.verify(b.manifest, s, "a "+b.public("short"), sign.Policy{}); got != sign.Unsupported {
		t.Errorf("an RSA key of 1024 bits: got the reason %q", got)
	}
	if _, err := sign.FindKey(t.Context(), b.ring(b.path("short"), "")); err == nil || !strings.Contains(err.Error(), "no signature of it would be accepted: the RSA key has 1024 bits, at least 2048") {
		t.Errorf("signing with an RSA key of 1024 bits: %v", err)
	}
	_, faults := sign.ParseSigners("signers", []byte("a "+b.public("short")))
	if len(faults) != 1 || !strings.Contains(fmt.Sprint(faults), "1024 bits, at least 2048") {
		t.Error(faults)
	}
}

func TestRevokedFileWithFaults(t *testing.T) {
	b := newBench(t)
	b.key("key", "-t", "ed25519")
	imagetest.Run(t, "ssh-keygen", "-q", "-k", "-f", b.path("krl"), b.path("key.pub"))
	krl := b.read("krl")
	for n := range len(krl) {
		if r, err := sign.ParseRevoked("krl", krl[:n]); err == nil && n != 0 && n != 44 { // the end of the header
			t.Errorf("a list that ends at byte %d of %d is accepted: %v", n, len(krl), r)
		}
	}
	if _, err := sign.ParseRevoked("list", []byte(b.public("key")+"\nssh-ed25519 AAAA\n")); err == nil || !strings.Contains(err.Error(), "list:2") {
		t.Errorf("a line with a fault: %v", err)
	}
}
