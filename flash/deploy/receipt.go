package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/flash/receipt"
	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/volume"
)

// Receipt is the result of writing a disk. Sizes are in bytes.
type Receipt struct {
	Time     string   `json:"time,omitempty"` // of the end, RFC 3339
	Disk     string   `json:"disk"`
	Model    string   `json:"model,omitempty"`
	Serial   string   `json:"serial,omitempty"`
	Size     int64    `json:"size"`
	Image    string   `json:"image,omitempty"`
	Unit     string   `json:"unit,omitempty"`
	Board    string   `json:"board,omitempty"`
	BuildID  string   `json:"build_id,omitempty"`
	SignedBy []string `json:"signed_by,omitempty"` // if signatures were checked
	Written  int64    `json:"written"`
	Skipped  int64    `json:"skipped"`
	Verified int64    `json:"verified"`
	Verify   string   `json:"verify,omitempty"` // full, sampled or none
	Unread   int64    `json:"not_verified"`     // written and not read back
	Repaired int      `json:"repaired"`
	Fetched  int64    `json:"fetched,omitempty"` // from a server, for all disks together
	Seconds  float64  `json:"seconds"`
	Writing  float64  `json:"write_seconds"` // of the partitions
	Reading  float64  `json:"verify_seconds"`
	Rate     int64    `json:"bytes_per_second"`
	Status   int      `json:"status"` // exit status
	Error    string   `json:"error,omitempty"`

	Left flash.State `json:"disk_state,omitempty"` // after an error: what is on the disk

	DryRun  bool  `json:"dry_run,omitempty"`  // nothing was written
	ToWrite int64 `json:"to_write,omitempty"` // of a dry run: what would be written at most; 0: it is not known
}

func (r *Receipt) describe(d *disk.Disk, src *volume.Source) {
	r.Disk, r.Model, r.Serial, r.Size = d.Path, d.Model, d.Serial, d.Size
	r.Image, r.Unit, r.Time, r.Fetched = src.Name, src.Unit, receipt.Now(), src.Fetched()
	if m := src.Manifest; m != nil {
		r.Board, r.BuildID = m.Board, m.BuildID
	}
}

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

// Planned returns the receipt of a disk that a dry run does not write.
func Planned(d *disk.Disk, p *Plan, opt *Options) Receipt {
	r := Receipt{DryRun: true, ToWrite: p.ExpectedSize(), Verify: opt.Verify}
	r.describe(d, p.src)
	return r
}

// Summary returns a line about a disk that was written.
func (r Receipt) Summary() string {
	skipped := ""
	if r.Skipped > 0 {
		skipped = fmt.Sprintf(", %s were there already", image.FormatSize(r.Skipped))
	}
	verified := "all read back from the disk and verified"
	if r.Unread > 0 {
		verified = fmt.Sprintf("%s read back and verified, %s not read back (--verify=%s)", image.FormatSize(r.Verified), image.FormatSize(r.Unread), r.Verify)
	}
	if r.Fetched > 0 {
		skipped += fmt.Sprintf(", %s fetched", image.FormatSize(r.Fetched))
	}
	return fmt.Sprintf("%s: %s written%s, %s, in %s, %s/s", r.Disk, image.FormatSize(r.Written), skipped, verified,
		time.Duration(r.Seconds*float64(time.Second)).Round(100*time.Millisecond), image.FormatSize(r.Rate))
}

// refused leaves a receipt of each disk if nothing was written because of an error.
func (d *Deployment) refused(ctx context.Context, names []string, err error) {
	if fault.Kind(err) == fault.Usage {
		return
	}
	refusal, one := errors.AsType[*disk.RefusedError](err)
	for _, name := range names {
		found, findErr := disk.Find("/", name)
		if findErr != nil {
			found = &disk.Disk{Path: name}
		}
		r := Unwritten(ctx, name, err, &d.opt)
		r.describe(found, d.src)
		if one && refusal.Disk != found.Path {
			r.Error = "nothing is written, because another disk is refused: " + r.Error
		}
		d.opt.Done(r)
		if err := d.opt.Log.Add(r.Disk, r); err != nil {
			d.opt.Monitor.Warnf("%v", err)
			return
		}
	}
}

// Abandon leaves receipts when the program must end although a disk does not answer.
func (d *Deployment) Abandon() {
	if !d.begun {
		return
	}
	for _, t := range d.targets {
		r := t.Receipt
		if !t.ended.Load() {
			r.Time, r.Left = receipt.Now(), t.job.Watch.State()
			err := fault.New(fault.Interrupted, "interrupted")
			r.Status, r.Error = d.opt.Status(err), err.Error()
			d.opt.Monitor.SetLeft(r.Disk, r.Left)
		}
		d.opt.Log.Add(r.Disk, r)
		d.opt.Done(r)
	}
}
