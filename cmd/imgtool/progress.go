package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"imgtool/image"
	"imgtool/image/sanitize"
)

// phase is what is going on.
type phase struct {
	name        string
	done, total int64
	later       int64 // bytes of the phases that come after it
	begin, last time.Time
	drawn       int // width of the bar that is on the terminal, 0 for none
}

// ahead is a phase that is to come, and how many bytes it does.
type ahead struct {
	name  string
	total int64
}

// rateAfter is how long a phase takes before its rate means anything: what a cache takes,
// or what need not be done, is done at once.
const rateAfter = time.Second

// expect says which phases a work has, so that the time that is left is that of all.
func (u *ui) expect(phases ...ahead) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ahead = phases
}

// phases shows the phases of a long work.
func (u *ui) phases(name string, total int64) image.Progress {
	u.endPhase()
	u.mu.Lock()
	defer u.mu.Unlock()
	p := &phase{name: name, total: total, begin: time.Now(), last: time.Now()}
	for i, a := range u.ahead {
		if a.name == name {
			for _, after := range u.ahead[i+1:] {
				p.later += after.total
			}
		}
	}
	u.phase = p
	switch {
	case u.terminal:
		u.draw(p)
	case u.json:
		u.progress(p)
	case total > 0:
		u.line("%s: %s", name, human(total))
	default:
		u.line("%s", name)
	}
	return func(n int64) {
		u.mu.Lock()
		defer u.mu.Unlock()
		p.done += n
		every := 10 * time.Second
		switch {
		case u.terminal:
			every = 100 * time.Millisecond
		case u.json:
			every = 300 * time.Millisecond
		}
		now := time.Now()
		if now.Sub(p.last) < every {
			return
		}
		p.last = now
		if u.phase == nil {
			u.phase = p // a message came in between
		}
		switch {
		case u.terminal && u.phase != p:
		case u.terminal:
			u.draw(p)
		case u.json:
			u.progress(p)
		default:
			u.line("%s", p.name+": "+p.text())
		}
	}
}

// note says something while a phase goes on.
func (u *ui) note(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	if u.json {
		u.event(map[string]any{"event": "message", "message": fmt.Sprintf(format, args...)})
		return
	}
	u.line(format, args...)
}

// rate is how many bytes a second are done, or 0 if that is not known yet.
func (p *phase) rate() float64 {
	took := time.Since(p.begin)
	if took < rateAfter || p.done == 0 {
		return 0
	}
	return float64(p.done) / took.Seconds()
}

// left is how long this phase and those after it will take, if that is known.
func (p *phase) left() (time.Duration, bool) {
	rate := p.rate()
	if rate == 0 || p.total < p.done || p.total == 0 {
		return 0, false
	}
	return time.Duration(float64(p.total-p.done+p.later) / rate * float64(time.Second)), true
}

// text is how far a phase is.
func (p *phase) text() string {
	s := human(p.done)
	if p.total > 0 {
		s += fmt.Sprintf(" of %s, %d %%", human(p.total), 100*min(p.done, p.total)/p.total)
	}
	if rate := p.rate(); rate > 0 {
		s += fmt.Sprintf(", %s/s", human(int64(rate)))
	}
	if left, ok := p.left(); ok {
		s += fmt.Sprintf(", %s left", left.Round(time.Second))
	}
	return s
}

// draw draws the bar of a phase over the one before.
func (u *ui) draw(p *phase) {
	width := 80
	if f, ok := u.stderr.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			width = w
		}
	}
	line := sanitize.Sprintf("%-12s ", p.name)
	text := " " + p.text()
	if room := width - 1 - utf8.RuneCountInString(line) - utf8.RuneCountInString(text); room >= 10 && p.total > 0 {
		line += drawBar(float64(p.done)/float64(p.total), min(room, 40), asciiTerminal(os.Getenv))
	}
	line += text
	if utf8.RuneCountInString(line) >= width {
		line = string([]rune(line)[:max(0, width-1)])
	}
	n := utf8.RuneCountInString(line)
	io.WriteString(u.stderr, "\r"+line+strings.Repeat(" ", max(0, p.drawn-n)))
	p.drawn = max(n, p.drawn)
}

// drawBar is a bar of a width, in characters.
func drawBar(done float64, width int, ascii bool) string {
	full, empty := "█", "░"
	if ascii {
		full, empty = "#", "."
		width -= 2
	}
	n := int(min(max(done, 0), 1) * float64(width))
	s := strings.Repeat(full, n) + strings.Repeat(empty, width-n)
	if ascii {
		s = "[" + s + "]"
	}
	return s
}

// asciiTerminal says whether the terminal or the locale has ASCII alone.
func asciiTerminal(env func(string) string) bool {
	name := env("TERM")
	if name == "" || strings.HasPrefix(name, "vt") || name == "ansi" {
		return true
	}
	locale := strings.ToLower(cmp.Or(env("LC_ALL"), env("LC_CTYPE"), env("LANG")))
	return !strings.Contains(locale, "utf-8") && !strings.Contains(locale, "utf8")
}

// clear takes the bar off the terminal.
func (u *ui) clear() {
	if p := u.phase; p != nil && p.drawn > 0 {
		io.WriteString(u.stderr, "\r"+strings.Repeat(" ", p.drawn)+"\r")
		p.drawn = 0
	}
}

// progress is an event of how far a phase is. Rate and time left are there as soon as
// they are known.
func (u *ui) progress(p *phase) {
	e := map[string]any{"event": "progress", "phase": p.name, "bytes": p.done}
	if p.total > 0 {
		e["total"] = p.total
	}
	if rate := p.rate(); rate > 0 {
		e["rate"] = int64(rate)
	}
	if left, ok := p.left(); ok {
		e["eta_s"] = int64(left.Seconds())
	}
	u.event(e)
}

func (u *ui) endPhase() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.phase == nil {
		return
	}
	u.clear()
	if u.json {
		u.progress(u.phase)
	}
	u.phase = nil
}
