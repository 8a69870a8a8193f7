package flash

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"imgtool/flash/disk"
	"imgtool/image/fault"
)

// DefaultStall is the default time a disk may take for one read, write or flush. It is
// longer than the kernel's error handling of a USB disk: a command that times out after 30
// seconds is aborted, the device is reset, and the command is retried up to five times.
const DefaultStall = 5 * time.Minute

// slowAfter is how long an operation takes before Timeout.Slow is called.
const slowAfter = 10 * time.Second

// Timeout limits the time of operations on a disk.
type Timeout struct {
	// Stall is the longest time for one read, write or flush; 0 means [DefaultStall].
	Stall time.Duration

	// Slow is called when an operation takes long, with the time it has taken so far, and
	// again when it has ended. It may be nil. Several goroutines may call it.
	Slow func(elapsed time.Duration, ended bool)
}

// StallError is a disk that is present and does not respond.
type StallError struct {
	Disk   string
	Waited time.Duration
}

func (e *StallError) Error() string {
	return fmt.Sprintf("%s: the disk has not answered for %s, and is still there: use a longer --stall-timeout, or reconnect it and start over", e.Disk, e.Waited)
}

func (e *StallError) Kind() string { return fault.Gone }

// timeoutDevice is a device with operations that fail after a timeout and when the context
// ends. An operation in flight may still take effect later.
type timeoutDevice struct {
	Device
	Timeout
	ctx      context.Context
	inFlight *sync.WaitGroup
	wrote    *atomic.Bool // a write was started
}

func newTimeoutDevice(ctx context.Context, dev Device, t Timeout) timeoutDevice {
	t.Stall = cmp.Or(t.Stall, DefaultStall)
	return timeoutDevice{dev, t, ctx, new(sync.WaitGroup), new(atomic.Bool)}
}

// NewReader returns a reader of a device whose operations fail after a timeout and when the
// context ends.
func NewReader(ctx context.Context, dev Device, t Timeout) io.ReaderAt {
	return newTimeoutDevice(ctx, dev, t)
}

// drain waits up to limit for operations in flight, and reports whether all have ended.
func (d timeoutDevice) drain(limit time.Duration) bool {
	ended := make(chan struct{})
	go func() { d.inFlight.Wait(); close(ended) }()
	select {
	case <-ended:
		return true
	case <-time.After(limit):
		return false
	}
}

func (d timeoutDevice) do(f func() (int, error)) (int, error) {
	type result struct {
		n   int
		err error
	}
	if d.ctx.Err() != nil {
		return 0, context.Cause(d.ctx)
	}
	begin := time.Now()
	done := make(chan result, 1)
	d.inFlight.Go(func() {
		n, err := f()
		done <- result{n, err}
	})
	timeout := time.NewTimer(d.Stall)
	defer timeout.Stop()
	tick := time.NewTicker(min(slowAfter, max(d.Stall/4, time.Millisecond)))
	defer tick.Stop()
	alive := make(chan error, 1)
	asking, slow := false, false
	report := func(ended bool) {
		if d.Slow != nil {
			d.Slow(time.Since(begin), ended)
		}
	}
	for {
		select {
		case r := <-done:
			if slow {
				report(true)
			}
			return r.n, r.err
		case <-d.ctx.Done():
			return 0, context.Cause(d.ctx)
		case <-tick.C:
			if !slow {
				slow = true
				report(false)
			}
			// Alive may take as long as the operation itself.
			if !asking {
				asking = true
				go func() { alive <- d.Alive() }()
			}
		case err := <-alive:
			asking = false
			if lost := disk.Lost(d.Path(), err); lost != nil {
				return 0, lost
			}
		case <-timeout.C:
			return 0, &StallError{d.Path(), d.Stall}
		}
	}
}

func (d timeoutDevice) WriteAt(p []byte, off int64) (int, error) {
	d.wrote.Store(true)
	return d.do(func() (int, error) { return d.Device.WriteAt(p, off) })
}

func (d timeoutDevice) ReadAt(p []byte, off int64) (int, error) {
	return d.do(func() (int, error) { return d.Device.ReadAt(p, off) })
}

func (d timeoutDevice) Sync() error {
	_, err := d.do(func() (int, error) { return 0, d.Device.Sync() })
	return err
}
