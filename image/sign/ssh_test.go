package sign_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"imgtool/image/imagetest"
	"imgtool/image/seed/console/consoletest"
	"imgtool/image/sign"
	"imgtool/image/sshkey"
)

// bench is a directory with keys, and a manifest to sign.
type bench struct {
	t        *testing.T
	dir      string
	manifest []byte
}

func newBench(t *testing.T) *bench {
	imagetest.Need(t, "ssh-keygen")
	b := &bench{t, t.TempDir(), []byte("{\n  \"imgtool\": 1\n}\n")}
	b.write("manifest", b.manifest)
	return b
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) write(name string, data []byte) string {
	b.t.Helper()
	if err := os.WriteFile(b.path(name), data, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return b.path(name)
}

func (b *bench) read(name string) []byte {
	b.t.Helper()
	data, err := os.ReadFile(b.path(name))
	if err != nil {
		b.t.Fatal(err)
	}
	return data
}

// key makes a key with ssh-keygen.
func (b *bench) key(name string, args ...string) {
	b.t.Helper()
	imagetest.Run(b.t, "ssh-keygen", append([]string{"-q", "-N", "", "-C", name, "-f", b.path(name)}, args...)...)
}

// public is a key without its comment.
func (b *bench) public(name string) string {
	return strings.Join(strings.Fields(string(b.read(name + ".pub")))[:2], " ")
}

// ring selects a key of the bench, whose passphrase is secret.
func (b *bench) ring(id, socket string) *sshkey.Keyring {
	return &sshkey.Keyring{ID: id, Socket: socket, Dir: b.dir, Warn: func(s string) { b.t.Error(s) }, Touch: func(string) {},
		Passphrase: func(context.Context, string, bool) (string, error) { return "secret", nil }}
}

func (b *bench) sign(ring *sshkey.Keyring) []byte {
	b.t.Helper()
	key, err := sign.FindKey(b.t.Context(), ring)
	if err != nil {
		b.t.Fatal(err)
	}
	s, err := key.Sign(b.manifest, "timestamp:1")
	if err != nil {
		b.t.Fatal(err)
	}
	return s.Text
}

// keygenSign signs the manifest with ssh-keygen.
func (b *bench) keygenSign(key, namespace string) []byte {
	b.t.Helper()
	os.Remove(b.path("manifest.sig"))
	imagetest.Run(b.t, "ssh-keygen", "-q", "-Y", "sign", "-f", b.path(key), "-n", namespace, b.path("manifest"))
	return b.read("manifest.sig")
}

// keygenAccepts reports whether ssh-keygen accepts a signature.
func (b *bench) keygenAccepts(manifest, signature []byte, signers, principal string, args ...string) bool {
	b.t.Helper()
	args = append([]string{"-Y", "verify", "-n", sign.Namespace, "-f", b.write("signers", []byte(signers)), "-I", principal, "-s", b.write("signature", signature)}, args...)
	cmd := exec.Command("ssh-keygen", args...)
	cmd.Stdin = bytes.NewReader(manifest)
	out, err := cmd.CombinedOutput()
	b.t.Logf("ssh-keygen: %s", out)
	return err == nil
}

// verify returns the reason for which a signature is not accepted, or "".
func (b *bench) verify(manifest, signature []byte, signers string, p sign.Policy) string {
	b.t.Helper()
	s, faults := sign.ParseSigners("signers", []byte(signers))
	for _, err := range faults {
		b.t.Log(err)
	}
	p.Signers = s
	if p.Time.IsZero() {
		p.Time = time.Now()
	}
	all, err := p.Verify(manifest, signature)
	if err == nil {
		return ""
	}
	b.t.Log(err)
	if len(all) == 1 && all[0].Problem != err.Error() {
		b.t.Errorf("the problem of the signature is %q", all[0].Problem)
	}
	return err.(*sign.Error).Reason
}

func TestSSHKeysAsSSHKeygen(t *testing.T) {
	b := newBench(t)
	for name, args := range map[string][]string{
		"ed25519": {"-t", "ed25519"}, "ecdsa256": {"-t", "ecdsa", "-b", "256"}, "ecdsa384": {"-t", "ecdsa", "-b", "384"},
		"ecdsa521": {"-t", "ecdsa", "-b", "521"}, "rsa": {"-t", "rsa", "-b", "2048"}, "locked": {"-t", "ed25519", "-N", "secret"},
		"pem": {"-t", "rsa", "-b", "3072", "-m", "PEM"},
	} {
		b.key(name, args...)
		t.Run(name, func(t *testing.T) {
			b := &bench{t, b.dir, b.manifest}
			signers := "a@example.com " + b.public(name)
			ours := b.sign(b.ring(b.path(name), ""))
			if !b.keygenAccepts(b.manifest, ours, signers, "a@example.com") {
				t.Error("ssh-keygen does not accept our signature")
			}
			if b.keygenAccepts([]byte("x"), ours, signers, "a@example.com") {
				t.Error("ssh-keygen accepts our signature for another manifest")
			}
			if reason := b.verify(b.manifest, ours, signers, sign.Policy{}); reason != "" {
				t.Errorf("our signature is refused: %s", reason)
			}
			if reason := b.verify([]byte("x"), ours, signers, sign.Policy{}); reason != sign.Mismatch {
				t.Errorf("our signature for another manifest: %q", reason)
			}
			if name == "locked" {
				return // ssh-keygen would ask for the passphrase
			}
			theirs := b.keygenSign(name, sign.Namespace)
			if reason := b.verify(b.manifest, theirs, signers, sign.Policy{}); reason != "" {
				t.Errorf("the signature of ssh-keygen is refused: %s", reason)
			}
			if strings.HasPrefix(name, "ecdsa") {
				return // their signatures have a random part
			}
			if !bytes.Equal(ours, theirs) {
				t.Errorf("ssh-keygen signs\n%s\nand we\n%s", theirs, ours)
			}
		})
	}
}

// Up to 64 signatures are checked, and no more are added.
func TestNumberOfSignatures(t *testing.T) {
	imagetest.Need(t, "ssh-keygen")
	b := newBench(t)
	b.key("one", "-t", "ed25519")
	own := b.sign(b.ring(b.path("one"), ""))
	signers := "a " + b.public("one")
	wrong := func(n int) (file []byte) {
		for i := range n {
			file = fmt.Appendf(file, "untrusted comment: %d\nx\ntrusted comment: x\ny\n", i)
		}
		return file
	}
	if file, err := sign.Add(wrong(63), sign.Parse(own)...); err != nil || b.verify(b.manifest, file, signers, sign.Policy{}) != "" {
		t.Errorf("the 64th signature is not accepted: %v, %s", err, b.verify(b.manifest, file, signers, sign.Policy{}))
	}
	const want = "more than 64 signatures, which is the limit"
	for _, n := range []int{64, 65, 5000} {
		if _, err := sign.Add(wrong(n), sign.Parse(own)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("one more than %d: %v", n, err)
		}
		_, err := (&sign.Policy{Signers: new(sign.Signers)}).Verify(b.manifest, append(wrong(n), own...))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("after %d others: %v", n, err)
		}
	}
}

func TestSSHAgent(t *testing.T) {
	imagetest.Need(t, "ssh-agent")
	b := newBench(t)
	socket := b.path("agent")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Process.Kill(); agent.Wait() })
	for i := 0; ; i++ {
		if _, err := os.Stat(socket); err == nil {
			break
		} else if i == 9000 {
			t.Fatal("ssh-agent does not start")
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.key("ca", "-t", "ed25519")
	for i, kind := range []string{"ed25519", "rsa"} {
		b.key(kind, "-t", kind)
		imagetest.Run(t, "ssh-keygen", "-q", "-s", b.path("ca"), "-I", "id", "-n", "a@example.com", b.path(kind+".pub"))
		add := exec.Command("ssh-add", "-q", b.path(kind))
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		public := b.write("only-"+kind+".pub", b.read(kind+".pub"))
		signers := "a@example.com " + b.public(kind) + "\na@example.com cert-authority " + b.public("ca")
		ids := []string{public, kind, b.path(kind + "-cert.pub")}
		if i == 0 {
			ids = append(ids, sshkey.AgentID)
		}
		os.Rename(b.path(kind), b.path("gone"))
		for _, id := range ids {
			s := b.sign(b.ring(id, socket))
			if !b.keygenAccepts(b.manifest, s, signers, "a@example.com") {
				t.Errorf("%s: ssh-keygen does not accept the signature", id)
			}
			if reason := b.verify(b.manifest, s, signers, sign.Policy{}); reason != "" {
				t.Errorf("%s: the signature is refused: %s", id, reason)
			}
		}
	}
	if _, err := sign.FindKey(t.Context(), b.ring(sshkey.AgentID, socket)); err == nil || !strings.Contains(err.Error(), "has 2 keys; choose one") {
		t.Errorf("two keys in the agent: %v", err)
	}
}

func TestSecurityKeys(t *testing.T) {
	b := newBench(t)
	for kind, key := range map[string]*consoletest.SecurityKey{"ed25519": consoletest.NewSKEd25519(t), "ecdsa": consoletest.NewSKECDSA(t)} {
		signers := "a@example.com " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))
		for flags, want := range map[byte]string{0: sign.NoTouch, 1: "", 4: sign.NoTouch, 5: ""} {
			t.Run(fmt.Sprintf("%s, flags %d", kind, flags), func(t *testing.T) {
				b := &bench{t, b.dir, b.manifest}
				key.Flags = flags
				s, err := sign.NewKey(&sshkey.Key{Name: "token", Signer: key}).Sign(b.manifest, "")
				if err != nil {
					t.Fatal(err)
				}
				if !b.keygenAccepts(b.manifest, s.Text, signers, "a@example.com") {
					t.Error("ssh-keygen does not accept the signature")
				}
				if got := b.verify(b.manifest, s.Text, signers, sign.Policy{}); got != want {
					t.Errorf("got the reason %q, want %q", got, want)
				}
				list, _ := sign.ParseSigners("signers", []byte(signers))
				p := sign.Policy{Signers: list, Time: time.Now()}
				if all, err := p.Verify(b.manifest, s.Text); err == nil && all[0].UserVerified != (flags&4 != 0) {
					t.Errorf("user verified: %v", all[0].UserVerified)
				}
			})
		}
	}
}
