package images

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/sign"
	"imgtool/image/trust"
)

type signOptions struct {
	key       string
	signature string
	replace   bool
}

func newSignCommand(u *ui) *cobra.Command {
	var opt signOptions
	cmd := &cobra.Command{
		Use:   "sign IMAGE... --key KEY",
		Short: "Sign images with an SSH key or a minisign key",
		Long: `Sign the manifest of each image, which has the SHA-256 of all that is written to a disk.
The image is read first, so that a damaged one is not signed. The signature goes into an
.img.zst; for other formats into NAME.manifest.json.sig, or .minisig, beside the image. A
signature by the same key is replaced, those by other keys stay.

KEY is the file of an SSH key, also with a passphrase; the public key file, fingerprint or
comment of a key in ssh-agent, or "ssh-agent" for its only key; a certificate of such a key;
or the file of a minisign key. Security keys (FIDO) sign through ssh-agent.

The same signatures come from ssh-keygen and minisign, and --signature adds them:
  imgtool inspect --manifest x.img.zst > x.json
  ssh-keygen -Y sign -n imgtool-image -f KEY x.json
  imgtool sign x.img.zst --signature x.json.sig`,
		Example: `  imgtool sign --key ~/.ssh/id_ed25519 x.img.zst
  imgtool sign --key ssh-agent out/*.img.zst
  imgtool sign --signature x.json.sig x.img.zst`,
		SuggestFor: []string{"signature", "attest"},
		Args:       usage.Any,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return fault.New(fault.Usage, "name the image: imgtool sign IMAGE --key KEY")
			case (opt.key == "") == (opt.signature == ""):
				return fault.New(fault.Usage, "pass either --key KEY, or --signature FILE with a signature that was made elsewhere")
			case opt.signature != "" && len(args) > 1:
				return fault.New(fault.Usage, "--signature is of one image, and there are %d", len(args))
			}
			return runSign(cmd.Context(), args, opt, u)
		},
	}
	cmd.Flags().StringVar(&opt.key, "key", "", "`KEY` to sign with: a file, or a key of ssh-agent")
	cmd.Flags().StringVar(&opt.signature, "signature", "", "add the signatures in this `FILE`, of ssh-keygen -Y sign or minisign")
	cmd.Flags().BoolVar(&opt.replace, "replace", false, "remove all other signatures")
	return cmd
}

func runSign(ctx context.Context, images []string, opt signOptions, u *ui) error {
	s := &trust.Signing{Replace: opt.replace, Made: func() ([]*sign.Signature, error) {
		text, err := hostfile.ReadStream(opt.signature, sign.MaxFile)
		if err != nil {
			return nil, err
		}
		all := sign.Parse(text)
		if len(all) == 0 {
			return nil, fmt.Errorf("%s has no signature", opt.signature)
		}
		return all, nil
	}}
	if opt.key != "" {
		ring := option.Keys(opt.key, u)
		ring.Passphrase = option.AskPassphrase(u, "make it usable without a terminal: add an SSH key to ssh-agent with ssh-add, or take a minisign key without a passphrase (minisign -G -W)")
		key, err := sign.FindKey(ctx, ring)
		if err != nil {
			return err
		}
		when, err := option.Now()
		if err != nil {
			return err
		}
		s.Key = key
		s.Comment = func(image string) string {
			return fmt.Sprintf("timestamp:%d\tfile:%s\thashed", when.Unix(), filepath.Base(image))
		}
	}
	results := []*trust.Signed{}
	for _, image := range images {
		r, err := s.Sign(ctx, image, u.Opening())
		if err != nil {
			return errors.Join(u.Print(results), err)
		}
		results = append(results, r)
		u.EndPhase()
		u.Infof("%s: signed by %s, in %s", image, strings.Join(trust.Names(r.Added), " and "), strings.Join(r.Paths, " and "))
	}
	return u.Print(results)
}
