package terminal

import (
	"cmp"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"imgtool/flash/deploy"
	"imgtool/image"
	"imgtool/image/sanitize"
)

// phase is the current part of a command's work.
type phase struct {
	name        string
	done, total int64
	later       int64 // bytes of the phases that come after it
	begin, last time.Time
	bar         *progressbar.ProgressBar // on the terminal, or nil
}

// rateAfter is how long a phase must have run before its rate is shown: at first, bytes that a
// cache takes or that are skipped make it too high.
const rateAfter = time.Second

// Expect announces phases, so that the time left includes all of them.
func (u *UI) Expect(phases ...deploy.Phase) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ahead = phases
}

// Phase shows a new phase.
func (u *UI) Phase(name string, total int64) image.Progress {
	u.EndPhase()
	u.mu.Lock()
	defer u.mu.Unlock()
	p := &phase{name: name, total: total, begin: time.Now(), last: time.Now()}
	for i, a := range u.ahead {
		if a.Name == name {
			for _, after := range u.ahead[i+1:] {
				p.later += after.Total
			}
		}
	}
	u.phase = p
	switch {
	case u.terminal:
		u.draw(p)
	case u.JSON:
		u.progress(p)
	case total > 0:
		u.Line("%s: %s", name, image.FormatSize(total))
	default:
		u.Line("%s", name)
	}
	return func(n int64) {
		u.mu.Lock()
		defer u.mu.Unlock()
		p.done += n
		every := 10 * time.Second
		switch {
		case u.terminal:
			every = 100 * time.Millisecond
		case u.JSON:
			every = 300 * time.Millisecond
		}
		now := time.Now()
		if now.Sub(p.last) < every {
			return
		}
		p.last = now
		if u.phase == nil {
			u.phase = p // a message ended it
		}
		switch {
		case u.terminal && u.phase != p:
		case u.terminal:
			u.draw(p)
		case u.JSON:
			u.progress(p)
		default:
			u.Line("%s", p.name+": "+p.text())
		}
	}
}

// Notef shows a message and does not end the phase.
func (u *UI) Notef(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	u.message("message", "", format, args)
}

// rate returns the bytes per second, or 0 if they are not known yet.
func (p *phase) rate() float64 {
	took := time.Since(p.begin)
	if took < rateAfter || p.done == 0 {
		return 0
	}
	return float64(p.done) / took.Seconds()
}

// left returns how long this phase and those after it will take, if that is known.
func (p *phase) left() (time.Duration, bool) {
	rate := p.rate()
	if rate == 0 || p.total < p.done || p.total == 0 {
		return 0, false
	}
	return time.Duration(float64(p.total-p.done+p.later) / rate * float64(time.Second)), true
}

func (p *phase) text() string {
	percent := ""
	if p.total > 0 {
		percent = fmt.Sprintf(", %d %%", 100*min(p.done, p.total)/p.total)
	}
	return p.amount() + percent + p.pace()
}

func (p *phase) amount() string {
	if p.total > 0 {
		return image.FormatSize(p.done) + " of " + image.FormatSize(p.total)
	}
	return image.FormatSize(p.done)
}

// pace returns the rate and the time left, if they are known.
func (p *phase) pace() (s string) {
	if rate := p.rate(); rate > 0 {
		s += fmt.Sprintf(", %s/s", image.FormatSize(int64(rate)))
	}
	if left, ok := p.left(); ok {
		s += fmt.Sprintf(", %s left", left.Round(time.Second))
	}
	return s
}

// draw draws the bar of a phase over the last one.
func (u *UI) draw(p *phase) {
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
	// A full bar would end itself and write a last line.
	p.bar.Set64(min(p.done, max(p.total-1, 0)))
	p.bar.Describe(string(text))
}

// barRest is the width of a bar without its blocks and its description.
const barRest = len(" 100% ||   ")

// barWidth returns how many blocks a bar has on a terminal of a width.
func barWidth(width int) int { return max(5, min(width-70, 40)) }

// asciiTerminal reports whether the terminal or the locale has ASCII only.
func asciiTerminal(env func(string) string) bool {
	name := env("TERM")
	if name == "" || strings.HasPrefix(name, "vt") || name == "ansi" {
		return true
	}
	locale := strings.ToLower(cmp.Or(env("LC_ALL"), env("LC_CTYPE"), env("LANG")))
	return !strings.Contains(locale, "utf-8") && !strings.Contains(locale, "utf8")
}

// clear removes the bar from the terminal.
func (u *UI) clear() {
	if p := u.phase; p != nil && p.bar != nil {
		p.bar.Clear()
		p.bar = nil
	}
}

// progress writes the progress of a phase as JSON.
func (u *UI) progress(p *phase) {
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
	u.Event(e)
}

// EndPhase ends the phase, if there is one.
func (u *UI) EndPhase() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.phase == nil {
		return
	}
	u.clear()
	if u.JSON {
		u.progress(u.phase)
	}
	u.phase = nil
}
