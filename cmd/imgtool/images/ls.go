package images

import (
	"context"
	"fmt"
	"iter"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image"
	"imgtool/image/fileinfo"
	"imgtool/image/inspect"
	"imgtool/image/tree"
	"imgtool/image/volume"
)

type lsOptions struct{ recursive, xattrs bool }

func newLsCommand(u *ui) *cobra.Command {
	var opt lsOptions
	cmd := &cobra.Command{
		Use:   "ls IMAGE[:PARTITION[/PATH]]",
		Short: "List partitions, directories and files in an image",
		Long: `List the partitions of an image, or a directory or file on a partition: type and mode,
owner, size (or device numbers), time in UTC, and the targets of symbolic links. Nothing
is mounted, and of an .img.zst only the parts that are needed are unpacked.

` + volume.PlaceHelp + `

Names with characters that are not printable are quoted as in Go.`,
		Example: `  imgtool ls x.img.zst
  imgtool ls x.img.zst:rootfs-a/etc
  imgtool ls -R --xattrs x.img:rootfs-a
  imgtool ls root.squashfs:/usr/bin`,
		SuggestFor: []string{"list", "dir", "tree", "files", "partitions"},
		Args:       usage.Operands("image"),
		RunE:       func(cmd *cobra.Command, args []string) error { return runLs(cmd, args[0], opt, u) },
	}
	cmd.Flags().BoolVarP(&opt.recursive, "recursive", "R", false, "list directories recursively")
	cmd.Flags().BoolVar(&opt.xattrs, "xattrs", false, "show extended attributes and capabilities, one a line")
	return option.AddRegistry(cmd, u)
}

func runLs(cmd *cobra.Command, arg string, opt lsOptions, u *ui) error {
	ctx := cmd.Context()
	l, err := volume.ParsePlace(arg).Open(ctx, u.Opening())
	if err != nil {
		return err
	}
	defer l.Source.Close()
	if !l.Inside && !l.Partitions.None() {
		why := "on a list of partitions: name one, as in " + arg + ":" + volume.PartName(l.Partitions.List[0])
		if err := usage.CheckUseless(cmd, usage.Useless{If: true, Why: why, Flags: []string{"recursive", "xattrs"}}); err != nil {
			return err
		}
		return listPartitions(l, u)
	}
	v, err := l.FileSystem()
	if err != nil {
		return err
	}
	u.EndPhase()
	at, err := v.Find(l.Path, strings.HasSuffix(l.Path, "/"))
	if err != nil {
		return l.Wrap(err)
	}
	n := v.Tree.Lookup(at)
	dir := "/" + at
	files := v.Tree.List(at)
	switch {
	case n.Type() != tree.Dir:
		dir = path.Dir(dir)
		files = func(yield func(string, *tree.Inode) bool) { yield(path.Base("/"+at), n) }
	case opt.recursive:
		files = below(v.Tree.Sub(at))
	}
	if u.JSON {
		return printFiles(files, dir, opt, u)
	}
	out := u.Listing()
	for name, n := range files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		out.Printf("%s\n", fileinfo.Long(name, n))
		if opt.xattrs {
			for _, x := range n.Xattrs {
				out.Printf("    %s=%s\n", fileinfo.Quote(x.Name), fileinfo.Xattr(x))
			}
		}
	}
	return out.Flush()
}

// below returns everything in a tree but its root.
func below(t *tree.Tree) iter.Seq2[string, *tree.Inode] {
	return func(yield func(string, *tree.Inode) bool) {
		for p, n := range t.All() {
			if p != "" && !yield(p, n) {
				return
			}
		}
	}
}

func listPartitions(l *volume.Location, u *ui) error {
	all, err := l.Rows()
	if err != nil {
		return err
	}
	u.EndPhase()
	if u.JSON {
		return u.Print(all)
	}
	wide := 0
	for _, p := range all {
		wide = max(wide, len(p.Name))
	}
	for _, p := range all {
		size, holds := image.FormatSize(p.Len), p.Holds
		if p.Late {
			holds = "made by the device on its first boot"
		}
		if p.Len == 0 {
			size = "the rest"
		}
		line := fmt.Sprintf("%3d %-*s %-14s %10s %10s  %s", p.Number, wide, p.Name, p.Type, inspect.FormatOffset(p.Off), size, holds)
		if err := u.Printf("%s\n", strings.TrimRight(line, " ")); err != nil {
			return err
		}
	}
	return nil
}

// printFiles prints a JSON list one element at a time: there may be a million. An interrupt does
// not cut it.
func printFiles(files iter.Seq2[string, *tree.Inode], dir string, opt lsOptions, u *ui) error {
	list := u.List()
	for name, n := range files {
		f := fileinfo.New(path.Join(dir, name), n)
		if !opt.xattrs {
			f.Xattrs = nil
		}
		if err := list.Add(f); err != nil {
			return err
		}
	}
	return list.Close()
}
