package signer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// IsToken reports whether a key is on a PKCS#11 token (RFC 7512).
func IsToken(key string) bool { return strings.HasPrefix(key, "pkcs11:") }

// token is a key on a PKCS#11 token. The openssl program signs with it, because the
// libraries for tokens need cgo and the token's own library. It needs OpenSSL's engine
// pkcs11, which is libengine-pkcs11-openssl in Debian. The engine asks for the PIN, unless
// the URI has one or says where it is, or PassphraseVariable has it.
type token struct {
	ctx    context.Context
	uri    string
	public crypto.PublicKey
}

// openToken finds a key. Nothing is signed.
func openToken(ctx context.Context, uri string) (*token, error) {
	t := &token{ctx: ctx, uri: uri}
	der, err := t.openssl(nil, "pkey", "-engine", "pkcs11", "-inform", "engine", "-in", uri, "-pubout", "-outform", "DER")
	if err == nil {
		t.public, err = x509.ParsePKIXPublicKey(der)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", withoutPIN(uri), err)
	}
	return t, nil
}

// Public implements crypto.Signer.
func (t *token) Public() crypto.PublicKey { return t.public }

// Sign implements crypto.Signer.
func (t *token) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != crypto.SHA256 {
		return nil, errors.New("keys of this type cannot be on a token: use RSA or ECDSA")
	}
	args := []string{"pkeyutl", "-sign", "-engine", "pkcs11", "-keyform", "engine", "-inkey", t.uri}
	if _, ok := t.public.(*rsa.PublicKey); ok {
		args = append(args, "-pkeyopt", "digest:sha256", "-pkeyopt", "rsa_padding_mode:pkcs1")
	}
	return t.openssl(digest, args...)
}

func (t *token) openssl(input []byte, args ...string) ([]byte, error) {
	if _, ok := os.LookupEnv(PassphraseVariable); ok && !strings.Contains(t.uri, "pin-") {
		args = append(args, "-passin", "env:"+PassphraseVariable)
	}
	cmd := exec.CommandContext(t.ctx, "openssl", args...)
	var out, messages bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &messages
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errors.New("keys on tokens need the openssl program, with its engine pkcs11")
	}
	if err != nil {
		return nil, fmt.Errorf("openssl cannot use the token: %s", reason(err, messages.String()))
	}
	return out.Bytes(), nil
}

// reason returns what the engine says about a failure, in one line. After a failure openssl
// often crashes, and the lines of its error queue repeat the others.
func reason(err error, messages string) string {
	lines := slices.DeleteFunc(strings.Split(withoutPIN(messages), "\n"), func(line string) bool {
		return line == "" || strings.HasPrefix(line, "Engine ") || strings.Contains(line, ":error:")
	})
	if len(lines) == 0 {
		return err.Error()
	}
	text := strings.Join(lines, "; ")
	if strings.Contains(text, "No PIN") {
		text = "it needs a PIN, in " + PassphraseVariable + " if there is no terminal: " + text
	}
	return text
}

// pin matches a PIN in a URI. RFC 7512 has it in the query; programs take it in the path, too.
var pin = regexp.MustCompile(`pin-value=[^;&?\s]*`)

// withoutPIN returns a URI, or a text with URIs, without the PIN in it.
func withoutPIN(text string) string { return pin.ReplaceAllString(text, "pin-value=...") }
