package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/tree"
)

func newCatCommand(u *ui) *cobra.Command {
	return &cobra.Command{
		Use:   "cat IMAGE:PARTITION[/PATH]",
		Short: "Print a file in an image, or a partition",
		Long: `Print what is in a file on a partition of an image or disk. Symbolic links lead
where they would on the device, and never out of the file system. Without a path, all
bytes of the partition are printed.

On a terminal, control characters are shown as escapes such as \x1b, and what is not
text is refused. In a file or pipe the data is as it is.

` + placeHelp,
		Example: `  imgtool cat x.img.zst:boot-a/boot.scr
  imgtool cat /dev/sdX:rootfs-a/etc/os-release
  imgtool cat x.img:rootfs-a > root.squashfs`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runCat(cmd.Context(), args[0], u) },
	}
}

func runCat(ctx context.Context, arg string, u *ui) error {
	p := parsePlace(arg)
	if !p.inside {
		return fault.New(fault.Usage, "%s: say what is to be printed: IMAGE:PARTITION/PATH", arg)
	}
	l, err := p.open(ctx, u)
	if err != nil {
		return err
	}
	defer l.pic.Close()
	c, err := l.content()
	if err != nil {
		return err
	}
	u.endPhase()
	out := u.data()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < c.Size(); {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part := buf[:min(int64(len(buf)), c.Size()-off)]
		if n, err := image.ReadFull(c, part, off); err != nil {
			return unreadable(l.name(), fmt.Errorf("at byte %d: %w", off+int64(n), err))
		}
		if off == 0 && u.toTerminal() && bytes.IndexByte(part, 0) >= 0 {
			return fault.New(fault.Usage, "%s is not text, and stdout is a terminal: write it to a file or a pipe", arg)
		}
		if _, err := out.Write(part); err != nil {
			return err
		}
		off += int64(len(part))
	}
	return out.Close()
}

// content is the file at the place, or the partition if it has no path.
func (l *located) content() (image.Content, error) {
	if !l.deep && l.part != "" {
		return l.section()
	}
	v, err := l.volume()
	if err != nil {
		return nil, err
	}
	n, err := v.tree.Open(v.spelled(l.path))
	if err == nil && n.Type() != tree.Regular {
		err = errors.New("it is no file, but a " + typeNames[n.Type()].name)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.name(), err)
	}
	if n.Content == nil {
		return image.Zeros(0), nil
	}
	return n.Content, nil
}
