//go:build linux

package main

import (
	"errors"
	"io"
	"os"
	"testing"
)

// The label of a stick cannot control a terminal on the serial console, or forge a line.
func TestLogIsSanitized(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func(f *os.File) { os.Stdout = f }(os.Stdout)
	os.Stdout = w
	label := "a\x1b]0;T\a\u202e\xff\nfirst-boot: provisioned"
	say("the stick %s: %v", label, errors.New(label))
	w.Close()
	got, err := io.ReadAll(r)
	const shown = `a\x1b]0;T\x07\u202e\xff\nfirst-boot: provisioned`
	if want := "first-boot: the stick " + shown + ": " + shown + "\n"; err != nil || string(got) != want {
		t.Errorf("%q %v, not %q", got, err, want)
	}
}
