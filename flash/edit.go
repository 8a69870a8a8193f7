package flash

import (
	"bytes"
	"context"

	"imgtool/image"
)

// Change is a change of parts of a disk.
type Change struct {
	Size  int64            // of the disk, in bytes
	Steps [][]image.Extent // in the order in which they are written

	Timeout
}

// Edit changes parts of a disk, such as a file on a partition. It flushes each step and reads
// it back before it writes the next one. An interrupted edit leaves the disk as after some of
// the steps, with the next one written in part.
//
// Unlike [Run], Edit leaves the first block alone and does not probe the size of the disk: that
// would overwrite the backup partition table. Errors are as from Run.
func Edit(ctx context.Context, dev Device, c Change, phases image.Phases) (*Result, error) {
	job := &Job{Timeout: c.Timeout}
	r := &run{dev: newTimeoutDevice(ctx, dev, c.Timeout), job: job, phases: phases, res: &Result{}, before: map[int64][]byte{}}
	r.saveGuard()
	for _, step := range c.Steps {
		chunks, err := r.patched(c.Size, step)
		if err == nil {
			total := totalLen(spansOf(chunks))
			_, err = r.settle(ctx, each(chunks), phases.Start(Writing, total), phases.Start(Reading, total))
		}
		if err != nil {
			return nil, &FailedError{err, r.state(ctx.Err() != nil)}
		}
	}
	return r.res, nil
}

// patched returns the blocks of the disk that patches change, with the patches in them.
func (r *run) patched(size int64, patches []image.Extent) (chunks []image.Chunk, err error) {
	m, err := image.New(size, patches...)
	if err != nil {
		return nil, err
	}
	var blocks []image.Extent
	for s := range m.Spans() {
		before := make([]byte, s.Len)
		if _, err := image.ReadFull(r.dev, before, s.Off); err != nil {
			return nil, r.readError(r.dev.ctx, err)
		}
		r.save(s.Off, before)
		blocks = append(blocks, image.Extent{Name: "disk", Off: s.Off, Content: bytes.NewReader(before)})
	}
	there, err := image.New(size, blocks...)
	if err != nil {
		return nil, err
	}
	over, err := there.Overlay(patches...)
	if err != nil {
		return nil, err
	}
	for c, err := range over.Chunks(image.PieceSize) {
		if err != nil {
			return nil, err
		}
		chunks = append(chunks, c)
	}
	return chunks, nil
}
