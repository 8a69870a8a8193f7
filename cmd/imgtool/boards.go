package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"imgtool/boards"
)

func newBoardsCommand(u *ui) *cobra.Command {
	return &cobra.Command{
		Use:   "boards [NAME]",
		Short: "List the boards, or print the definition of one",
		Long: `List the boards that come with imgtool, or print the definition of one: a start
for a definition of your own, used as --board ./mine.toml.`,
		Example: `  imgtool boards
  imgtool boards rock64 > mine.toml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runBoards(args, u) },
	}
}

func runBoards(args []string, u *ui) error {
	if len(args) == 1 {
		b, err := loadBoard(args[0])
		if err != nil {
			return err
		}
		if u.json {
			return u.print(b)
		}
		_, err = u.out.Write(b.Source)
		return err
	}
	type row struct {
		Name        string   `json:"name"`
		Description string   `json:"description"`
		Arch        string   `json:"arch"`
		Inputs      []string `json:"inputs"`
	}
	var rows []row
	for _, name := range boards.Names() {
		b, err := boards.Get(name)
		if err != nil {
			return err
		}
		rows = append(rows, row{b.Name, b.Description, b.Arch, b.Inputs()})
	}
	if u.json {
		return u.print(rows)
	}
	for _, r := range rows {
		fmt.Fprintf(u.out, "%-12s %-8s %s\n", r.Name, r.Arch, r.Description)
	}
	return nil
}
