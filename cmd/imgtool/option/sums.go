package option

import (
	"github.com/spf13/cobra"

	"imgtool/image/fault"
	"imgtool/image/remote"
	"imgtool/image/volume"
)

// Sums says which SHA-256 an image's file must have.
type Sums struct {
	sum  string
	sums bool // it is in SHA256SUMS
}

func (s *Sums) AddFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.sum, "sha256", "", "SHA-256 of the image's file in `HEX`, as it is downloaded: another file is refused")
	cmd.Flags().BoolVar(&s.sums, "sha256sums", false, "compare the image's file with SHA256SUMS beside it")
}

func (s *Sums) Check() error {
	switch {
	case s.sum != "" && s.sums:
		return fault.New(fault.Usage, "--sha256 and --sha256sums exclude each other")
	case s.sum != "" && !remote.ValidSHA256(s.sum):
		return fault.New(fault.Usage, "--sha256 is %q: it must be 64 hexadecimal digits", s.sum)
	}
	return nil
}

// opening returns how an image is opened.
func (s *Sums) opening(u *ui) volume.Options {
	opt := u.Opening()
	opt.SHA256, opt.Sums = s.sum, s.sums
	return opt
}
