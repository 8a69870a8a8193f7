package main

import (
	"strings"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/usage"
	"imgtool/flash/disk"
	"imgtool/image"
)

func newDisksCommand(u *ui) *cobra.Command {
	return &cobra.Command{
		Use:        "disks",
		Short:      "List the disks of this machine and why each may be flashed or not",
		Example:    "  imgtool disks\n  imgtool disks --json",
		SuggestFor: []string{"devices", "drives", "list", "lsblk"},
		Args:       usage.None("it lists all disks"),
		RunE:       func(cmd *cobra.Command, args []string) error { return runDisks(u) },
	}
}

func runDisks(u *ui) error {
	disks, err := disk.List("/")
	if err != nil {
		return err
	}
	type row struct {
		Path      string `json:"path"`
		Size      int64  `json:"size"`
		Sector    int    `json:"sector_size"`
		Vendor    string `json:"vendor,omitempty"`
		Model     string `json:"model,omitempty"`
		Serial    string `json:"serial,omitempty"`
		Bus       string `json:"bus,omitempty"`
		Kind      string `json:"kind,omitempty"` // MMC or SD
		Removable bool   `json:"removable"`
		Target    bool   `json:"target"`
		Reason    string `json:"reason,omitempty"` // why it is none
	}
	rows := []row{}
	for _, d := range disks {
		r := row{d.Path, d.Size, d.SectorSize, d.Vendor, d.Model, d.Serial, d.Bus, d.Kind, d.Removable, true, ""}
		if err := d.Check(disk.Need{SectorSize: 512}); err != nil {
			r.Target, r.Reason = false, strings.TrimPrefix(err.Error(), d.Path+": ")
		}
		rows = append(rows, r)
	}
	if u.JSON {
		return u.Print(rows)
	}
	for _, r := range rows {
		verdict := "can be flashed"
		if !r.Target {
			verdict = "no: " + r.Reason
		}
		err := u.Printf("%-16s %10s  %-8s %-28s %s\n", r.Path, image.FormatSize(r.Size), strings.TrimSpace(r.Bus+" "+r.Kind), strings.TrimSpace(r.Vendor+" "+r.Model), verdict)
		if err != nil {
			return err
		}
	}
	if len(rows) == 0 {
		u.Infof("there are no disks")
	}
	return nil
}
