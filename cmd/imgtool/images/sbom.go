package images

import (
	"context"
	"errors"
	"io/fs"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image/artifact"
	"imgtool/image/build/job"
	"imgtool/image/fault"
	"imgtool/image/sbom"
	"imgtool/image/volume"
)

func newSBOMCommand(u *ui) *cobra.Command {
	var scan bool
	cmd := &cobra.Command{
		Use:   "sbom FILE|DISK",
		Short: "List the packages in an image as SPDX",
		Long: `Print the SPDX 2.3 document that the build with --sbom put into an image or beside it.
Without one, or with --scan, make a document of what is in an image or disk, also of one
that another program made: the packages of Debian, Alpine and RPM and the Nix store paths
in its file systems, and the boot files on its FATs. The document of the build knows
more: the inputs and the layers of a container image. The document is the same for the
same image.`,
		Example: `  imgtool sbom x.img.zst > sbom.spdx.json
  imgtool sbom raspios.img.xz`,
		SuggestFor: []string{"spdx", "packages", "bom"},
		Args:       usage.Operands("image"),
		RunE:       func(cmd *cobra.Command, args []string) error { return runSBOM(cmd, args[0], scan, u) },
	}
	cmd.Flags().BoolVar(&scan, "scan", false, "read the file systems, also if the image has a document")
	return option.AddRegistry(cmd, u)
}

func runSBOM(cmd *cobra.Command, path string, scan bool, u *ui) error {
	ctx, p := cmd.Context(), volume.ParsePlace(path)
	if p.Inside {
		return fault.New(fault.Usage, "%s: name an image, not a part of one", path)
	}
	when, _, err := job.SourceDate()
	if err != nil {
		return err
	}
	s, err := volume.Open(p.File, u.Opening())
	if err != nil {
		return err
	}
	defer s.Close()
	text, err := attachedSBOM(ctx, s, scan, u)
	if err != nil {
		return err
	}
	if text != nil {
		return u.WriteJSON(text)
	}
	l, err := s.Locate(p)
	if err != nil {
		return err
	}
	doc, err := sbom.OfImage(ctx, l, when, "imgtool-"+cmd.Root().Version, u.Warn)
	if err != nil {
		return err
	}
	u.EndPhase()
	return u.WriteJSON(doc.Encode())
}

// attachedSBOM returns the document of an image, or nil if it has none. The image has random
// access then. The attachments of a stream are known after all of it was read.
func attachedSBOM(ctx context.Context, s *volume.Source, scan bool, u *ui) ([]byte, error) {
	for range 2 {
		text, err := s.Attachment(artifact.SBOM)
		if !errors.Is(err, fs.ErrNotExist) && !scan {
			if err == nil {
				u.EndPhase()
				u.Infof("%s: this is the document of its build, attached to it", s.Name)
				if sbom.Outdated(text, s.Manifest) {
					u.Warnf("%s: the image was changed since its build: --scan lists what is in it now", s.Name)
				}
			}
			return text, err
		}
		if err := s.Seek(ctx); err != nil {
			return nil, err
		}
	}
	return nil, nil
}
