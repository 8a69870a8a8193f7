// Package option has the flags that several commands have, and what the commands do with them:
// open and check an image, read a seed, write disks.
package option

import (
	"time"

	"github.com/spf13/cobra"

	"imgtool/boards"
	"imgtool/cmd/imgtool/exit"
	"imgtool/cmd/imgtool/terminal"
	"imgtool/flash"
	"imgtool/flash/deploy"
	"imgtool/image/build/job"
	"imgtool/image/fault"
)

// ui is short for the user interface that all commands have.
type ui = terminal.UI

// AddBoard adds --board to a command that looks for the seed of an image or disk.
func AddBoard(cmd *cobra.Command, board *string) {
	cmd.Flags().StringVar(board, "board", "", "a board's `NAME`, or the path of its definition, for images without a manifest that names it")
}

// Board returns the board of a --board flag, or nil.
func Board(name string) (*boards.Board, error) {
	if name == "" {
		return nil, nil
	}
	return boards.Load(name)
}

// AddStall adds --stall-timeout to a command that reads or writes disks.
func AddStall(cmd *cobra.Command, stall *time.Duration) {
	cmd.Flags().DurationVar(stall, "stall-timeout", flash.DefaultStall, "how long a disk may take over one read, write or flush")
}

// CheckStall checks the value of --stall-timeout.
func CheckStall(stall time.Duration) error {
	if stall <= 0 {
		return fault.New(fault.Usage, "--stall-timeout is %s; it must be positive", stall)
	}
	return nil
}

// Now returns the time in SOURCE_DATE_EPOCH, or else the present time.
func Now() (time.Time, error) {
	epoch, given, err := job.SourceDate()
	if err != nil || given {
		return time.Unix(epoch, 0), err
	}
	return time.Now(), nil
}

// Deploying returns how all commands write disks.
func Deploying(u *ui, yes bool, stall time.Duration) deploy.Options {
	o := deploy.Options{Monitor: u, Scratch: &u.Unpacked, Status: exit.Status, Stall: stall, Begin: u.WriteDisks, Done: func(r deploy.Receipt) {
		if !u.JSON && r.Status == exit.OK {
			u.Paragraph(r.Summary())
		}
	}}
	if !yes {
		o.Confirm = u.Confirm
	}
	return o
}
