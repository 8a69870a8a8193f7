package rauc_test

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgtool/image/cms"
	"imgtool/image/cms/cmstest"
	"imgtool/image/fault"
	"imgtool/image/imagetest"
	"imgtool/image/rauc"
)

// resign gives a bundle another signature.
func resign(t *testing.T, path string, signature []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	end := len(b) - 8 - int(binary.BigEndian.Uint64(b[len(b)-8:]))
	b = append(b[:end:end], signature...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(signature)))
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// A manifest that RAUC refuses is refused by Verify, although its signature is good.
func TestBothRefuseManifests(t *testing.T) {
	ca := cmstest.Issue(t, cmstest.EC(t), nil, nil)
	ring, trust := cmstest.File(t, ca.Cert), rauc.Trust{Keyring: []*x509.Certificate{ca.Cert}}
	opt := options(t, cmstest.Issue(t, cmstest.EC(t), ca, nil))
	path := create(t, opt)
	x, err := verify(path, trust)
	if err != nil {
		t.Fatal(err)
	}
	manifest := string(x.Signature.Content)
	for _, c := range []struct {
		old, new string
		want     string // in the error; empty: accepted
	}{
		{"version=1.2", "version=1.2 ", ""},
		{"version=1.2", "version=1.2\ndescription[de]=x", ""},
		{"[hooks]", "[meta.our]\nany=1\n[hooks]", ""},
		{"hooks=pre-install;post-install;\n", "", ""},
		{"version=1.2", "version=1.2\nchannel=stable", `key "channel" in [update]`},
		{"format=verity", "format=verity\nsigned=yes", `key "signed" in [bundle]`},
		{"filename=boot.vfat", "filename=boot.vfat\ncompress=no", `key "compress" in [image.boot]`},
		{"[hooks]", "[scripts]\na=b\n[hooks]", "group [scripts]"},
		{"[hooks]", "[meta]\na=b\n[hooks]", "group [meta]"},
		{"[image.boot]", "[image]", "group [image]"},
		{"hooks=install-check", "hooks=install-check;always", `no hook "always"`},
		{"hooks=pre-install", "hooks=before", `no hook "before"`},
		{"filename=hook.sh\n", "", "no file with them"},
		{"filename=boot.vfat\n", "", "no filename"},
		{"filename=boot.vfat", "filename=boot.bin", "type of boot.bin is not known"},
	} {
		text := strings.Replace(manifest, c.old, c.new, 1)
		if text == manifest {
			t.Fatalf("there is no %q in\n%s", c.old, text)
		}
		signature, err := opt.Signer.Sign([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		resign(t, path, signature)
		_, err = verify(path, trust)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || fault.Kind(err) != fault.Corrupt) {
			t.Errorf("%q: got %v, want %q", c.new, err, c.want)
		}
		// RAUC 1.8 finds an unknown type only while it installs.
		if out, err := runRauc(t, "extract", "--keyring", ring, path, filepath.Join(t.TempDir(), "x")); (err == nil) != (c.want == "") && c.new != "filename=boot.bin" {
			t.Errorf("%q: rauc extract: %v\n%s", c.new, err, out)
		}
	}
}

// RAUC refuses a message that two have signed.
func TestBothRefuseTwoSigners(t *testing.T) {
	ca := cmstest.Issue(t, cmstest.EC(t), nil, nil)
	first, second := cmstest.Issue(t, cmstest.EC(t), ca, nil), cmstest.Issue(t, cmstest.EC(t), ca, nil)
	path := create(t, options(t, first))
	x, err := verify(path, rauc.Trust{})
	if err != nil {
		t.Fatal(err)
	}
	one, err := cms.Signer{Key: first.Key, Cert: first.Cert, Time: time.Now()}.Sign(x.Signature.Content)
	if err != nil {
		t.Fatal(err)
	}
	both, err := exec.Command(imagetest.Need(t, "openssl"), "cms", "-resign", "-binary", "-inform", "DER", "-outform", "DER", "-in", cmstest.File(t, one),
		"-signer", cmstest.File(t, second.Cert), "-inkey", cmstest.File(t, second.Key)).Output()
	if err != nil || bytes.Equal(one, both) {
		t.Fatal(err)
	}
	resign(t, path, both)
	if _, err := verify(path, rauc.Trust{Keyring: []*x509.Certificate{ca.Cert}}); err == nil || !strings.Contains(err.Error(), "2 signatures") {
		t.Errorf("got %v", err)
	}
	if out, err := runRauc(t, "info", "--keyring", cmstest.File(t, ca.Cert), path); err == nil {
		t.Errorf("rauc info succeeds\n%s", out)
	}
}
