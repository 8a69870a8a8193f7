package images

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"imgtool/boards"
	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image"
	"imgtool/image/build/job"
)

type buildOptions struct {
	job.Request
	seed  option.Seed
	cache option.Cache
}

func newBuildCommand(u *ui) *cobra.Command {
	var opt buildOptions
	cmd := &cobra.Command{
		Use:   "build --board NAME|FILE.toml",
		Short: "Build a disk image from a board's definition",
		Long: `Build a disk image from a board's definition. This needs no root rights.

Without any input, a small starter system is built from Debian's packages. Otherwise
each input that the board uses is looked up by its name in --inputs; --input and
--rootfs take precedence.

A reference (REF) is a path, or
  rootfs:/PATH           a file in the root file system
  deb:PACKAGE/PATH       a file in a Debian package of the board's architecture
  starter                the board's default source
and for --rootfs also a directory, a tar (.tar, .gz, .xz, .zst), a squashfs or erofs,
an OCI layout or archive, a docker archive, oci:PATH:NAME or oci:PATH@DIGEST for one
image of several, or docker://HOST/NAME:TAG.

For a board with several media there is an image for each: -o photon.img is
photon-emmc.img, photon-sd.img and photon-nvme.img. --medium builds one of them; --size
is the size of the disk that the last partition of a medium fills.

The image's name determines its format: .img, .img.zst, .img.xz, .img.gz, or .simg for
Android sparse. NAME.manifest.json and NAME.bmap are written beside it, and on request
NAME.spdx.json and NAME.provenance.json. Times come from
SOURCE_DATE_EPOCH, and later times of files become that one. Scratch files are in
TMPDIR, and what is unpacked there is limited by --max-unpacked.

Compressed blocks are stored in a cache (imgtool cache), so that after a small change
few blocks are compressed again. The image is the same with the cache and without.`,
		Example: `  imgtool build --board rock64
  imgtool build --board rock64 --inputs ./boot --rootfs rootfs.tar -o x.img.zst
  imgtool build --board ./mine.toml --rootfs docker://localhost:5000/os:1 \
      --input Image=rootfs:/boot/vmlinuz --inputs ./boot --seed config.toml
  imgtool build --board photon-nx --rootfs l4t.tar -o photon.img.zst`,
		SuggestFor: []string{"make", "create", "mk", "image", "compile", "mkimage"},
		Args:       usage.None("-o names the output, and --input, --inputs and --rootfs the inputs"),
		RunE:       func(cmd *cobra.Command, args []string) error { return runBuild(cmd, opt, u) },
	}
	opt.addFlags(cmd)
	return cmd
}

func (opt *buildOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&opt.Board, "board", "", "a board's `NAME`, or the path of its definition")
	f.StringVar(&opt.Layout, "layout", "", "another layout of the board, by its `NAME`, such as ab-squashfs")
	f.StringVarP(&opt.Output, "output", "o", "", "image `FILE` to write (default out/BOARD-BUILDID.img.zst)")

	opt.addInputs(cmd)
	opt.Slots = "a"
	usage.AddEnum(cmd, &opt.Slots, "slots", "slots in the image", "a", "ab")
	f.StringArrayVar(&opt.Media, "medium", nil, "build the medium with this `NAME` only; may be repeated")
	f.StringArrayVar(&opt.Sizes, "size", nil, "`MEDIUM=N`, size of the disk to fill: bytes, or with KiB, MiB, GiB or s for sectors; may be repeated")
	f.StringVar(&opt.Cmdline, "cmdline", "", "kernel arguments to add")
	f.StringVar(&opt.BuildID, "build-id", "", "build `ID` (default: derived from the inputs)")
	usage.MayBeEmpty(cmd, "cmdline", "build-id")
	usage.Group(cmd, "Image", "slots", "medium", "size", "cmdline", "build-id")
	opt.addRoot(cmd)
	f.StringVar(&opt.seed.File, "seed", "", "config.toml for the device's first boot, a `FILE`")
	opt.seed.AddFlags(cmd)
	usage.Group(cmd, "Seed", "seed", "values", "unit")

	f.BoolVar(&opt.SBOM, "sbom", false, "list the packages in the image as SPDX, in NAME.spdx.json beside it")
	f.BoolVar(&opt.Provenance, "provenance", false, "state how the image was built as SLSA, in NAME.provenance.json beside it")
	f.BoolVar(&opt.ImageSHA256, "image-sha256", false, "compute the SHA-256 of the decompressed image, too, for --json")
	usage.Group(cmd, "Documents", "sbom", "provenance", "image-sha256")
	opt.addCompression(cmd)
}

// addInputs adds the flags that name the inputs.
func (opt *buildOptions) addInputs(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&opt.InputsDir, "inputs", "", "directory `DIR` with the inputs under the names that the board uses")
	f.StringArrayVar(&opt.Inputs, "input", nil, "`NAME=REF`, one input; may be repeated")
	f.StringVar(&opt.Rootfs, "rootfs", "", "`REF` of the root file system")
	f.BoolVar(&opt.KeepOwners, "keep-owners", false, "keep the owners of a root file system that is a directory")
	f.StringArrayVar(&opt.Parts, "partition", nil, "`[MEDIUM/]NAME=REF`, content of a partition, raw or Android sparse; may be repeated")
	usage.Group(cmd, "Inputs", "inputs", "input", "rootfs", "keep-owners", "partition")
}

// addRoot adds the flags that change the root file system.
func (opt *buildOptions) addRoot(cmd *cobra.Command) {
	f := cmd.Flags()
	opt.Profile = boards.Profiles[0]
	usage.AddEnum(cmd, &opt.Profile, "profile", "what is provisioned; development leaves out the lockdown", boards.Profiles...)
	f.StringVar(&opt.Edits, "edits", "", "`FILE` of edits of the root file system, see docs/reference/edits.md")
	f.StringArrayVar(&opt.Vars, "var", nil, "`NAME=TEXT`, a variable of the board's edits or of --edits; may be repeated")
	f.BoolVar(&opt.Generalize, "generalize", false, "remove SSH host keys, machine IDs, random seeds and other per-unit data")
	f.BoolVar(&opt.KeepKeys, "keep-registration-keys", false, "leave the unit's registration keys on the recovery card")
	f.StringVar(&opt.ProvisionConf, "provision-conf", "", "factory_provision.conf with sizes, labels and lists, a `FILE`")
	usage.Group(cmd, "Root file system", "profile", "edits", "var", "generalize", "keep-registration-keys", "provision-conf")
}

// addCompression adds the flags for the compression of the root file system.
func (opt *buildOptions) addCompression(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&opt.Compression, "compression", "zstd", "of the root file system, `CODEC[:LEVEL]`: zstd, xz, gzip or lz4")
	f.StringVar(&opt.BlockSize, "block-size", "1MiB", "of the root file system, a `SIZE` from 4KiB to 1MiB")
	f.BoolVar(&opt.Align, "align", true, "begin the blocks of files at multiples of 4 KiB, so that updates change less; takes some 0.5 %")
	f.StringVar(&opt.Like, "like", "", "earlier `IMAGE[:PARTITION]`, file or URL, or cache for the last build of the board: keep blocks of its root file system where they are, so that an update writes little")
	f.IntVar(&opt.Jobs, "jobs", 0, "blocks to compress in parallel (default: one per processor); the image is the same")
	opt.cache.AddFlags(cmd)
	usage.Group(cmd, "Compression", "compression", "block-size", "align", "like", "jobs", "cache-dir", "cache-key", "cache-size", "no-cache")
}

func runBuild(cmd *cobra.Command, opt buildOptions, u *ui) error {
	ctx, begin := cmd.Context(), time.Now()
	opt.Keep, opt.Version = []string{opt.seed.File, opt.seed.Values}, cmd.Root().Version
	j, err := job.Prepare(opt.Request, u.Warn)
	if err != nil {
		return err
	}
	root, _ := os.Stat(j.Inputs["rootfs"])
	err = usage.CheckUseless(cmd,
		usage.Useless{If: !j.Board.HasSquashfs(), Why: "for " + j.Board.Name + ", which has no squashfs", Flags: []string{"compression", "block-size", "align", "like", "jobs"}},
		usage.Useless{If: opt.cache.None, Why: "with --no-cache", Flags: []string{"cache-dir", "cache-key", "cache-size"}},
		usage.Useless{If: root == nil || !root.IsDir(), Why: "unless the root file system is a directory", Flags: []string{"keep-owners"}})
	if err != nil {
		return err
	}
	if opt.seed.Given() {
		if j.Seed, err = opt.seed.Read(); err != nil {
			return err
		}
	}
	blocks, err := opt.cache.Open(u)
	if err != nil {
		return err
	}
	several := len(j.Board.Media) > 1
	all := []job.File{}
	err = j.Run(ctx, blocks, &u.Unpacked, u, func(f job.File) error {
		all = append(all, f)
		if u.JSON {
			return nil
		}
		name := f.Board
		if several {
			name += " " + f.Medium
		}
		return builtFile(u, name, f, time.Since(begin))
	})
	u.EndPhase()
	switch {
	case !u.JSON || len(all) == 0:
		return err
	case several:
		return errors.Join(u.Print(all), err)
	}
	return errors.Join(u.Print(all[0]), err)
}

// builtFile describes an image that was saved, and prints its path.
func builtFile(u *ui, name string, f job.File, took time.Duration) error {
	size := image.FormatSize(f.FileSize)
	if f.Allocated < f.FileSize {
		size = image.FormatSize(f.Allocated) + " on disk"
	}
	u.Infof("%s build %s: %s image with %s of content, a file of %s, in %s", name, f.BuildID,
		image.FormatSize(f.Size), image.FormatSize(f.Content), size, took.Round(100*time.Millisecond))
	wide := 10
	for _, p := range f.Partitions {
		wide = max(wide, len(p.Name))
	}
	for _, p := range f.Partitions {
		use := "made by the device on its first boot"
		if !p.Deferred {
			use = fmt.Sprintf("%s of %s", image.FormatSize(p.Used), image.FormatSize(p.Len))
		}
		u.Infof("  %2d %-*s %s", p.Number, wide, p.Name, use)
	}
	return u.Printf("%s\n", f.Path)
}
