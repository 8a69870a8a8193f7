package terminal

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"imgtool/flash/deploy"
)

// A rate is shown after a second, and the remaining time covers all phases.
func TestRemainingTimeCoversAllPhases(t *testing.T) {
	var log bytes.Buffer
	u := New(nil, &log, &log)
	const mib = 1 << 20
	u.Expect(deploy.Phase{Name: "writing", Total: 300 * mib}, deploy.Phase{Name: "reading back", Total: 300 * mib}, deploy.Phase{Name: "after", Total: 100 * mib})
	u.Phase("writing", 300*mib)(100 * mib)
	p := u.phase
	if p.later != 400*mib {
		t.Errorf("%d bytes are to come", p.later)
	}
	if got := p.text(); got != "100.0 MiB of 300.0 MiB, 33 %" {
		t.Errorf("at once: %q", got)
	}
	p.begin = time.Now().Add(-10 * time.Second)
	if got := p.text(); got != "100.0 MiB of 300.0 MiB, 33 %, 10.0 MiB/s, 1m0s left" {
		t.Errorf("after 10 s: %q", got)
	}
	u.Phase("reading back", 300*mib)
	if u.phase.later != 100*mib {
		t.Errorf("%d bytes are to come", u.phase.later)
	}
	// Other phases have their own remaining time.
	u.Phase("checking", 1000*mib)(500 * mib)
	u.phase.begin = time.Now().Add(-10 * time.Second)
	if got := u.phase.text(); !strings.HasSuffix(got, ", 50.0 MiB/s, 10s left") {
		t.Errorf("%q", got)
	}
	u.Expect()
	u.Phase("writing", 300)
	if u.phase.later != 0 {
		t.Errorf("%d bytes are to come", u.phase.later)
	}
}

// The bar is ASCII if the locale or the terminal does not support more.
func TestBarUsesCharactersOfTheTerminal(t *testing.T) {
	for _, c := range []struct {
		env   map[string]string
		ascii bool
	}{
		{map[string]string{"TERM": "xterm-256color", "LANG": "en_US.UTF-8"}, false},
		{map[string]string{"TERM": "xterm", "LC_CTYPE": "C.utf8"}, false},
		{map[string]string{"TERM": "xterm", "LANG": "en_US.UTF-8", "LC_ALL": "C"}, true},
		{map[string]string{"TERM": "xterm", "LANG": "de_DE.ISO-8859-1"}, true},
		{map[string]string{"TERM": "xterm"}, true},
		{map[string]string{"TERM": "vt100", "LANG": "C.UTF-8"}, true},
		{map[string]string{"LANG": "C.UTF-8"}, true},
	} {
		if got := asciiTerminal(func(name string) string { return c.env[name] }); got != c.ascii {
			t.Errorf("%v: %v", c.env, got)
		}
	}
}

// The bar is removed before a message and at the end.
func TestBarIsRemoved(t *testing.T) {
	var screen bytes.Buffer
	u := New(nil, &screen, &screen)
	u.terminal = true
	t.Setenv("LC_ALL", "C")
	more := u.Phase("writing", 1000)
	u.phase.last = time.Time{}
	more(500)
	if got := screen.String(); !strings.Contains(got, "500 bytes of 1000 bytes") || !strings.Contains(got, "50% [====>.....]") || strings.ContainsRune(got, '█') {
		t.Errorf("%q", got)
	}
	u.Notef("a message")
	u.phase.last = time.Time{}
	more(100)
	u.Infof("the end")
	got := ""
	for line := range strings.SplitSeq(screen.String(), "\n") {
		// A terminal shows the last character written to each column.
		shown := []rune(strings.Repeat(" ", 200))
		for part := range strings.SplitSeq(line, "\r") {
			copy(shown, []rune(part))
		}
		got += strings.TrimRight(string(shown), " ") + "\n"
	}
	if got != "a message\nthe end\n\n" {
		t.Errorf("%q", got)
	}
}
