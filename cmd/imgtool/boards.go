package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"imgtool/boards"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image/fault"
	"imgtool/image/sanitize"
)

func newBoardsCommand(u *ui) *cobra.Command {
	var repart bool
	cmd := &cobra.Command{
		Use:   "boards [NAME]",
		Short: "List the boards, or print the definition of one",
		Long: `List the boards that come with imgtool, or print the definition of one: a start
for a definition of your own, used as --board ./mine.toml.

With --repart, print the definitions for systemd-repart by which the device makes the
partitions that the image leaves to it, with --json as a list of names and texts. They
are for systemd-repart --empty=allow --discard=no: its discard wipes the boot loaders.`,
		Example: `  imgtool boards
  imgtool boards rock64 > mine.toml
  imgtool boards rock64 --repart`,
		SuggestFor: []string{"targets", "platforms", "machines", "list"},
		Args:       usage.Operands("?board"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if repart {
				return runRepart(args, u)
			}
			return runBoards(args, u)
		},
	}
	cmd.Flags().BoolVar(&repart, "repart", false, "print the definitions for systemd-repart")
	return cmd
}

func runRepart(args []string, u *ui) error {
	if len(args) == 0 {
		return fault.New(fault.Usage, "say which board: imgtool boards NAME --repart")
	}
	b, err := boards.Load(args[0])
	if err != nil {
		return err
	}
	all := b.Repart()
	if all == nil {
		return fmt.Errorf("%s leaves no partition to the device: all are in its images", b.Name)
	}
	if u.JSON {
		return u.Print(all)
	}
	for i, d := range all {
		if i > 0 {
			u.Printf("\n")
		}
		if err := u.Text(fmt.Sprintf("# %s\n%s", sanitize.Line(d.Name), d.Text)); err != nil {
			return err
		}
	}
	return nil
}

// boardRow is a board in the output of --json.
type boardRow struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Arch        string   `json:"arch"`
	Inputs      []string `json:"inputs"`
	Media       []string `json:"media"`
	Layouts     []string `json:"layouts,omitempty"`
}

func newBoardRow(b *boards.Board) boardRow {
	return boardRow{b.Name, b.Description, b.Arch, b.Inputs(), b.MediaNames(), boards.Layouts(b.Name)}
}

// definition returns what --json has of one board.
func definition(b *boards.Board) any {
	return struct {
		boardRow
		Definition string `json:"definition"` // the TOML
	}{newBoardRow(b), string(b.Source)}
}

func runBoards(args []string, u *ui) error {
	if len(args) == 1 {
		b, err := boards.Load(args[0])
		if err != nil {
			return err
		}
		if u.JSON {
			return u.Print(definition(b))
		}
		return u.Write(b.Source)
	}
	rows := []boardRow{}
	for _, name := range boards.Names() {
		b, err := boards.Get(name)
		if err != nil {
			return err
		}
		rows = append(rows, newBoardRow(b))
	}
	if u.JSON {
		return u.Print(rows)
	}
	for _, r := range rows {
		if err := u.Printf("%-12s %-8s %s\n", r.Name, r.Arch, r.Description); err != nil {
			return err
		}
	}
	return nil
}
