package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/edit"
	rootfs "imgtool/image/report"
	"imgtool/image/sanitize"
	"imgtool/image/tree"
	"imgtool/image/uboot"
	"imgtool/image/volume"
	"imgtool/layouts"
)

func newInspectCommand(u *ui) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect FILE|DISK",
		Short: "Show what is in an image, and check it",
		Long: `Show the partitions of an image or disk, the files on its boot partitions, its boot
script or menu and its file systems, and check tables and blobs. Exit status 6 if a check
fails. Data of one unit, such as SSH host keys, is a warning and no fault.`,
		Example: `  imgtool inspect x.img.zst
  imgtool inspect --json /dev/sdX`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runInspect(cmd.Context(), args[0], u) },
	}
}

// report is what inspect found.
type report struct {
	Image      string           `json:"image"`
	Format     string           `json:"format"`
	Size       int64            `json:"size"`
	Board      string           `json:"board,omitempty"`
	Medium     string           `json:"medium,omitempty"`
	BuildID    string           `json:"build_id,omitempty"`
	Floor      int64            `json:"floor,omitempty"`
	Table      string           `json:"table,omitempty"` // GUID of the disk
	FirstLBA   int64            `json:"first_usable_sector,omitempty"`
	Partitions []partReport     `json:"partitions"`
	Blobs      []blobReport     `json:"blobs,omitempty"`
	Inputs     []artifact.Input `json:"inputs,omitempty"`
	Checks     []check          `json:"checks"`
}

type partReport struct {
	Number   int             `json:"number"`
	Name     string          `json:"name"`
	Type     string          `json:"type"`
	GUID     string          `json:"guid,omitempty"`
	Off      int64           `json:"offset"`
	Len      int64           `json:"length"`
	Late     bool            `json:"late,omitempty"`
	FAT      *fatReport      `json:"fat,omitempty"`
	Squashfs *squashfsReport `json:"squashfs,omitempty"`
	Ext4     *ext4Report     `json:"ext4,omitempty"`
	Swap     *swapReport     `json:"swap,omitempty"`
}

type ext4Report struct {
	Label    string `json:"label"`
	UUID     string `json:"uuid"`
	Files    int    `json:"files"`              // folders and all else included
	Content  int64  `json:"content"`            // of files, in bytes
	Extlinux string `json:"extlinux,omitempty"` // text of /boot/extlinux/extlinux.conf
	State    string `json:"state,omitempty"`    // text of the file that says it was provisioned
}

type swapReport struct {
	Label string `json:"label"`
	UUID  string `json:"uuid"`
}

type fatReport struct {
	Kind   int          `json:"kind"`
	Label  string       `json:"label"`
	Serial string       `json:"serial"`
	Files  []fileReport `json:"files"`
	Script string       `json:"script,omitempty"` // text of boot.scr
}

type fileReport struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

type squashfsReport struct {
	Codec     string `json:"codec"`
	BlockSize int    `json:"block_size"`
	Inodes    int    `json:"inodes"`
	Used      int64  `json:"used"`
	Time      int64  `json:"time"`
}

type blobReport struct {
	Name string `json:"name"`
	Off  int64  `json:"offset"`
	Kind string `json:"kind"`

	Lacked []string `json:"lacked,omitempty"` // what of recovery is not possible with it, each a sentence
}

type check struct {
	What    string `json:"check"`
	Fault   string `json:"fault,omitempty"`   // empty: it holds
	Warning string `json:"warning,omitempty"` // what is no fault, and may be wrong all the same
}

func (c check) String() string {
	switch {
	case c.Fault != "":
		return "FAULT " + c.What + ": " + c.Fault
	case c.Warning != "":
		return "warn  " + c.What + ": " + c.Warning
	}
	return "ok    " + c.What
}

func runInspect(ctx context.Context, path string, u *ui) error {
	pic, err := volume.Open(path, u.opening())
	if err != nil {
		return err
	}
	defer func() { pic.Close() }()
	if err := pic.Seek(ctx); err != nil {
		return err
	}
	r, err := inspect(pic)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	u.endPhase()
	if u.json {
		err = u.print(r)
	} else {
		err = u.text(r.text())
	}
	if err != nil {
		return err
	}
	faults := 0
	for _, c := range r.Checks {
		if c.Fault != "" {
			faults++
		}
	}
	if faults > 0 {
		return corrupt("%s: %d of %d checks fail", path, faults, len(r.Checks))
	}
	return nil
}

func inspect(pic *volume.Source) (*report, error) {
	img := pic.Image
	r := &report{Image: pic.Name, Format: pic.Format.String(), Size: img.Size()}
	note := func(what string, err error) bool {
		c := check{What: what}
		if err != nil {
			c.Fault = err.Error()
		}
		r.Checks = append(r.Checks, c)
		return err == nil
	}
	if m := pic.Manifest; m != nil {
		r.Board, r.Medium, r.BuildID, r.Floor, r.Inputs = m.Board, m.Medium, m.BuildID, m.Floor, m.Inputs
	}

	parts, err := volume.ReadPartitions(img)
	if err != nil {
		return nil, err
	}
	if parts.mbr {
		note("partition table (MBR)", nil)
	} else {
		note("partition table at the start", parts.front)
		note("partition table at the end", parts.back)
	}
	if parts.table != nil {
		if err := parts.table.Overlap(); err != nil {
			note("partitions", err)
		}
		r.Table, r.FirstLBA = parts.table.GUID, parts.table.FirstUsable/parts.table.Sector
	}
	for _, p := range parts.list {
		part := partReport{Number: p.Number, Name: p.Name, Type: layouts.TypeName(p.Type), GUID: p.GUID, Off: p.Off, Len: p.Len}
		if p.Off+p.Len > img.Size() {
			note(volume.PartName(p), fmt.Errorf("it ends at byte %d of %d", p.Off+p.Len, img.Size()))
		} else if v, err := part.look(img, stateOf(pic.Manifest, p.Number), volume.PartName(p), note); err != nil {
			return nil, err
		} else if v != nil && v.tree != nil && v.fat == nil {
			r.perUnit(volume.PartName(p), v.tree)
		}
		r.Partitions = append(r.Partitions, part)
	}
	if m := pic.Manifest; m != nil {
		for _, p := range m.Partitions {
			if p.Late {
				r.Partitions = append(r.Partitions, partReport{Number: p.Number, Name: p.Name, Type: p.Type, Off: p.Off, Len: p.Len, Late: true})
			}
		}
	}
	r.blobs(img, note)
	return r, nil
}

// perUnit warns of files of a partition that are one unit's, and would be the same in
// all units that get the image.
func (r *report) perUnit(name string, t *tree.Tree) {
	var own []string
	if b, err := boards.Get(r.Board); err == nil {
		for _, f := range b.Unit.Files {
			own = append(own, f.Path)
		}
	}
	findings, err := rootfs.PerUnit(t, own)
	if err != nil || len(findings) == 0 {
		return // a file system that cannot be read is a fault of its own
	}
	var list []string
	for _, f := range findings {
		list = append(list, f.String())
	}
	r.Checks = append(r.Checks, check{What: name + ": data of one unit", Warning: strings.Join(list, ", ")})
}

// stateOf is the state file of a partition, or nothing.
func stateOf(m *artifact.Manifest, number int) string {
	if m != nil {
		for _, p := range m.Partitions {
			if p.Number == number {
				return p.State
			}
		}
	}
	return ""
}

// look finds out what is in a partition, and returns it if it can be read. state is a
// file to show, if there is one.
func (p *partReport) look(img *image.Image, state, name string, note func(string, error) bool) (*volume, error) {
	v, err := volume.ReadFS(io.NewSectionReader(img, p.Off, p.Len), p.Len)
	if errors.As(err, new(*artifact.CorruptError)) || v == nil {
		return nil, err
	}
	if v.kind == "swap" {
		p.Swap = &v.swap
		return v, nil
	}
	if !note(name+": "+strings.TrimRight(v.kind, "0123456789"), err) {
		return nil, nil
	}
	switch {
	case v.fat == nil && v.ext4 == nil:
		s := v.squashfs
		p.Squashfs = &squashfsReport{s.Codec, s.BlockSize, s.Inodes, s.BytesUsed, s.ModTime}
	case v.ext4 != nil:
		p.Ext4 = &ext4Report{Label: v.ext4.Label, UUID: uuid.UUID(v.ext4.UUID).String(), Files: v.tree.Len(),
			Extlinux: textIn(v.tree, edit.ExtlinuxConf), State: textIn(v.tree, state)}
		for _, n := range v.tree.All() {
			p.Ext4.Content += n.Size()
		}
	case v.fat != nil:
		f := v.fat
		p.FAT = &fatReport{Kind: f.Kind, Label: f.Label, Serial: serialText(f.Serial)}
		for _, file := range v.entries {
			if file.Folder {
				continue
			}
			p.FAT.Files = append(p.FAT.Files, fileReport{file.Path, file.Size()})
			if !strings.EqualFold(file.Path, "boot.scr") || file.Size() > uboot.MaxScript {
				continue
			}
			b := make([]byte, file.Size())
			_, err := io.ReadFull(io.NewSectionReader(file, 0, file.Size()), b)
			if err == nil {
				p.FAT.Script, err = uboot.ParseScript(b)
			}
			note(name+": boot.scr", err)
		}
	}
	return v, nil
}

// serialText is the serial number of a FAT as others write it.
func serialText(n uint32) string { return fmt.Sprintf("%04X-%04X", n>>16, n&0xffff) }

// textIn is the text of a file in a tree, or nothing.
func textIn(t *tree.Tree, path string) string {
	if path == "" {
		return ""
	}
	n, err := t.Open(path)
	if err != nil || n.Content == nil || n.Size() > edit.MaxText {
		return ""
	}
	text := make([]byte, n.Size())
	if _, err := n.Content.ReadAt(text, 0); err != nil && err != io.EOF {
		return ""
	}
	return string(text)
}

// blobs looks for the blobs of the image's board, or of any board it may be for.
func (r *report) blobs(img *image.Image, note func(string, error) bool) {
	for _, name := range boards.Names() {
		b, err := boards.Get(name)
		if err != nil || r.Board != "" && r.Board != name {
			continue
		}
		var found []blobReport
		var missing []string
		if len(b.Media[0].Blobs) == 0 {
			continue
		}
		for _, blob := range b.Media[0].Blobs {
			off := blob.Sector * 512
			if boards.LooksLike(blob.Kind, io.NewSectionReader(img, off, max(0, img.Size()-off))) {
				found = append(found, blobReport{blob.Input, off, blob.Kind, lacked(b, blob.Input, io.NewSectionReader(img, off, img.Size()-off))})
			} else {
				missing = append(missing, fmt.Sprintf("%s is not at sector %d", blob.Input, blob.Sector))
			}
		}
		if len(found) == 0 && r.Board == "" {
			continue
		}
		r.Blobs = append(r.Blobs, found...)
		var fault error
		if len(missing) > 0 {
			fault = errors.New(strings.Join(missing, ", "))
		}
		note("what "+name+" boots from", fault)
	}
}

// lacked is what of a board's recovery is not possible with a blob, if it is U-Boot.
func lacked(b *boards.Board, input string, blob io.Reader) []string {
	if b.Recovery.UBoot != input {
		return nil
	}
	all, err := boards.LackedByUBoot(blob, b.Recovery.Commands)
	if err != nil {
		return []string{fmt.Sprintf("it cannot be read: %v", err)}
	}
	return all
}

func (r *report) text() string {
	var b page
	b.printf("%s: %s, %s (%d bytes)\n", r.Image, r.Format, human(r.Size), r.Size)
	if r.Board != "" {
		name := r.Board
		if r.Medium != "" {
			name += " " + r.Medium
		}
		b.printf("%s build %s, for disks from %s\n", name, r.BuildID, human(r.Floor))
	}
	wide := 12
	for _, p := range r.Partitions {
		wide = max(wide, len(p.Name))
	}
	if len(r.Partitions) > 0 {
		b.printf("\n%s\n", bar(r.Partitions, max(r.Size, r.Floor)))
		b.printf("%3s %-*s %-14s %10s %10s  %s\n", "#", wide, "name", "type", "start", "size", "holds")
	}
	for _, p := range r.Partitions {
		size := human(p.Len)
		if p.Len == 0 {
			size = "the rest"
		}
		b.printf("%3d %-*s %-14s %10s %10s  %s\n", p.Number, wide, p.Name, p.Type, mebibytes(p.Off), size, p.holds())
	}
	if r.Table != "" {
		b.printf("\ndisk %s, first usable sector %d\n", r.Table, r.FirstLBA)
	}
	for _, blob := range r.Blobs {
		b.printf("%s at sector %d\n", blob.Name, blob.Off/512)
		for _, lacked := range blob.Lacked {
			b.printf("  %s\n", lacked)
		}
	}
	for _, p := range r.Partitions {
		if p.FAT == nil {
			continue
		}
		b.printf("\n%s: FAT%d %q, serial %s\n", p.Name, p.FAT.Kind, p.FAT.Label, p.FAT.Serial)
		for _, f := range p.FAT.Files {
			b.printf("  %10d  %s\n", f.Size, f.Path)
		}
	}
	for _, p := range r.Partitions {
		if p.FAT != nil && p.FAT.Script != "" {
			b.printf("\n%s: boot.scr\n", p.Name)
			for line := range strings.Lines(p.FAT.Script) {
				b.printf("  | %s\n", untab(strings.TrimSuffix(line, "\n")))
			}
			break // the slots share one
		}
	}
	for _, p := range r.Partitions {
		if p.Ext4 == nil {
			continue
		}
		for _, f := range []struct{ name, text string }{{edit.ExtlinuxConf, p.Ext4.Extlinux}, {"state", p.Ext4.State}} {
			if f.text == "" {
				continue
			}
			b.printf("\n%s: %s\n", p.Name, f.name)
			for line := range strings.Lines(f.text) {
				b.printf("  | %s\n", untab(strings.TrimSuffix(line, "\n")))
			}
		}
	}
	if len(r.Inputs) > 0 {
		b.WriteString("\ninputs\n")
		for _, in := range r.Inputs {
			b.printf("  %.16s…  %s  %s\n", in.SHA256, in.Name, in.Origin)
		}
	}
	b.WriteString("\nchecks\n")
	for _, c := range r.Checks {
		b.printf("  %s\n", c.String())
	}
	return b.String()
}

func (p *partReport) holds() string {
	switch {
	case p.Late:
		return "made by the device on its first boot"
	case p.FAT != nil:
		return fmt.Sprintf("FAT%d %s, %d files", p.FAT.Kind, p.FAT.Label, len(p.FAT.Files))
	case p.Ext4 != nil:
		return fmt.Sprintf("ext4 %s, %s in %d files", p.Ext4.Label, human(p.Ext4.Content), p.Ext4.Files)
	case p.Swap != nil:
		return "swap " + p.Swap.Label
	case p.Squashfs != nil:
		return fmt.Sprintf("squashfs %s, %s in %d inodes", p.Squashfs.Codec, human(p.Squashfs.Used), p.Squashfs.Inodes)
	}
	return ""
}

func mebibytes(n int64) string {
	if n%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return human(n)
}

// bar is the disk to scale in one line of some width, each partition at least
// its number wide.
func bar(parts []partReport, size int64) string {
	const width = 76
	cells := func(n int64) int {
		return int(float64(min(max(0, n), size)) / float64(size) * width)
	}
	var b strings.Builder
	at := int64(0)
	for _, p := range parts {
		if b.Len() > 2*width {
			return b.String() + "…"
		}
		off, end := min(max(0, p.Off), size), min(max(0, p.Off+p.Len), size)
		if p.Len == 0 {
			end = size
		}
		b.WriteString(strings.Repeat(".", cells(off-at)))
		fill := "="
		if p.Late {
			fill = "-"
		}
		label := fmt.Sprint(p.Number)
		b.WriteString("[" + label + strings.Repeat(fill, max(1, cells(end-off)-2-len(label))) + "]")
		at = max(at, end)
	}
	return b.String()
}

// page is text of many lines. What is formatted into it is in one line each.
type page struct{ strings.Builder }

func (p *page) printf(format string, args ...any) { p.WriteString(sanitize.Sprintf(format, args...)) }

// untab has spaces for tabs.
func untab(s string) string { return strings.ReplaceAll(s, "\t", "        ") }
