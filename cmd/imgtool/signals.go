package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// heeded are the signals of a list that were not ignored when the program began, as
// nohup does with SIGHUP, and shells do with SIGINT for programs in the background.
func heeded(signals ...os.Signal) (left []os.Signal) {
	for _, s := range signals {
		if !signal.Ignored(s) {
			left = append(left, s)
		}
	}
	return left
}

// notify is signal.Notify, which takes no signals at all for every signal.
func notify(to chan<- os.Signal, signals []os.Signal) {
	if len(signals) > 0 {
		signal.Notify(to, signals...)
	}
}

// heed calls cancel when a signal asks the program to end. While disks are written, a
// terminal that is closed does not, and neither does a pipe whose reader is gone: the disk
// would be left without a partition table. After stop, signals end the program at once.
func (u *ui) heed(out *results, cancel context.CancelFunc) (stop func()) {
	ends, hangups, pipes := make(chan os.Signal, 1), make(chan os.Signal, 1), make(chan os.Signal, 1)
	notify(ends, heeded(os.Interrupt, syscall.SIGTERM))
	notify(hangups, heeded(syscall.SIGHUP))
	// Writes to a broken pipe are an error from here on.
	broken := heeded(syscall.SIGPIPE)
	notify(pipes, broken)
	if len(broken) > 0 {
		out.broken = func() {
			if u.writing.Load() == 0 {
				// The runtime ends the program, as is usual when the reader of its output is gone.
				signal.Reset(syscall.SIGPIPE)
				out.to.Write([]byte("\n"))
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

// writeDisks says that disks are being written, until the function that it returns is
// called.
func (u *ui) writeDisks() (done func()) {
	u.writing.Add(1)
	return func() { u.writing.Add(-1) }
}
