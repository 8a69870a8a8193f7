package api_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"imgtool/image/imagetest"
	"imgtool/image/seed/api"
	"imgtool/image/seed/console/consoletest"
)

func TestMessage(t *testing.T) {
	// The SHA-256 of an empty body is from sha256sum.
	const want = "atomixos-reapply-v1\nnonce:n0\npath:/api/config/export\nsha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
	if got := string(api.Message("n0", api.PathExport, sha256.Sum256(nil))); got != want {
		t.Errorf("got %q", got)
	}
}

// makeKey makes a key with ssh-keygen and returns its file.
func makeKey(t *testing.T, kind ...string) string {
	t.Helper()
	imagetest.Need(t, "ssh-keygen")
	file := filepath.Join(t.TempDir(), "key")
	imagetest.Run(t, "ssh-keygen", append([]string{"-q", "-N", "", "-C", "comment", "-f", file, "-t"}, kind...)...)
	return file
}

func signers(t *testing.T, file string) string {
	t.Helper()
	public, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return "not a key\nssh-ed25519 AAAA spoiled\n" + string(public)
}

func TestSignaturesAgreeWithOpenSSH(t *testing.T) {
	imagetest.Long(t)
	kinds := [][]string{{"ed25519"}, {"ecdsa", "-b", "256"}, {"ecdsa", "-b", "384"}, {"ecdsa", "-b", "521"}, {"rsa", "-b", "2048"}, {"rsa", "-b", "4096"}}
	for _, kind := range kinds {
		t.Run(strings.Join(kind, ""), func(t *testing.T) {
			file := makeKey(t, kind...)
			pem, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			key, err := ssh.ParsePrivateKey(pem)
			if err != nil {
				t.Fatal(err)
			}
			message := api.Message("nonce", api.PathConfig, sha256.Sum256([]byte("version = 1")))

			header, err := api.Sign(message, key)
			if err != nil {
				t.Fatal(err)
			}
			armour, err := api.Armour(header)
			if err != nil {
				t.Fatal(err)
			}
			allowed := signers(t, file)
			if err := consoletest.Verify(message, armour, allowed); err != nil {
				t.Errorf("ssh-keygen refuses our signature: %v", err)
			}
			if err := consoletest.Verify(append(message, 'x'), armour, allowed); err == nil {
				t.Error("ssh-keygen accepts our signature for another message")
			}

			for _, hash := range []string{"sha512", "sha256"} {
				theirs := sshKeygen(t, file, hash, api.Namespace, message)
				if err := api.Verify(message, theirs, []byte(allowed)); err != nil {
					t.Errorf("a %s signature of ssh-keygen is refused: %v", hash, err)
				}
				if err := api.Verify(append(message, 'x'), theirs, []byte(allowed)); err == nil {
					t.Errorf("a %s signature of ssh-keygen is accepted for another message", hash)
				}
			}
			if err := api.Verify(message, sshKeygen(t, file, "sha512", "file", message), []byte(allowed)); err == nil {
				t.Error("a signature for another namespace is accepted")
			}
			if err := api.Verify(message, armour, []byte(signers(t, makeKey(t, "ed25519")))); err == nil || !strings.Contains(err.Error(), "is not the key of an admin") {
				t.Errorf("a signature of an unknown key: %v", err)
			}
		})
	}
}

func sshKeygen(t *testing.T, file, hash, namespace string, message []byte) []byte {
	t.Helper()
	cmd := exec.Command("ssh-keygen", "-q", "-Y", "sign", "-f", file, "-n", namespace, "-O", "hashalg="+hash)
	cmd.Stdin = strings.NewReader(string(message))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// ssh-keygen refuses these, too.
func TestVerifyRefusesMalformedSignatures(t *testing.T) {
	file := makeKey(t, "ed25519")
	message := api.Message("nonce", api.PathConfig, sha256.Sum256(nil))
	good := string(sshKeygen(t, file, "sha512", api.Namespace, message))
	for name, armour := range map[string]string{
		"CRLF":        strings.ReplaceAll(good, "\n", "\r\n"),
		"a head":      "hello\n" + good,
		"raw":         rawSignature(t, good),
		"half":        good[:len(good)/2],
		"nothing":     "",
		"another PEM": strings.ReplaceAll(good, "SSH SIGNATURE", "CERTIFICATE"),
	} {
		allowed := signers(t, file)
		if err := consoletest.Verify(message, []byte(armour), allowed); err == nil {
			t.Errorf("%s: ssh-keygen accepts it", name)
		}
		if err := api.Verify(message, []byte(armour), []byte(allowed)); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if err := api.Verify(message, []byte(strings.TrimSuffix(good, "\n")), []byte(signers(t, file))); err != nil {
		t.Errorf("without the final newline: %v", err)
	}
}

func rawSignature(t *testing.T, armour string) string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(armour), "\n")
	b, err := base64.StdEncoding.DecodeString(strings.Join(lines[1:len(lines)-1], ""))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSignaturesOfSecurityKeys(t *testing.T) {
	imagetest.Need(t, "ssh-keygen")
	message := api.Message("nonce", api.PathConfig, sha256.Sum256(nil))
	for _, key := range []*consoletest.SecurityKey{consoletest.NewSKEd25519(t), consoletest.NewSKECDSA(t)} {
		allowed := string(ssh.MarshalAuthorizedKey(key.PublicKey()))
		header, err := api.Sign(message, key)
		if err != nil {
			t.Fatal(err)
		}
		armour, _ := api.Armour(header)
		if err := consoletest.Verify(message, armour, allowed); err != nil {
			t.Errorf("%s: ssh-keygen: %v", key.PublicKey().Type(), err)
		}
		if err := api.Verify(message, armour, []byte(allowed)); err != nil {
			t.Errorf("%s: %v", key.PublicKey().Type(), err)
		}
		// Older devices write the name of the signer before the key.
		if err := api.Verify(message, armour, []byte(api.Namespace+" "+allowed)); err != nil {
			t.Errorf("%s: after a name: %v", key.PublicKey().Type(), err)
		}
		if err := api.Verify(append(message, 'x'), armour, []byte(allowed)); err == nil {
			t.Errorf("%s: accepted for another message", key.PublicKey().Type())
		}
	}
}

func TestHeaderMustBePlainBase64(t *testing.T) {
	b := make([]byte, 100)
	rand.Read(b)
	good := base64.StdEncoding.EncodeToString(b)
	if _, err := api.Armour(good); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{good[:76] + "\n" + good[76:], good + "=", "*" + good, strings.TrimRight(good, "=")} {
		if _, err := api.Armour(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
