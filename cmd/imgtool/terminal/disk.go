package terminal

import (
	"context"
	"slices"
	"strings"
	"time"

	"imgtool/cmd/imgtool/terminal/picker"
	"imgtool/flash/deploy"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/sanitize"
)

// settle is how long a disk that was plugged in must be the only one to be taken.
const settle = 1500 * time.Millisecond

// ChooseDisk lets the user choose one of the disks on USB and cards. A single one is taken,
// because the question before it is written describes it. If there is none, a user at a terminal
// can plug one in. If quiet, nothing is asked, and only a serial chooses a disk.
func (u *UI) ChooseDisk(ctx context.Context, need disk.Need, quiet bool) (string, error) {
	all, err := deploy.Disks(need)
	if err != nil {
		return "", err
	}
	fit := slices.DeleteFunc(slices.Clone(all), func(c deploy.Candidate) bool { return !c.Offered() })
	if err := deploy.PermitAny(ctx, fit); err != nil {
		return "", err
	}
	quiet = quiet || !u.Interactive()
	switch {
	case len(fit) == 0 && need.Serial != "":
		return "", deploy.NoDisk("serial " + need.Serial)
	case len(fit) == 1 && (need.Serial != "" || !quiet):
		return fit[0].Path, nil
	case len(fit) == 0 && quiet:
		return "", fault.WithHint(fault.New(fault.Gone, "there is no disk to choose: no USB disk or card is large enough and unused"), "imgtool disks lists the disks, and why they cannot be used")
	case quiet:
		var list []string
		for i := range fit {
			list = append(list, deploy.Describe(&fit[i].Disk))
		}
		return "", fault.New(fault.Usage, "say which disk: nothing is asked without a terminal, with --yes, or with the image on standard input. There is %s", strings.Join(list, "; and "))
	}
	return u.pickDisk(ctx, need)
}

// pickDisk shows the disks as they come and go, until the user chooses one.
func (u *UI) pickDisk(ctx context.Context, need disk.Need) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	disks := deploy.WatchDisks(ctx, func() ([]deploy.Candidate, error) { return deploy.Disks(need) }, cancel)
	lists := make(chan []picker.Item)
	go func() {
		seen := map[string]picker.Item{}
		for list := range disks {
			select {
			case lists <- diskItems(list, seen):
			case <-ctx.Done():
				return
			}
		}
	}()
	key, err := u.Pick(ctx, picker.Options{
		Title:  "Which disk is written? Choose with the arrow keys or a number, then press Enter; q stops.",
		Empty:  "No disk can be written: plug in a USB disk or a card. It is shown as soon as it is there; Ctrl-C stops.",
		Right:  1, // the size
		Settle: settle,
	}, lists)
	if err != nil {
		return "", err
	}
	path, _, _ := strings.Cut(key, " ")
	return path, nil
}

// diskItems returns the lines of disks. The contents of a disk are read once, and kept in seen.
func diskItems(list []deploy.Candidate, seen map[string]picker.Item) (items []picker.Item) {
	for i := range list {
		c := &list[i]
		if c.Bus == "loop" || c.Bus == "nbd" {
			continue
		}
		state := c.Key() + " " + strings.Join(c.MountPoints(), " ") + c.Reason()
		item, ok := seen[state]
		if !ok {
			model := strings.TrimSpace(c.Vendor + " " + c.Model)
			if model == "" {
				model = strings.TrimSpace(c.Bus + " " + c.Kind)
			}
			item = picker.Item{Key: c.Key(), Columns: []string{c.Path, image.FormatSize(c.Size), sanitize.Line(model)}, Reason: sanitize.Line(c.Reason())}
			if item.Reason == "" {
				contents := sanitize.Line(deploy.Contents(&c.Disk))
				item.Columns = append(item.Columns, contents)
				item.Detail = sanitize.Line(deploy.Describe(&c.Disk))
				if len(c.MountPoints()) > 0 {
					item.Detail += "; it will be unmounted"
				}
			}
			seen[state] = item
		}
		items = append(items, item)
	}
	return items
}
