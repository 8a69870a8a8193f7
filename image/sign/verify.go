package sign

import (
	"bytes"
	"crypto/rsa"
	"fmt"
	"slices"
	"time"

	"aead.dev/minisign"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"imgtool/image/fault"
)

// Reasons for which a signature is not accepted, from the least to the most specific.
const (
	Unsigned       = "unsigned"        // there is no signature
	NoManifest     = "no-manifest"     // there is no manifest that could be signed
	Malformed      = "malformed"       // it is not a signature, or damaged
	Unsupported    = "unsupported"     // of a kind of key that is not accepted
	UnknownSigner  = "unknown-signer"  // its key is not among the allowed signers
	WrongPrincipal = "wrong-principal" // the key is allowed, but not for the principal that is asked for
	WrongNamespace = "wrong-namespace" // it is for another purpose
	Mismatch       = "mismatch"        // it is of another manifest, or the manifest was altered
	NoTouch        = "no-touch"        // the security key was not touched
	BadCertificate = "bad-certificate" // the certificate of the key is not valid
	NotYetValid    = "not-yet-valid"   // the key or its certificate is not valid yet
	Expired        = "expired"         // the key or its certificate is not valid any more
	Revoked        = "revoked"         // the key or its certificate was revoked
)

var reasons = []string{Unsigned, NoManifest, Malformed, Unsupported, UnknownSigner, WrongPrincipal, WrongNamespace, Mismatch, NoTouch,
	BadCertificate, NotYetValid, Expired, Revoked}

// Error says why the signatures of an image are not accepted.
type Error struct {
	Reason     string // see the constants
	Text       string
	Signatures []Checked // all there are
}

func (e *Error) Error() string { return e.Text }
func (e *Error) Kind() string  { return fault.Corrupt }

func refuse(reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Text: fmt.Sprintf(format, args...)}
}

// Signer is who made a signature.
type Signer struct {
	Format       string `json:"format,omitempty"` // ssh or minisign
	Principal    string `json:"principal,omitempty"`
	KeyType      string `json:"key_type,omitempty"`
	Fingerprint  string `json:"fingerprint,omitempty"`   // of an SSH key, or the identifier of a minisign key
	Authority    string `json:"authority,omitempty"`     // fingerprint of the key that signed the certificate
	Comment      string `json:"comment,omitempty"`       // trusted comment of minisign
	UserVerified bool   `json:"user_verified,omitempty"` // the security key asked for a PIN or a fingerprint
}

// Checked is a signature and whether it is accepted.
type Checked struct {
	Signer
	Reason  string `json:"reason,omitempty"`  // for which it is not accepted; empty if it is
	Problem string `json:"problem,omitempty"` // the reason in words
}

// Policy is whose signatures are accepted.
type Policy struct {
	Signers   *Signers
	Revoked   []*RevokedKeys
	Principal string    // that must have signed; empty: any
	Time      time.Time // at which keys must be valid
}

// Verify checks the signatures of a manifest. One that is accepted is enough; without one, the
// error is an *[Error] with the most specific reason.
func (p *Policy) Verify(manifest, file []byte) (all []Checked, err error) {
	list := Parse(file)
	if len(list) == 0 {
		return nil, refuse(Unsigned, "it is not signed")
	}
	worst, accepted := (*Error)(nil), false
	for _, s := range list[:min(len(list), maxSignatures)] {
		c := s.Identify()
		switch err := p.check(s, manifest, &c); {
		case err == nil:
			accepted = true
		default:
			c.Reason, c.Problem = err.Reason, err.Text
			worst = moreSpecific(worst, err)
		}
		all = append(all, c)
	}
	if accepted {
		return all, nil
	}
	refused := *worst
	refused.Signatures = all
	if len(list) > maxSignatures {
		refused.Text += fmt.Sprintf("; it has more than %d signatures, which is the limit, and the others are not checked", maxSignatures)
	}
	return all, &refused
}

// moreSpecific returns the error with the more specific reason; a may be nil.
func moreSpecific(a, b *Error) *Error {
	if a == nil || slices.Index(reasons, b.Reason) > slices.Index(reasons, a.Reason) {
		return b
	}
	return a
}

// Identify returns what a signature says about its key.
func (s *Signature) Identify() (c Checked) {
	c.Format = s.Format
	switch {
	case s.err != nil:
	case s.Format == Minisign:
		c.KeyType, c.Fingerprint = Minisign, fmt.Sprintf("%016X", s.minisign.KeyID)
	default:
		key := s.ssh.PublicKey
		c.KeyType, c.Fingerprint = plainKey(key).Type(), ssh.FingerprintSHA256(plainKey(key))
		if cert, ok := key.(*ssh.Certificate); ok {
			c.Authority = ssh.FingerprintSHA256(cert.SignatureKey)
		}
	}
	return c
}

func (p *Policy) check(s *Signature, manifest []byte, c *Checked) *Error {
	switch {
	case s.err != nil:
		return refuse(Malformed, "the signature is malformed: %v", s.err)
	case s.Format == Minisign:
		return p.checkMinisign(s, manifest, c)
	}
	if err := checkKey(plainKey(s.ssh.PublicKey)); err != nil {
		return refuse(Unsupported, "the signature cannot be accepted: %v", err)
	}
	if err := s.checkNamespace(); err != nil {
		return err
	}
	lines := p.lines(s.ssh.PublicKey)
	if len(lines) == 0 {
		what := ""
		if c.Authority != "" {
			what = ", nor the authority " + c.Authority + " of its certificate"
		}
		return refuse(UnknownSigner, "it is signed by the %s key %s, which is not in %s%s", c.KeyType, c.Fingerprint, p.Signers.Name, what)
	}
	if err := s.verifySSH(manifest); err != nil {
		return err
	}
	for _, list := range p.Revoked {
		if what := list.find(s.ssh.PublicKey); what != "" {
			return refuse(Revoked, "it is signed by the key %s, but %s in %s", c.Fingerprint, what, list.Name)
		}
	}
	c.UserVerified = s.flags()&userVerified != 0
	var worst *Error
	for _, line := range lines {
		principal, err := p.allows(line, s.ssh.PublicKey)
		if err == nil {
			c.Principal = principal
			return nil
		}
		worst = moreSpecific(worst, err)
	}
	return worst
}

// lines returns the lines with a key, or with the authority of a certificate.
func (p *Policy) lines(key ssh.PublicKey) (lines []allowed) {
	want, authority := key, false
	if cert, ok := key.(*ssh.Certificate); ok {
		want, authority = cert.SignatureKey, true
	}
	for _, a := range p.Signers.ssh {
		if a.authority == authority && bytes.Equal(a.key.Marshal(), want.Marshal()) {
			lines = append(lines, a)
		}
	}
	return lines
}

// allows checks the rest of a line with a matching key. The principal is what the user
// asks for, else the field of the line, or with a certificate what both have in common.
func (p *Policy) allows(a allowed, key ssh.PublicKey) (principal string, err *Error) {
	print := ssh.FingerprintSHA256(plainKey(key))
	if p.Principal != "" && !matchList(p.Principal, a.principals) {
		return "", refuse(WrongPrincipal, "it is signed by the key %s of %s, and not by %s", print, a.principals, p.Principal)
	}
	principal = a.principals
	if p.Principal != "" {
		principal = p.Principal
	}
	if cert, ok := key.(*ssh.Certificate); ok {
		if principal, err = p.checkCertificate(a, cert); err != nil {
			return "", err
		}
	}
	if a.namespaces != "" && !matchList(Namespace, a.namespaces) {
		return "", refuse(WrongNamespace, "it is signed by the key %s of %s, which %s allows for the namespaces %s only, and not for %s",
			print, a.principals, p.Signers.Name, a.namespaces, Namespace)
	}
	if !a.after.IsZero() && p.Time.Before(a.after) {
		return "", refuse(NotYetValid, "it is signed by the key %s of %s, which is valid from %s on; the time is %s", print, a.principals, show(a.after), show(p.Time))
	}
	if !a.before.IsZero() && p.Time.Truncate(time.Second).After(a.before) {
		return "", refuse(Expired, "it is signed by the key %s of %s, which was valid until %s; the time is %s", print, a.principals, show(a.before), show(p.Time))
	}
	return principal, nil
}

func show(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (s *Signature) checkNamespace() *Error {
	if s.ssh.Namespace != Namespace {
		return refuse(WrongNamespace, "it has a signature for the namespace %.80q, which is not for images: it must be %q", s.ssh.Namespace, Namespace)
	}
	return nil
}

// algorithms are the algorithms of signatures by the type of the key, if they differ. OpenSSH
// makes signatures of RSA keys with SHA-512, and accepts SHA-256.
var algorithms = map[string][]string{ssh.KeyAlgoRSA: {ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}}

// Flags of a signature of a security key (OpenSSH's PROTOCOL.u2f).
const (
	userPresent  = 1
	userVerified = 4
)

// flags returns the flags that a security key signed, or 0.
func (s *Signature) flags() byte {
	if rest := s.ssh.Signature.Rest; len(rest) > 0 {
		return rest[0]
	}
	return 0
}

// verifySSH verifies that the signature's key signed the manifest.
func (s *Signature) verifySSH(manifest []byte) *Error {
	key, format := plainKey(s.ssh.PublicKey), s.ssh.Signature.Format
	print := ssh.FingerprintSHA256(key)
	want := algorithms[key.Type()]
	if want == nil {
		want = []string{key.Type()}
	}
	security := key.Type() == ssh.KeyAlgoSKED25519 || key.Type() == ssh.KeyAlgoSKECDSA256
	switch {
	case !slices.Contains(want, format):
		return refuse(Unsupported, "it has a signature of the key %s by %.80s, which is not accepted", print, format)
	case security != (len(s.ssh.Signature.Rest) > 0):
		return refuse(Malformed, "the signature of the key %s is malformed: it has %d bytes after its end", print, len(s.ssh.Signature.Rest))
	case security && s.flags()&userPresent == 0:
		return refuse(NoTouch, "it is signed by the security key %s without a touch of its owner", print)
	}
	if err := sshsig.Verify(bytes.NewReader(manifest), s.ssh, s.ssh.PublicKey, s.ssh.HashAlgorithm, Namespace); err != nil {
		return refuse(Mismatch, "the signature of the key %s does not match the manifest: the manifest was altered, or the signature is of another image", print)
	}
	return nil
}

func (p *Policy) checkMinisign(s *Signature, manifest []byte, c *Checked) *Error {
	known := slices.DeleteFunc(slices.Clone(p.Signers.mini), func(a allowedMinisign) bool { return a.key.ID() != s.minisign.KeyID })
	if len(known) == 0 {
		return refuse(UnknownSigner, "it is signed by the minisign key %s, which is not in %s", c.Fingerprint, p.Signers.Name)
	}
	text := []byte(s.minisign.String())
	i := slices.IndexFunc(known, func(a allowedMinisign) bool { return minisign.Verify(a.key, manifest, text) })
	if i < 0 {
		return refuse(Mismatch, "the signature of the minisign key %s does not match the manifest: the manifest was altered, or the signature is of another image", c.Fingerprint)
	}
	a := known[i]
	if p.Principal != "" && !matchList(p.Principal, a.principals) {
		return refuse(WrongPrincipal, "it is signed by the minisign key %s, and not by %s", c.Fingerprint, p.Principal)
	}
	for _, list := range p.Revoked {
		if list.hasMinisign(a.key) {
			return refuse(Revoked, "it is signed by the minisign key %s, but it is revoked in %s", c.Fingerprint, list.Name)
		}
	}
	c.Principal, c.Comment = a.principals, s.minisign.TrustedComment
	return nil
}

func rsaBits(key ssh.PublicKey) int {
	if k, ok := key.(ssh.CryptoPublicKey); ok {
		if k, ok := k.CryptoPublicKey().(*rsa.PublicKey); ok {
			return k.N.BitLen()
		}
	}
	return 0
}
