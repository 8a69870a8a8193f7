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

func numbers(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

func TestResultsComeInOrderForAnyNumberOfWorkers(t *testing.T) {
	for _, workers := range []int{1, 2, 7, 32} {
		var running, most atomic.Int32
		var got []int
		for v, err := range ordered.Map(t.Context(), workers, slices.Values(numbers(500)), func(i int) (int, error) {
			n := running.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Duration(i*7919%13) * 10 * time.Microsecond)
			running.Add(-1)
			return i * i, nil
		}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, v)
		}
		for i := range 500 {
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
	n := 0
	for v, err := range ordered.Map(t.Context(), 4, slices.Values(numbers(1000)), func(i int) (int, error) {
		if i%100 == 57 {
			return 0, bad
		}
		return i, nil
	}) {
		if n == 57 && err != bad || n != 57 && (err != nil || v != n) || n > 57 {
			t.Fatalf("result %d is %d, %v", n, v, err)
		}
		n++
	}
	if n != 58 {
		t.Errorf("%d results", n)
	}
}

func TestItStopsWhenNobodyListensAndWhenCancelled(t *testing.T) {
	var started atomic.Int32
	f := func(i int) (int, error) { started.Add(1); return i, nil }
	for range ordered.Map(t.Context(), 2, slices.Values(numbers(1000)), f) {
		break
	}
	if started.Load() > 20 {
		t.Errorf("%d were started for one that was taken", started.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for v, err := range ordered.Map(ctx, 2, slices.Values(numbers(1000)), f) {
		if last = err; v == 10 {
			cancel()
		}
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("ended with %v", last)
	}
}
