package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Signer signs messages.
type Signer struct {
	Key    crypto.Signer // RSA, ECDSA or Ed25519
	Cert   *x509.Certificate
	Others []*x509.Certificate // that a receiver needs to check Cert
	Time   time.Time           // of the signature
}

// method is how a key signs.
type method struct {
	hash      crypto.Hash // of the content
	digest    asn1.ObjectIdentifier
	signature pkix.AlgorithmIdentifier
	whole     bool // the attributes are signed, and not their hash
}

func methodOf(public crypto.PublicKey) (method, error) {
	sha256 := method{hash: crypto.SHA256, digest: oidSHA256}
	switch public.(type) {
	case *rsa.PublicKey:
		sha256.signature = pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: asn1.NullRawValue}
		return sha256, nil
	case *ecdsa.PublicKey:
		sha256.signature = pkix.AlgorithmIdentifier{Algorithm: oidECDSA256}
		return sha256, nil
	case ed25519.PublicKey: // RFC 8419, 3
		return method{crypto.SHA512, oidSHA512, pkix.AlgorithmIdentifier{Algorithm: oidEd25519}, true}, nil
	}
	return method{}, errors.New("keys of this kind are not supported, only RSA, ECDSA and Ed25519")
}

// CheckKey reports a certificate whose key cannot sign.
func CheckKey(cert *x509.Certificate) error {
	_, err := methodOf(cert.PublicKey)
	return err
}

// Sign returns a message that has the content. The same content, key, certificates and time
// give the same bytes if the key signs in a deterministic way: RSA and Ed25519 do,
// and the keys of package ecdsa.
func (s Signer) Sign(content []byte) ([]byte, error) {
	how, err := methodOf(s.Cert.PublicKey)
	if err != nil {
		return nil, err
	}
	attrs, err := s.attributes(how, content)
	if err != nil {
		return nil, err
	}
	signature, err := s.sign(how, attrs)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	id, err := asn1.Marshal(struct {
		Issuer asn1.RawValue
		Serial any
	}{asn1.RawValue{FullBytes: s.Cert.RawIssuer}, s.Cert.SerialNumber})
	if err != nil {
		return nil, err
	}
	text, err := asn1.Marshal(content)
	if err != nil {
		return nil, err
	}
	digest := pkix.AlgorithmIdentifier{Algorithm: how.digest}
	data, err := asn1.Marshal(signedData{
		Version:          1,
		DigestAlgorithms: []pkix.AlgorithmIdentifier{digest},
		Content:          contentInfo{oidData, explicit(text)},
		Certificates:     explicit(s.certificates()),
		SignerInfos: []signerInfo{{Version: 1, ID: asn1.RawValue{FullBytes: id}, DigestAlgorithm: digest,
			SignedAttrs:        asn1.RawValue{FullBytes: append([]byte{0xa0}, attrs[1:]...)},
			SignatureAlgorithm: how.signature, Signature: signature}},
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(contentInfo{oidSigned, explicit(data)})
}

// explicit returns a value with the tag [0].
func explicit(b []byte) asn1.RawValue {
	v := signedDataTag
	v.Bytes = b
	return v
}

// certificates returns the certificates in the order of a set of DER.
func (s Signer) certificates() []byte {
	all := [][]byte{s.Cert.Raw}
	for _, c := range s.Others {
		all = append(all, c.Raw)
	}
	slices.SortFunc(all, bytes.Compare)
	return bytes.Join(slices.CompactFunc(all, bytes.Equal), nil)
}

// attributes returns the signed attributes as a set of DER.
func (s Signer) attributes(how method, content []byte) ([]byte, error) {
	h := how.hash.New()
	h.Write(content)
	var all [][]byte
	for _, a := range []struct {
		of    asn1.ObjectIdentifier
		value any
	}{{oidType, oidData}, {oidDigest, h.Sum(nil)}, {oidTime, s.Time.UTC()}} {
		value, err := asn1.Marshal(a.value)
		if err != nil {
			return nil, err
		}
		b, err := asn1.Marshal(attribute{a.of, []asn1.RawValue{{FullBytes: value}}})
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	slices.SortFunc(all, bytes.Compare)
	return asn1.Marshal(asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: bytes.Join(all, nil)})
}

func (s Signer) sign(how method, attrs []byte) ([]byte, error) {
	if how.whole {
		return s.Key.Sign(rand.Reader, attrs, crypto.Hash(0))
	}
	h := how.hash.New()
	h.Write(attrs)
	if key, ok := s.Key.(*ecdsa.PrivateKey); ok {
		return key.Sign(nil, h.Sum(nil), how.hash) // without random numbers: RFC 6979
	}
	return s.Key.Sign(rand.Reader, h.Sum(nil), how.hash)
}
