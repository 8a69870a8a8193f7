package option

import (
	"imgtool/image/trust"
	"imgtool/image/volume"
)

// Opening is what is checked of an image's file.
type Opening struct {
	Sums   Sums
	Policy *trust.Policy // nil: no signature is required
}

func (opt Opening) options(u *ui) volume.Options {
	o := opt.Sums.opening(u)
	o.Spool = opt.Policy.Required()
	return o
}

// Open opens the image of a file, or the newest one if it is empty, which is set then. usage is
// how the user names another.
func (opt Opening) Open(u *ui, file *string, usage string) (src *volume.Source, err error) {
	if *file == "" {
		if *file, err = volume.Newest(usage); err != nil {
			return nil, err
		}
		u.Infof("image: %s, the newest in out/", *file)
	}
	if src, err = volume.Open(*file, opt.options(u)); err == nil {
		src.ReportBeside()
	}
	return src, err
}
