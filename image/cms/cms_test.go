package cms_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgtool/image/cms"
	"imgtool/image/imagetest"
)

type identity struct {
	key  crypto.Signer
	cert *x509.Certificate
}

// issue returns a certificate with a new key. It signs itself if by is nil.
func issue(t *testing.T, key crypto.Signer, by *identity, change func(*x509.Certificate)) *identity {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "Signer " + serial.String()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true}
	if by == nil {
		c.IsCA, c.KeyUsage, c.Subject.CommonName = true, x509.KeyUsageCertSign, "CA "+serial.String()
	}
	if change != nil {
		change(c)
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &identity{key, cert}
}

func ecKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, e, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"RSA": r, "ECDSA": ecKey(t), "Ed25519": e}
}

// file writes a file in a new directory, certificates and keys as PEM.
func file(t *testing.T, content any) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	var b []byte
	switch c := content.(type) {
	case []byte:
		b = c
	case *x509.Certificate:
		b = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	case crypto.Signer:
		der, err := x509.MarshalPKCS8PrivateKey(c)
		if err != nil {
			t.Fatal(err)
		}
		b = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var content = []byte("[update]\ncompatible=x\n")

// OpenSSL accepts a signed message, and the same inputs give the same bytes.
func TestOpenSSLVerifies(t *testing.T) {
	ca := issue(t, ecKey(t), nil, nil)
	middle := issue(t, ecKey(t), ca, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign })
	for name, key := range keys(t) {
		leaf := issue(t, key, middle, nil)
		s := cms.Signer{Key: key, Cert: leaf.cert, Others: []*x509.Certificate{middle.cert}, Time: time.Now()}
		der, err := s.Sign(content)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if again, err := s.Sign(content); err != nil || !bytes.Equal(again, der) {
			t.Errorf("%s: a second signature differs (%v)", name, err)
		}
		// OpenSSL 3.0 has no Ed25519 here; the test of messages of OpenSSL does not have it either.
		if name != "Ed25519" {
			out := imagetest.Run(t, "openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", file(t, der), "-CAfile", file(t, ca.cert))
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
		if err := m.Trust([]*x509.Certificate{ca.cert}, time.Now(), cms.SMIMESign); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := m.Signatures[0]; !got.Cert.Equal(leaf.cert) || got.Time.Unix() != s.Time.Unix() || !bytes.Equal(m.Content, content) {
			t.Errorf("%s: signed by %s at %s", name, cms.Name(got.Cert), got.Time)
		}
	}
}

// Messages of OpenSSL are accepted, attached and detached.
func TestOpenSSLSigns(t *testing.T) {
	for name, key := range keys(t) {
		ca := issue(t, key, nil, func(c *x509.Certificate) { c.KeyUsage = 0; c.SubjectKeyId = []byte("the key") })
		for _, flags := range [][]string{nil, {"-nodetach"}, {"-nodetach", "-keyid"}, {"-nodetach", "-md", "sha512"},
			{"-nodetach", "-keyopt", "rsa_padding_mode:pss"}} {
			if len(flags) > 2 && flags[1] != "-keyid" && name != "RSA" || name == "Ed25519" {
				continue // openssl 3.0 does not sign with Ed25519
			}
			out := file(t, nil)
			args := []string{"cms", "-sign", "-binary", "-outform", "DER", "-in", file(t, content), "-signer", file(t, ca.cert), "-inkey", file(t, key), "-out", out}
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
		self := issue(t, key, nil, func(c *x509.Certificate) { c.KeyUsage = 0 })
		der, err := cms.Signer{Key: key, Cert: self.cert, Time: time.Now()}.Sign(content)
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
			if err == nil && m.Verify(nil) == nil && m.Trust([]*x509.Certificate{self.cert}, time.Now(), cms.SMIMESign) == nil {
				if !bytes.Equal(m.Content, content) {
					t.Errorf("%s, byte %d: other content is accepted", name, i)
				}
				accepted++
			}
		}
		// Versions and the list of digest algorithms, which nothing depends on, and the type
		// of the signature algorithm's parameters.
		if accepted > 20 {
			t.Errorf("%s: %d bytes can be changed", name, accepted)
		}
	}
}

// What openssl refuses, Trust refuses.
func TestTrust(t *testing.T) {
	ca, other := issue(t, ecKey(t), nil, nil), issue(t, ecKey(t), nil, nil)
	middle := issue(t, ecKey(t), ca, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign })
	for _, c := range []struct {
		name    string
		by      *identity
		change  func(*x509.Certificate)
		trusted *identity
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
		{"for encryption", ca, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, ca, "key usage"},
		{"for signatures", ca, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }, ca, ""},
	} {
		leaf := issue(t, ecKey(t), c.by, c.change)
		der, err := cms.Signer{Key: leaf.key, Cert: leaf.cert, Others: []*x509.Certificate{middle.cert}, Time: time.Now()}.Sign(content)
		if err != nil {
			t.Fatal(err)
		}
		m, err := cms.Parse(der)
		if err != nil {
			t.Fatal(err)
		}
		err = m.Trust([]*x509.Certificate{c.trusted.cert}, time.Now(), cms.SMIMESign)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
		out, err := exec.Command(imagetest.Need(t, "openssl"), "cms", "-verify", "-binary", "-inform", "DER", "-in", file(t, der), "-CAfile", file(t, c.trusted.cert)).CombinedOutput()
		if (err == nil) != (c.want == "") {
			t.Errorf("%s: openssl: %v %s", c.name, err, out)
		}
	}
	code := issue(t, ecKey(t), ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} })
	for purpose, want := range map[cms.Purpose]bool{cms.CodeSign: true, cms.SMIMESign: false} {
		if err := cms.CheckTrust(code.cert, nil, []*x509.Certificate{ca.cert}, time.Now(), purpose); (err == nil) != want {
			t.Errorf("a certificate for signing code, for %s: %v", purpose, err)
		}
	}
}

func TestEncrypted(t *testing.T) {
	self := issue(t, keys(t)["RSA"], nil, func(c *x509.Certificate) { c.KeyUsage = 0 })
	out := file(t, nil)
	imagetest.Run(t, "openssl", "cms", "-encrypt", "-binary", "-aes-256-cbc", "-outform", "DER", "-in", file(t, content), "-out", out, file(t, self.cert))
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
