package deploy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/progress"
	"imgtool/image/volume"
)

// Configure sets how the target is written.
func (t *Target) Configure(p *Plan, opt *Options) {
	t.job.Verify, t.Receipt.Verify = VerifyModes[opt.Verify], opt.Verify
	t.Receipt.SignedBy = opt.SignedBy
	t.job.Timeout = opt.timeout(t.Disk.Path)
	t.job.Watch = new(flash.Watch)
	t.job.Delta = opt.Delta == "yes"
	if opt.Delta == "auto" {
		why := p.similar(t.Disk)
		if t.job.Delta = why != ""; why != "" {
			opt.Monitor.Infof("%s %s", t.Disk.Path, why)
		}
	}
}

// Open opens the disks, and keeps the computer from going to sleep until they are closed. Disks
// that are mounted and [disk.Disk.Releasable] are unmounted.
func Open(ctx context.Context, targets []*Target, r progress.Reporter) (closeAll func(), err error) {
	closeAll = func() {
		for _, t := range targets {
			if t.dev != nil {
				t.dev.Close()
				t.dev = nil
			}
		}
	}
	var paths []string
	for _, t := range targets {
		if err = t.unmount(ctx, r); err == nil {
			t.dev, err = disk.Open(t.Disk)
		}
		if err != nil {
			t.dev = nil
			closeAll()
			return nil, err
		}
		paths = append(paths, t.Disk.Path)
		if unseen := t.Disk.Unseen(); unseen != "" {
			r.Infof("%s: without root's rights, %s cannot be seen", t.Disk.Path, unseen)
		}
	}
	awake, err := flash.Awake("writing " + strings.Join(paths, ", "))
	switch {
	case err == nil:
		disks := closeAll
		closeAll = func() { disks(); awake() }
	case !errors.Is(err, errors.ErrUnsupported):
		r.Warnf("keep this computer from going to sleep: %v", err)
	}
	return closeAll, nil
}

func (t *Target) unmount(ctx context.Context, r progress.Reporter) error {
	if !t.Disk.Releasable() {
		return nil
	}
	if err := t.Disk.Unmount(ctx); err != nil {
		return err
	}
	r.Infof("%s: unmounted %s", t.Disk.Path, strings.Join(t.Disk.MountPoints(), ", "))
	now, err := t.Disk.Again()
	if err == nil {
		t.Disk = now
	}
	return err
}

// Write writes open disks from one reading of the image, and sets their Receipt and Err.
func Write(ctx context.Context, p *Plan, targets []*Target, opt *Options) {
	bodies, leave := share(p.body(), len(targets))
	opt.Monitor.Expect(writePhases(p.BodySize(), targets[0].job.Verify, false)...)
	defer opt.Monitor.Expect()
	var running sync.WaitGroup
	for i, t := range targets {
		t.job.Body = p.onto(t.Disk.Size, bodies[i])
		t.Receipt.describe(t.Disk, p.src)
		phases, end := image.Phases(opt.Monitor.Phase), func(error) {}
		if len(targets) > 1 {
			phases, end = opt.Monitor.Disk(t.Disk.Path)
		}
		running.Go(func() {
			defer leave(i)
			defer t.ended.Store(true)
			t.write(ctx, p, phases, opt)
			end(t.Err)
		})
	}
	running.Wait()
}

func (t *Target) write(ctx context.Context, p *Plan, phases image.Phases, opt *Options) {
	begin := time.Now()
	dev := &countingDevice{Device: t.dev}
	res, err := flash.Run(ctx, dev, t.job, func(phase string, total int64) image.Progress {
		if phase == flash.Probing || phase == flash.Wiping {
			t.Touched = true
			opt.Monitor.SetLeft(t.Disk.Path, flash.Unknown)
		}
		return phases(phase, total)
	})
	t.Receipt.describe(t.Disk, p.src)
	t.Receipt.Seconds = time.Since(begin).Seconds()
	p.place(ctx, err, opt.Monitor)
	if t.Err = err; err != nil {
		t.Receipt.fail(ctx, err, opt)
		t.Receipt.Written = dev.written.Load()
		opt.Monitor.SetLeft(t.Disk.Path, t.Receipt.Left)
		return
	}
	r := &t.Receipt
	r.Unread, r.Writing, r.Reading = res.Unread, res.Writing.Seconds(), res.Reading.Seconds()
	r.Written, r.Skipped, r.Verified, r.Repaired = res.Written, res.Skipped, res.Verified, len(res.Repaired)
	r.Rate = int64(float64(res.Written+res.Skipped) / r.Seconds)
	opt.Monitor.SetLeft(t.Disk.Path, "")
	for _, r := range res.Repaired {
		opt.Monitor.Warnf("%s: at byte %d, %d bytes: %s; this disk or its cable is unreliable", t.Disk.Path, r.Off, r.Len, r.How)
	}
}

// countingDevice counts the bytes that are written to a disk.
type countingDevice struct {
	flash.Device
	written atomic.Int64
}

func (d *countingDevice) WriteAt(p []byte, off int64) (int, error) {
	n, err := d.Device.WriteAt(p, off)
	d.written.Add(int64(n))
	return n, err
}

// Release closes a disk that was written, and checks its name unless it was ejected.
func (t *Target) Release(opt *Options, ejected bool) {
	dev := t.dev
	t.dev = nil
	if t.Err != nil || ejected {
		dev.Close()
		return
	}
	t.Err = dev.Named()
	notRead, err := dev.CloseReread()
	if notRead != nil {
		opt.Monitor.Warnf("the image is written, but %v", notRead)
	}
	if err != nil {
		t.Err = &image.WriteError{Err: fmt.Errorf("closing %s: %w", t.Disk.Path, err)}
	}
	if t.Err != nil {
		t.Receipt.Status, t.Receipt.Error, t.Receipt.Left = opt.Status(t.Err), t.Err.Error(), flash.Unknown
		opt.Monitor.SetLeft(t.Disk.Path, flash.Unknown)
	}
}

// readShare is the divisor of how much of the partitions is read back.
var readShare = map[flash.Verify]int64{flash.Full: 1, flash.Sampled: 16, flash.None: math.MaxInt64}

// writePhases returns the phases of writing that take time.
func writePhases(size int64, verify flash.Verify, none bool) []Phase {
	if none {
		return nil
	}
	phases := []Phase{{flash.Writing, size}, {flash.Reading, size / readShare[verify]}}
	if verify == flash.None {
		phases = phases[:1]
	}
	return phases
}

// share returns n sequences of the same chunks, which are consumed at the same time; the
// slowest consumer sets the pace. A consumer that ends early, or never begins, must call
// leave with its index.
func share(chunks volume.Chunks, n int) (shared []volume.Chunks, leave func(int)) {
	if n == 1 {
		return []volume.Chunks{chunks}, func(int) {}
	}
	type item struct {
		c   image.Chunk
		err error
	}
	pipes, gone := make([]chan item, n), make([]chan struct{}, n)
	left := make([]sync.Once, n)
	for i := range n {
		pipes[i], gone[i] = make(chan item, 1), make(chan struct{})
	}
	leave = func(i int) { left[i].Do(func() { close(gone[i]) }) }
	pump := func() {
		for c, err := range chunks {
			for i := range n {
				select {
				case pipes[i] <- item{c, err}:
				case <-gone[i]:
				}
			}
		}
		for i := range n {
			close(pipes[i])
		}
	}
	begin := sync.OnceFunc(func() { go pump() })
	for i := range n {
		shared = append(shared, func(yield func(image.Chunk, error) bool) {
			defer leave(i)
			begin()
			for it := range pipes[i] {
				if !yield(it.c, it.err) || it.err != nil {
					return
				}
			}
		})
	}
	return shared, leave
}
