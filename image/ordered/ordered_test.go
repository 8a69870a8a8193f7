package ordered_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"imgtool/image/ordered"
)

type slot struct{ in, out int }

// count fills slots with 0, 1, 2 and so on.
func count(n int) func(*slot) bool {
	next := 0
	return func(s *slot) bool {
		s.in = next
		next++
		return s.in < n
	}
}

func TestResultsAreTakenInOrderForAnyNumberOfWorkers(t *testing.T) {
	for _, workers := range []int{1, 2, 7, 32} {
		var running, most atomic.Int32
		work := func(s *slot) error {
			n := running.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Duration(s.in*7919%13) * 10 * time.Microsecond)
			s.out = s.in * s.in
			running.Add(-1)
			return nil
		}
		var got []int
		take := func(s *slot) error { got = append(got, s.out); return nil }
		if err := ordered.Run(t.Context(), make([]slot, 2*workers), count(500), slices.Repeat([]func(*slot) error{work}, workers), take); err != nil {
			t.Fatal(err)
		}
		if len(got) != 500 {
			t.Fatalf("%d workers: %d results", workers, len(got))
		}
		for i := range got {
			if got[i] != i*i {
				t.Fatalf("%d workers: result %d is %d", workers, i, got[i])
			}
		}
		if int(most.Load()) > workers || workers > 1 && most.Load() < 2 {
			t.Errorf("%d workers: %d ran at once", workers, most.Load())
		}
	}
}

func TestTheFirstErrorInOrderEndsIt(t *testing.T) {
	bad := errors.New("bad")
	taken := 0
	err := ordered.Run(t.Context(), make([]slot, 8), count(1000), slices.Repeat([]func(*slot) error{func(s *slot) error {
		if s.in%100 == 57 {
			return bad
		}
		return nil
	}}, 4), func(s *slot) error {
		if s.in != taken {
			t.Errorf("result %d is %d", taken, s.in)
		}
		taken++
		return nil
	})
	if err != bad || taken != 57 {
		t.Errorf("%v after %d", err, taken)
	}
}

func TestItStopsWhenNobodyTakesAndWhenCancelled(t *testing.T) {
	var started atomic.Int32
	work := func(s *slot) error { started.Add(1); return nil }
	enough := errors.New("enough")
	if err := ordered.Run(t.Context(), make([]slot, 4), count(1000), []func(*slot) error{work, work}, func(*slot) error { return enough }); err != enough {
		t.Errorf("ended with %v", err)
	}
	if started.Load() > 20 {
		t.Errorf("%d were started for one that was taken", started.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := ordered.Run(ctx, make([]slot, 4), count(1000), []func(*slot) error{work, work}, func(s *slot) error {
		if s.in == 10 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}
