package consoletest

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/big"
	"testing"

	"golang.org/x/crypto/ssh"
)

// SecurityKey is an [ssh.Signer] that signs as a FIDO key in ssh-agent does.
type SecurityKey struct {
	Flags  byte // user presence is 1, user verification 4
	public ssh.PublicKey
	sign   func(data []byte) []byte
}

const application = "ssh:"

// NewSKEd25519 returns a key of the type sk-ssh-ed25519@openssh.com.
func NewSKEd25519(t testing.TB) *SecurityKey {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newSecurityKey(t, ssh.Marshal(struct{ Type, Key, Application string }{ssh.KeyAlgoSKED25519, string(public), application}),
		func(data []byte) []byte { return ed25519.Sign(private, data) })
}

// NewSKECDSA returns a key of the type sk-ecdsa-sha2-nistp256@openssh.com.
func NewSKECDSA(t testing.TB) *SecurityKey {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := private.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return newSecurityKey(t, ssh.Marshal(struct{ Type, Curve, Point, Application string }{ssh.KeyAlgoSKECDSA256, "nistp256", string(point), application}),
		func(data []byte) []byte {
			hash := sha256.Sum256(data)
			r, s, err := ecdsa.Sign(rand.Reader, private, hash[:])
			if err != nil {
				t.Error(err)
				return nil
			}
			return ssh.Marshal(struct{ R, S *big.Int }{r, s})
		})
}

func newSecurityKey(t testing.TB, blob []byte, sign func([]byte) []byte) *SecurityKey {
	public, err := ssh.ParsePublicKey(blob)
	if err != nil {
		t.Fatal(err)
	}
	return &SecurityKey{Flags: 1, public: public, sign: sign}
}

func (k *SecurityKey) PublicKey() ssh.PublicKey { return k.public }

// Sign signs the hashes of the application and the data, with flags and a counter between them,
// as in OpenSSH's PROTOCOL.u2f.
func (k *SecurityKey) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	rest := binary.BigEndian.AppendUint32([]byte{k.Flags}, 7)
	app, message := sha256.Sum256([]byte(application)), sha256.Sum256(data)
	signed := append(append(app[:], rest...), message[:]...)
	return &ssh.Signature{Format: k.public.Type(), Blob: k.sign(signed), Rest: rest}, nil
}
