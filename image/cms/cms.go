// Package cms makes and checks signed messages of the Cryptographic Message Syntax (RFC
// 5652), as "openssl cms" and RAUC make them: with signed attributes and the certificate of
// each signer.
//
// It is not a general implementation, and exists because the libraries for it take the
// signing time from the clock, so that no two signatures are the same, and have no Ed25519.
// The algorithms are in the standard library. ASN.1 that is not DER, SHA-1 and
// signatures without signed attributes are refused.
package cms

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"imgtool/image/fault"
)

var (
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSigned     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidEnveloped  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 3}
	oidAuthEnv    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 23}
	oidType       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidDigest     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidTime       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 5}
	oidSHA256     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidSHA384     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}
	oidSHA512     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}
	oidRSA        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidPSS        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
	oidRSASHA256  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	oidRSASHA384  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}
	oidRSASHA512  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}
	oidECDSA256   = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidECDSA384   = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	oidECDSA512   = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}
	oidEd25519    = asn1.ObjectIdentifier{1, 3, 101, 112}
	signedDataTag = asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true}
)

// The structures are from RFC 5652, sections 3 and 5.
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"explicit,optional,tag:0"`
}

type signedData struct {
	Version          int
	DigestAlgorithms []pkix.AlgorithmIdentifier `asn1:"set"`
	Content          contentInfo
	Certificates     asn1.RawValue `asn1:"optional,tag:0"`
	CRLs             asn1.RawValue `asn1:"optional,tag:1"`
	SignerInfos      []signerInfo  `asn1:"set"`
}

type signerInfo struct {
	Version            int
	ID                 asn1.RawValue // issuerAndSerial, or [0] and a subject key identifier
	DigestAlgorithm    pkix.AlgorithmIdentifier
	SignedAttrs        asn1.RawValue `asn1:"optional,tag:0"`
	SignatureAlgorithm pkix.AlgorithmIdentifier
	Signature          []byte
	UnsignedAttrs      asn1.RawValue `asn1:"optional,tag:1"`
}

type issuerAndSerial struct {
	Issuer asn1.RawValue
	Serial asn1.RawValue
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values []asn1.RawValue `asn1:"set"`
}

// Message is a parsed message.
type Message struct {
	Encrypted bool   // the message is encrypted, and the other fields are empty
	Detached  bool   // the content is elsewhere
	Content   []byte // that is signed, unless it is detached

	// Signatures has at least one element, unless the message is encrypted.
	Signatures   []Signature
	Certificates []*x509.Certificate // in the message
}

// Signature is an unchecked signature of a message.
type Signature struct {
	Cert *x509.Certificate // of the signer
	Time time.Time         // at which the signer claims to have signed; zero if it does not say

	info   signerInfo
	attrs  []byte // the signed attributes, as they are signed
	digest []byte // of the content, from the attributes
}

// Parse parses a message of DER. It checks no signature.
func Parse(der []byte) (*Message, error) {
	m, err := parse(der)
	if err != nil {
		return nil, fault.New(fault.Corrupt, "the signature is not a CMS message that is supported: %w", err)
	}
	return m, nil
}

// Is reports whether der begins like a message that is signed or encrypted.
func Is(der []byte) bool {
	var info contentInfo
	rest, err := asn1.Unmarshal(der, &info)
	return err == nil && len(rest) == 0 && (info.Type.Equal(oidSigned) || encrypted(info.Type))
}

func encrypted(oid asn1.ObjectIdentifier) bool {
	return oid.Equal(oidEnveloped) || oid.Equal(oidAuthEnv)
}

func parse(der []byte) (*Message, error) {
	var info contentInfo
	if err := unmarshal(der, &info); err != nil {
		return nil, err
	}
	if encrypted(info.Type) {
		return &Message{Encrypted: true}, nil
	}
	if !info.Type.Equal(oidSigned) {
		return nil, fmt.Errorf("its content has the type %v", info.Type)
	}
	var d signedData
	if err := unmarshal(info.Content.Bytes, &d); err != nil {
		return nil, err
	}
	if !d.Content.Type.Equal(oidData) {
		return nil, fmt.Errorf("its signed content has the type %v", d.Content.Type)
	}
	m := &Message{Detached: len(d.Content.Content.Bytes) == 0}
	if !m.Detached {
		if err := unmarshal(d.Content.Content.Bytes, &m.Content); err != nil {
			return nil, err
		}
	}
	var err error
	if m.Certificates, err = x509.ParseCertificates(d.Certificates.Bytes); err != nil {
		return nil, fmt.Errorf("parsing its certificates: %w", err)
	}
	if len(d.SignerInfos) == 0 {
		return nil, errors.New("it has no signer")
	}
	for _, info := range d.SignerInfos {
		// OpenSSL computes the digests of this list, and none that it does not know.
		if !slices.ContainsFunc(d.DigestAlgorithms, func(a pkix.AlgorithmIdentifier) bool { return a.Algorithm.Equal(info.DigestAlgorithm.Algorithm) }) {
			return nil, fmt.Errorf("the digest algorithm %v of a signature is not in its list of digest algorithms", info.DigestAlgorithm.Algorithm)
		}
		s, err := m.parseSignature(info)
		if err != nil {
			return nil, err
		}
		m.Signatures = append(m.Signatures, *s)
	}
	return m, nil
}

// unmarshal is asn1.Unmarshal without anything after the value.
func unmarshal(der []byte, v any) error {
	rest, err := asn1.Unmarshal(der, v)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes follow its end", len(rest))
	}
	return err
}

func (m *Message) parseSignature(info signerInfo) (*Signature, error) {
	s := &Signature{info: info}
	if len(info.SignedAttrs.FullBytes) == 0 {
		return nil, errors.New("a signature has no signed attributes")
	}
	// RFC 5652, 5.4: they are signed with the tag of a SET in place of [0].
	s.attrs = append([]byte{asn1.TagSet | 0x20}, info.SignedAttrs.FullBytes[1:]...)
	var attrs []attribute
	rest, err := asn1.UnmarshalWithParams(s.attrs, &attrs, "set")
	if err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("the signed attributes are damaged: %w", err)
	}
	var contentType asn1.ObjectIdentifier
	seen := map[string]bool{}
	for _, a := range attrs {
		id := a.Type.String()
		if seen[id] || len(a.Values) != 1 {
			return nil, fmt.Errorf("the signed attribute %s has not exactly one value", id)
		}
		seen[id] = true
		switch value := a.Values[0].FullBytes; {
		case a.Type.Equal(oidType):
			err = unmarshal(value, &contentType)
		case a.Type.Equal(oidDigest):
			err = unmarshal(value, &s.digest)
		case a.Type.Equal(oidTime):
			err = unmarshal(value, &s.Time)
		}
		if err != nil {
			return nil, fmt.Errorf("the signed attribute %s is damaged: %w", id, err)
		}
	}
	if !contentType.Equal(oidData) || s.digest == nil {
		return nil, errors.New("a signature does not state the type and digest of the content")
	}
	s.Cert, err = m.certificate(info.ID)
	return s, err
}

// certificate returns the certificate in the message that a signer is identified by.
func (m *Message) certificate(id asn1.RawValue) (*x509.Certificate, error) {
	var of issuerAndSerial
	key := id.Class == asn1.ClassContextSpecific && id.Tag == 0
	if !key {
		if err := unmarshal(id.FullBytes, &of); err != nil {
			return nil, fmt.Errorf("a signer's certificate is not identified: %w", err)
		}
	}
	for _, c := range m.Certificates {
		if key {
			if len(id.Bytes) > 0 && string(c.SubjectKeyId) == string(id.Bytes) {
				return c, nil
			}
			continue
		}
		serial, err := asn1.Marshal(c.SerialNumber)
		if err == nil && string(serial) == string(of.Serial.FullBytes) && string(c.RawIssuer) == string(of.Issuer.FullBytes) {
			return c, nil
		}
	}
	return nil, errors.New("it lacks the certificate of a signer")
}
