package main

import (
	"time"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/exit"
	"imgtool/cmd/imgtool/reference"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image/build/job"
)

// newGenCommand returns the command that packages and the documentation are made with.
func newGenCommand(u *ui) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "gen",
		Short:   "Write man pages or the command reference",
		Example: "  imgtool gen markdown > docs/reference/commands.md",
		Hidden:  true,
	}
	describe := func(cmd *cobra.Command) (reference.Reference, error) {
		epoch, _, err := job.SourceDate()
		return reference.Reference{
			Root: cmd.Root(), Version: programVersion(), Date: time.Unix(epoch, 0),
			Statuses: exit.Meanings, Environment: reference.Environment, Files: reference.Files,
			SeeAlso: []string{"bmaptool(1)", "dd(1)", "lsblk(8)", "qemu-system-aarch64(1)"},
		}, err
	}
	cmd.AddCommand(&cobra.Command{
		Use:     "man DIR",
		Short:   "Write the man pages into a directory, with the date of SOURCE_DATE_EPOCH",
		Example: "  imgtool gen man /usr/local/share/man/man1",
		Args:    usage.Operands("directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := describe(cmd)
			if err != nil {
				return err
			}
			return r.Man(args[0])
		},
	}, &cobra.Command{
		Use:     "markdown",
		Short:   "Print the command reference in Markdown",
		Example: "  imgtool gen markdown > docs/reference/commands.md",
		Args:    usage.None(""),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := describe(cmd)
			if err != nil {
				return err
			}
			return r.Markdown(u.Stdout())
		},
	})
	return cmd
}
