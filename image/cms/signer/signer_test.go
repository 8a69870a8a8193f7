package signer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgtool/image/cms"
	"imgtool/image/cms/cmstest"
	"imgtool/image/cms/signer"
	"imgtool/image/fault"
	"imgtool/image/imagetest"
)

// sign signs with what the options name, and checks the message with openssl.
func sign(t *testing.T, opt signer.Options) {
	t.Helper()
	s, err := signer.Load(t.Context(), opt)
	if err != nil {
		t.Error(err)
		return
	}
	s.Time = time.Now()
	der, err := s.Sign([]byte("text"))
	if err != nil {
		t.Error(err)
		return
	}
	imagetest.Run(t, "openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", cmstest.File(t, der), "-CAfile", cmstest.File(t, s.Cert), "-purpose", "any")
	if again, err := s.Sign([]byte("text")); err != nil || !bytes.Equal(again, der) {
		if !signer.IsToken(opt.Key) || s.Cert.PublicKeyAlgorithm == x509.RSA {
			t.Errorf("a second signature differs (%v)", err)
		}
	}
}

// Every form of key that OpenSSL writes is read.
func TestKeyFiles(t *testing.T) {
	r := cmstest.Issue(t, cmstest.RSA(t), nil, nil)
	e := cmstest.Issue(t, cmstest.EC(t), nil, nil)
	for _, c := range []struct {
		name string
		of   *cmstest.Identity
		args []string
	}{
		{"PKCS#8", r, []string{"pkey"}},
		{"PKCS#1", r, []string{"rsa", "-traditional"}},
		{"EC", e, []string{"ec"}},
		{"PKCS#8 of EC", e, []string{"pkey"}},
		{"encrypted", r, []string{"pkcs8", "-topk8", "-passout", "pass:secret"}},
		{"encrypted with scrypt", e, []string{"pkcs8", "-topk8", "-scrypt", "-passout", "pass:secret"}},
	} {
		key := filepath.Join(t.TempDir(), "key.pem")
		imagetest.Run(t, "openssl", append(c.args, "-in", cmstest.File(t, c.of.Key), "-out", key)...)
		opt := signer.Options{Key: key, Cert: cmstest.File(t, c.of.Cert), Now: time.Now(), Ask: func(_ context.Context, file string) (string, error) {
			if file != key {
				t.Errorf("asked for the passphrase of %s", file)
			}
			return "secret", nil
		}}
		t.Run(c.name, func(t *testing.T) {
			sign(t, opt)
			if !strings.HasPrefix(c.name, "encrypted") {
				return
			}
			opt.Ask = nil
			if _, err := signer.Load(t.Context(), opt); err == nil || !strings.Contains(err.Error(), "it has a passphrase: set it in IMGTOOL_KEY_PASSPHRASE") {
				t.Errorf("got %v", err)
			}
			t.Setenv(signer.PassphraseVariable, "secret")
			sign(t, opt)
			t.Setenv(signer.PassphraseVariable, "")
			if _, err := signer.Load(t.Context(), opt); err == nil || err.Error() != key+": it has a passphrase, and "+signer.PassphraseVariable+" is empty" {
				t.Errorf("got %v", err)
			}
			t.Setenv(signer.PassphraseVariable, "wrong")
			if _, err := signer.Load(t.Context(), opt); err == nil || !strings.Contains(err.Error(), "the passphrase may be wrong") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestWrongKeys(t *testing.T) {
	ca := cmstest.Issue(t, cmstest.RSA(t), nil, nil)
	good := cmstest.Issue(t, cmstest.EC(t), ca, nil)
	past := cmstest.Issue(t, cmstest.EC(t), ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	future := cmstest.Issue(t, cmstest.EC(t), ca, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })
	old := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: []byte("x")})
	known := sha256.Sum256(good.Cert.RawSubjectPublicKeyInfo)
	for _, c := range []struct {
		key, cert any
		opt       signer.Options
		want      string
	}{
		{good.Key, good.Cert, signer.Options{}, ""},
		{good.Key, ca.Cert, signer.Options{}, "is not the key of the first certificate"},
		{ca.Key, good.Cert, signer.Options{}, "is not the key of the first certificate"},
		{past.Key, past.Cert, signer.Options{}, "expired at 2"},
		{future.Key, future.Cert, signer.Options{}, "is not valid before 2"},
		{[]byte("nothing"), good.Cert, signer.Options{}, "no private key in PEM"},
		{good.Cert, good.Cert, signer.Options{}, "no private key in PEM"},
		{good.Key, good.Key, signer.Options{}, "no certificate in PEM"},
		{old, good.Cert, signer.Options{}, "change it with openssl pkcs8 -topk8"},
		{good.Key, good.Cert, signer.Options{Known: []string{hex.EncodeToString(known[:])}}, "whose key is no secret"},
		{good.Key, good.Cert, signer.Options{Known: []string{hex.EncodeToString(known[:])}, Dev: true}, ""},
		{good.Key, good.Cert, signer.Options{Intermediates: []string{filepath.Join(t.TempDir(), "none")}}, "no such file"},
	} {
		opt := c.opt
		opt.Key, opt.Cert, opt.Now = cmstest.File(t, c.key), cmstest.File(t, c.cert), time.Now()
		_, err := signer.Load(t.Context(), opt)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || fault.Kind(err) != "" && fault.Kind(err) != fault.Input) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

func TestIntermediates(t *testing.T) {
	ca := cmstest.Issue(t, cmstest.EC(t), nil, nil)
	one, two := cmstest.Issue(t, cmstest.EC(t), ca, cmstest.CA), cmstest.Issue(t, cmstest.EC(t), ca, cmstest.CA)
	leaf := cmstest.Issue(t, cmstest.EC(t), one, nil)
	s, err := signer.Load(t.Context(), signer.Options{Key: cmstest.File(t, leaf.Key), Cert: cmstest.File(t, leaf.Cert, one.Cert), Intermediates: []string{cmstest.File(t, two.Cert, ca.Cert)}, Now: time.Now()})
	if err != nil || len(s.Others) != 3 || !s.Cert.Equal(leaf.Cert) {
		t.Errorf("got %+v (%v)", s, err)
	}
}

// The key for development is made once, signs, and is refused without Dev.
func TestDev(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "dev")
	key, cert, err := signer.Dev(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key has the mode %v (%v)", info.Mode(), err)
	}
	opt := signer.Options{Key: key, Cert: cert, Now: time.Now()}
	if _, err := signer.Load(t.Context(), opt); err == nil || !strings.Contains(err.Error(), "add --dev") {
		t.Errorf("without Dev: got %v", err)
	}
	opt.Dev = true
	sign(t, opt)
	before, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := signer.Dev(dir, time.Now()); err != nil {
		t.Error(err)
	}
	if after, err := os.ReadFile(cert); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the second call made another certificate (%v)", err)
	}
	all, err := signer.Certificates(cert)
	if err != nil || cms.CheckTrust(all[0], nil, all, time.Now(), cms.SMIMESign) != nil {
		t.Errorf("a device with the certificate as its keyring does not trust it (%v)", err)
	}
}

// Keys on a token sign, RSA and EC, with a PIN in the URI or the environment, and another certificate than the token's is refused.
func TestToken(t *testing.T) {
	imagetest.Need(t, "softhsm2-util")
	imagetest.Need(t, "pkcs11-tool")
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "tokens"), 0o700), os.WriteFile(conf, []byte("directories.tokendir = "+dir+"/tokens\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	imagetest.Run(t, "softhsm2-util", "--init-token", "--free", "--label", "test", "--pin", "sesame-open", "--so-pin", "sesame-open")
	r, e := cmstest.Issue(t, cmstest.RSA(t), nil, nil), cmstest.Issue(t, cmstest.EC(t), nil, nil)
	uri := func(label string) string { return "pkcs11:token=test;object=" + label + "?pin-value=sesame-open" }
	for label, of := range map[string]*cmstest.Identity{"rsa": r, "ec": e} {
		imagetest.Run(t, "softhsm2-util", "--import", cmstest.File(t, of.Key), "--token", "test", "--label", label, "--id", hex.EncodeToString([]byte(label)), "--pin", "sesame-open")
		sign(t, signer.Options{Key: uri(label), Cert: cmstest.File(t, of.Cert), Now: time.Now()})
	}
	t.Setenv(signer.PassphraseVariable, "sesame-open")
	sign(t, signer.Options{Key: "pkcs11:token=test;object=rsa", Cert: cmstest.File(t, r.Cert), Now: time.Now()})
	t.Setenv(signer.PassphraseVariable, "sesame-closed")
	if _, err := signer.Load(t.Context(), signer.Options{Key: "pkcs11:token=test;object=rsa", Cert: cmstest.File(t, r.Cert), Now: time.Now()}); err == nil || !strings.Contains(err.Error(), "Login failed") || strings.Contains(err.Error(), ":error:") {
		t.Errorf("a wrong PIN: got %v", err)
	}
	for _, wrong := range []string{"pkcs11:token=test;object=missing;pin-value=sesame-closed", "pkcs11:token=none;pin-value=sesame-closed?module-name=x"} {
		if _, err := signer.Load(t.Context(), signer.Options{Key: wrong, Cert: cmstest.File(t, r.Cert), Now: time.Now()}); err == nil || strings.Contains(err.Error(), "sesame-closed") {
			t.Errorf("%s: got %v", wrong, err)
		}
	}
	other := cmstest.Issue(t, cmstest.RSA(t), nil, nil)
	for label, cert := range map[string]*x509.Certificate{"rsa": other.Cert, "missing": r.Cert} {
		if _, err := signer.Load(t.Context(), signer.Options{Key: uri(label), Cert: cmstest.File(t, cert), Now: time.Now()}); err == nil || strings.Contains(err.Error(), "sesame-open") {
			t.Errorf("%s: got %v", label, err)
		}
	}
}
