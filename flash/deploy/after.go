package deploy

import (
	"strings"

	"imgtool/boards"
)

// After returns what to do now that all disks are written, in lines. board may be nil: it is
// found by its name in the image then.
func (d *Deployment) After(board *boards.Board) []string {
	var lines []string
	removable := 0
	for _, t := range d.targets {
		if t.Disk.Fixed() || t.Disk.File || t.Disk.Bus == "loop" || t.Disk.Bus == "nbd" {
			continue
		}
		removable++
	}
	switch {
	case removable == 0 || removable < len(d.targets) || d.opt.Eject:
	case removable == 1:
		lines = append(lines, "everything is on the disk: it can be removed now")
	default:
		lines = append(lines, "everything is on the disks: they can be removed now")
	}
	return append(lines, d.next(board)...)
}

// next returns what the board's definition says about a flashed disk.
func (d *Deployment) next(board *boards.Board) []string {
	m := d.src.Manifest
	if m == nil || d.opt.Eject {
		return nil
	}
	if board == nil || board.Name != m.Board {
		var err error
		if board, err = boards.Get(m.Board); err != nil {
			return nil // it is not built in
		}
	}
	if board.AfterFlash == "" {
		return nil
	}
	return strings.Split(strings.TrimSpace(board.AfterFlash), "\n")
}
