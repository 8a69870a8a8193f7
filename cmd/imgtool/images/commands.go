// Package images has the commands that make, show and publish images.
package images

import (
	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/terminal"
)

// ui is short for the user interface that all commands have.
type ui = terminal.UI

// Commands returns the commands in the order in which help lists them.
func Commands(u *ui) []*cobra.Command {
	return []*cobra.Command{newBuildCommand(u), newBundleCommand(u), newInspectCommand(u), newLsCommand(u), newCatCommand(u), newDiffCommand(u), newSBOMCommand(u), newSignCommand(u), newPushCommand(u), newPullCommand(u), newCatalogCommand(u), newVMCommand(u)}
}
