// Package parallel has a parallel map: several goroutines process inputs, and
// their results are delivered in the order of the inputs.
package parallel

import (
	"context"
	"sync"
)

// Map processes a sequence of inputs in parallel and delivers the results in
// input order.
//
// Each slot holds one input and its result, so len(slots) bounds both the memory
// and the number of inputs in progress. next stores the next input in a slot and
// reports whether there was one. Each element of workers runs in one goroutine
// and turns the input in a slot into a result. emit receives the slots in input
// order; a slot is reused once emit has returned. next and emit are called by
// the calling goroutine.
//
// Map returns the first error in input order, of a worker or of emit, or the
// cause of the end of ctx. All goroutines have ended by then.
func Map[T any](ctx context.Context, slots []T, next func(*T) bool, workers []func(*T) error, emit func(*T) error) error {
	type job struct {
		slot *T
		done chan error
	}
	jobs := make([]job, len(slots))
	for i := range jobs {
		jobs[i] = job{&slots[i], make(chan error, 1)}
	}
	todo := make(chan job, len(slots)) // one element per slot: sending never blocks
	stop := make(chan struct{})
	var running sync.WaitGroup
	defer running.Wait()
	defer close(todo)
	defer close(stop)
	for _, work := range workers {
		running.Go(func() {
			for j := range todo {
				select {
				case <-stop: // Map has returned an error
				default:
					j.done <- work(j.slot)
				}
			}
		})
	}

	started, more := 0, true
	for emitted := 0; ; emitted++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for more && started < emitted+len(jobs) {
			j := jobs[started%len(jobs)]
			if more = next(j.slot); more {
				todo <- j
				started++
			}
		}
		if emitted == started {
			return nil
		}
		oldest := jobs[emitted%len(jobs)]
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-oldest.done:
			if err != nil {
				return err
			}
		}
		if err := emit(oldest.slot); err != nil {
			return err
		}
	}
}
