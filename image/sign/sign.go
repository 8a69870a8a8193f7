// Package sign makes and checks signatures of images.
//
// A signature signs the manifest of an image, byte for byte. The manifest has the SHA-256 of all
// that is written to a disk, so the signature covers all of it.
//
// There are two kinds: signatures of SSH keys, in the format of OpenSSH's PROTOCOL.sshsig with
// the namespace [Namespace], which ssh-keygen -Y makes and checks; and signatures of minisign. A
// file of signatures has one or several, one after the other.
package sign

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"aead.dev/minisign"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/sshkey"
)

// Namespace is the namespace of the SSH signatures of images. A signature of another namespace,
// such as git or file, is not accepted.
const Namespace = "imgtool-image"

// Formats of signatures.
const (
	SSH      = "ssh"
	Minisign = "minisign"
)

// Limits of a file of signatures.
const (
	MaxFile       = 1 << 20 // bytes
	maxSignatures = 64      // that are checked
)

// Signature is a signature of a file. It may be malformed.
type Signature struct {
	Format string // empty if it is neither
	Text   []byte // as in a file

	err      error // why it is malformed
	ssh      *sshsig.Signature
	minisign minisign.Signature
}

const (
	sshBegin      = "-----BEGIN SSH SIGNATURE-----"
	sshEnd        = "-----END SSH SIGNATURE-----"
	minisignBegin = "untrusted comment: "
)

// Parse returns the signatures in a file, each once, up to one more than the limit. Other text is
// returned as a malformed signature.
func Parse(file []byte) (all []*Signature) {
	rest := file
	for len(bytes.Trim(rest, "\n")) > 0 && len(all) <= maxSignatures {
		rest = bytes.TrimLeft(rest, "\n")
		n := blockLen(rest)
		next := parseBlock(rest[:n])
		rest = rest[n:]
		if !slices.ContainsFunc(all, func(s *Signature) bool { return bytes.Equal(s.Text, next.Text) }) {
			all = append(all, next)
		}
	}
	return all
}

// blockLen returns the length of the signature at the start of b, or of what is there instead.
func blockLen(b []byte) int {
	n, lines := 0, 0
	ssh := bytes.HasPrefix(b, []byte(sshBegin))
	for line := range bytes.Lines(b) {
		text := string(bytes.TrimSuffix(line, []byte("\n")))
		begins := text == sshBegin || strings.HasPrefix(text, minisignBegin)
		if lines > 0 && begins {
			return n
		}
		n, lines = n+len(line), lines+1
		if ssh && text == sshEnd || !ssh && lines == 4 && bytes.HasPrefix(b, []byte(minisignBegin)) {
			return n
		}
	}
	return n
}

func parseBlock(text []byte) *Signature {
	s := &Signature{Text: bytes.Clone(text)}
	if !bytes.HasSuffix(s.Text, []byte("\n")) {
		s.Text = append(s.Text, '\n')
	}
	switch {
	case bytes.HasPrefix(text, []byte("-----BEGIN SSH")):
		s.Format = SSH
		s.ssh, s.err = parseSSH(string(s.Text))
	case bytes.HasPrefix(text, []byte("untrusted comment:")):
		s.Format = Minisign
		s.err = parseMinisign(string(s.Text), &s.minisign)
	default:
		s.err = errors.New("it is neither of SSH nor of minisign")
	}
	return s
}

// parseSSH parses the armor of a signature. The library accepts more, OpenSSH does not.
func parseSSH(text string) (*sshsig.Signature, error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) < 3 || lines[0] != sshBegin || lines[len(lines)-1] != sshEnd {
		return nil, errors.New("its first or last line is missing")
	}
	lines = lines[1 : len(lines)-1]
	data, err := base64.StdEncoding.Strict().DecodeString(strings.Join(lines, ""))
	if err != nil || strings.Contains(text, "\r") {
		return nil, errors.New("it is not base64")
	}
	s, err := sshsig.ParseSignature(data)
	if err != nil {
		return nil, err
	}
	// Also without parts that the library ignores.
	if !bytes.Equal(s.Marshal(), data) {
		return nil, errors.New("it has unknown parts")
	}
	return s, nil
}

func parseMinisign(text string, s *minisign.Signature) error {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) != 4 {
		return fmt.Errorf("it has %d lines instead of 4", len(lines))
	}
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\r")
	}
	for _, i := range []int{1, 3} {
		if _, err := base64.StdEncoding.Strict().DecodeString(lines[i]); err != nil || strings.ContainsAny(lines[i], "\r") {
			return fmt.Errorf("line %d is not base64", i+1)
		}
	}
	return s.UnmarshalText([]byte(strings.Join(lines, "\n")))
}

// sameKey reports whether two signatures are of the same key, and for the same use.
func (s *Signature) sameKey(o *Signature) bool {
	if s.err != nil || o.err != nil || s.Format != o.Format {
		return false
	}
	if s.Format == Minisign {
		return s.minisign.KeyID == o.minisign.KeyID
	}
	return s.ssh.Namespace == o.ssh.Namespace && bytes.Equal(s.ssh.PublicKey.Marshal(), o.ssh.PublicKey.Marshal())
}

// Add adds signatures to those in a file. They replace signatures of the same keys.
func Add(file []byte, more ...*Signature) ([]byte, error) {
	var out []byte
	n := len(more)
	for _, s := range Parse(file) {
		replaced := false
		for _, m := range more {
			replaced = replaced || m.sameKey(s)
		}
		if !replaced {
			out = append(out, s.Text...)
			n++
		}
	}
	if n > maxSignatures {
		return nil, fault.New(fault.Input, "with this one it has more than %d signatures, which is the limit: remove the others with --replace", maxSignatures)
	}
	for _, s := range more {
		out = append(out, s.Text...)
	}
	return out, nil
}

// Of returns the signatures of a format in a file.
func Of(format string, file []byte) []byte {
	var out []byte
	for _, s := range Parse(file) {
		if s.Format == format {
			out = append(out, s.Text...)
		}
	}
	return out
}

// Check checks a signature that was made elsewhere: all but whose key it is, and of minisign the
// form only.
func (s *Signature) Check(manifest []byte) error {
	if s.err != nil {
		return refuse(Malformed, "the signature is malformed: %v", s.err)
	}
	if s.Format == Minisign {
		return nil
	}
	if err := s.checkNamespace(); err != nil {
		return err
	}
	if err := s.verifySSH(manifest); err != nil {
		return err
	}
	return nil
}

// Key signs manifests.
type Key struct {
	Name string // for messages

	ssh      ssh.Signer
	minisign *minisign.PrivateKey
}

// FindKey returns the SSH key that a ring selects, or the minisign key in the file it names.
func FindKey(ctx context.Context, ring *sshkey.Keyring) (*Key, error) {
	text, err := hostfile.ReadStream(ring.ID, 64<<10)
	if err == nil && bytes.HasPrefix(text, []byte("untrusted comment:")) {
		return minisignKey(ctx, ring, text)
	}
	k, err := ring.Find(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkKey(plainKey(k.PublicKey())); err != nil {
		return nil, fmt.Errorf("%s: no signature of it would be accepted: %w", k.Name, err)
	}
	return NewKey(k), nil
}

// NewKey returns an SSH key.
func NewKey(k *sshkey.Key) *Key { return &Key{Name: k.Name, ssh: k.Signer} }

// minisignKey parses the file of a secret key of minisign.
func minisignKey(ctx context.Context, ring *sshkey.Keyring, text []byte) (*Key, error) {
	var key minisign.PrivateKey
	if err := key.UnmarshalText(text); err == nil {
		return newMinisignKey(ring.ID, key), nil
	}
	if !minisign.IsEncrypted(text) {
		return nil, fmt.Errorf("%s is not a secret key of minisign", ring.ID)
	}
	for try := 1; ; try++ {
		passphrase, err := ring.Passphrase(ctx, ring.ID, try > 1)
		if err != nil {
			return nil, err
		}
		if key, err = minisign.DecryptKey(passphrase, text); err == nil {
			return newMinisignKey(ring.ID, key), nil
		}
		if try == 3 {
			return nil, fmt.Errorf("%s: the passphrase is wrong, or the key is damaged", ring.ID)
		}
	}
}

func newMinisignKey(file string, key minisign.PrivateKey) *Key {
	return &Key{Name: fmt.Sprintf("%s (%016X)", file, key.ID()), minisign: &key}
}

// Format returns the format of the signatures that the key makes.
func (k *Key) Format() string {
	if k.minisign != nil {
		return Minisign
	}
	return SSH
}

// Sign signs a manifest. A signature of minisign contains the comment.
func (k *Key) Sign(manifest []byte, comment string) (*Signature, error) {
	if k.minisign != nil {
		r := minisign.NewReader(bytes.NewReader(manifest))
		if _, err := io.Copy(io.Discard, r); err != nil {
			return nil, err
		}
		return parseBlock(r.SignWithComments(*k.minisign, comment, "signature from imgtool")), nil
	}
	s, err := sshsig.Sign(bytes.NewReader(manifest), sha512Signer{k.ssh}, sshsig.HashSHA512, Namespace)
	if err != nil {
		return nil, fmt.Errorf("signing with %s: %w", k.Name, err)
	}
	// As ssh-keygen writes it, in lines of 70 characters.
	var armor strings.Builder
	armor.WriteString(sshBegin + "\n")
	for data := base64.StdEncoding.EncodeToString(s.Marshal()); data != ""; {
		n := min(70, len(data))
		armor.WriteString(data[:n] + "\n")
		data = data[n:]
	}
	armor.WriteString(sshEnd + "\n")
	return parseBlock([]byte(armor.String())), nil
}

// sha512Signer signs with SHA-512 if the key is an RSA key, also one with a certificate, for
// which the library would use SHA-1.
type sha512Signer struct{ ssh.Signer }

func (s sha512Signer) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	if plainKey(s.PublicKey()).Type() != ssh.KeyAlgoRSA {
		return s.Signer.Sign(rand, data)
	}
	return s.SignWithAlgorithm(rand, data, ssh.KeyAlgoRSASHA512)
}

func (s sha512Signer) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	signer, ok := s.Signer.(ssh.AlgorithmSigner)
	if !ok {
		return nil, errors.New("the key cannot sign with SHA-512")
	}
	return signer.SignWithAlgorithm(rand, data, algorithm)
}

// plainKey returns the key of a certificate, or a key itself.
func plainKey(key ssh.PublicKey) ssh.PublicKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		return cert.Key
	}
	return key
}
