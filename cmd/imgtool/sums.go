package main

import (
	"github.com/spf13/cobra"

	"imgtool/image/fault"
	"imgtool/image/remote"
	"imgtool/image/volume"
)

// sumOptions are the flags with the SHA-256 of an image's file.
type sumOptions struct {
	sum  string
	sums bool // it is in SHA256SUMS
}

func (s *sumOptions) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.sum, "sha256", "", "SHA-256 of the image's file in `HEX`, as it is downloaded: another file is refused")
	cmd.Flags().BoolVar(&s.sums, "sha256sums", false, "compare the image's file with SHA256SUMS beside it")
}

func (s *sumOptions) check() error {
	switch {
	case s.sum != "" && s.sums:
		return fault.New(fault.Usage, "--sha256 and --sha256sums exclude each other")
	case s.sum != "" && !remote.ValidSHA256(s.sum):
		return fault.New(fault.Usage, "--sha256 is %q: it must be 64 hexadecimal digits", s.sum)
	}
	return nil
}

// opening returns how an image is opened.
func (s *sumOptions) opening(u *ui) volume.Options {
	opt := u.Opening()
	opt.SHA256, opt.Sums = s.sum, s.sums
	return opt
}
