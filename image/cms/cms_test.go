package cms_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"imgtool/image/cms"
	"imgtool/image/cms/cmstest"
	"imgtool/image/imagetest"
)

func keys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	return map[string]crypto.Signer{"RSA": cmstest.RSA(t), "ECDSA": cmstest.EC(t), "Ed25519": cmstest.Ed25519(t)}
}

var content = []byte("[update]\ncompatible=x\n")

// OpenSSL accepts a signed message, and the same inputs give the same bytes.
func TestOpenSSLVerifies(t *testing.T) {
	ca := cmstest.Issue(t, cmstest.EC(t), nil, nil)
	middle := cmstest.Issue(t, cmstest.EC(t), ca, cmstest.CA)
	for name, key := range keys(t) {
		leaf := cmstest.Issue(t, key, middle, nil)
		s := cms.Signer{Key: key, Cert: leaf.Cert, Others: []*x509.Certificate{middle.Cert}, Time: time.Now()}
		der, err := s.Sign(content)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if again, err := s.Sign(content); err != nil || !bytes.Equal(again, der) {
			t.Errorf("%s: a second signature differs (%v)", name, err)
		}
		// OpenSSL 3.0 has no Ed25519 here; the test of messages of OpenSSL does not have it either.
		if name != "Ed25519" {
			out := imagetest.Run(t, "openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", cmstest.File(t, der), "-CAfile", cmstest.File(t, ca.Cert))
			if out != string(content) {
				t.Errorf("%s: openssl printed %q", name, out)
			}
		}
		m, err := cms.Parse(der)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := m.Verify(nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := m.Trust([]*x509.Certificate{ca.Cert}, time.Now(), cms.SMIMESign); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := m.Signatures[0]; !got.Cert.Equal(leaf.Cert) || got.Time.Unix() != s.Time.Unix() || !bytes.Equal(m.Content, content) {
			t.Errorf("%s: signed by %s at %s", name, cms.Name(got.Cert), got.Time)
		}
	}
}

// Messages of OpenSSL are accepted, attached and detached.
func TestOpenSSLSigns(t *testing.T) {
	for name, key := range keys(t) {
		ca := cmstest.Issue(t, key, nil, func(c *x509.Certificate) { c.KeyUsage = 0; c.SubjectKeyId = []byte("the key") })
		for _, flags := range [][]string{nil, {"-nodetach"}, {"-nodetach", "-keyid"}, {"-nodetach", "-md", "sha512"},
			{"-nodetach", "-keyopt", "rsa_padding_mode:pss"}} {
			if len(flags) > 2 && flags[1] != "-keyid" && name != "RSA" || name == "Ed25519" {
				continue // openssl 3.0 does not sign with Ed25519
			}
			out := cmstest.File(t)
			args := []string{"cms", "-sign", "-binary", "-outform", "DER", "-in", cmstest.File(t, content), "-signer", cmstest.File(t, ca.Cert), "-inkey", cmstest.File(t, key), "-out", out}
			imagetest.Run(t, "openssl", append(args, flags...)...)
			der, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			m, err := cms.Parse(der)
			if err != nil {
				t.Errorf("%s %q: %v", name, flags, err)
				continue
			}
			if m.Detached != (flags == nil) {
				t.Errorf("%s %q: detached is %t", name, flags, m.Detached)
			}
			if err := m.Verify(bytes.NewReader(content)); err != nil {
				t.Errorf("%s %q: %v", name, flags, err)
			}
			if flags == nil && m.Verify(strings.NewReader("other content")) == nil {
				t.Errorf("%s: other content is accepted", name)
			}
		}
	}
}

// No byte of a message can be changed so that it is still verified, except to one with
// other certificates that are not used.
func TestEveryByteCounts(t *testing.T) {
	for name, key := range keys(t) {
		self := cmstest.Issue(t, key, nil, func(c *x509.Certificate) { c.KeyUsage = 0 })
		der, err := cms.Signer{Key: key, Cert: self.Cert, Time: time.Now()}.Sign(content)
		if err != nil {
			t.Fatal(err)
		}
		if !cms.Is(der) || cms.Is(der[:len(der)-1]) {
			t.Error("a message is not recognized by its beginning and length")
		}
		accepted := 0
		for i := range der {
			bad := bytes.Clone(der)
			bad[i] ^= 1
			m, err := cms.Parse(bad)
			if err == nil && m.Verify(nil) == nil && m.Trust([]*x509.Certificate{self.Cert}, time.Now(), cms.SMIMESign) == nil {
				if !bytes.Equal(m.Content, content) {
					t.Errorf("%s, byte %d: other content is accepted", name, i)
				}
				accepted++
			}
		}
		// Versions.
		if accepted > 4 {
			t.Errorf("%s: %d bytes can be changed", name, accepted)
		}
	}
}

// Trust refuses the certificates that openssl refuses.
func TestTrust(t *testing.T) {
	ca, other := cmstest.Issue(t, cmstest.EC(t), nil, nil), cmstest.Issue(t, cmstest.EC(t), nil, nil)
	middle := cmstest.Issue(t, cmstest.EC(t), ca, cmstest.CA)
	broad := cmstest.Issue(t, cmstest.EC(t), ca, func(c *x509.Certificate) {
		cmstest.CA(c)
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	})
	for _, c := range []struct {
		name    string
		by      *cmstest.Identity
		change  func(*x509.Certificate)
		trusted *cmstest.Identity
		want    string // in the error; empty: trusted
	}{
		{"plain", ca, nil, ca, ""},
		{"with an intermediate certificate", middle, nil, ca, ""},
		{"only the intermediate certificate is trusted", middle, nil, middle, "is not trusted"},
		{"another CA", ca, nil, other, "is not trusted"},
		{"expired", ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, ca, "expired at"},
		{"not yet valid", ca, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, ca, "is not valid before"},
		{"for e-mail", ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection} }, ca, ""},
		{"for servers", ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, ca, "is not trusted"},
		{"for anything", ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, ca, "is not for smimesign"},
		{"by an intermediate certificate for anything", broad, nil, ca, "is not for smimesign"},
		{"for encryption", ca, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, ca, "key usage"},
		{"for signatures", ca, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }, ca, ""},
	} {
		leaf := cmstest.Issue(t, cmstest.EC(t), c.by, c.change)
		der, err := cms.Signer{Key: leaf.Key, Cert: leaf.Cert, Others: []*x509.Certificate{middle.Cert, broad.Cert}, Time: time.Now()}.Sign(content)
		if err != nil {
			t.Fatal(err)
		}
		m, err := cms.Parse(der)
		if err != nil {
			t.Fatal(err)
		}
		err = m.Trust([]*x509.Certificate{c.trusted.Cert}, time.Now(), cms.SMIMESign)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
		out, err := exec.Command(imagetest.Need(t, "openssl"), "cms", "-verify", "-binary", "-inform", "DER", "-in", cmstest.File(t, der), "-CAfile", cmstest.File(t, c.trusted.Cert)).CombinedOutput()
		if (err == nil) != (c.want == "") {
			t.Errorf("%s: openssl: %v %s", c.name, err, out)
		}
	}
	code := cmstest.Issue(t, cmstest.EC(t), ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} })
	for purpose, want := range map[cms.Purpose]bool{cms.CodeSign: true, cms.SMIMESign: false} {
		if err := cms.CheckTrust(code.Cert, nil, []*x509.Certificate{ca.Cert}, time.Now(), purpose); (err == nil) != want {
			t.Errorf("a certificate for signing code, for %s: %v", purpose, err)
		}
	}
	committed := cmstest.Issue(t, cmstest.EC(t), ca, func(c *x509.Certificate) {
		c.ExtKeyUsage, c.KeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, x509.KeyUsageContentCommitment
	})
	if err := cms.CheckTrust(committed.Cert, nil, []*x509.Certificate{ca.Cert}, time.Now(), cms.CodeSign); err == nil {
		t.Error("a certificate for content commitment is accepted for signing code")
	}
}

// A certificate with a key that package x509 does not know, such as RSA-PSS, is refused in words.
func TestUnknownKey(t *testing.T) {
	if err := cms.CheckKey(&x509.Certificate{}); err == nil || !strings.Contains(err.Error(), "only RSA, ECDSA and Ed25519") || strings.Contains(err.Error(), "nil") {
		t.Errorf("got %v", err)
	}
}

func TestEncrypted(t *testing.T) {
	self := cmstest.Issue(t, keys(t)["RSA"], nil, func(c *x509.Certificate) { c.KeyUsage = 0 })
	out := cmstest.File(t)
	imagetest.Run(t, "openssl", "cms", "-encrypt", "-binary", "-aes-256-cbc", "-outform", "DER", "-in", cmstest.File(t, content), "-out", out, cmstest.File(t, self.Cert))
	der, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := cms.Parse(der); err != nil || !m.Encrypted || m.Verify(nil) == nil || !cms.Is(der) {
		t.Errorf("got %+v, %v", m, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, der []byte) {
		if m, err := cms.Parse(der); err == nil && !m.Encrypted {
			m.Verify(bytes.NewReader(nil))
		}
	})
}
