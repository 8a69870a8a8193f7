package images

import (
	"bytes"
	"context"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/volume"
)

func newCatCommand(u *ui) *cobra.Command {
	return option.AddRegistry(&cobra.Command{
		Use:   "cat IMAGE:PARTITION[/PATH]",
		Short: "Print a file or a partition of an image",
		Long: `Print a file on a partition of an image or disk. Symbolic links are followed as on the
device, and never out of the file system. Without a path, the whole partition is printed.

On a terminal, control characters are shown as escapes such as \x1b, and binary data are
refused. Files and pipes get the data unchanged.

` + volume.PlaceHelp,
		Example: `  imgtool cat x.img.zst:boot-a/boot.scr
  imgtool cat /dev/sdX:rootfs-a/etc/os-release
  imgtool cat x.img:rootfs-a > root.squashfs`,
		SuggestFor: []string{"print", "read", "extract", "get", "show"},
		Args:       usage.Operands("file"),
		RunE:       func(cmd *cobra.Command, args []string) error { return runCat(cmd.Context(), args[0], u) },
	}, u)
}

func runCat(ctx context.Context, arg string, u *ui) error {
	p := volume.ParsePlace(arg)
	if !p.Inside {
		return fault.New(fault.Usage, "%s: name a partition or file to print: IMAGE:PARTITION/PATH", arg)
	}
	l, err := p.Open(ctx, u.Opening())
	if err != nil {
		return err
	}
	defer l.Source.Close()
	defer debug.SetGCPercent(debug.SetGCPercent(25)) // each frame of an .img.zst leaves 4 MiB behind
	c, err := l.Content()
	if err != nil {
		return err
	}
	u.EndPhase()
	out := u.Data()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < c.Size(); {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part := buf[:min(int64(len(buf)), c.Size()-off)]
		if n, err := image.ReadFull(c, part, off); err != nil {
			return volume.Unreadable(l.Name(), fmt.Errorf("at byte %d: %w", off+int64(n), err))
		}
		if off == 0 && u.ToTerminal() && bytes.IndexByte(part, 0) >= 0 {
			return fault.New(fault.Usage, "%s is binary, and stdout is a terminal: redirect it to a file or a pipe", arg)
		}
		if _, err := out.Write(part); err != nil {
			return err
		}
		off += int64(len(part))
	}
	return out.Close()
}
