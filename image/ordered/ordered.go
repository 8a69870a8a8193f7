// Package ordered is the one concurrency shape of imgtool: work is done by
// several workers, and its results are taken in the order it came in.
package ordered

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// Run is a parallel map with its results in the order of its inputs. The
// slots are all the memory it has, and so how many inputs are under way at most.
//
// fill puts the next input in a slot and says whether there was one; each worker
// is one goroutine and turns the input in a slot into a result; take is given
// the slots with their results, in order, and each is then filled again. The
// error of the first input that has one ends it.
func Run[T any](ctx context.Context, slots []T, fill func(*T) bool, workers []func(*T) error, take func(*T) error) error {
	type job struct {
		slot *T
		done chan error
	}
	var (
		g, run = errgroup.WithContext(ctx)
		free   = make(chan *job, len(slots))
		order  = make(chan *job, len(slots)) // never full
		todo   = make(chan *job, len(slots))
	)
	for i := range slots {
		free <- &job{&slots[i], make(chan error, 1)}
	}
	g.Go(func() error {
		defer close(order)
		defer close(todo)
		for {
			select {
			case <-run.Done():
				return context.Cause(run)
			case j := <-free:
				if !fill(j.slot) {
					return nil
				}
				order <- j
				select {
				case <-run.Done():
					return context.Cause(run)
				case todo <- j:
				}
			}
		}
	})
	for _, work := range workers {
		g.Go(func() error {
			for j := range todo {
				j.done <- work(j.slot)
			}
			return nil
		})
	}
	g.Go(func() error {
		for j := range order {
			select {
			case <-run.Done():
				return context.Cause(run)
			case err := <-j.done:
				if err != nil {
					return err
				}
			}
			if err := take(j.slot); err != nil {
				return err
			}
			free <- j
		}
		return nil
	})
	return g.Wait()
}
