package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/usage"
	"imgtool/image/squashfs/codec"
)

// version is set by the linker in a release.
var version = ""

// programVersion returns the version of a release, or what Go derives from git.
func programVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && version == "" {
		return info.Main.Version
	}
	return version
}

func newVersionCommand(u *ui) *cobra.Command {
	return &cobra.Command{
		Use:        "version",
		SuggestFor: []string{"about", "ver"},
		Short:      "Print the version, and the codecs that are in",
		Example:    "  imgtool version",
		Args:       usage.None(""),
		RunE:       func(cmd *cobra.Command, args []string) error { return runVersion(u) },
	}
}

func runVersion(u *ui) error {
	v := programVersion()
	var codecs []string
	for _, name := range []string{"zstd", "xz", "gzip", "lz4"} {
		c, err := codec.Describe(name)
		if err != nil {
			return err
		}
		codecs = append(codecs, c)
	}
	if u.JSON {
		return u.Print(map[string]any{"version": v, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH, "codecs": codecs})
	}
	u.Printf("imgtool %s %s/%s %s\n", v, runtime.GOOS, runtime.GOARCH, runtime.Version())
	for _, c := range codecs {
		u.Printf("  squashfs %s\n", c)
	}
	return nil
}
