// Package configs has the commands that make, check and send the configurations of devices.
package configs

import (
	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/terminal"
)

// ui is short for the user interface that all commands have.
type ui = terminal.UI

// Commands returns the commands in the order in which help lists them.
func Commands(u *ui) []*cobra.Command {
	return []*cobra.Command{newSeedCommand(u), newProvisionCommand(u)}
}
