// Package disks has the commands that write and read disks.
package disks

import (
	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/terminal"
)

// ui is short for the user interface that all commands have.
type ui = terminal.UI

// Commands returns the commands in the order in which help lists them.
func Commands(u *ui) []*cobra.Command {
	return []*cobra.Command{newFlashCommand(u), newVerifyCommand(u), newFactoryCommand(u), newDisksCommand(u)}
}
