package images

import (
	"context"

	"github.com/spf13/cobra"

	"imgtool/boards"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image/artifact"
	"imgtool/image/build/job"
	"imgtool/image/catalog"
	"imgtool/image/fault"
)

type catalogOptions struct {
	catalog.Request
	boards []string
	output string
}

func newCatalogCommand(u *ui) *cobra.Command {
	var opt catalogOptions
	cmd := &cobra.Command{
		Use:   "catalog IMAGE... --url BASE",
		Short: "List images for rpi-imager and bb-imager",
		Long: `Write the list of images that rpi-imager 2.0 and bb-imager offer to their users: the names,
sizes and SHA-256 of the files and of the images in them, and the devices that they are
for. Publish it together with the images, and with the block maps beside them.

Names and dates come from the manifests. An image without a manifest needs --board or
--device, and --date or SOURCE_DATE_EPOCH. Each image is read once, and compared with its
manifest or block map. The same images give the same list.`,
		Example: `  imgtool catalog out/*.img.xz --url https://example.com/images -o os.json
  rpi-imager --repo https://example.com/images/os.json
  imgtool catalog x.img.xz --url file:///srv/images -o x.rpi-imager-manifest`,
		SuggestFor: []string{"index", "os_list", "oslist", "manifest", "publish"},
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage.Operands("image")(cmd, args)
			}
			return usage.Any(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.Images = args
			return runCatalog(cmd.Context(), opt, u)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.URL, "url", "", "`BASE`, the address of the directory that the files are published in: https://, http:// or file://")
	f.StringVarP(&opt.output, "output", "o", "", "`FILE` to write (default: standard output); rpi-imager wants a name that ends in .json or .rpi-imager-manifest")
	f.StringArrayVar(&opt.boards, "board", nil, "a board's `NAME`, or the path of its definition, for its description and for images without a manifest; may be repeated")
	f.StringArrayVar(&opt.Devices, "device", nil, "`TAG` of the devices in these programs that the images are for (default: the board's name); may be repeated")
	f.StringVar(&opt.Name, "name", "", "`TEXT`, the name of the image (default: board, medium and build ID)")
	f.StringVar(&opt.Description, "description", "", "`TEXT`, the description of the image (default: from the board)")
	f.StringVar(&opt.Icon, "icon", "", "`URL` of a picture, or its name below BASE (default: none)")
	f.StringVar(&opt.Website, "website", "", "`URL` of a page about the images")
	f.StringVar(&opt.Date, "date", "", "release `DATE`, such as 2026-01-31 (default: the time of the build)")
	return cmd
}

func runCatalog(ctx context.Context, opt catalogOptions, u *ui) error {
	if opt.URL == "" {
		return fault.New(fault.Usage, "say where the images will be published: --url https://example.com/images")
	}
	if opt.output != "" {
		if err := catalog.CheckOutput(opt.output); err != nil {
			return err
		}
	}
	for _, name := range opt.boards {
		b, err := boards.Load(name)
		if err != nil {
			return err
		}
		opt.Boards = append(opt.Boards, b)
	}
	when, given, err := job.SourceDate()
	if err != nil {
		return err
	}
	if given {
		opt.When = when
	}
	opt.Opening = u.Opening()
	c, err := catalog.Make(ctx, opt.Request)
	if err != nil {
		return err
	}
	u.EndPhase()
	if opt.output == "" {
		return u.WriteJSON(c.Encode())
	}
	if err := artifact.WriteBeside(opt.output, c.Encode()); err != nil {
		return err
	}
	if u.JSON {
		return u.WriteJSON(c.Encode())
	}
	for _, e := range c.Images {
		u.Infof("%s lists %s: %s", opt.output, e.Name, e.URL)
	}
	return nil
}
