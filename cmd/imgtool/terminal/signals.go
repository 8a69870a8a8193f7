package terminal

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// notify is [signal.Notify], except that it leaves out signals that were ignored when the
// program began: nohup ignores SIGHUP, and shells SIGINT for programs in the background. It
// returns whether any are left.
func notify(to chan<- os.Signal, signals ...os.Signal) bool {
	var heeded []os.Signal
	for _, s := range signals {
		if !signal.Ignored(s) {
			heeded = append(heeded, s)
		}
	}
	if len(heeded) > 0 { // none would mean all
		signal.Notify(to, heeded...)
	}
	return len(heeded) > 0
}

// HandleSignals calls cancel when a signal asks the program to end. While disks are written, a
// closed terminal does not do that, and neither does a pipe whose reader is gone: the disk
// would be left without a partition table. After stop, signals end the program at once.
func (u *UI) HandleSignals(cancel context.CancelFunc) (stop func()) {
	ends, hangups, pipes := make(chan os.Signal, 1), make(chan os.Signal, 1), make(chan os.Signal, 1)
	notify(ends, os.Interrupt, syscall.SIGTERM)
	notify(hangups, syscall.SIGHUP)
	// With a handler, writing to a broken pipe is an error.
	if notify(pipes, syscall.SIGPIPE) {
		u.stdout.broken = func() {
			if u.writing.Load() == 0 {
				// End as programs usually do when the reader of their output is gone.
				signal.Reset(syscall.SIGPIPE)
				u.stdout.to.Write([]byte("\n"))
			}
		}
	}
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-ends:
				cancel()
			case <-hangups:
				if u.writing.Load() == 0 {
					cancel()
				}
			}
		}
	}()
	return sync.OnceFunc(func() {
		signal.Stop(ends)
		signal.Stop(hangups)
		close(done)
	})
}

// WriteDisks marks the time from now until done as one in which disks are written.
func (u *UI) WriteDisks() (done func()) {
	u.writing.Add(1)
	return func() { u.writing.Add(-1) }
}
