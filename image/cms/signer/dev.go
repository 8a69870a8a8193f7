package signer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"
)

// devUnit is the organizational unit in the certificates that [Dev] makes.
const devUnit = "imgtool development"

func isDev(cert *x509.Certificate) bool {
	return slices.Contains(cert.Subject.OrganizationalUnit, devUnit)
}

// Dev returns the key and the certificate for development in a directory, which it makes if
// they do not exist. Devices trust them if the certificate is their keyring.
func Dev(dir string, now time.Time) (key, cert string, err error) {
	key, cert = filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	_, err = os.Stat(cert)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, cert, err
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return "", "", err
	}
	c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{OrganizationalUnit: []string{devUnit}, CommonName: fmt.Sprintf("Development key %x", serial.Bytes()[:4])},
		NotBefore: now.Add(-time.Hour).Truncate(time.Second), NotAfter: now.AddDate(10, 0, 0), BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, c, c, private.Public(), private)
	if err != nil {
		return "", "", err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", err
	}
	// The certificate is last: with it there is a key.
	write := func(path, kind string, der []byte, mode fs.FileMode) error {
		return renameio.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode, renameio.WithTempDir(dir))
	}
	if err := write(key, "PRIVATE KEY", secret, 0o600); err != nil {
		return "", "", err
	}
	return key, cert, write(cert, "CERTIFICATE", der, 0o644)
}
