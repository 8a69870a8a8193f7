package disks

import (
	"cmp"
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/terminal"
	"imgtool/cmd/imgtool/usage"
	"imgtool/flash/deploy"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/sanitize"
)

func newDisksCommand(u *ui) *cobra.Command {
	return &cobra.Command{
		Use:   "disks",
		Short: "List the disks of this machine and why each may be flashed or not",
		Long: `List the disks of this machine: size, model, what is on them, and whether they can be
flashed. On a terminal each disk takes several lines, elsewhere one.`,
		Example:    "  imgtool disks\n  imgtool disks --json",
		SuggestFor: []string{"devices", "drives", "list", "lsblk"},
		Args:       usage.None("it lists all disks"),
		RunE:       func(cmd *cobra.Command, args []string) error { return runDisks(cmd.Context(), u) },
	}
}

// diskRow is a disk in the output of --json.
type diskRow struct {
	Path      string `json:"path"`
	Size      int64  `json:"size"`
	Sector    int    `json:"sector_size"`
	Vendor    string `json:"vendor,omitempty"`
	Model     string `json:"model,omitempty"`
	Serial    string `json:"serial,omitempty"`
	Bus       string `json:"bus,omitempty"`
	Kind      string `json:"kind,omitempty"` // MMC or SD
	Removable bool   `json:"removable"`
	Contents  string `json:"contents,omitempty"`
	Target    bool   `json:"target"`
	Reason    string `json:"reason,omitempty"` // why it is none
	Needs     string `json:"needs,omitempty"`  // of a target: "password" or "root"

	releasable bool // it is mounted, and not in use otherwise
}

func runDisks(ctx context.Context, u *ui) error {
	disks, err := deploy.Disks(disk.Need{SectorSize: 512})
	if err != nil {
		return err
	}
	rows := []diskRow{}
	for _, d := range disks {
		r := diskRow{d.Path, d.Size, d.SectorSize, d.Vendor, d.Model, d.Serial, d.Bus, d.Kind, d.Removable, "", d.Refused == nil, d.Reason(), "", d.Releasable()}
		if r.Target {
			r.Needs = needs(ctx, &d.Disk)
		}
		if d.Size > 0 {
			r.Contents = deploy.Contents(&d.Disk)
		}
		rows = append(rows, r)
	}
	if u.JSON {
		return u.Print(rows)
	}
	if len(rows) == 0 {
		u.Infof("there are no disks")
		return nil
	}
	if u.ToTerminal() {
		return u.Text(diskPages(rows, u.Width()))
	}
	list := u.Listing()
	columns := [3]int{}
	for _, r := range rows {
		for i, text := range r.columns() {
			columns[i] = max(columns[i], len(text))
		}
	}
	for _, r := range rows {
		c := r.columns()
		list.Printf("%-*s  %*s  %-*s  %s\n", columns[0], c[0], columns[1], c[1], columns[2], c[2], r.verdict())
	}
	return list.Flush()
}

func (r *diskRow) columns() [3]string {
	model := cmp.Or(strings.TrimSpace(r.Vendor+" "+r.Model), strings.TrimSpace(r.Bus+" "+r.Kind))
	return [3]string{sanitize.Line(r.Path), image.FormatSize(r.Size), sanitize.Line(model)}
}

func (r *diskRow) verdict() string {
	switch {
	case r.releasable && !r.Target:
		return "mounted: imgtool flash unmounts it after a question"
	case !r.Target:
		return "no: " + r.Reason
	case r.Needs == "password":
		return "can be flashed with an administrator's password"
	case r.Needs == "root":
		return "can be flashed by root"
	}
	return "can be flashed"
}

// needs returns what this user lacks to write a disk: "password", "root" or "".
func needs(ctx context.Context, d *disk.Disk) string {
	denied, ok := errors.AsType[*disk.PermissionError](d.Permit(ctx, true, false))
	switch {
	case !ok:
		return ""
	case denied.Password:
		return "password"
	}
	return "root"
}

// diskPages shows each disk as a line with path, size and model, and indented lines with what
// is on it and whether it can be flashed.
func diskPages(rows []diskRow, width int) string {
	var b strings.Builder
	wide := 0
	for _, r := range rows {
		wide = max(wide, len(r.columns()[0]))
	}
	for _, r := range rows {
		c := r.columns()
		about := strings.TrimSpace(r.Bus + " " + r.Kind)
		if about != "" && c[2] != about {
			about = " (" + sanitize.Line(about) + ")"
		} else {
			about = ""
		}
		head := sanitize.Sprintf("%-*s %10s  ", wide, c[0], c[1])
		b.WriteString(head + terminal.Wrap(c[2]+about, width-len(head), "    ") + "\n")
		for _, text := range []string{r.Contents, r.verdict()} {
			if text != "" {
				b.WriteString("    " + terminal.Wrap(sanitize.Line(text), width-4, "    ") + "\n")
			}
		}
	}
	return b.String()
}
