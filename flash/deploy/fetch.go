package deploy

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/flash/receipt"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/volume"
)

// comparing is the phase in which disks are compared with the manifest of an image on a server.
const comparing = "comparing"

// nearDisks has pieces of an image at their offsets. Each ReadAt is one piece of the manifest.
type nearDisks struct {
	disks []io.ReaderAt
	has   []map[int64]int // for each disk: the lengths of the pieces it has, by offset; nil: not known
}

// ReadAt reads from the first disk that has the piece.
func (n *nearDisks) ReadAt(p []byte, off int64) (int, error) {
	for i, d := range n.disks {
		if n.has != nil && n.has[i][off] != len(p) {
			continue
		}
		if k, err := d.ReadAt(p, off); k == len(p) || n.has == nil {
			return k, err
		}
	}
	return 0, io.EOF
}

// Precheck refuses disks that are too small for an image on a server according to its manifest,
// before more of it is fetched. The refusal is in the receipts.
func Precheck(ctx context.Context, src *volume.Source, names []string, opt Options, receipts string) error {
	if !src.IsURL() || src.Manifest == nil {
		return nil
	}
	for _, name := range names {
		found, err := Find(name)
		if err == nil {
			need := Need(src)
			need.SectorSize, need.Unmount, need.Fixed, need.Serial = 0, true, opt.Fixed, opt.Serial
			err = found.Check(need)
		}
		if err == nil {
			continue
		}
		d := &Deployment{src: src, opt: opt}
		if !opt.DryRun {
			log, logErr := receipt.Open(receipts)
			if logErr != nil {
				return logErr
			}
			defer log.Close()
			d.opt.Log = log
		}
		d.refused(ctx, names, err)
		return err
	}
	return nil
}

// useLikely lets an image on a server take pieces from disks that will probably be written, so
// that planning fetches only what they lack. It returns a function that ends that.
func (d *Deployment) useLikely() (end func()) {
	if !d.src.IsURL() || d.opt.Delta == "no" || len(d.opt.Likely) == 0 {
		return func() {}
	}
	found, err := disk.Find("/", d.opt.Likely[0])
	if err != nil {
		return func() {}
	}
	t, err := disk.OpenRead(found)
	if err != nil {
		return func() {}
	}
	d.src.UseDisk(&nearDisks{disks: []io.ReaderAt{t}})
	return func() {
		d.src.UseDisk(nil)
		t.Close()
	}
}

// planFetch announces which parts of an image on a server will be read: pieces that an open
// disk has are taken from there, if it is written as a delta.
func (d *Deployment) planFetch(ctx context.Context) error {
	m := d.src.Manifest
	if !d.src.IsURL() || d.src.Image == nil {
		return nil
	}
	near := &nearDisks{}
	var targets []*Target
	for _, t := range d.targets {
		if t.job.Delta {
			targets = append(targets, t)
			near.disks = append(near.disks, flash.NewReader(ctx, t.dev, t.job.Timeout))
			near.has = append(near.has, map[int64]int{})
		}
	}
	if m == nil || len(targets) == 0 {
		d.src.Plan(pieces(m))
		return nil
	}
	total := int64(0)
	for _, p := range m.Pieces {
		total += p.Len
	}
	d.opt.Monitor.Expect(append([]Phase{{comparing, total}}, writePhases(d.plan.BodySize(), VerifyModes[d.opt.Verify], false)...)...)
	p := d.opt.Monitor.Phase(comparing, total)
	lacking, err := near.compare(ctx, m.Pieces, p)
	if err != nil {
		return err
	}
	d.opt.Monitor.EndPhase()
	for i, t := range targets {
		// A chunk that was composed may differ from its piece.
		if d.plan.src == d.src && d.src.AsInFile() {
			t.job.Same = sameIn(near.has[i])
		}
	}
	d.src.UseDisk(near)
	n := d.src.Plan(lacking)
	d.opt.Monitor.Infof("%s: %d of %d pieces are fetched, %s; the others are on the disk already", d.src.Name, len(lacking), len(m.Pieces), image.FormatSize(n))
	return nil
}

// pieces returns the pieces of a manifest, nil if there is none.
func pieces(m *artifact.Manifest) []image.Entry {
	if m == nil {
		return nil
	}
	return m.Pieces
}

// compare finds out which disk has which pieces, and returns those that no disk has.
func (n *nearDisks) compare(ctx context.Context, pieces []image.Entry, progress image.Progress) (lacking []image.Entry, err error) {
	for _, p := range pieces {
		found := false
		for i, d := range n.disks {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			err := image.Verify(ctx, d, &image.Manifest{Entries: []image.Entry{p}}, nil)
			if err == nil {
				n.has[i][p.Off] = int(p.Len)
				found = true
			} else if errors.As(err, new(*flash.StallError)) {
				return nil, err
			}
		}
		if !found {
			lacking = append(lacking, p)
		}
		progress.Add(p.Len)
	}
	return lacking, nil
}

// sameIn returns a function that reports whether a span is in one of the pieces that a disk has,
// given as their lengths by offset.
func sameIn(has map[int64]int) func(image.Span) bool {
	offsets := slices.Sorted(maps.Keys(has))
	return func(s image.Span) bool {
		i, exact := slices.BinarySearch(offsets, s.Off)
		if !exact {
			i--
		}
		return i >= 0 && s.End() <= offsets[i]+int64(has[offsets[i]])
	}
}
