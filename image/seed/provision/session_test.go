package provision_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"imgtool/image/fault"
	"imgtool/image/imagetest"
	"imgtool/image/seed"
	"imgtool/image/seed/api"
	"imgtool/image/seed/console/consoletest"
	"imgtool/image/seed/provision"
	"imgtool/image/seed/seedfile"
	"imgtool/image/sshkey"
)

// newKey returns an ed25519 key, and its public line.
func newKey(t *testing.T) (ed25519.PrivateKey, ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return private, signer, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
}

// configOf returns a document with an admin and a secret.
func configOf(admin, image string) []byte {
	return fmt.Appendf(nil, `version = 1
[users.ops]
isAdmin = true
ssh_key = %q
[activation]
required = ["web"]
timeout_seconds = 1
[containers.container.web]
privileged = false
[containers.container.web.Container]
Image = "registry.example/%s:1"
Environment = ["TOKEN=hunter2"]
`, admin, image)
}

func payloadOf(t *testing.T, text []byte) *provision.Payload {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := seedfile.ReadVerdict(file, nil)
	if err != nil || !v.OK {
		t.Fatal(err, v.Faulty())
	}
	return provision.NewPayload(v)
}

func connect(t *testing.T, d *consoletest.Device, device string) *provision.Client {
	t.Helper()
	c, err := provision.Connect(t.Context(), provision.Target{Address: d.URL(), Device: device})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func keyFunc(signers ...ssh.Signer) provision.KeyFunc {
	return func() (keys []*provision.Key, err error) {
		for i, s := range signers {
			keys = append(keys, &provision.Key{Name: fmt.Sprint("key ", i), Signer: s})
		}
		return keys, nil
	}
}

func apply(t *testing.T, c *provision.Client, p *provision.Payload, keys provision.KeyFunc) (*provision.Applied, error) {
	t.Helper()
	c.Secrets = p.Secrets
	return c.Apply(t.Context(), provision.Request{Payload: p, Keys: keys, Timeout: time.Minute, Report: func(provision.Event) {}})
}

func TestApplyToDevice(t *testing.T) {
	imagetest.Long(t)
	_, admin, line := newKey(t)
	_, other, _ := newKey(t)
	var d consoletest.Device
	d.Start(t, nil)
	c := connect(t, &d, "")
	none := func() ([]*provision.Key, error) { return nil, errors.New("keys were requested") }
	if done, err := apply(t, c, payloadOf(t, configOf(line, "first")), none); err != nil || done.Reapply || done.Key != nil {
		t.Fatalf("first configuration: %+v %v", done, err)
	}
	if slices.Contains(d.Requests(), "GET "+api.PathNonce) {
		t.Error("the first configuration was signed")
	}
	want := payloadOf(t, configOf(line, "second"))
	if _, err := apply(t, c, want, keyFunc(other)); fault.Kind(err) != fault.Refused {
		t.Errorf("another key: %v", err)
	}
	if s, err := c.Status(t.Context(), want.Config, keyFunc(other, admin)); err != nil || s.Fresh || s.Same {
		t.Errorf("status before: %+v %v", s, err)
	}
	done, err := apply(t, c, want, keyFunc(other, admin))
	if err != nil || !done.Reapply || done.Key.Name != "key 1" {
		t.Fatalf("second configuration: %+v %v", done, err)
	}
	if s, err := c.Status(t.Context(), want.Config, keyFunc(admin)); err != nil || !s.Same {
		t.Errorf("status after: %+v %v", s, err)
	}
}

// The secrets of a configuration do not appear in errors, even if the device repeats them.
func TestApplyHidesSecrets(t *testing.T) {
	_, _, line := newKey(t)
	d := consoletest.Device{Fail: "activate", Error: "TOKEN=hunter2 \x1b[31m"}
	d.Start(t, nil)
	_, err := apply(t, connect(t, &d, ""), payloadOf(t, configOf(line, "first")), keyFunc())
	if fault.Kind(err) != fault.RolledBack || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("kind %q: %v", fault.Kind(err), err)
	}
}

// A nonce must begin with the identifier of the device: nothing is signed for another device.
func TestNoncesOfOtherDevicesAreNotSigned(t *testing.T) {
	_, admin, line := newKey(t)
	nonce := func(id string) string {
		raw, err := base64.RawURLEncoding.DecodeString(id)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(append(raw, make([]byte, 24)...))
	}
	const otherID = "AAAAAAAAAAA"
	for name, c := range map[string]struct {
		nonce string
		kind  string
		sent  bool
	}{
		"of this device":    {nonce(consoletest.ID), fault.Refused, true}, // not issued by the console
		"of another device": {nonce(otherID), fault.WrongBoard, false},
		"empty":             {"", fault.WrongBoard, false},
		"with a line end":   {"a\nb", fault.WrongBoard, false},
	} {
		signed := false
		d := consoletest.Device{Intercept: func(w http.ResponseWriter, r *http.Request) bool {
			signed = signed || r.Header.Get(api.HeaderSignature) != ""
			if r.URL.Path != api.PathNonce {
				return false
			}
			json.NewEncoder(w).Encode(api.Nonce{Nonce: c.nonce})
			return true
		}}
		d.Start(t, configOf(line, "old"))
		_, err := connect(t, &d, consoletest.ID).Export(t.Context(), &provision.Key{Name: "key", Signer: admin})
		if fault.Kind(err) != c.kind || signed != c.sent {
			t.Errorf("%s: signed: %v, kind %q: %v", name, signed, fault.Kind(err), err)
		}
	}
	var d consoletest.Device
	d.Start(t, nil)
	if _, err := provision.Connect(t.Context(), provision.Target{Address: d.URL(), Device: otherID}); fault.Kind(err) != fault.WrongBoard || !strings.Contains(err.Error(), "it must be "+otherID) {
		t.Errorf("another device: %v", err)
	}
}

// A request is signed again if its nonce has expired, but only once.
func TestExpiredNonces(t *testing.T) {
	_, admin, line := newKey(t)
	for stale, ok := range map[int]bool{0: true, 1: true, 2: false} {
		d := consoletest.Device{Stale: stale}
		d.Start(t, configOf(line, "old"))
		text, err := connect(t, &d, "").Export(t.Context(), &provision.Key{Name: "key", Signer: admin})
		if (err == nil) != ok || ok && !bytes.Equal(text, configOf(line, "old")) {
			t.Errorf("%d expired nonces: %v", stale, err)
		}
	}
}

func TestEdit(t *testing.T) {
	_, admin, line := newKey(t)
	var d consoletest.Device
	d.Start(t, append([]byte("# a comment\n"), configOf(line, "old")...))
	c := connect(t, &d, "")
	edit := func(place, value string) (*provision.Edit, error) {
		t.Helper()
		change, err := provision.ParseChange(place, []byte(value))
		if err != nil {
			t.Fatal(err)
		}
		return c.Edit(t.Context(), change, keyFunc(admin))
	}
	if _, err := edit("network.dns_servers", `["nine"]`); err == nil || !strings.Contains(err.Error(), "network.dns_servers[0]") {
		t.Errorf("an invalid change: %v", err)
	}
	e, err := edit("network.dns_servers", `["9.9.9.9"]`)
	if err != nil || e.Unchanged || !e.LosesLayout || !slices.Contains(c.Secrets, "hunter2") {
		t.Fatalf("%+v %v; secrets %q", e, err, c.Secrets)
	}
	e.Timeout, e.Report = time.Minute, func(provision.Event) {}
	if _, err := c.Apply(t.Context(), e.Request); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(d.Requests(), "PATCH "+api.PathNetwork) || slices.Contains(d.Requests(), "POST "+api.PathConfig) {
		t.Errorf("requests: %q", d.Requests())
	}
	if e, err := edit("network.dns_servers", `["9.9.9.9"]`); err != nil || !e.Unchanged || e.LosesLayout {
		t.Errorf("the same change again: %+v %v", e, err)
	}
	for _, place := range []string{"", "users", "users.", "network.", "containers.build.x", "activation.required"} {
		if _, err := provision.ParseChange(place, []byte("{}")); fault.Kind(err) != fault.Usage {
			t.Errorf("ParseChange(%q): %v", place, err)
		}
	}
}

// keyDir writes private keys to a directory.
func keyDir(t *testing.T, keys map[string]ed25519.PrivateKey, passphrase string) string {
	t.Helper()
	dir := t.TempDir()
	for name, key := range keys {
		block, err := ssh.MarshalPrivateKey(key, "")
		if passphrase != "" {
			block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// agentWith serves keys as ssh-agent does, and returns its socket.
func agentWith(t *testing.T, keys map[string]any) string {
	t.Helper()
	ring := agent.NewKeyring()
	for comment, key := range keys {
		if err := ring.Add(agent.AddedKey{PrivateKey: key, Comment: comment}); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go agent.ServeAgent(ring, conn)
		}
	}()
	return socket
}

func TestKeyring(t *testing.T) {
	a, signerA, _ := newKey(t)
	b, signerB, lineB := newKey(t)
	dir := keyDir(t, map[string]ed25519.PrivateKey{"id_ed25519": a, "id_rsa": b, "other": b}, "")
	locked := filepath.Join(keyDir(t, map[string]ed25519.PrivateKey{"key": b}, "secret"), "key")
	public := filepath.Join(dir, "b.pub")
	if err := os.WriteFile(public, []byte(lineB+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := agentWith(t, map[string]any{"b@desk": b})
	config, faults := seed.Check(configOf(lineB, "new"))
	if config == nil {
		t.Fatal(faults)
	}
	for name, c := range map[string]struct {
		id, socket string
		config     *seed.Config
		want       string // fingerprints, or a part of the error
	}{
		"files of the directory":      {"", "", nil, "a b"},
		"keys of admins first":        {"", "", config, "b a"},
		"ssh-agent first":             {"", socket, nil, "b a"},
		"a file":                      {filepath.Join(dir, "other"), "", nil, "b"},
		"a comment":                   {"b@desk", socket, nil, "b"},
		"a fingerprint":               {ssh.FingerprintSHA256(signerB.PublicKey()), socket, nil, "b"},
		"a public key in ssh-agent":   {public, socket, nil, "b"},
		"a public key alone":          {public, "", nil, "ssh-agent does not have its private key"},
		"a locked key":                {locked, "", nil, "b"},
		"an unknown key":              {"nothing", socket, nil, "there is no such file"},
		"an agent that is not there":  {"", filepath.Join(dir, "socket"), nil, "a b"},
		"a file that is not a key":    {os.Args[0], "", nil, "has"},
		"another kind of text":        {filepath.Join(dir, "b.pub") + "x", "", nil, "there is no such file"},
		"a comment without ssh-agent": {"b@desk", "", nil, "there is no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			ring := &sshkey.Keyring{ID: c.id, Socket: c.socket, Dir: dir, Warn: func(string) {}, Touch: func(string) {},
				Passphrase: func(_ context.Context, file string, again bool) (string, error) {
					if asked++; again != (asked > 1) || file != locked {
						t.Errorf("asked for %s, again: %v", file, again)
					}
					return map[bool]string{false: "wrong", true: "secret"}[again], nil
				}}
			keys, err := provision.FindKeys(t.Context(), ring, c.config)
			if err != nil {
				if !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
				return
			}
			var got []string
			for _, k := range keys {
				switch string(k.PublicKey().Marshal()) {
				case string(signerA.PublicKey().Marshal()):
					got = append(got, "a")
				case string(signerB.PublicKey().Marshal()):
					got = append(got, "b")
				}
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if c.id == locked && asked != 2 {
				t.Errorf("asked %d times", asked)
			}
		})
	}
}

// Secrets contain per-unit values, and the longest come first, since one can be a part of
// another.
func TestPayloadSecrets(t *testing.T) {
	_, _, line := newKey(t)
	s := &seedfile.Seed{Name: "seed", Text: bytes.Replace(configOf(line, "new"), []byte("hunter2"), []byte("@{token}"), 1), Columns: map[string]string{"token": "hunter2", "more": "hunter2-and-more", "n": "1"}}
	v := s.Verdict()
	if !v.OK {
		t.Fatal(v.Faulty())
	}
	p := provision.NewPayload(v)
	long, short := slices.Index(p.Secrets, "hunter2-and-more"), slices.Index(p.Secrets, "hunter2")
	if p.Name != "config.toml" || long < 0 || short < long || slices.Contains(p.Secrets, "1") {
		t.Errorf("%s: %q", p.Name, p.Secrets)
	}
}
