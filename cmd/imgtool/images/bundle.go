package images

import (
	"context"
	"crypto/x509"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"imgtool/boards"
	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image"
	"imgtool/image/build"
	"imgtool/image/build/job"
	"imgtool/image/cms"
	"imgtool/image/cms/signer"
	"imgtool/image/fault"
	"imgtool/image/update"
	"imgtool/image/volume"
)

type bundleOptions struct {
	in        buildOptions // for the image, if it is not given
	out       update.Options
	signing   signer.Options
	keyring   option.Keyring
	blockSize string // of the payload
}

func newBundleCommand(u *ui) *cobra.Command {
	var opt bundleOptions
	cmd := &cobra.Command{
		Use:   "bundle [IMAGE]",
		Short: "Make an update bundle for RAUC",
		Long: `Make a signed update bundle (.raucb) that rauc install installs on a device: of an
image that imgtool has built, or of a board's inputs as imgtool build takes them. The
board's definition says which partitions are in the bundle, and for which devices it is
([rauc], see docs/reference/boards.md).

The bundle has the format verity, and if the definition says so a hash for each 4 KiB of
an image (adaptive=block-hash-index), so that a device that streams it fetches only
blocks that it does not have. Neither root rights nor the program rauc are needed.

The key is a PEM file or a PKCS#11 URI (pkcs11:...), which needs the openssl program. Its
passphrase is asked for, or in IMGTOOL_KEY_PASSPHRASE. The same inputs and the same key
give the same bundle.`,
		Example: `  imgtool bundle x.img.zst --key signing.key.pem --cert signing.pem
  imgtool bundle --board rock64 --inputs ./boot --rootfs rootfs.tar --dev
  imgtool bundle x.img.zst --key 'pkcs11:token=release;object=rauc' \
      --cert signing.pem --keyring ca.pem --bundle-version 25.11.3`,
		SuggestFor: []string{"raucb", "update", "ota", "rauc"},
		Args:       usage.Operands("?image"),
		RunE:       func(cmd *cobra.Command, args []string) error { return runBundle(cmd, args, opt, u) },
	}
	opt.addFlags(cmd)
	return cmd
}

// only names the flags of a bundle that is not made of an image.
var only = []string{"layout", "inputs", "input", "rootfs", "keep-owners", "partition", "cmdline", "build-id", "profile", "edits", "var", "generalize",
	"keep-registration-keys", "provision-conf", "compression", "block-size", "cache-dir", "cache-key", "cache-size", "no-cache"}

func (opt *bundleOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&opt.in.Board, "board", "", "a board's `NAME`, or the path of its definition (default: from the image)")
	f.StringVar(&opt.in.Layout, "layout", "", "another layout of the board, by its `NAME`")
	f.StringVarP(&opt.out.Output, "output", "o", "", "bundle `FILE` to write (default out/BOARD-BUILDID.raucb)")
	f.StringVar(&opt.in.BuildID, "build-id", "", "build `ID` (default: derived from the inputs)")
	f.StringVar(&opt.in.Cmdline, "cmdline", "", "kernel arguments to add")
	usage.MayBeEmpty(cmd, "cmdline", "build-id")

	f.StringVar(&opt.out.Version, "bundle-version", "", "`TEXT` by which devices know the version (default: the build ID)")
	f.StringVar(&opt.out.Compatible, "compatible", "", "`TEXT` that the devices have in their system.conf (default: the board's)")
	f.StringVar(&opt.out.Description, "description", "", "`TEXT` for people")
	f.StringVar(&opt.out.Compression, "payload-compression", "zstd", "of the bundle, `CODEC[:LEVEL]`: zstd, xz, gzip or lz4")
	f.StringVar(&opt.blockSize, "payload-block-size", "64KiB", "of the bundle, a `SIZE` from 4KiB to 1MiB: a device fetches at least this much for each changed place")
	usage.Group(cmd, "Bundle", "bundle-version", "compatible", "description", "payload-compression", "payload-block-size")

	f.StringVar(&opt.signing.Key, "key", "", "private key to sign with: a PEM `FILE`, or a URI that begins with pkcs11:")
	f.StringVar(&opt.signing.Cert, "cert", "", "its certificate, a PEM `FILE`")
	f.StringArrayVar(&opt.signing.Intermediates, "intermediate", nil, "PEM `FILE` with certificates between it and the devices' keyring; may be repeated")
	f.BoolVar(&opt.signing.Dev, "dev", false, "for development: accept a key that is no secret; without --key, make one and use it")
	opt.keyring.AddFlags(cmd, "PEM `FILE` with the certificates that devices trust: refuse to sign with a key that they do not")
	usage.Group(cmd, "Signature", "key", "cert", "intermediate", "dev", "keyring", "purpose")

	opt.in.addInputs(cmd)
	opt.in.addRoot(cmd)
	opt.in.addCompression(cmd)
}

func runBundle(cmd *cobra.Command, args []string, opt bundleOptions, u *ui) error {
	ctx, begin := cmd.Context(), time.Now()
	if len(args) == 0 && opt.in.Board == "" {
		return fault.New(fault.Usage, "give an image, or a board to build one for: imgtool bundle IMAGE, or imgtool bundle --board NAME")
	}
	err := usage.CheckUseless(cmd,
		usage.Useless{If: len(args) == 1, Why: "with an image, which is built already", Flags: only},
		usage.Useless{If: opt.keyring.File == "", Why: "without --keyring", Flags: []string{"purpose"}})
	if err != nil {
		return err
	}
	o := &opt.out
	o.Jobs, opt.in.Version = opt.in.Jobs, cmd.Root().Version
	if o.BlockSize, err = job.ParseBlockSize("--payload-block-size", opt.blockSize); err != nil {
		return err
	}
	var src *volume.Source
	if len(args) == 1 {
		if src, err = volume.Open(args[0], u.Opening()); err != nil {
			return err
		}
		defer src.Close()
		if err := src.Seek(ctx); err != nil {
			return err
		}
		o.Board, err = update.BoardOf(opt.in.Board, src)
	} else {
		o.Board, err = boards.LoadLayout(opt.in.Board, opt.in.Layout)
	}
	if err == nil {
		err = o.Board.CheckBundles()
	}
	if err == nil {
		err = opt.loadSigner(ctx, u)
	}
	if err == nil {
		err = o.Check()
	}
	if err != nil {
		return err
	}
	save := func(src *volume.Source) error {
		when, given, err := job.SourceDate()
		if err != nil {
			return err
		}
		if o.Time = when; !given && src.Manifest != nil {
			o.Time = src.Manifest.Time
		}
		file, err := update.Save(ctx, src, *o, u.Phase)
		if err != nil {
			return err
		}
		return printBundle(u, file, time.Since(begin))
	}
	if src != nil {
		return save(src)
	}
	return opt.build(ctx, u, save)
}

// build builds the image of a board and calls use with it.
func (opt *bundleOptions) build(ctx context.Context, u *ui, use func(*volume.Source) error) error {
	in := &opt.in
	in.Media, in.Slots = []string{opt.out.Board.RAUC.Images[0].Medium}, "a"
	j, err := job.Prepare(in.Request, u.Warn)
	if err != nil {
		return err
	}
	blocks, err := in.cache.Open(u)
	if err != nil {
		return err
	}
	return j.Images(ctx, blocks, &u.Unpacked, u, func(img build.Image) error {
		return use(volume.FromImage("the image", img.Image, img.Manifest))
	})
}

// loadSigner loads the key and the certificates.
func (opt *bundleOptions) loadSigner(ctx context.Context, u *ui) error {
	s := &opt.signing
	s.Known, s.Now = opt.out.Board.RAUC.DevelopmentKeys, time.Now()
	s.Ask = func(ctx context.Context, file string) (string, error) {
		return u.Secret(ctx, "Passphrase of "+file+": ", file+" has a passphrase: set it in "+signer.PassphraseVariable)
	}
	switch {
	case s.Key == "" && s.Cert == "" && s.Dev:
		dir, err := os.UserConfigDir()
		if err != nil {
			return err
		}
		if s.Key, s.Cert, err = signer.Dev(filepath.Join(dir, "imgtool", "dev-signing"), s.Now); err != nil {
			return err
		}
		u.Infof("signing with a key for development; devices need this keyring: %s", s.Cert)
	case s.Key == "" && s.Cert == "":
		return fault.New(fault.Usage, "a bundle must be signed: give --key and --cert, or --dev for a key for development")
	case s.Key == "" || s.Cert == "":
		return fault.New(fault.Usage, "--key and --cert belong together: give both")
	}
	key, err := signer.Load(ctx, *s)
	if err != nil {
		return err
	}
	opt.out.Signer = *key
	opt.out.Purpose = cms.Purpose(opt.keyring.Purpose)
	opt.out.Keyring, err = opt.keyring.Certificates()
	if key.Cert.PublicKeyAlgorithm == x509.Ed25519 {
		u.Warnf("%s: the key is an Ed25519 key, with which RAUC cannot check signatures if it uses OpenSSL 3.0, as in Debian 12", s.Cert)
	}
	return err
}

// printBundle describes a bundle that was made, and prints its path.
func printBundle(u *ui, f *update.File, took time.Duration) error {
	u.EndPhase()
	if u.JSON {
		return u.Print(f)
	}
	u.Infof("bundle for %s, version %s, signed by %s: a file of %s, in %s", f.Compatible, f.Version, f.Signer, image.FormatSize(f.FileSize), took.Round(100*time.Millisecond))
	for _, i := range f.Images {
		u.Infof("  %-10s %s", i.Class, image.FormatSize(i.Size))
	}
	return u.Printf("%s\n", f.Path)
}
