// Package signer loads the keys and certificates that sign messages of package cms: PEM
// files, keys on PKCS#11 tokens, and a key for development that it makes itself.
package signer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/youmark/pkcs8"

	"imgtool/image/cms"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
)

// PassphraseVariable is the environment variable with the passphrase of a key.
const PassphraseVariable = "IMGTOOL_KEY_PASSPHRASE"

// Options name a key and its certificates.
type Options struct {
	Key           string   // a PEM file, or a URI that begins with pkcs11:
	Cert          string   // a PEM file; certificates after the first are intermediate ones
	Intermediates []string // PEM files with certificates between Cert and the trusted ones
	Dev           bool     // keys for development are accepted

	Known []string // SHA-256 of public keys whose private keys are not secret, in hexadecimal
	Now   time.Time

	// Ask asks for the passphrase of a key file; nil: there is no terminal.
	Ask func(ctx context.Context, file string) (string, error)
}

// Load returns a signer without a time. Everything is checked that can be without signing:
// that the key is the certificate's, that the certificate is valid now and that the key is
// not one for development.
func Load(ctx context.Context, opt Options) (*cms.Signer, error) {
	certs, err := Certificates(opt.Cert)
	if err != nil {
		return nil, err
	}
	s := &cms.Signer{Cert: certs[0], Others: certs[1:]}
	for _, file := range opt.Intermediates {
		more, err := Certificates(file)
		if err != nil {
			return nil, err
		}
		s.Others = append(s.Others, more...)
	}
	if err := cms.CheckKey(s.Cert); err != nil {
		return nil, fmt.Errorf("%s: %w", opt.Cert, err)
	}
	if err := cms.CheckTime(s.Cert, opt.Now); err != nil {
		return nil, fault.New(fault.Input, "%s: %w", opt.Cert, err)
	}
	if err := opt.checkDev(s.Cert); err != nil {
		return nil, err
	}
	if s.Key, err = opt.key(ctx); err != nil {
		return nil, err
	}
	public, ok := s.Key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(s.Cert.PublicKey) {
		return nil, fmt.Errorf("%s is not the key of the first certificate in %s, which is of %s", withoutPIN(opt.Key), opt.Cert, cms.Name(s.Cert))
	}
	return s, nil
}

// checkDev refuses a key that others may have.
func (opt *Options) checkDev(cert *x509.Certificate) error {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	if !isDev(cert) && !slices.Contains(opt.Known, hex.EncodeToString(sum[:])) || opt.Dev {
		return nil
	}
	return fmt.Errorf("%s is a certificate for development (%s), whose key is no secret: sign with the key of your devices, or add --dev", opt.Cert, cms.Name(cert))
}

func (opt *Options) key(ctx context.Context) (crypto.Signer, error) {
	if IsToken(opt.Key) {
		return openToken(ctx, opt.Key)
	}
	text, err := hostfile.ReadStream(opt.Key, hostfile.Text)
	if err != nil {
		return nil, err
	}
	key, err := opt.parseKey(ctx, text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", opt.Key, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a key of the type %T cannot sign", opt.Key, key)
	}
	return signer, nil
}

// parseKey returns the first private key in a PEM file.
func (opt *Options) parseKey(ctx context.Context, text []byte) (any, error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, errors.New("it has no private key in PEM")
		}
		switch {
		case strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return nil, errors.New("its old encryption does not protect it; change it with openssl pkcs8 -topk8")
		case block.Type == "PRIVATE KEY":
			return x509.ParsePKCS8PrivateKey(block.Bytes)
		case block.Type == "RSA PRIVATE KEY":
			return x509.ParsePKCS1PrivateKey(block.Bytes)
		case block.Type == "EC PRIVATE KEY":
			return x509.ParseECPrivateKey(block.Bytes)
		case block.Type == "ENCRYPTED PRIVATE KEY":
			return opt.decrypt(ctx, block.Bytes)
		}
	}
}

func (opt *Options) decrypt(ctx context.Context, der []byte) (any, error) {
	passphrase, given := os.LookupEnv(PassphraseVariable)
	if !given {
		if opt.Ask == nil {
			return nil, fmt.Errorf("it has a passphrase: set it in %s", PassphraseVariable)
		}
		var err error
		if passphrase, err = opt.Ask(ctx, opt.Key); err != nil {
			return nil, err
		}
	}
	switch {
	case passphrase == "" && given:
		return nil, fmt.Errorf("it has a passphrase, and %s is empty", PassphraseVariable)
	case passphrase == "":
		return nil, errors.New("it has a passphrase, and none was given")
	}
	key, err := pkcs8.ParsePKCS8PrivateKey(der, []byte(passphrase))
	if err != nil {
		return nil, fmt.Errorf("it cannot be decrypted; the passphrase may be wrong: %w", err)
	}
	return key, nil
}

// Certificates returns the certificates in a PEM file, which has at least one.
func Certificates(file string) ([]*x509.Certificate, error) {
	text, err := hostfile.ReadStream(file, hostfile.Text)
	if err != nil {
		return nil, err
	}
	var all []*x509.Certificate
	for rest := bytes.TrimSpace(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", file, len(all)+1, err)
		}
		all = append(all, cert)
	}
	if len(all) == 0 {
		return nil, fault.New(fault.Input, "%s has no certificate in PEM", file)
	}
	return all, nil
}
