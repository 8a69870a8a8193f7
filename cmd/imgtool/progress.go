package main

import (
	"cmp"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
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
	bar         *progressbar.ProgressBar // that is on the terminal, or nil
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

// text is how far a phase is, in a log.
func (p *phase) text() string {
	percent := ""
	if p.total > 0 {
		percent = fmt.Sprintf(", %d %%", 100*min(p.done, p.total)/p.total)
	}
	return p.amount() + percent + p.pace()
}

func (p *phase) amount() string {
	if p.total > 0 {
		return human(p.done) + " of " + human(p.total)
	}
	return human(p.done)
}

// pace is the rate of a phase and the time that is left, if they are known.
func (p *phase) pace() (s string) {
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
	if p.bar == nil {
		theme := progressbar.Theme{Saucer: "█", SaucerHead: "█", SaucerPadding: "░"}
		if asciiTerminal(os.Getenv) {
			theme = progressbar.ThemeASCII
		}
		p.bar = progressbar.NewOptions64(cmp.Or(max(p.total, 0), -1), progressbar.OptionSetWriter(u.stderr), progressbar.OptionSetTheme(theme),
			progressbar.OptionSetWidth(barWidth(width)), progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false),
			progressbar.OptionSpinnerType(9), progressbar.OptionUseANSICodes(false))
	}
	text := []rune(sanitize.Sprintf("%-12s %s", p.name, p.amount()+p.pace()))
	if room := max(0, width-barWidth(width)-barRest); len(text) > room {
		text = text[:room]
	}
	// The bar ends, and writes a last line, where it is full.
	p.bar.Set64(min(p.done, max(p.total-1, 0)))
	p.bar.Describe(string(text))
}

// barRest is what the bar writes beside its blocks and its description.
const barRest = len(" 100% ||   ")

// barWidth is how many characters of a terminal's width are the blocks of a bar.
func barWidth(width int) int { return max(5, min(width-70, 40)) }

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
	if p := u.phase; p != nil && p.bar != nil {
		p.bar.Clear()
		p.bar = nil
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
