package fault_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"imgtool/image/fault"
)

type typed struct{}

func (typed) Error() string { return "typed" }
func (typed) Kind() string  { return fault.Gone }

func TestKind(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errors.New("plain"), ""},
		{fault.New(fault.Refused, "sda: %w", fs.ErrExist), fault.Refused},
		{fmt.Errorf("sda: %w", fault.New(fault.Write, "full")), fault.Write},
		{fmt.Errorf("sda: %w", typed{}), fault.Gone},
		{fault.As(fault.Usage, typed{}), fault.Usage},
		{errors.Join(errors.New("one"), typed{}), fault.Gone},
		{fault.WithHint(typed{}, "plug it in"), fault.Gone},
	} {
		if got := fault.Kind(c.err); got != c.want {
			t.Errorf("Kind(%v) = %q, want %q", c.err, got, c.want)
		}
	}
	if fault.As(fault.Write, nil) != nil {
		t.Error("As of nil is not nil")
	}
	if err := fault.New(fault.Refused, "sda: %w", fs.ErrExist); !errors.Is(err, fs.ErrExist) {
		t.Error("a fault does not unwrap")
	}
}

func TestHint(t *testing.T) {
	err := fault.WithHint(fault.WithHint(errors.New("it failed"), "try %d", 1), "or ask")
	if got := fault.Hint(fmt.Errorf("x: %w", err)); got != "try 1; or ask" {
		t.Errorf("Hint = %q", got)
	}
	if err.Error() != "it failed" {
		t.Errorf("the hint is in the error's text: %v", err)
	}
	if got := fault.Hint(errors.New("plain")); got != "" {
		t.Errorf("Hint of a plain error = %q", got)
	}
}
