package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"imgtool/image/hostfile"
	"imgtool/image/seed"
	"imgtool/image/seed/api"
	"imgtool/image/seed/provision"
)

// maxKeys is how many keys a device is tried with, as sshd takes no more.
const maxKeys = 6

// findKeys finds the key that a person named, or those that are there: of
// ssh-agent, then of ~/.ssh. Those of admins of the configuration are first.
func findKeys(ctx context.Context, id string, config *seed.Config, u *ui) ([]*provision.Key, error) {
	agents, err := agentKeys(u)
	if id != "" {
		if err != nil {
			u.warn(err.Error())
		}
		key, err := namedKey(ctx, id, agents, u)
		if err != nil {
			return nil, err
		}
		return []*provision.Key{key}, nil
	}
	if err != nil {
		u.warn(err.Error())
	}
	keys := agents
	home, _ := os.UserHomeDir()
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		path := filepath.Join(home, ".ssh", name)
		pem, err := readKeyFile(path)
		if err != nil {
			continue
		}
		// Those with a passphrase are asked for only by name.
		if signer, err := ssh.ParsePrivateKey(pem); err == nil && !hasKey(keys, signer.PublicKey()) {
			keys = append(keys, newKey(path, signer, u))
		}
	}
	if config != nil {
		var admins []string
		for _, line := range config.Admins() {
			if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)); err == nil {
				admins = append(admins, string(key.Marshal()))
			}
		}
		rank := func(k *provision.Key) int {
			n := 0
			if !slices.Contains(admins, string(k.PublicKey().Marshal())) {
				n = 2
			}
			if touched(k.PublicKey()) {
				n++
			}
			return n
		}
		slices.SortStableFunc(keys, func(a, b *provision.Key) int { return rank(a) - rank(b) })
	}
	if len(keys) > maxKeys {
		keys = keys[:maxKeys]
	}
	return keys, nil
}

func hasKey(keys []*provision.Key, public ssh.PublicKey) bool { return keyIn(keys, public) != nil }

func keyIn(keys []*provision.Key, public ssh.PublicKey) *provision.Key {
	i := slices.IndexFunc(keys, func(k *provision.Key) bool {
		return string(k.PublicKey().Marshal()) == string(public.Marshal())
	})
	if i < 0 {
		return nil
	}
	return keys[i]
}

// newKey names a key by where it is and its fingerprint.
func newKey(where string, signer ssh.Signer, u *ui) *provision.Key {
	key := &provision.Key{Name: fmt.Sprintf("%s (%s)", where, ssh.FingerprintSHA256(signer.PublicKey())), Signer: signer}
	if touched(signer.PublicKey()) {
		key.Signer = &touch{signer, key.Name, u}
	}
	return key
}

// touched says whether a key signs only when somebody touches it.
func touched(key ssh.PublicKey) bool { return strings.HasPrefix(key.Type(), "sk-") }

// touch is a security key; it asks to be touched.
type touch struct {
	ssh.Signer
	name string
	u    *ui
}

func (t *touch) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	t.u.say("touch the security key %s", t.name)
	return t.Signer.Sign(rand, data)
}

// agentKeys are the keys of ssh-agent that a device could take, none if there is no agent.
func agentKeys(u *ui) ([]*provision.Key, error) {
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, nil
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("ssh-agent does not answer: %w", err)
	}
	client := agent.NewClient(conn)
	list, err := client.List()
	if err != nil {
		return nil, fmt.Errorf("ssh-agent: %w", err)
	}
	signers, err := client.Signers()
	if err != nil {
		return nil, fmt.Errorf("ssh-agent: %w", err)
	}
	var keys []*provision.Key
	for i, signer := range signers {
		if !slices.Contains(api.KeyTypes, signer.PublicKey().Type()) {
			continue
		}
		where := "ssh-agent"
		if i < len(list) && list[i].Comment != "" {
			where = list[i].Comment
		}
		keys = append(keys, newKey(where, signer, u))
	}
	return keys, nil
}

// namedKey is the key that a person means: a file, or one of the agent's.
func namedKey(ctx context.Context, id string, agents []*provision.Key, u *ui) (*provision.Key, error) {
	text, err := readKeyFile(id)
	if errors.Is(err, fs.ErrNotExist) {
		for _, key := range agents {
			where, print, _ := strings.Cut(strings.TrimSuffix(key.Name, ")"), " (SHA256:")
			if id == where || id == "SHA256:"+print || id == print {
				return key, nil
			}
		}
		return nil, fmt.Errorf("--key %s: there is no such file, and ssh-agent has no key of that fingerprint or comment", id)
	}
	if err != nil {
		return nil, err
	}
	if public, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
		if key := keyIn(agents, public); key != nil {
			return key, nil
		}
		if private := strings.TrimSuffix(id, ".pub"); private != id {
			if _, err := os.Stat(private); err == nil {
				return namedKey(ctx, private, agents, u)
			}
		}
		return nil, fmt.Errorf("%s is a public key, and ssh-agent does not have its private one; add it with ssh-add", id)
	}
	signer, err := ssh.ParsePrivateKey(text)
	var missing *ssh.PassphraseMissingError
	if errors.As(err, &missing) {
		if missing.PublicKey != nil {
			if key := keyIn(agents, missing.PublicKey); key != nil {
				return key, nil
			}
		}
		signer, err = unlock(ctx, id, text, u)
	}
	if err != nil {
		// Security keys have their private half elsewhere.
		if public, e := readKeyFile(id + ".pub"); e == nil && strings.HasPrefix(string(public), "sk-") {
			if key, _, _, _, e := ssh.ParseAuthorizedKey(public); e == nil {
				if k := keyIn(agents, key); k != nil {
					return k, nil
				}
			}
			return nil, fmt.Errorf("%s is of a security key, which works through ssh-agent: ssh-add %s", id, id)
		}
		return nil, fmt.Errorf("%s is no private key that can be used: %w", id, err)
	}
	if !slices.Contains(api.KeyTypes, signer.PublicKey().Type()) {
		return nil, fmt.Errorf("%s is a key of type %s, which the device does not take; it takes ed25519, ecdsa and rsa", id, signer.PublicKey().Type())
	}
	return newKey(id, signer, u), nil
}

// unlock asks for the passphrase of a key.
func unlock(ctx context.Context, id string, text []byte, u *ui) (ssh.Signer, error) {
	question := fmt.Sprintf("Passphrase of %s: ", id)
	for tries := 3; ; tries-- {
		passphrase, err := u.secret(ctx, question, fmt.Sprintf("%s has a passphrase; add it to ssh-agent with ssh-add", id))
		if err != nil {
			return nil, err
		}
		signer, err := ssh.ParsePrivateKeyWithPassphrase(text, []byte(passphrase))
		if !errors.Is(err, x509.IncorrectPasswordError) || tries == 1 {
			return signer, err
		}
		question = fmt.Sprintf("It is wrong. Passphrase of %s: ", id)
	}
}

// readKeyFile reads a key file, which is small.
func readKeyFile(path string) ([]byte, error) {
	// A key of the largest kind in use, RSA of 16384 bits, has 13 KiB.
	return hostfile.ReadStream(path, 64<<10)
}
