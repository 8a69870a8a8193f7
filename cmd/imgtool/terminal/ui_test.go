package terminal

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"imgtool/image/fault"
)

// Each of several joined errors is printed on its own line, also when wrapped; newlines in names are escaped.
func TestErrorsHaveLines(t *testing.T) {
	a, b := errors.New("a\nx"), errors.New("b")
	for _, test := range []struct {
		err  error
		want []string
	}{
		{a, []string{"a\nx"}},
		{errors.Join(a, b), []string{"a\nx", "b"}},
		{fmt.Errorf("in\ny: %w", errors.Join(a, b)), []string{"in\ny: a\nx", "b"}},
		{fault.WithHint(fault.As(fault.Usage, errors.Join(errors.Join(a, b), b)), "h"), []string{"a\nx", "b", "b"}},
		{fmt.Errorf("%w and %w", a, b), []string{"a\nx and b"}},
		{fmt.Errorf("%w, which is bad", errors.Join(a, b)), []string{"a\nx\nb, which is bad"}},
	} {
		if got := errorLines(test.err); !slices.Equal(got, test.want) {
			t.Errorf("%q, not %q", got, test.want)
		}
	}
}
