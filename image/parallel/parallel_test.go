package parallel_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"imgtool/image/parallel"
)

type slot struct{ in, out int }

// count stores 0, 1, ... n-1 in slots.
func count(n int) func(*slot) bool {
	next := 0
	return func(s *slot) bool {
		s.in = next
		next++
		return s.in < n
	}
}

func TestMapKeepsOrder(t *testing.T) {
	for _, workers := range []int{1, 2, 7, 32} {
		var running, most atomic.Int32
		square := func(s *slot) error {
			n := running.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Duration(s.in*7919%13) * 10 * time.Microsecond)
			s.out = s.in * s.in
			running.Add(-1)
			return nil
		}
		var got []int
		emit := func(s *slot) error { got = append(got, s.out); return nil }
		if err := parallel.Map(t.Context(), make([]slot, 2*workers), count(500), slices.Repeat([]func(*slot) error{square}, workers), emit); err != nil {
			t.Fatal(err)
		}
		if len(got) != 500 {
			t.Fatalf("%d workers: %d results, want 500", workers, len(got))
		}
		for i := range got {
			if got[i] != i*i {
				t.Fatalf("%d workers: result %d is %d, want %d", workers, i, got[i], i*i)
			}
		}
		if int(most.Load()) > workers || workers > 1 && most.Load() < 2 {
			t.Errorf("%d workers: %d ran at once", workers, most.Load())
		}
	}
}

func TestMapFewerInputsThanSlots(t *testing.T) {
	for n := range 5 {
		emitted := 0
		work := func(*slot) error { return nil }
		err := parallel.Map(t.Context(), make([]slot, 3), count(n), []func(*slot) error{work, work}, func(*slot) error { emitted++; return nil })
		if err != nil || emitted != n {
			t.Errorf("%d inputs: %d results, %v", n, emitted, err)
		}
	}
}

func TestMapReturnsFirstErrorInOrder(t *testing.T) {
	bad := errors.New("bad")
	emitted := 0
	err := parallel.Map(t.Context(), make([]slot, 8), count(1000), slices.Repeat([]func(*slot) error{func(s *slot) error {
		if s.in%100 == 57 {
			return bad
		}
		return nil
	}}, 4), func(s *slot) error {
		if s.in != emitted {
			t.Errorf("result %d is of input %d", emitted, s.in)
		}
		emitted++
		return nil
	})
	if err != bad || emitted != 57 {
		t.Errorf("error %v after %d results, want %v after 57", err, emitted, bad)
	}
}

func TestMapStopsOnEmitError(t *testing.T) {
	var started atomic.Int32
	work := func(*slot) error { started.Add(1); return nil }
	enough := errors.New("enough")
	if err := parallel.Map(t.Context(), make([]slot, 4), count(1000), []func(*slot) error{work, work}, func(*slot) error { return enough }); err != enough {
		t.Errorf("error %v, want %v", err, enough)
	}
	if started.Load() > 4 {
		t.Errorf("%d inputs were started, want at most one per slot", started.Load())
	}
}

func TestMapStopsOnCancel(t *testing.T) {
	cause := errors.New("cause")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	work := func(*slot) error { return nil }
	last := 0
	err := parallel.Map(ctx, make([]slot, 4), count(1_000_000), []func(*slot) error{work, work}, func(s *slot) error {
		if last = s.in; s.in == 10 {
			cancel(cause)
		}
		return nil
	})
	if err != cause {
		t.Errorf("error %v, want the cause of the cancellation", err)
	}
	if last == 999_999 {
		t.Error("all inputs were processed after the cancellation")
	}
}

// A worker that waits for the context must not keep Map from returning.
func TestMapStopsOnCancelWhileWorking(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	work := func(*slot) error { <-ctx.Done(); return nil }
	err := parallel.Map(ctx, make([]slot, 2), count(1_000_000_000), []func(*slot) error{work}, func(*slot) error { return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}
