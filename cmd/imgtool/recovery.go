package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"imgtool/boards"
	"imgtool/flash/disk"
	"imgtool/image/fault"
)

// recovery waits for the one disk that a board shows in recovery mode.
type recovery struct {
	board   *boards.Board
	medium  string // of the board, "" for any
	serial  string // of the board wanted, "" for any
	port    string // USB port of the board wanted, "" for any
	timeout time.Duration
	look    func() ([]disk.Disk, []disk.USB, error)
	settle  time.Duration // how long a lone disk must stay the only one
}

func newRecovery(board *boards.Board, medium, serial, port string, timeout time.Duration) *recovery {
	return &recovery{board: board, medium: medium, serial: serial, port: port, timeout: timeout, settle: time.Second,
		look: func() ([]disk.Disk, []disk.USB, error) {
			disks, err := disk.List("/")
			if err != nil {
				return nil, nil, err
			}
			devices, err := disk.USBDevices("/")
			return disks, devices, err
		}}
}

// match is what the board's definition says of its disk, or of one of several.
func match(b *boards.Board, medium string) disk.Match {
	var m disk.Match
	for _, u := range b.Recovery.USB {
		if u.Medium != "" && medium != "" && u.Medium != medium {
			continue
		}
		m.USB = append(m.USB, disk.USBMatch{VendorID: u.VendorID, ProductIDs: u.ProductIDs, Interface: u.Interface,
			Manufacturer: disk.Pattern(u.Manufacturer), Product: disk.Pattern(u.Product),
			Vendor: disk.Pattern(u.Vendor), Model: disk.Pattern(u.Model), Rev: disk.Pattern(u.Rev), Sectors: u.Sectors})
	}
	return m
}

// timeoutError is a board that did not show up.
type timeoutError struct{ error }

// wait returns the disk. What looks alike is told of once.
func (r *recovery) wait(ctx context.Context, u *ui) (*disk.Disk, error) {
	if len(r.board.Recovery.USB) == 0 {
		return nil, fault.New(fault.Usage, "%s has no recovery mode: name the disk", r.board.Name)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(r.board.Recovery.Enter), "\n") {
		u.say("%s", line)
	}
	u.say("waiting for it, up to %s", r.timeout)
	m := match(r.board, r.medium)
	if len(m.USB) == 0 {
		return nil, fault.New(fault.Usage, "the %s of %s does not show up over USB: name the disk", r.medium, r.board.Name)
	}
	told := map[string]bool{}
	first := map[string]time.Time{} // when something that looks alike was seen
	deadline := time.Now().Add(r.timeout)
	var alone string // the lone hit,
	var since time.Time
	for {
		disks, devices, err := r.look()
		if err != nil {
			return nil, err
		}
		hits, near := m.Find(disks, devices)
		for _, s := range near {
			text := s.String()
			if first[text].IsZero() {
				first[text] = time.Now()
			}
			// A disk takes a second or two to come up.
			if !told[text] && time.Since(first[text]) >= r.settle*5/2 {
				told[text] = true
				u.say("%s", text)
			}
		}
		var wanted []disk.Disk
		for _, d := range hits {
			if (r.serial == "" || d.USB.Serial == r.serial) && (r.port == "" || d.USB.Port == r.port) {
				wanted = append(wanted, d)
			} else if text := fmt.Sprintf("%s (serial %s, port %s) is a %s, and not the one asked for", d.Path, orNone(d.USB.Serial), d.USB.Port, r.board.Name); !told[text] {
				told[text] = true
				u.say("%s", text)
			}
		}
		switch {
		case len(wanted) > 1:
			var list []string
			for _, d := range wanted {
				list = append(list, fmt.Sprintf("%s (serial %s, port %s)", d.Path, orNone(d.USB.Serial), d.USB.Port))
			}
			return nil, &disk.RefusedError{Disk: r.board.Name, Reason: fmt.Sprintf("there are %d in recovery mode: %s; say which with --serial or --port", len(wanted), strings.Join(list, ", "))}
		case len(wanted) == 0:
			alone = ""
		case wanted[0].Path != alone:
			alone, since = wanted[0].Path, time.Now()
		}
		// Another may be on its way.
		if alone != "" && time.Since(since) >= r.settle {
			return &wanted[0], nil
		}
		if time.Now().After(deadline) {
			return nil, &timeoutError{fmt.Errorf("no %s in recovery mode showed up in %s", r.board.Name, r.timeout)}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(min(250*time.Millisecond, r.settle)):
		}
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
