package option

import (
	"crypto/x509"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/usage"
	"imgtool/image/cms"
	"imgtool/image/cms/signer"
)

// Keyring says which signers of update bundles are trusted.
type Keyring struct {
	File    string // empty: it is not checked who signed
	Purpose string
}

// AddFlags adds the flags. about explains --keyring.
func (k *Keyring) AddFlags(cmd *cobra.Command, about string) {
	cmd.Flags().StringVar(&k.File, "keyring", "", about)
	k.Purpose = cms.Purposes[0]
	usage.AddEnum(cmd, &k.Purpose, "purpose", "what the signer's certificate must permit, as check-purpose of RAUC", cms.Purposes...)
}

// Certificates returns the certificates in the keyring, or nil without one.
func (k *Keyring) Certificates() ([]*x509.Certificate, error) {
	if k.File == "" {
		return nil, nil
	}
	return signer.Certificates(k.File)
}
