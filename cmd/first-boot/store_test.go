//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// After a power cut at any step, the configuration is complete.
func TestPowerCut(t *testing.T) {
	doc := func(image string) string {
		return fmt.Sprintf("version = 1\n[users.ops]\nisAdmin = true\nssh_key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIJDGrxhfhWJmzaIoMj0aoH4iw5ituvWxouXc+kosjqR\"\n"+
			"[activation]\nrequired = [\"web\"]\n[containers.container.web]\nprivileged = false\n[containers.container.web.Container]\nImage = \"r.example/%s:1\"\n", image)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	quiet := func(string) {}
	steps := []struct {
		name  string
		do    func(s *store)
		first string // the result on a device without a configuration
		again string // the result on a device with the old configuration
		trial bool   // whether the first is still on trial
	}{
		{"a part of the candidate", func(s *store) {
			must(os.MkdirAll(s.other(), 0o700))
			must(os.WriteFile(s.other()+"/config.toml", []byte("version"), 0o600))
		}, "", "old", false},
		{"the whole candidate", func(s *store) {
			_, _, err := s.prepare(source{body: strings.NewReader(doc("new"))}, quiet)
			must(err)
		}, "", "old", false},
		{"the mark", func(s *store) {
			_, _, err := s.prepare(source{body: strings.NewReader(doc("new"))}, quiet)
			must(err)
			must(os.MkdirAll(s.config(), 0o700))
			must(os.WriteFile(s.pending(), []byte(mark(s.other())), 0o600))
		}, "new", "old", true},
		{"the same once more, and its mark", func(s *store) {
			_, _, err := s.prepare(source{body: strings.NewReader(doc("old"))}, quiet)
			must(err)
			must(os.MkdirAll(s.other()+"/files", 0o700))
			must(os.WriteFile(s.other()+"/files/new", []byte("new"), 0o600))
			must(os.MkdirAll(s.config(), 0o700))
			must(os.WriteFile(s.pending(), []byte(mark(s.other())), 0o600))
		}, "old", "old", true},
		{"the exchange", func(s *store) {
			_, _, err := s.prepare(source{body: strings.NewReader(doc("new"))}, quiet)
			must(err)
			must(s.promote())
		}, "new", "old", true},
		{"the end of the trial", func(s *store) {
			_, _, err := s.prepare(source{body: strings.NewReader(doc("new"))}, quiet)
			must(err)
			must(s.promote())
			must(os.Remove(s.pending()))
		}, "new", "new", false},
	}
	for _, step := range steps {
		for _, again := range []bool{false, true} {
			s := &store{dir: t.TempDir(), service: os.Getuid()}
			want, trial := step.first, step.trial
			if again {
				want, trial = step.again, false
				_, _, err := s.prepare(source{body: strings.NewReader(doc("old"))}, quiet)
				must(err)
				must(s.promote())
				must(s.keep())
			}
			step.do(s)
			for range 2 { // the power may go again
				must(s.recover())
			}
			text, config := document(s.config())
			if config == nil && want != "" || config != nil && string(text) != doc(want) || s.onTrial() != trial {
				t.Errorf("after %s (again %v), wanted %q (trial %v): trial %v\n%s", step.name, again, want, trial, s.onTrial(), text)
			}
			if _, err := os.Stat(s.config() + "/files/new"); err == nil && again {
				t.Errorf("after %s, files of the candidate are there", step.name)
			}
			if _, err := os.Stat(s.other()); err == nil && !trial {
				t.Errorf("after %s (again %v), the candidate is left", step.name, again)
			}
		}
	}
}

// An invalid candidate is removed.
func TestInvalidCandidate(t *testing.T) {
	s := &store{dir: t.TempDir(), service: os.Getuid()}
	if _, _, err := s.prepare(source{body: strings.NewReader("version = 2")}, func(string) {}); err == nil {
		t.Error("it is taken")
	}
	if _, err := os.Stat(s.other()); !os.IsNotExist(err) {
		t.Errorf("the candidate is there: %v", err)
	}
}
