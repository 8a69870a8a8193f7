package deploy

import (
	"context"
	"fmt"
	"time"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/volume"
)

// Receipt is the result of writing a disk. Sizes are in bytes.
type Receipt struct {
	Time     string  `json:"time"` // of the end, RFC 3339
	Disk     string  `json:"disk"`
	Model    string  `json:"model,omitempty"`
	Serial   string  `json:"serial,omitempty"`
	Size     int64   `json:"size"`
	Image    string  `json:"image"`
	Unit     string  `json:"unit,omitempty"`
	Board    string  `json:"board,omitempty"`
	BuildID  string  `json:"build_id,omitempty"`
	Written  int64   `json:"written"`
	Skipped  int64   `json:"skipped"`
	Verified int64   `json:"verified"`
	Verify   string  `json:"verify"`       // full, sampled or none
	Unread   int64   `json:"not_verified"` // written and not read back
	Repaired int     `json:"repaired"`
	Seconds  float64 `json:"seconds"`
	Writing  float64 `json:"write_seconds"` // of the partitions
	Reading  float64 `json:"verify_seconds"`
	Rate     int64   `json:"bytes_per_second"`
	Status   int     `json:"status"` // exit status
	Error    string  `json:"error,omitempty"`

	Left flash.State `json:"disk_state,omitempty"` // after an error: what is on the disk
}

// Now returns the time as receipts have it.
func Now() string { return time.Now().UTC().Format(time.RFC3339) }

// describe fills in the disk, the image and the time.
func (r *Receipt) describe(d *disk.Disk, src *volume.Source) {
	r.Disk, r.Model, r.Serial, r.Size = d.Path, d.Model, d.Serial, d.Size
	r.Image, r.Unit, r.Time = src.Name, src.Unit, Now()
	if m := src.Manifest; m != nil {
		r.Board, r.BuildID = m.Board, m.BuildID
	}
}

// fail fills in an error.
func (r *Receipt) fail(ctx context.Context, err error, opt *Options) {
	r.Status, r.Error = opt.ExitStatus(ctx, err), err.Error()
	r.Left, _ = flash.StateAfter(err)
}

// Unwritten returns the receipt of a disk that was not written because of an error.
func Unwritten(ctx context.Context, name string, err error, opt *Options) Receipt {
	r := Receipt{Disk: name}
	r.fail(ctx, err, opt)
	r.Left = flash.Unchanged
	return r
}

// Summary returns a line about a disk that was written.
func (r Receipt) Summary() string {
	skipped := ""
	if r.Skipped > 0 {
		skipped = fmt.Sprintf(", %s were there already", image.FormatSize(r.Skipped))
	}
	verified := image.FormatSize(r.Verified) + " verified"
	if r.Unread > 0 {
		verified += fmt.Sprintf(", %s not read back (--verify=%s)", image.FormatSize(r.Unread), r.Verify)
	}
	return fmt.Sprintf("%s: %s written%s, %s, in %s, %s/s", r.Disk, image.FormatSize(r.Written), skipped, verified,
		time.Duration(r.Seconds*float64(time.Second)).Round(100*time.Millisecond), image.FormatSize(r.Rate))
}
