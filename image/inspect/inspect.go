// Package inspect reports what is in an image, and checks it: the partition tables, file
// systems, boot scripts and the blobs that the board boots from.
package inspect

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/boardinfo"
	"imgtool/image/edit"
	"imgtool/image/fileinfo"
	"imgtool/image/gpt"
	"imgtool/image/report"
	"imgtool/image/uboot"
	"imgtool/image/volume"
)

// Source inspects an image with random access. Damage is reported as failed checks; the
// error is about reading the image.
func Source(s *volume.Source) (*Report, error) {
	r := &Report{Image: s.Name, Format: s.Format.String(), Size: s.Image.Size(), Partitions: []Partition{}, Checks: []Check{}}
	if m := s.Manifest; m != nil {
		r.Board, r.Medium, r.BuildID, r.Floor, r.Inputs = m.Board, m.Medium, m.BuildID, m.Floor, m.Inputs
		if info, err := boards.InfoOf(m.Board, m.Medium, m.Info); err == nil {
			r.info = info
		}
	}
	parts, err := volume.ReadPartitions(s.Image)
	if err != nil {
		return nil, err
	}
	if parts.MBR {
		r.check("partition table (MBR)", nil)
	} else {
		r.check("partition table at the start", parts.Primary)
		r.check("partition table at the end", parts.Backup)
	}
	if parts.GPT != nil {
		if err := parts.GPT.Overlap(); err != nil {
			r.check("partitions", err)
		}
		r.Table, r.FirstLBA = parts.GPT.GUID, parts.GPT.FirstUsable/parts.GPT.Sector
	}
	for _, p := range parts.List {
		part, err := r.partition(s, p)
		if err != nil {
			return nil, err
		}
		r.Partitions = append(r.Partitions, *part)
	}
	for _, row := range s.Late() {
		r.Partitions = append(r.Partitions, Partition{Row: row})
	}
	r.blobs(s.Image)
	r.Attachments, err = s.Attachments()
	if err == nil && s.Manifest != nil && len(s.Manifest.Documents) > 0 {
		r.check("documents", s.CheckAttachments())
	}
	return r, err
}

// check adds a check, which fails if err is not nil.
func (r *Report) check(what string, err error) {
	c := Check{What: what}
	if err != nil {
		c.Fault = err.Error()
	}
	r.Checks = append(r.Checks, c)
}

func (r *Report) partition(s *volume.Source, p gpt.Part) (*Partition, error) {
	name := volume.PartName(p)
	part := &Partition{Row: volume.RowOf(p)}
	if m := partitionOf(s.Manifest, p.Number); m != nil {
		part.Verity = m.Verity
	}
	if p.Off+p.Len > s.Image.Size() {
		r.check(name, fmt.Errorf("it ends at byte %d of %d", p.Off+p.Len, s.Image.Size()))
		return part, nil
	}
	v, err := volume.ReadFS(io.NewSectionReader(s.Image, p.Off, p.Len), p.Len)
	switch {
	case errors.As(err, new(*artifact.CorruptError)):
		return nil, err
	case v == nil:
		return part, err
	case v.Kind == "swap":
		part.Swap = &v.Swap
		return part, nil
	}
	kind := v.Kind
	if v.FAT != nil {
		kind = "FAT"
	}
	r.check(name+": "+kind, err)
	switch {
	case err != nil:
	case v.FAT != nil:
		part.FAT = r.fat(name, v)
	case v.Ext4 != nil:
		part.Ext4 = &Ext4{Label: v.Ext4.Label, UUID: uuid.UUID(v.Ext4.UUID).String(), Files: v.Tree.Len(),
			Extlinux: v.ReadText(edit.ExtlinuxConf, edit.MaxText), State: v.ReadText(stateFile(s.Manifest, p.Number), edit.MaxText)}
		for _, n := range v.Tree.All() {
			part.Ext4.Content += n.Size()
		}
		r.perUnit(name, v)
	case v.Kind == "erofs":
		q := v.Erofs
		part.Erofs = &Erofs{q.Label, q.UUID, q.Codecs, q.BlockSize, q.Inodes, q.BytesUsed, timeOf(q.ModTime)}
		if v.Tree != nil {
			r.perUnit(name, v)
		}
	default:
		q := v.Squashfs
		part.Squashfs = &Squashfs{q.Codec, q.BlockSize, q.Inodes, q.BytesUsed, timeOf(q.ModTime)}
		r.perUnit(name, v)
	}
	return part, nil
}

// timeOf returns a time in seconds since 1970 as RFC 3339.
func timeOf(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.RFC3339) }

// partitionOf returns a partition of a manifest, which may be nil, or nil.
func partitionOf(m *artifact.Manifest, number int) *artifact.Partition {
	if m != nil {
		for i := range m.Partitions {
			if m.Partitions[i].Number == number {
				return &m.Partitions[i]
			}
		}
	}
	return nil
}

// stateFile returns the path of the file with the provisioning state of a partition, or "".
func stateFile(m *artifact.Manifest, number int) string {
	if p := partitionOf(m, number); p != nil {
		return p.State
	}
	return ""
}

func (r *Report) fat(name string, v *volume.FileSystem) *FAT {
	f := &FAT{Kind: v.FAT.Kind, Label: v.FAT.Label, Serial: fileinfo.FATSerial(v.FAT.Serial)}
	for _, file := range v.Entries {
		if file.Dir {
			continue
		}
		f.Files = append(f.Files, File{file.Path, file.Size()})
		if !strings.EqualFold(file.Path, "boot.scr") || file.Size() > uboot.MaxScript {
			continue
		}
		b := make([]byte, file.Size())
		_, err := image.ReadFull(file, b, 0)
		if err == nil {
			f.Script, err = uboot.ParseScript(b)
		}
		r.check(name+": boot.scr", err)
	}
	return f
}

// perUnit warns of files that belong to one unit, and would be the same in all units that
// get the image.
func (r *Report) perUnit(name string, v *volume.FileSystem) {
	var own []string
	if r.info != nil && r.info.Unit != nil {
		for _, f := range r.info.Unit.Files {
			own = append(own, f.Path)
		}
	}
	findings, err := report.PerUnit(v.Tree, own)
	if err != nil || len(findings) == 0 {
		return // an unreadable file system fails its own check
	}
	var list []string
	for _, f := range findings {
		list = append(list, f.String())
	}
	r.Checks = append(r.Checks, Check{What: name + ": data of one unit", Warning: strings.Join(list, ", ")})
}

// blobs looks for the boot loaders of the image's board or, if that is not known, of the
// built-in boards whose boot loaders are in the image.
func (r *Report) blobs(img *image.Image) {
	if r.info != nil {
		r.blobsOf(r.Board, r.info, img)
	}
	if r.Board != "" {
		return
	}
	for _, name := range boards.Names() {
		if b, err := boards.Get(name); err == nil {
			r.blobsOf(name, b.Info(b.Media[0].Name), img)
		}
	}
}

func (r *Report) blobsOf(board string, info *boardinfo.Info, img *image.Image) {
	if len(info.Blobs) == 0 {
		return
	}
	var found []Blob
	var missing []string
	for _, b := range info.Blobs {
		off := b.Sector * 512
		content := io.NewSectionReader(img, off, max(0, img.Size()-off))
		if boards.LooksLike(b.Kind, content) {
			var lacked []string
			if len(b.Commands) > 0 {
				var err error
				if lacked, err = boards.LackedByUBoot(content, b.Commands); err != nil {
					lacked = []string{fmt.Sprintf("it cannot be read: %v", err)}
				}
			}
			found = append(found, Blob{b.Input, off, b.Kind, lacked})
		} else {
			missing = append(missing, fmt.Sprintf("%s is not at sector %d", b.Input, b.Sector))
		}
	}
	if len(found) == 0 && r.Board == "" {
		return
	}
	r.Blobs = append(r.Blobs, found...)
	var err error
	if len(missing) > 0 {
		err = errors.New(strings.Join(missing, ", "))
	}
	r.check("boot loaders of "+board, err)
}
