package report_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image/imagetest"
	"imgtool/image/report"
	"imgtool/image/tree/hostfs"
)

func words(t *testing.T, dir string, own ...string) (lines []string) {
	t.Helper()
	root, err := hostfs.Read(dir, true, 0)
	if err != nil {
		t.Fatal(err)
	}
	findings, err := report.PerUnit(root, own)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		for _, path := range f.Paths {
			lines = append(lines, fmt.Sprintf("%s %s %v", path, f.Kind, f.Removable))
		}
	}
	return lines
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for path, text := range files {
		at := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Keys of the usual programs are found by their content.
func TestPrivateKeys(t *testing.T) {
	keygen := imagetest.Need(t, "ssh-keygen")
	dir := t.TempDir()
	write(t, dir, map[string]string{"etc/ssh/sshd_config": "Port 22\n", "root/.ssh/authorized_keys": "ssh-ed25519 AAAA\n"})
	imagetest.Run(t, keygen, "-q", "-A", "-f", dir)
	imagetest.Run(t, keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "root/.ssh/tunnel"))
	imagetest.Run(t, keygen, "-q", "-t", "ecdsa", "-N", "word", "-f", filepath.Join(dir, "root/.ssh/id_ecdsa"))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ec := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	write(t, dir, map[string]string{"etc/registry/domain": "subject=x\n" + ec, "opt/app/server.key": ec, "usr/share/doc/example": ec, "opt/app/server.txt": ec})
	host, _ := filepath.Glob(filepath.Join(dir, "etc/ssh/ssh_host_*"))
	if len(host) < 4 {
		t.Fatalf("ssh-keygen made %v", host)
	}
	var want []string
	for _, at := range host {
		want = append(want, strings.TrimPrefix(at, dir)+" SSH host keys true")
	}
	want = append(want, "/etc/registry/domain private keys false", "/opt/app/server.key private keys false",
		"/root/.ssh/id_ecdsa private keys false", "/root/.ssh/tunnel private keys false")
	if d := cmp.Diff(want, words(t, dir)); d != "" {
		t.Error(d)
	}
}

func TestPerUnit(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"etc/machine-id":                "0123456789abcdef0123456789abcdef\n",
		"var/lib/dbus/machine-id":       "0123456789abcdef0123456789abcdef\n",
		"var/lib/systemd/random-seed":   "\x01\x02",
		"var/lib/dhcp/dhclient.leases":  "lease { }\n",
		"etc/rancher/node/password":     "secret",
		"etc/waggle/vsn":                "W123\n",
		"etc/wireguard/wg0.conf":        "[Interface]\nPrivateKey = " + strings.Repeat("A", 43) + "=\n",
		"home/waggle/.ssh/known_hosts":  "x\n",
		"etc/ssl/certs/ca.pem":          "-----BEGIN CERTIFICATE-----\n",
		"etc/keys/pub.pem":              "-----BEGIN PUBLIC KEY-----\n",
		"etc/note":                      "see -----BEGIN PRIVATE KEY----- below\n",
		"etc/large":                     strings.Repeat("x\n", 40000) + "-----BEGIN PRIVATE KEY-----\n",
		"etc/ssh/moduli":                "1\n",
		"usr/share/random-seed":         "no seed",
		"var/lib/systemd/random-seed.d": "no seed",
	})
	want := []string{
		"/etc/machine-id machine IDs true", "/var/lib/dbus/machine-id machine IDs true",
		"/var/lib/systemd/random-seed random seeds true",
		"/etc/rancher/node/password identities of services true", "/var/lib/dhcp/dhclient.leases identities of services true",
		"/etc/waggle/vsn files of one unit true",
		"/etc/wireguard/wg0.conf private keys false",
	}
	if d := cmp.Diff(want, words(t, dir, "/etc/waggle/vsn", "/etc/waggle/node-id")); d != "" {
		t.Error(d)
	}
}

// An image for many units may have an uninitialized machine ID, and links to per-unit data
// of the device.
func TestNoPerUnitData(t *testing.T) {
	for name, id := range map[string]string{"empty": "", "a line end": "\n", "uninitialized": "uninitialized\n"} {
		dir := t.TempDir()
		write(t, dir, map[string]string{"etc/machine-id": id, "var/lib/systemd/random-seed": "", "data/key": "x"})
		for link, target := range map[string]string{"var/lib/dbus/machine-id": "/etc/machine-id", "etc/ssh/ssh_host_rsa_key": "/data/key"} {
			at := filepath.Join(dir, link)
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(target, at); err != nil {
				t.Fatal(err)
			}
		}
		if got := words(t, dir); len(got) > 0 {
			t.Errorf("%s: %q", name, got)
		}
	}
}
