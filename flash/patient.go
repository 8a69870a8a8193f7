package flash

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"imgtool/flash/disk"
	"imgtool/image/fault"
)

// DefaultStall is how long a disk may take over one read, write or flush. It is longer
// than the kernel's error handling of a USB disk: a command that times out after 30
// seconds is aborted, the device is reset, and it is tried up to five times more.
const DefaultStall = 5 * time.Minute

// slowAfter is how long an operation takes before Patience.Slow is called.
const slowAfter = 10 * time.Second

// Patience is how long a disk is waited for.
type Patience struct {
	// Stall is how long the disk may take over one read, write or flush; 0 is
	// DefaultStall.
	Stall time.Duration

	// Slow is called when one operation takes long, with how long it has taken, and
	// again when it has ended. It may be nil, and may be called by several goroutines.
	Slow func(waited time.Duration, ended bool)
}

// StallError is a disk that is there and does not answer.
type StallError struct {
	Disk   string
	Waited time.Duration
}

func (e *StallError) Error() string {
	return fmt.Sprintf("%s: the disk has not answered for %s, and is still there: wait longer with --stall-timeout, or plug it in again and start over", e.Disk, e.Waited)
}

func (e *StallError) Kind() string { return fault.Gone }

// patient is a device that is waited for as long as Patience says, and until the context
// ends. An operation that is not waited for any more may still take effect later.
type patient struct {
	Device
	Patience
	ctx     context.Context
	running *sync.WaitGroup // operations that have not ended
	wrote   *atomic.Bool    // a write was begun
}

func newPatient(ctx context.Context, dev Device, p Patience) patient {
	p.Stall = cmp.Or(p.Stall, DefaultStall)
	return patient{dev, p, ctx, new(sync.WaitGroup), new(atomic.Bool)}
}

// drain waits for operations that have not ended, for a while at most, and says whether
// all ended.
func (d patient) drain(while time.Duration) bool {
	ended := make(chan struct{})
	go func() { d.running.Wait(); close(ended) }()
	select {
	case <-ended:
		return true
	case <-time.After(while):
		return false
	}
}

func (d patient) do(f func() (int, error)) (int, error) {
	type result struct {
		n   int
		err error
	}
	if d.ctx.Err() != nil {
		return 0, context.Cause(d.ctx)
	}
	begin := time.Now()
	done := make(chan result, 1)
	d.running.Go(func() {
		n, err := f()
		done <- result{n, err}
	})
	late := time.NewTimer(d.Stall)
	defer late.Stop()
	look := time.NewTicker(min(slowAfter, max(d.Stall/4, time.Millisecond)))
	defer look.Stop()
	alive := make(chan error, 1)
	looks, slow := false, false
	tell := func(ended bool) {
		if d.Slow != nil {
			d.Slow(time.Since(begin), ended)
		}
	}
	for {
		select {
		case r := <-done:
			if slow {
				tell(true)
			}
			return r.n, r.err
		case <-d.ctx.Done():
			return 0, context.Cause(d.ctx)
		case <-look.C:
			if !slow {
				slow = true
				tell(false)
			}
			// To ask may take as long as the operation itself.
			if !looks {
				looks = true
				go func() { alive <- d.Alive() }()
			}
		case err := <-alive:
			looks = false
			if lost := disk.Lost(d.Path(), err); lost != nil {
				return 0, lost
			}
		case <-late.C:
			return 0, &StallError{d.Path(), d.Stall}
		}
	}
}

func (d patient) WriteAt(p []byte, off int64) (int, error) {
	d.wrote.Store(true)
	return d.do(func() (int, error) { return d.Device.WriteAt(p, off) })
}

func (d patient) ReadAt(p []byte, off int64) (int, error) {
	return d.do(func() (int, error) { return d.Device.ReadAt(p, off) })
}

func (d patient) Sync() error {
	_, err := d.do(func() (int, error) { return 0, d.Device.Sync() })
	return err
}
