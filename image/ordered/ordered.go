// Package ordered is the one concurrency shape of imgtool: work is done by
// several workers and its results come out in the order it went in.
package ordered

import (
	"context"
	"iter"

	"golang.org/x/sync/errgroup"
)

// Map calls f for every element of in, with up to workers calls at a time, and
// gives the results in order. No more than 2*workers elements are between in and
// the consumer, so memory is bounded. After an error nothing follows; elements
// behind it may have been worked on in vain. in is read by one goroutine.
func Map[In, Out any](ctx context.Context, workers int, in iter.Seq[In], f func(In) (Out, error)) iter.Seq2[Out, error] {
	type result struct {
		out Out
		err error
	}
	return func(yield func(Out, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var running errgroup.Group
		running.SetLimit(workers + 1) // and the one that reads in
		results := make(chan chan result, workers)
		running.Go(func() error {
			defer close(results)
			for e := range in {
				done := make(chan result, 1)
				select {
				case results <- done:
				case <-ctx.Done():
					return nil
				}
				running.Go(func() error {
					out, err := f(e)
					done <- result{out, err}
					return nil
				})
			}
			return nil
		})
		defer func() {
			cancel()
			for range results {
			}
			running.Wait()
		}()
		for done := range results {
			r := <-done
			if err := ctx.Err(); err != nil && r.err == nil {
				r.err = context.Cause(ctx)
			}
			if !yield(r.out, r.err) || r.err != nil {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			var none Out
			yield(none, context.Cause(ctx))
		}
	}
}
