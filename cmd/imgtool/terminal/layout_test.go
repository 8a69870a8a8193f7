package terminal

import "testing"

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		want  string
	}{
		{"one two three", 80, "one two three"},
		{"one two three", 8, "one two\n  three"},
		{"one  two three", 14, "one  two three"},
		{"/a/very/long/path is", 10, "/a/very/lo\n  ng/path is"},
		{"is /a/very/long/path", 10, "is\n  /a/very/lo\n  ng/path"},
		{"ööööööö ööö", 8, "ööööööö\n  ööö"},
		{"", 8, ""},
	} {
		if got := Wrap(c.text, c.width, "  "); got != c.want {
			t.Errorf("%q at %d: got %q, want %q", c.text, c.width, got, c.want)
		}
	}
}
