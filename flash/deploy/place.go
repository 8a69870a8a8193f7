package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"imgtool/image"
	"imgtool/image/gpt"
	"imgtool/image/progress"
	"imgtool/image/tree"
	"imgtool/image/volume"
)

// placeTime limits how long files are read to find the file that differs.
const placeTime = time.Minute

// place adds to an [*image.MismatchError] in err which partition and file of the image it is in.
func (p *Plan) place(ctx context.Context, err error, r progress.Reporter) {
	wrong, ok := errors.AsType[*image.MismatchError](err)
	if !ok || ctx.Err() != nil || wrong.Name != "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, placeTime)
	defer cancel()
	where := volume.Where{FileOff: -1}
	switch img := p.src.Image; {
	case img != nil && wrong.Len < image.PieceSize && !p.src.IsURL():
		r.Phase("finding the file", 0)
		where = volume.WhereIs(ctx, img, p.table.Parts, wrong.Off)
		r.EndPhase()
	default: // the stream was read, a whole piece differs, or the files would have to be fetched
		for _, part := range p.table.Parts {
			if wrong.Off < part.Off+part.Len && part.Off < wrong.Off+wrong.Len {
				where.Partition = volume.PartName(part)
				break
			}
		}
	}
	wrong.Partition, wrong.File, wrong.FileOff = where.Partition, where.File, where.FileOff
	wrong.Place = p.clause(where, wrong.Off)
}

// placeFile replaces the place of a mismatch in the directories or tables of a file system by the
// first file that a disk has not, or not with the same content: it is why they differ.
func (p *Plan) placeFile(ctx context.Context, err error, disk io.ReaderAt) {
	wrong, ok := errors.AsType[*image.MismatchError](err)
	if !ok || p.src.Image == nil || p.src.IsURL() || wrong.Partition == "" || wrong.File != "" {
		return
	}
	i := slices.IndexFunc(p.table.Parts, func(part gpt.Part) bool { return volume.PartName(part) == wrong.Partition })
	part := p.table.Parts[i]
	want, err := volume.ReadFS(io.NewSectionReader(p.src.Image, part.Off, part.Len), part.Len)
	if err != nil || want == nil || want.Tree == nil {
		return
	}
	got, err := volume.ReadFS(io.NewSectionReader(disk, part.Off, part.Len), part.Len)
	if err != nil || got == nil || got.Tree == nil {
		return
	}
	for path, n := range want.Tree.All() {
		if ctx.Err() != nil {
			return
		}
		if how := differs(n, got.Tree.Lookup(path)); how != "" {
			wrong.File, wrong.FileOff, wrong.Place = path, -1, wrong.Partition+"/"+path+" "+how
			return
		}
	}
}

// differs returns how a file on a disk differs from the one in an image, or "".
func differs(want, got *tree.Inode) string {
	switch {
	case got == nil:
		return "is missing"
	case want.Type() != got.Type():
		return "is another kind of file"
	case want.Type() != tree.Regular:
		return ""
	case want.Size() != got.Size():
		return fmt.Sprintf("has %d bytes and not %d", got.Size(), want.Size())
	}
	a, b := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); at < want.Size(); at += int64(len(a)) {
		n, _ := want.Content.ReadAt(a, at)
		m, _ := got.Content.ReadAt(b, at)
		if !bytes.Equal(a[:n], b[:m]) {
			return "differs"
		}
	}
	return ""
}

func (p *Plan) clause(w volume.Where, off int64) string {
	switch {
	case w.File != "" && w.FileOff >= 0:
		return fmt.Sprintf("%s/%s differs from its byte %d on", w.Partition, w.File, w.FileOff)
	case w.File != "":
		return fmt.Sprintf("%s/%s differs", w.Partition, w.File)
	case w.Metadata:
		return fmt.Sprintf("%s differs outside of its files", w.Partition)
	case w.Partition != "":
		return fmt.Sprintf("the partition %s differs", w.Partition)
	}
	for _, s := range p.table.Spans() {
		if off >= s.Off && off < s.End() {
			return "the partition table differs"
		}
	}
	if m := p.src.Manifest; m != nil {
		for _, e := range m.Entries {
			if off >= e.Off && off < e.Off+e.Len && e.Name != "gap" && !strings.Contains(e.Name, "/") {
				return e.Name + " differs"
			}
		}
	}
	return ""
}
