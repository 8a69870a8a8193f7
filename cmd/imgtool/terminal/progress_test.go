package terminal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"imgtool/flash/deploy"
)

const mib = 1 << 20

// A rate is shown after a second, and the remaining time covers all phases.
func TestRemainingTimeCoversAllPhases(t *testing.T) {
	var log bytes.Buffer
	u := New(nil, &log, &log)
	u.Expect(deploy.Phase{Name: "checking"}, deploy.Phase{Name: "writing", Total: 300 * mib}, deploy.Phase{Name: "reading back", Total: 300 * mib})
	checked := func(text string, overall float64) {
		t.Helper()
		if got := u.phase.text(u.steps); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
		if got, ok := u.phase.overall(u.steps); !ok || got < overall-0.01 || got > overall+0.01 {
			t.Errorf("%s: overall %v, want %v", text, got, overall)
		}
	}
	ago := func(d time.Duration) { u.phase.begin = time.Now().Add(-d) }
	u.Phase("checking", 300*mib)(150 * mib)
	checked("150.0 MiB of 300.0 MiB, 50 %", 0.05)
	ago(2 * time.Second)
	// The rates of the disk are not known yet.
	checked("150.0 MiB of 300.0 MiB, 50 %, 75.0 MiB/s, about 20s left", 0.05)
	u.Phase("wiping", 0)
	checked("0 bytes", 0.1)
	u.Phase("writing", 300*mib)(100 * mib)
	checked("100.0 MiB of 300.0 MiB, 33 %", 0.3)
	ago(10 * time.Second)
	checked("100.0 MiB of 300.0 MiB, 33 %, 10.0 MiB/s, 35s left", 0.3)
	u.Phase("reading back", 300*mib)(150 * mib)
	checked("150.0 MiB of 300.0 MiB, 50 %", 0.85)
	u.Phase("finishing", 0)
	checked("0 bytes", 1)
	// Without announced phases, each has its own time.
	u.Expect()
	u.Phase("checking", 1000*mib)(500 * mib)
	ago(10 * time.Second)
	checked("500.0 MiB of 1000.0 MiB, 50 %, 50.0 MiB/s, 10s left", 0.5)
}

// The rate is that of the last seconds.
func TestRateFollowsTheDisk(t *testing.T) {
	p := newPhase("writing", "", 4000*mib)
	now := time.Now()
	p.begin = now.Add(-60 * time.Second)
	for s := 60; s >= 0; s-- {
		if p.done += 100 * mib; s < 20 {
			p.done -= 90 * mib
		}
		p.mark(now.Add(-time.Duration(s) * time.Second))
	}
	if got := p.rate() / mib; got < 9 || got > 11 {
		t.Errorf("%.1f MiB/s", got)
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

// Lines fit the width: facts are left out, and bars get shorter.
func TestLinesFitTheTerminal(t *testing.T) {
	t.Setenv("LC_ALL", "C.UTF-8")
	t.Setenv("TERM", "xterm")
	u := New(nil, io.Discard, &bytes.Buffer{})
	u.Expect(deploy.Phase{Name: "checking"}, deploy.Phase{Name: "writing", Total: 3000 * mib}, deploy.Phase{Name: "reading back", Total: 3000 * mib})
	u.Phase("checking", 3000*mib)(3000 * mib)
	u.Phase("writing", 3000*mib)(1500 * mib)
	u.phase.begin = time.Now().Add(-60 * time.Second)
	for width, want := range map[int]string{
		200: "2/3 writing       40% |████████████████░░░░░░░░░░░░░░░░░░░░░░░░| 2m0s left, 1.5 GiB of 2.9 GiB, 25.0 MiB/s",
		79:  "2/3 writing       40% |█████░░░░░░░░| 2m0s left, 1.5 GiB of 2.9 GiB, 25.0 MiB/s",
		39:  "writing       40% |███░░░░░░| 2m0s left",
		25:  "writing   39%",
	} {
		got := u.phaseLine(u.phase, width)
		if columns(got) > width || width > 30 && got != want {
			t.Errorf("at %d, %d wide:\n%q\n%q", width, columns(got), got, want)
		}
	}
	u.phase = nil
	for i := range 12 {
		phases, _ := u.Disk(fmt.Sprintf("/dev/disk/by-id/usb-Generic_Reader_%d", i))
		phases("writing", 3000*mib)(int64(i) * 100 * mib)
		u.rows[i].begin = time.Now().Add(-60 * time.Second)
	}
	for _, size := range [][2]int{{39, 19}, {79, 23}, {199, 49}, {79, 6}} {
		lines := u.rowLines(size[0], size[1])
		if len(lines) > size[1] || len(lines) < 6 {
			t.Errorf("%d lines on a screen of %d", len(lines), size[1])
		}
		for _, line := range lines {
			if columns(line) > size[0] {
				t.Errorf("%d wide on a screen of %d: %s", columns(line), size[0], line)
			}
		}
		t.Log("\n" + strings.Join(lines, "\n"))
	}
}

func TestBarOfLittleProgress(t *testing.T) {
	t.Setenv("LC_ALL", "C")
	for progress, want := range map[float64]string{0: "   0% [..........]", 0.001: "   0% [..........]", 0.5: "  50% [====>.....]", 1: " 100% [==========]", 2: " 100% [==========]"} {
		if got := renderBar(progress, 10); got != want {
			t.Errorf("%v: got %q, want %q", progress, got, want)
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
	if got := screen.String(); !strings.Contains(got, "500 bytes of 1000 bytes") || !strings.Contains(got, " 50% [") || strings.ContainsRune(got, '█') {
		t.Errorf("%q", got)
	}
	u.Notef("a message")
	u.phase.last = time.Time{}
	more(100)
	u.Infof("the end")
	if got := shown(screen.String()); got != "a message\nthe end" {
		t.Errorf("%q", got)
	}
}

// With several disks there is a row for each, above messages they are drawn again, and in the end
// nothing is left of them.
func TestRowsOfDisks(t *testing.T) {
	var screen bytes.Buffer
	u := New(nil, &screen, &screen)
	u.terminal = true
	u.Expect(deploy.Phase{Name: "writing", Total: 1000}, deploy.Phase{Name: "reading back", Total: 1000})
	a, endA := u.Disk("/dev/sda")
	b, endB := u.Disk("/dev/sdb")
	a("writing", 1000)(1000)
	b("writing", 1000)(500)
	u.Warnf("a warning")
	a("reading back", 1000)(1000)
	endA(nil)
	endB(errors.New("bad"))
	if got := shown(screen.String()); !regexp.MustCompile(`^imgtool: warning: a warning\n2 disks +100% .*2 of 2 ended\n/dev/sda  done\n/dev/sdb  failed$`).MatchString(got) {
		t.Errorf("%s", got)
	}
	u.Expect()
	u.Infof("the end")
	if got := shown(screen.String()); got != "imgtool: warning: a warning\nthe end" {
		t.Errorf("%q", got)
	}
}

// shown returns what a terminal shows after what was written to it.
func shown(written string) string {
	var lines [100][]rune
	row, col := 0, 0
	for in := []rune(written); len(in) > 0; in = in[1:] {
		switch in[0] {
		case '\r':
			col = 0
		case '\n':
			row, col = row+1, 0
		case 0x1b:
			n := 0
			for in = in[2:]; in[0] == '?' || in[0] >= '0' && in[0] <= '9'; in = in[1:] {
				n = 10*n + max(0, int(in[0]-'0'))%10
			}
			switch in[0] {
			case 'A':
				row -= n
			case 'C':
				col += n
			case 'K':
				lines[row] = lines[row][:min(col, len(lines[row]))]
			}
		default:
			for len(lines[row]) <= col {
				lines[row] = append(lines[row], ' ')
			}
			lines[row][col] = in[0]
			col++
		}
	}
	var text []string
	for _, line := range lines {
		text = append(text, strings.TrimRight(string(line), " "))
	}
	return strings.TrimRight(strings.Join(text, "\n"), "\n")
}

// Events of several disks name them, and have the progress of the whole.
func TestEventsNameTheDisk(t *testing.T) {
	var log bytes.Buffer
	u := New(nil, io.Discard, &log)
	u.JSON = true
	u.Expect(deploy.Phase{Name: "writing", Total: 1000}, deploy.Phase{Name: "reading back", Total: 1000})
	phases, end := u.Disk("/dev/sda")
	phases("writing", 1000)
	phases("reading back", 1000)(500)
	end(nil)
	var last string
	for line := range strings.Lines(log.String()) {
		last = line
	}
	if want := `{"bytes":500,"disk":"/dev/sda","event":"progress","overall":0.833,"phase":"reading back","step":2,"steps":2,"total":1000}`; strings.TrimSpace(last) != want {
		t.Errorf("got %s, want %s", last, want)
	}
}
