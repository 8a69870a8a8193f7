package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/usage"
	"imgtool/image/build"
	"imgtool/image/fault"
	"imgtool/image/sbom"
	"imgtool/image/volume"
)

func newSBOMCommand(u *ui) *cobra.Command {
	return &cobra.Command{
		Use:   "sbom FILE|DISK",
		Short: "List the packages in an image as SPDX",
		Long: `Print an SPDX 2.3 document of what is in an image or disk, also of one that another
program made: the packages of Debian, Alpine and RPM and the Nix store paths in its file
systems, and the boot files on its FATs. The build with --sbom knows more: the inputs and
the layers of a container image. The document is the same for the same image.`,
		Example: `  imgtool sbom x.img.zst > x.img.zst.spdx.json
  imgtool sbom raspios.img.xz`,
		SuggestFor: []string{"spdx", "packages", "bom"},
		Args:       usage.Operands("image"),
		RunE:       func(cmd *cobra.Command, args []string) error { return runSBOM(cmd.Context(), args[0], u) },
	}
}

func runSBOM(ctx context.Context, path string, u *ui) error {
	p := volume.ParsePlace(path)
	if p.Inside {
		return fault.New(fault.Usage, "%s: name an image, not a part of one", path)
	}
	when, _, err := build.SourceDate()
	if err != nil {
		return err
	}
	l, err := p.Open(ctx, u.Opening())
	if err != nil {
		return err
	}
	defer l.Source.Close()
	doc, err := sbom.OfImage(ctx, l, when, "imgtool-"+programVersion(), u.Warn)
	if err != nil {
		return err
	}
	u.EndPhase()
	if u.JSON {
		return u.Print(json.RawMessage(doc.Encode()))
	}
	return u.Write(doc.Encode())
}
