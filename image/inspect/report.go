package inspect

import (
	"cmp"
	"fmt"
	"strings"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/boardinfo"
	"imgtool/image/edit"
	"imgtool/image/sanitize"
	"imgtool/image/volume"
)

// Report is what is in an image. Sizes and offsets are in bytes.
type Report struct {
	Image      string           `json:"image"`
	Format     string           `json:"format"`
	Size       int64            `json:"size"`
	Board      string           `json:"board,omitempty"`
	Medium     string           `json:"medium,omitempty"`
	BuildID    string           `json:"build_id,omitempty"`
	Floor      int64            `json:"floor,omitempty"` // smallest disk
	Table      string           `json:"table,omitempty"` // GUID of the disk
	FirstLBA   int64            `json:"first_usable_sector,omitempty"`
	Partitions []Partition      `json:"partitions"`
	Blobs      []Blob           `json:"blobs,omitempty"`
	Inputs     []artifact.Input `json:"inputs,omitempty"`
	Checks     []Check          `json:"checks"`
	Bundle     *Bundle          `json:"bundle,omitempty"` // nil unless it is an update bundle

	Attachments []artifact.Attached `json:"attachments,omitempty"` // in the image and beside it

	info *boardinfo.Info // nil if the board is not known
}

// Partition is a partition, and its file system if it has one.
type Partition struct {
	volume.Row
	FAT      *FAT         `json:"fat,omitempty"`
	Squashfs *Squashfs    `json:"squashfs,omitempty"`
	Erofs    *Erofs       `json:"erofs,omitempty"`
	Ext4     *Ext4        `json:"ext4,omitempty"`
	Swap     *volume.Swap `json:"swap,omitempty"`

	Verity *artifact.Verity `json:"verity,omitempty"` // by the manifest
}

// Ext4 is an ext4 file system.
type Ext4 struct {
	Label    string `json:"label,omitempty"`
	UUID     string `json:"uuid,omitempty"`
	Files    int    `json:"files"` // with directories and all else
	Content  int64  `json:"content"`
	Extlinux string `json:"extlinux,omitempty"` // text of /boot/extlinux/extlinux.conf
	State    string `json:"state,omitempty"`    // text of the provisioning state file
}

// FAT is a FAT file system.
type FAT struct {
	Kind   int    `json:"kind"` // 12, 16 or 32
	Label  string `json:"label,omitempty"`
	Serial string `json:"serial"`
	Files  []File `json:"files"`
	Script string `json:"script,omitempty"` // text of boot.scr
}

// File is a file on a FAT.
type File struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

// Squashfs is a squashfs file system.
type Squashfs struct {
	Codec     string `json:"codec"`
	BlockSize int    `json:"block_size"`
	Inodes    int    `json:"inodes"`
	Used      int64  `json:"used"`
	Time      string `json:"time"` // RFC 3339
}

// Erofs is an erofs file system.
type Erofs struct {
	Label     string   `json:"label,omitempty"`
	UUID      string   `json:"uuid,omitempty"`
	Codecs    []string `json:"codecs,omitempty"` // none if it is not compressed
	BlockSize int      `json:"block_size"`
	Inodes    int64    `json:"inodes"`
	Used      int64    `json:"used"`
	Time      string   `json:"time"` // RFC 3339
}

// Blob is a boot loader outside of partitions.
type Blob struct {
	Name string `json:"name"`
	Off  int64  `json:"offset"`
	Kind string `json:"kind,omitempty"`

	Lacked []string `json:"lacked,omitempty"` // recovery functions it lacks, each a sentence
}

// Check is the result of a check.
type Check struct {
	What    string `json:"check"`
	Fault   string `json:"fault,omitempty"`   // empty if the check passes
	Warning string `json:"warning,omitempty"` // not a fault, but may be a mistake
}

func (c Check) String() string {
	switch {
	case c.Fault != "":
		return "FAULT " + c.What + ": " + c.Fault
	case c.Warning != "":
		return "warn  " + c.What + ": " + c.Warning
	}
	return "ok    " + c.What
}

// Faults returns how many checks fail.
func (r *Report) Faults() (n int) {
	for _, c := range r.Checks {
		if c.Fault != "" {
			n++
		}
	}
	return n
}

// text collects lines. Text that is formatted into a line cannot break it.
type text struct{ strings.Builder }

func (t *text) printf(format string, args ...any) { t.WriteString(sanitize.Sprintf(format, args...)) }

// block adds the lines of a file under a title, unless it is empty.
func (t *text) block(part, title, content string) {
	if content == "" {
		return
	}
	t.printf("\n%s: %s\n", part, title)
	for line := range strings.Lines(content) {
		t.printf("  | %s\n", strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "        "))
	}
}

// Text returns the report for users, in many lines.
func (r *Report) Text() string {
	var t text
	t.printf("%s: %s, %s (%d bytes)\n", r.Image, r.Format, image.FormatSize(r.Size), r.Size)
	if r.Board != "" {
		t.printf("%s build %s, for disks from %s\n", strings.TrimSpace(r.Board+" "+r.Medium), r.BuildID, image.FormatSize(r.Floor))
	}
	if r.Bundle != nil {
		r.Bundle.text(&t)
	}
	r.partitions(&t)
	if r.Table != "" {
		t.printf("\ndisk %s, first usable sector %d\n", r.Table, r.FirstLBA)
	}
	for _, blob := range r.Blobs {
		t.printf("%s at sector %d\n", blob.Name, blob.Off/512)
		for _, lacked := range blob.Lacked {
			t.printf("  %s\n", lacked)
		}
	}
	r.files(&t)
	if len(r.Inputs) > 0 {
		t.printf("\ninputs\n")
		for _, in := range r.Inputs {
			t.printf("  %.16s…  %s  %s\n", in.SHA256, in.Name, in.Origin)
		}
	}
	if len(r.Attachments) > 0 {
		t.printf("\nattachments\n")
		for _, a := range r.Attachments {
			t.printf("  %.16s…  %s, %d bytes, %s\n", a.SHA256, a.Name, a.Size, cmp.Or(a.Path, "in the image"))
		}
	}
	t.printf("\nchecks\n")
	for _, c := range r.Checks {
		t.printf("  %s\n", c.String())
	}
	return t.String()
}

func (r *Report) partitions(t *text) {
	if len(r.Partitions) == 0 {
		return
	}
	wide := 12
	for _, p := range r.Partitions {
		wide = max(wide, len(p.Name))
	}
	t.printf("\n%s\n", bar(r.Partitions, max(r.Size, r.Floor)))
	t.printf("%3s %-*s %-14s %10s %10s  %s\n", "#", wide, "name", "type", "start", "size", "holds")
	for _, p := range r.Partitions {
		size := image.FormatSize(p.Len)
		if p.Len == 0 {
			size = "the rest"
		}
		t.printf("%3d %-*s %-14s %10s %10s  %s\n", p.Number, wide, p.Name, p.Type, FormatOffset(p.Off), size, p.holds())
	}
}

// files adds the files of FATs and the text of boot files.
func (r *Report) files(t *text) {
	for _, p := range r.Partitions {
		if p.FAT == nil {
			continue
		}
		t.printf("\n%s: FAT%d %q, serial %s\n", p.Name, p.FAT.Kind, p.FAT.Label, p.FAT.Serial)
		for _, f := range p.FAT.Files {
			t.printf("  %10d  %s\n", f.Size, f.Path)
		}
	}
	for _, p := range r.Partitions {
		if p.FAT != nil && p.FAT.Script != "" {
			t.block(p.Name, "boot.scr", p.FAT.Script)
			break // all slots have the same
		}
	}
	for _, p := range r.Partitions {
		if p.Ext4 != nil {
			t.block(p.Name, edit.ExtlinuxConf, p.Ext4.Extlinux)
			t.block(p.Name, "state", p.Ext4.State)
		}
	}
}

func (p *Partition) holds() string {
	text := p.fileSystem()
	if p.Verity != nil {
		text += ", dm-verity"
	}
	return text
}

func (p *Partition) fileSystem() string {
	switch {
	case p.Late:
		return "made by the device on its first boot"
	case p.FAT != nil:
		return fmt.Sprintf("FAT%d %s, %d files", p.FAT.Kind, p.FAT.Label, len(p.FAT.Files))
	case p.Ext4 != nil:
		return fmt.Sprintf("ext4 %s, %s in %d files", p.Ext4.Label, image.FormatSize(p.Ext4.Content), p.Ext4.Files)
	case p.Swap != nil:
		return "swap " + p.Swap.Label
	case p.Squashfs != nil:
		return fmt.Sprintf("squashfs %s, %s in %d inodes", p.Squashfs.Codec, image.FormatSize(p.Squashfs.Used), p.Squashfs.Inodes)
	case p.Erofs != nil:
		codecs := strings.Join(p.Erofs.Codecs, ",")
		return strings.TrimSpace("erofs "+codecs) + fmt.Sprintf(", %s in %d inodes", image.FormatSize(p.Erofs.Used), p.Erofs.Inodes)
	}
	return ""
}

// FormatOffset returns an offset in whole MiB if possible, else rounded.
func FormatOffset(n int64) string {
	if n%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return image.FormatSize(n)
}

// bar draws the disk to scale in one line of about 76 characters. Each partition is at
// least as wide as its number.
func bar(parts []Partition, size int64) string {
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
