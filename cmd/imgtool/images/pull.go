package images

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image"
	"imgtool/image/oci"
)

func newPullCommand(u *ui) *cobra.Command {
	var opt oci.PullOptions
	cmd := &cobra.Command{
		Use:   "pull REF",
		Short: "Fetch images from a registry into files",
		Long: `Write the images of a registry into files, and beside them the files that belong to them:
manifest, block map, signature, SBOM and provenance. Of an index, the images of all media
are fetched. REF is HOST/REPOSITORY[:TAG][@DIGEST].

Sizes and digests are verified, and a file gets its name when it is complete. A file that
is there with the same content is not fetched again. An interrupted pull leaves
NAME.DIGEST.part, which the next one continues. To flash an image without a copy of it,
use imgtool flash -i oci://REF.`,
		Example: `  imgtool pull registry.example.com/boards/rock64:1.4
  imgtool pull registry.example.com/photon:1.4 --medium nvme -o nvme.img.zst`,
		SuggestFor: []string{"download", "fetch", "get"},
		Args:       usage.Operands("reference"),
		RunE:       func(cmd *cobra.Command, args []string) error { return runPull(cmd.Context(), args[0], opt, u) },
	}
	f := cmd.Flags()
	f.StringVarP(&opt.Output, "output", "o", "", "`FILE` or directory to write to (default: the working directory)")
	f.StringVar(&opt.Medium, "medium", "", "fetch the image of the medium with this `NAME` only")
	f.BoolVar(&opt.Force, "force", false, "replace files with other content")
	f.BoolVar(&opt.PlainHTTP, "plain-http", false, option.PlainHTTPUsage)
	return cmd
}

func runPull(ctx context.Context, ref string, opt oci.PullOptions, u *ui) error {
	begin := time.Now()
	opt.Reporter = u
	list, err := oci.Pull(ctx, ref, opt)
	if err != nil {
		return err
	}
	if u.JSON {
		return u.Print(map[string]any{"reference": strings.TrimPrefix(ref, oci.Scheme), "images": list, "seconds": time.Since(begin).Seconds()})
	}
	for _, p := range list {
		if p.Had {
			u.Infof("%s was there already, with the same content", p.Path)
			continue
		}
		files := "files"
		if len(p.Beside) == 1 {
			files = "file"
		}
		u.Infof("%s: %s, and beside it %d %s", p.Path, image.FormatSize(p.Size), len(p.Beside), files)
	}
	return nil
}
