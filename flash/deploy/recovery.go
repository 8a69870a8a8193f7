package deploy

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"imgtool/boards"
	"imgtool/flash/disk"
	"imgtool/flash/disk/match"
	"imgtool/flash/disk/usb"
	"imgtool/image/fault"
	"imgtool/image/progress"
)

// Recovery waits for the disk that a board in recovery mode shows over USB.
type Recovery struct {
	Board   *boards.Board
	Medium  string // of the board; empty: any
	Serial  string // of the board; empty: any
	Port    string // USB port of the board; empty: any
	Timeout time.Duration

	look   func() ([]disk.Disk, []usb.Device, error) // nil: at this machine
	settle time.Duration                             // how long a disk must be the only one
}

// wanted returns the properties that the board's definition has for the disk of a medium.
func wanted(b *boards.Board, medium string) match.Board {
	var m match.Board
	for _, u := range b.Recovery.USB {
		if u.Medium != "" && medium != "" && u.Medium != medium {
			continue
		}
		m.USB = append(m.USB, match.USB{VendorID: u.VendorID, ProductIDs: u.ProductIDs, Interface: u.Interface,
			Manufacturer: match.Pattern(u.Manufacturer), Product: match.Pattern(u.Product),
			Vendor: match.Pattern(u.Vendor), Model: match.Pattern(u.Model), Rev: match.Pattern(u.Rev), Sectors: u.Sectors})
	}
	return m
}

func lookHere() ([]disk.Disk, []usb.Device, error) {
	disks, err := disk.List("/")
	if err != nil {
		return nil, nil, err
	}
	devices, err := disk.USBDevices("/")
	return disks, devices, err
}

// Wait returns the disk as soon as there is exactly one. Similar disks and devices are
// reported once. If no disk appears in time, the error is of kind [fault.Gone].
func (r *Recovery) Wait(ctx context.Context, rep progress.Reporter) (*disk.Disk, error) {
	if len(r.Board.Recovery.USB) == 0 {
		return nil, fault.New(fault.Usage, "%s has no recovery mode: name the disk", r.Board.Name)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(r.Board.Recovery.Enter), "\n") {
		rep.Infof("%s", line)
	}
	rep.Infof("waiting for it, up to %s", r.Timeout)
	m := wanted(r.Board, r.Medium)
	if len(m.USB) == 0 {
		return nil, fault.New(fault.Usage, "the %s of %s does not show up over USB: name the disk", r.Medium, r.Board.Name)
	}
	w := &wait{Recovery: *r, rep: rep, reported: map[string]bool{}, first: map[string]time.Time{}}
	if w.look == nil {
		w.look, w.settle = lookHere, time.Second
	}
	deadline := time.Now().Add(r.Timeout)
	for {
		found, err := w.once(m)
		if found != nil || err != nil {
			return found, err
		}
		if time.Now().After(deadline) {
			return nil, fault.New(fault.Gone, "no %s in recovery mode showed up in %s", r.Board.Name, r.Timeout)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(min(250*time.Millisecond, w.settle)):
		}
	}
}

type wait struct {
	Recovery
	rep      progress.Reporter
	reported map[string]bool
	first    map[string]time.Time // when something similar was seen first
	only     string               // path of the only disk
	since    time.Time            // when it became the only one
}

func (w *wait) report(text string) {
	if !w.reported[text] {
		w.reported[text] = true
		w.rep.Infof("%s", text)
	}
}

// once looks for the disk once. It returns nil if it finds none, or only a new one.
func (w *wait) once(m match.Board) (*disk.Disk, error) {
	disks, devices, err := w.look()
	if err != nil {
		return nil, err
	}
	hits, similar := m.Find(disks, devices)
	for _, s := range similar {
		text := s.String()
		if w.first[text].IsZero() {
			w.first[text] = time.Now()
		}
		// A disk takes a second or two to come up.
		if time.Since(w.first[text]) >= w.settle*5/2 {
			w.report(text)
		}
	}
	var wanted []disk.Disk
	var names []string
	for _, d := range hits {
		name := fmt.Sprintf("%s (serial %s, port %s)", d.Path, cmp.Or(d.USB.Serial, "none"), d.USB.Port)
		if (w.Serial == "" || d.USB.Serial == w.Serial) && (w.Port == "" || d.USB.Port == w.Port) {
			wanted, names = append(wanted, d), append(names, name)
		} else {
			w.report(fmt.Sprintf("%s is a %s, and not the one asked for", name, w.Board.Name))
		}
	}
	switch {
	case len(wanted) > 1:
		return nil, &disk.RefusedError{Disk: w.Board.Name, Reason: fmt.Sprintf("there are %d in recovery mode: %s; say which with --serial or --port", len(wanted), strings.Join(names, ", "))}
	case len(wanted) == 0:
		w.only = ""
	case wanted[0].Path != w.only:
		w.only, w.since = wanted[0].Path, time.Now()
	}
	// Another may be about to appear.
	if w.only != "" && time.Since(w.since) >= w.settle {
		return &wanted[0], nil
	}
	return nil, nil
}
