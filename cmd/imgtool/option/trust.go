package option

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/usage"
	"imgtool/image/sign"
	"imgtool/image/trust"
	"imgtool/image/volume"
)

// Trust says whose signatures an image must have.
type Trust struct{ trust.Options }

func (opt *Trust) AddFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&opt.Signers, "allowed-signers", nil, "require a signature by a signer in this `FILE`, an allowed_signers file of ssh-keygen or a public key of minisign; may be repeated")
	f.BoolVar(&opt.Require, "require-signature", false, "require a signature by a signer of the board's definition, of this computer, or of --allowed-signers")
	f.StringVar(&opt.Principal, "principal", "", "require that the signer is this `PRINCIPAL` in the list of allowed signers")
	f.StringVar(&opt.Revoked, "revoked", "", "`FILE` with keys that are not accepted: a key revocation list of ssh-keygen, or public keys")
	f.StringVar(&opt.Signature, "signature", "", "`FILE` with signatures of the image, besides those in it and beside it")
	usage.Group(cmd, "Signatures", "allowed-signers", "require-signature", "principal", "revoked", "signature")
}

// Given reports whether the user asks for signatures.
func (opt *Trust) Given() bool {
	return len(opt.Signers) > 0 || opt.Require || opt.Principal != "" || opt.Revoked != "" || opt.Signature != ""
}

// Policy returns the policy for an image for a board, which may be empty.
func (opt *Trust) Policy(board string, u *ui) (*trust.Policy, error) {
	asked, err := Board(board)
	if err != nil {
		return nil, err
	}
	opt.Warn = u.Warn
	return trust.NewPolicy(opt.Options, asked)
}

// CheckSignatures checks the signatures of an image if that is required, and the content of a
// file against the manifest that they sign.
func CheckSignatures(ctx context.Context, src *volume.Source, policy *trust.Policy, u *ui) ([]sign.Checked, error) {
	all, err := policy.Check(src)
	if err != nil || all == nil {
		return nil, err
	}
	if src.File != nil {
		if err := src.CheckPieces(ctx); err != nil {
			return nil, err
		}
	}
	u.Infof("%s is signed by %s", src.Name, strings.Join(trust.Names(all), " and "))
	return all, nil
}
