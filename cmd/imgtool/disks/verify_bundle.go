package disks

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image/cms"
	"imgtool/image/rauc"
	"imgtool/image/volume"
)

// bundleTrust is what an update bundle is checked against.
type bundleTrust struct {
	keyring    option.Keyring
	compatible string
}

// bundleFlags are its flags.
var bundleFlags = []string{"keyring", "purpose", "compatible"}

func (t *bundleTrust) addFlags(cmd *cobra.Command) {
	t.keyring.AddFlags(cmd, "PEM `FILE` with the certificates that devices trust, for an update bundle")
	cmd.Flags().StringVar(&t.compatible, "compatible", "", "`TEXT` that devices have in their system.conf, for an update bundle")
	usage.Group(cmd, "Update bundles", bundleFlags...)
}

func verifyBundle(ctx context.Context, src *volume.Source, t bundleTrust, u *ui) error {
	begin := time.Now()
	ring, err := t.keyring.Certificates()
	if err != nil {
		return err
	}
	b, err := rauc.Open(src.Image, src.Image.Size())
	if err == nil {
		err = b.Verify(ctx, rauc.Trust{Keyring: ring, Purpose: cms.Purpose(t.keyring.Purpose), Time: time.Now(), Compatible: t.compatible}, u.Phase)
	}
	if err != nil {
		return src.Wrap(err)
	}
	u.EndPhase()
	var signers []string
	for _, s := range b.Signature.Signatures {
		signers = append(signers, cms.Name(s.Cert))
	}
	if names := b.Unchecked(); len(names) > 0 {
		u.Warnf("%s: only indexes of %s are in it: the images are in a store of casync, and were not checked", src.Name, strings.Join(names, ", "))
	}
	took := time.Since(begin)
	if u.JSON {
		result := verified(src, took)
		result["size"], result["bundle"], result["signers"], result["trusted"] = src.Image.Size(), b.Manifest, signers, len(ring) > 0
		return u.Print(result)
	}
	who := fmt.Sprintf("whether devices trust its signer, %s, was not checked: give their certificates with --keyring", signers[0])
	if len(ring) > 0 {
		who = fmt.Sprintf("its signer, %s, is trusted by %s", signers[0], t.keyring.File)
	}
	parts := "signature and images"
	if b.Format == rauc.Verity {
		parts = "signature, hash tree and images"
	}
	u.Infof("%s: a bundle for %s, version %s: its %s are whole, and %s, in %s", src.Name, b.Manifest.Compatible, b.Manifest.Version, parts, who, took.Round(100*time.Millisecond))
	return nil
}
