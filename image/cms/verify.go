package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"imgtool/image/fault"
)

// Verify checks that every signer has signed the content, which is read from r if it is
// detached, and may be nil otherwise. It does not check whether the signers are trusted; see [Message.Trust].
func (m *Message) Verify(r io.Reader) error {
	if m.Encrypted {
		return errors.New("the message is encrypted")
	}
	if !m.Detached {
		r = bytes.NewReader(m.Content)
	}
	if r == nil {
		return fault.New(fault.Corrupt, "the signature does not contain what it signs")
	}
	hashes := map[crypto.Hash]io.Writer{}
	var all []io.Writer
	for _, s := range m.Signatures {
		h, err := hashOf(s.info.DigestAlgorithm)
		if err != nil {
			return err
		}
		if hashes[h] == nil {
			hashes[h] = h.New()
			all = append(all, hashes[h])
		}
	}
	if _, err := io.Copy(io.MultiWriter(all...), r); err != nil {
		return err
	}
	for _, s := range m.Signatures {
		h, _ := hashOf(s.info.DigestAlgorithm)
		digest := hashes[h].(interface{ Sum([]byte) []byte }).Sum(nil)
		if !bytes.Equal(digest, s.digest) {
			return fault.New(fault.Corrupt, "the content is not what %s signed: its digest is %x, not %x", Name(s.Cert), digest, s.digest)
		}
		if err := s.check(h); err != nil {
			return fault.New(fault.Corrupt, "the signature of %s is wrong: %w", Name(s.Cert), err)
		}
	}
	return nil
}

func hashOf(algorithm pkix.AlgorithmIdentifier) (crypto.Hash, error) {
	oid := algorithm.Algorithm
	switch {
	case !plain(algorithm):
		return 0, fault.New(fault.Corrupt, "the digest algorithm %v of a signature has parameters", oid)
	case oid.Equal(oidSHA256):
		return crypto.SHA256, nil
	case oid.Equal(oidSHA384):
		return crypto.SHA384, nil
	case oid.Equal(oidSHA512):
		return crypto.SHA512, nil
	}
	return 0, fault.New(fault.Corrupt, "the digest algorithm %v of a signature is not accepted, only SHA-256, SHA-384 and SHA-512", oid)
}

// plain reports whether an algorithm has no parameters, or those that mean none.
func plain(algorithm pkix.AlgorithmIdentifier) bool {
	p := algorithm.Parameters.FullBytes
	return len(p) == 0 || bytes.Equal(p, asn1.NullBytes)
}

// check checks the signature of the attributes. digest is the hash of the content, which
// some signature algorithms use for the attributes, too.
func (s *Signature) check(digest crypto.Hash) error {
	oid := s.info.SignatureAlgorithm.Algorithm
	if !oid.Equal(oidPSS) && !plain(s.info.SignatureAlgorithm) {
		return fmt.Errorf("its algorithm %v has parameters", oid)
	}
	hash := digest
	switch {
	case oid.Equal(oidRSASHA256), oid.Equal(oidECDSA256):
		hash = crypto.SHA256
	case oid.Equal(oidRSASHA384), oid.Equal(oidECDSA384):
		hash = crypto.SHA384
	case oid.Equal(oidRSASHA512), oid.Equal(oidECDSA512):
		hash = crypto.SHA512
	}
	h := hash.New()
	h.Write(s.attrs)
	sum := h.Sum(nil)
	ok := false
	switch key := s.Cert.PublicKey.(type) {
	case *rsa.PublicKey:
		switch {
		case oid.Equal(oidPSS):
			return rsa.VerifyPSS(key, hash, sum, s.info.Signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto})
		case slices.ContainsFunc([]asn1.ObjectIdentifier{oidRSA, oidRSASHA256, oidRSASHA384, oidRSASHA512}, oid.Equal):
			return rsa.VerifyPKCS1v15(key, hash, sum, s.info.Signature)
		}
	case *ecdsa.PublicKey:
		if slices.ContainsFunc([]asn1.ObjectIdentifier{oidECDSA256, oidECDSA384, oidECDSA512}, oid.Equal) {
			ok = ecdsa.VerifyASN1(key, sum, s.info.Signature)
		}
	case ed25519.PublicKey:
		ok = oid.Equal(oidEd25519) && ed25519.Verify(key, s.attrs, s.info.Signature)
	}
	if !ok {
		return fmt.Errorf("the key does not fit the signature (algorithm %v)", oid)
	}
	return nil
}

// Purpose is what the certificate of a signer must permit.
type Purpose string

// Purposes, by the names that OpenSSL and RAUC give them.
const (
	SMIMESign Purpose = "smimesign" // what openssl cms requires, and RAUC by default
	CodeSign  Purpose = "codesign"
)

// Purposes are all purposes. The first is the default.
var Purposes = []string{string(SMIMESign), string(CodeSign)}

// Trust checks that the certificate of every signer was issued by a trusted certificate, directly or by
// way of others in the message, and that all are valid at a time and for the purpose.
func (m *Message) Trust(trusted []*x509.Certificate, at time.Time, purpose Purpose) error {
	for _, s := range m.Signatures {
		if err := CheckTrust(s.Cert, m.Certificates, trusted, at, purpose); err != nil {
			return err
		}
	}
	return nil
}

// CheckTrust is [Message.Trust] for one certificate. others are certificates between it and
// the trusted ones.
func CheckTrust(cert *x509.Certificate, others, trusted []*x509.Certificate, at time.Time, purpose Purpose) error {
	usage := map[Purpose]x509.ExtKeyUsage{SMIMESign: x509.ExtKeyUsageEmailProtection, CodeSign: x509.ExtKeyUsageCodeSigning}[purpose]
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}}
	for _, c := range trusted {
		// As OpenSSL does without partial chains: only certificates that sign themselves end
		// a chain.
		if bytes.Equal(c.RawIssuer, c.RawSubject) {
			options.Roots.AddCert(c)
		} else {
			options.Intermediates.AddCert(c)
		}
	}
	for _, c := range others {
		options.Intermediates.AddCert(c)
	}
	if err := CheckTime(cert, at); err != nil {
		return err
	}
	chains, err := cert.Verify(options)
	if err != nil {
		return fault.New(fault.Corrupt, "the certificate of the signer, %s, is not trusted for %s: %w", Name(cert), purpose, err)
	}
	if !slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool { return extendedUsage(chain, usage) }) {
		return fault.New(fault.Corrupt, "the certificate of the signer, %s, or one that it depends on, is not for %s: its extended key usage is something else", Name(cert), purpose)
	}
	permitted := x509.KeyUsageDigitalSignature
	if purpose == SMIMESign {
		permitted |= x509.KeyUsageContentCommitment
	}
	// RFC 5280, 4.2.1.3: a certificate without key usage may be used for anything.
	if cert.KeyUsage != 0 && cert.KeyUsage&permitted == 0 {
		return fault.New(fault.Corrupt, "the certificate of the signer, %s, does not permit signatures: its key usage is something else", Name(cert))
	}
	if purpose == CodeSign && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageCodeSigning) {
		return fault.New(fault.Corrupt, "the certificate of the signer, %s, is not for signing code", Name(cert))
	}
	return nil
}

// extendedUsage reports whether each certificate with an extended key usage names this one. For
// OpenSSL, and not for package x509, the value "any" is another one.
func extendedUsage(chain []*x509.Certificate, usage x509.ExtKeyUsage) bool {
	for _, c := range chain {
		if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 && !slices.Contains(c.ExtKeyUsage, usage) {
			return false
		}
	}
	return true
}

// CheckTime reports a certificate that is not valid at a time.
func CheckTime(cert *x509.Certificate, at time.Time) error {
	switch {
	case at.Before(cert.NotBefore):
		return fault.New(fault.Corrupt, "the certificate of %s is not valid before %s, and it is %s", Name(cert), day(cert.NotBefore), day(at))
	case at.After(cert.NotAfter):
		return fault.New(fault.Corrupt, "the certificate of %s expired at %s, and it is %s", Name(cert), day(cert.NotAfter), day(at))
	}
	return nil
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// Name returns the subject of a certificate.
func Name(c *x509.Certificate) string {
	if name := c.Subject.String(); name != "" {
		return name
	}
	return "serial number " + c.SerialNumber.String()
}
