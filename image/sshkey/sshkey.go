// Package sshkey finds SSH keys to sign with, in files and in ssh-agent.
package sshkey

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
)

// Types are the types of keys that are used.
var Types = []string{ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
	ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoRSA}

// AgentID selects the only key of ssh-agent.
const AgentID = "ssh-agent"

// Key signs.
type Key struct {
	Name string // for messages: file or comment, and fingerprint
	ssh.Signer
}

// Keyring finds keys to sign with. Its functions must not be nil.
type Keyring struct {
	// ID selects a key: a private key file; a public key file, fingerprint or comment of a key
	// in ssh-agent; a certificate of either; or [AgentID].
	ID     string
	Socket string // of ssh-agent; empty: no agent
	Dir    string // with id_ed25519 and others, such as ~/.ssh

	Warn func(message string)
	// Touch is called before a security key named name signs, which its owner must touch.
	Touch func(name string)
	// Passphrase asks for the passphrase of a key file; again is true after a wrong one.
	Passphrase func(ctx context.Context, file string, again bool) (string, error)
}

// All returns the keys of ssh-agent and of Dir, but not the files there that have a passphrase.
func (r *Keyring) All() []*Key {
	keys := r.agentKeys()
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		path := filepath.Join(r.Dir, name)
		pem, err := readKeyFile(path)
		if err != nil {
			continue
		}
		if signer, err := ssh.ParsePrivateKey(pem); err == nil && find(keys, signer.PublicKey()) == nil {
			keys = append(keys, r.newKey(path, signer))
		}
	}
	return keys
}

// Find returns the key selected by ID.
func (r *Keyring) Find(ctx context.Context) (*Key, error) {
	agents := r.agentKeys()
	if r.ID != AgentID {
		return r.selected(ctx, r.ID, agents)
	}
	switch len(agents) {
	case 0:
		return nil, errors.New("ssh-agent has no key; add one with ssh-add")
	case 1:
		return agents[0], nil
	}
	var names []string
	for _, k := range agents {
		names = append(names, k.Name)
	}
	return nil, fmt.Errorf("ssh-agent has %d keys; choose one by its comment or fingerprint: %s", len(agents), strings.Join(names, ", "))
}

// Check returns the error that Find would return, if that is known without a passphrase.
// A pipe is not read, because that can be done only once.
func (r *Keyring) Check(ctx context.Context) error {
	if info, err := os.Stat(r.ID); err == nil && info.Mode()&(os.ModeNamedPipe|os.ModeCharDevice) != 0 {
		return nil
	}
	errLocked := errors.New("it has a passphrase")
	quiet := *r
	quiet.Warn = func(string) {}
	quiet.Passphrase = func(context.Context, string, bool) (string, error) { return "", errLocked }
	_, err := quiet.Find(ctx)
	if errors.Is(err, errLocked) {
		return nil
	}
	return err
}

// find returns the key with a public key, or nil.
func find(keys []*Key, public ssh.PublicKey) *Key {
	i := slices.IndexFunc(keys, func(k *Key) bool {
		return string(k.PublicKey().Marshal()) == string(public.Marshal())
	})
	if i < 0 {
		return nil
	}
	return keys[i]
}

func (r *Keyring) newKey(where string, signer ssh.Signer) *Key {
	key := &Key{Name: fmt.Sprintf("%s (%s)", where, ssh.FingerprintSHA256(signer.PublicKey())), Signer: signer}
	if key.IsSecurityKey() {
		key.Signer = &securityKey{signer, key.Name, r.Touch}
	}
	return key
}

// IsSecurityKey reports whether the key is in a security key, which must be touched.
func (k *Key) IsSecurityKey() bool { return strings.HasPrefix(k.PublicKey().Type(), "sk-") }

// securityKey calls touch before it signs.
type securityKey struct {
	ssh.Signer
	name  string
	touch func(name string)
}

func (k *securityKey) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	k.touch(k.name)
	return k.Signer.Sign(rand, data)
}

// agentKeys returns the keys of ssh-agent whose type is in Types.
func (r *Keyring) agentKeys() []*Key {
	keys, err := r.listAgent()
	if err != nil {
		r.Warn(err.Error())
	}
	return keys
}

func (r *Keyring) listAgent() ([]*Key, error) {
	if r.Socket == "" {
		return nil, nil
	}
	conn, err := net.Dial("unix", r.Socket)
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
	var keys []*Key
	for i, signer := range signers {
		if !slices.Contains(Types, signer.PublicKey().Type()) {
			continue
		}
		where := "ssh-agent"
		if i < len(list) && list[i].Comment != "" {
			where = list[i].Comment
		}
		keys = append(keys, r.newKey(where, signer))
	}
	return keys, nil
}

// selected returns the key with an ID: a file, or a key of the agent.
func (r *Keyring) selected(ctx context.Context, id string, agents []*Key) (*Key, error) {
	text, err := readKeyFile(id)
	if errors.Is(err, fs.ErrNotExist) {
		for _, key := range agents {
			where, print, _ := strings.Cut(strings.TrimSuffix(key.Name, ")"), " (SHA256:")
			if id == where || id == "SHA256:"+print || id == print {
				return key, nil
			}
		}
		return nil, fmt.Errorf("--key %s: there is no such file, and ssh-agent has no key with that fingerprint or comment", id)
	}
	if err != nil {
		return nil, err
	}
	if public, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
		return r.ofPublic(ctx, id, public, agents)
	}
	signer, err := ssh.ParsePrivateKey(text)
	var missing *ssh.PassphraseMissingError
	if errors.As(err, &missing) {
		if missing.PublicKey != nil {
			if key := find(agents, missing.PublicKey); key != nil {
				return key, nil
			}
		}
		signer, err = r.unlock(ctx, id, text)
	}
	if err != nil {
		// The file of a security key does not contain its private key.
		if public, e := readKeyFile(id + ".pub"); e == nil && strings.HasPrefix(string(public), "sk-") {
			if key, _, _, _, e := ssh.ParseAuthorizedKey(public); e == nil {
				if k := find(agents, key); k != nil {
					return k, nil
				}
			}
			return nil, fmt.Errorf("%s is the file of a security key, which works through ssh-agent only: ssh-add %s", id, id)
		}
		return nil, fmt.Errorf("%s is not a usable private key: %w", id, err)
	}
	if !slices.Contains(Types, signer.PublicKey().Type()) {
		return nil, fmt.Errorf("%s is a key of type %s, which is not accepted; accepted are ed25519, ecdsa and rsa", id, signer.PublicKey().Type())
	}
	return r.newKey(id, signer), nil
}

// ofPublic returns the private key of the public key or certificate in a file: in the agent, or
// in the file beside it.
func (r *Keyring) ofPublic(ctx context.Context, id string, public ssh.PublicKey, agents []*Key) (*Key, error) {
	cert, _ := public.(*ssh.Certificate)
	if cert != nil {
		public = cert.Key
	}
	key := find(agents, public)
	private := strings.TrimSuffix(id, ".pub")
	if cert != nil {
		private = strings.TrimSuffix(private, "-cert")
	}
	if _, err := os.Stat(private); key == nil && err == nil && private != id {
		if key, err = r.selected(ctx, private, agents); err != nil {
			return nil, err
		}
	}
	if key == nil {
		return nil, fmt.Errorf("%s is a public key, and ssh-agent does not have its private key; add it with ssh-add", id)
	}
	if cert == nil {
		return key, nil
	}
	signer, err := ssh.NewCertSigner(cert, key.Signer)
	if err != nil {
		return nil, fmt.Errorf("%s is not the certificate of %s", id, key.Name)
	}
	return &Key{Name: key.Name, Signer: signer}, nil
}

// unlock decrypts a private key with a passphrase, which it asks for up to three times.
func (r *Keyring) unlock(ctx context.Context, id string, text []byte) (ssh.Signer, error) {
	for try := 1; ; try++ {
		passphrase, err := r.Passphrase(ctx, id, try > 1)
		if err != nil {
			return nil, err
		}
		signer, err := ssh.ParsePrivateKeyWithPassphrase(text, []byte(passphrase))
		if !errors.Is(err, x509.IncorrectPasswordError) || try == 3 {
			return signer, err
		}
	}
}

// readKeyFile reads a key; the largest in use, RSA with 16,384 bits, have 13 KiB.
func readKeyFile(path string) ([]byte, error) { return hostfile.ReadStream(path, 64<<10) }
