package images

import (
	"context"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/exit"
	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image/compare"
	"imgtool/image/fault"
	"imgtool/image/volume"
)

func newDiffCommand(u *ui) *cobra.Command {
	return option.AddRegistry(&cobra.Command{
		Use:   "diff A[:PARTITION[/DIRECTORY]] B[:PARTITION[/DIRECTORY]]",
		Short: "Show the differences between two images, or an image and a disk",
		Long: `Compare two images of any format, or an image and a disk: the partition tables, the data
outside of partitions such as boot loaders, and the files: which were added, removed or
changed, and whether in content, mode, owner, time, target, device numbers, extended
attributes or hard links. Each difference is a line with the value in A and then in B.
The exit status is 0 if nothing differs, 1 if something does.

Outside of file systems only the content that either manifest lists is compared. Without
a manifest all bytes count, but of a disk only the bytes that the image has. File systems
are compared by their files; unknown ones byte by byte.

` + volume.PlaceHelp,
		Example: `  imgtool diff old.img.zst new.img.zst
  imgtool diff x.img.zst /dev/sdX
  imgtool diff x.img:rootfs-a x.img:rootfs-b
  imgtool diff root.squashfs x.img.zst:rootfs-a`,
		SuggestFor: []string{"compare", "cmp"},
		Args:       usage.Operands("image", "other image"),
		RunE:       func(cmd *cobra.Command, args []string) error { return runDiff(cmd.Context(), args[0], args[1], u) },
	}, u)
}

func runDiff(ctx context.Context, argA, argB string, u *ui) error {
	placeA, placeB := volume.ParsePlace(argA), volume.ParsePlace(argB)
	if placeA.File == "-" && placeB.File == "-" {
		return fault.New(fault.Usage, "only one of the two can be standard input")
	}
	a, err := placeA.Open(ctx, u.Opening())
	if err != nil {
		return err
	}
	defer a.Source.Close()
	b, err := placeB.Open(ctx, u.Opening())
	if err != nil {
		return err
	}
	defer b.Source.Close()
	list, err := compare.Locations(ctx, a, b, u)
	if err != nil {
		return err
	}
	if u.JSON {
		err = u.Print(map[string]any{"a": a.Name(), "b": b.Name(), "same": len(list) == 0, "differences": append([]compare.Difference{}, list...)})
	}
	for _, d := range list {
		if err == nil && !u.JSON {
			err = u.Printf("%s\n", d.String())
		}
	}
	if err == nil && len(list) > 0 {
		err = exit.ErrDiffers
	}
	return err
}
