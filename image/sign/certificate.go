package sign

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Critical options of certificates (OpenSSH's PROTOCOL.certkeys). Those about logins do not
// concern signatures of files.
var loginOptions = []string{"force-command", "source-address"}

// checkCertificate checks the certificate of a key whose authority is in a line of allowed
// signers. It returns the principals that the certificate and the line have in common, or the
// principal that the user asks for.
func (p *Policy) checkCertificate(a allowed, cert *ssh.Certificate) (principals string, err *Error) {
	print, by := ssh.FingerprintSHA256(cert.Key), ssh.FingerprintSHA256(cert.SignatureKey)
	bad := func(format string, args ...any) (string, *Error) {
		return "", refuse(BadCertificate, "it is signed by the key %s with a certificate of %s that is not valid: %s", print, by, fmt.Sprintf(format, args...))
	}
	if cert.CertType != ssh.UserCert {
		return bad("it is not the certificate of a user")
	}
	if cert.Signature.Format == ssh.KeyAlgoRSA {
		return bad("it is signed with SHA-1")
	}
	for name := range cert.CriticalOptions {
		if !slices.Contains(loginOptions, name) {
			return bad("it has the critical option %.80q, which is unknown", name)
		}
	}
	// The library checks the signature of the authority, and nothing else that is not checked here.
	valid := p.Time
	if cert.ValidAfter < 1<<62 {
		valid = time.Unix(int64(cert.ValidAfter), 0)
	}
	principal := ""
	if len(cert.ValidPrincipals) > 0 {
		principal = cert.ValidPrincipals[0]
	}
	checker := ssh.CertChecker{SupportedCriticalOptions: loginOptions, Clock: func() time.Time { return valid }}
	if err := checker.CheckCert(principal, cert); err != nil {
		return bad("%s", strings.TrimPrefix(err.Error(), "ssh: "))
	}
	now := uint64(max(p.Time.Unix(), 0))
	switch {
	case now < cert.ValidAfter:
		return "", refuse(NotYetValid, "it is signed by the key %s, whose certificate is valid from %s on; the time is %s", print, show(time.Unix(int64(cert.ValidAfter), 0)), show(p.Time))
	case now >= cert.ValidBefore:
		return "", refuse(Expired, "it is signed by the key %s, whose certificate was valid until %s; the time is %s", print, show(time.Unix(int64(cert.ValidBefore), 0)), show(p.Time))
	}
	var common []string
	for _, name := range cert.ValidPrincipals {
		if matchList(name, a.principals) && (p.Principal == "" || name == p.Principal) {
			common = append(common, name)
		}
	}
	if len(common) == 0 {
		who := a.principals
		if p.Principal != "" {
			who = p.Principal
		}
		return "", refuse(WrongPrincipal, "it is signed by the key %s, whose certificate is for %q, and not for %s", print, cert.ValidPrincipals, who)
	}
	return strings.Join(common, ","), nil
}
