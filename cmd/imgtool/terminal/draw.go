package terminal

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/rivo/uniseg"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"imgtool/image/sanitize"
)

// block is lines at the end of the screen that are drawn again and again.
type block struct {
	lines []string // as they were drawn
}

// draw draws lines over the last ones. It expects that no line is as wide as the terminal.
//
// Rows are cleared one by one: clearing all that is below the cursor puts it into the history of
// some terminals. Lines are cut by the terminal and not wrapped (DECAWM): it may be narrower
// already than the program knows.
func (b *block) draw(w io.Writer, width int, lines []string) {
	var out strings.Builder
	out.WriteString("\x1b[?7l")
	rows := b.back(&out, width)
	for i, line := range lines {
		if i > 0 {
			out.WriteByte('\n')
		}
		out.WriteString(line + "\x1b[K")
	}
	n := max(1, len(lines))
	if len(lines) == 0 {
		out.WriteString("\x1b[K")
	}
	for range rows - n {
		out.WriteString("\n\r\x1b[K")
	}
	if rows > n {
		fmt.Fprintf(&out, "\x1b[%dA", rows-n)
		if len(lines) > 0 {
			fmt.Fprintf(&out, "\r\x1b[%dC", columns(lines[n-1]))
		}
	}
	out.WriteString("\x1b[?7h")
	b.lines = lines
	io.WriteString(w, out.String())
}

// back moves the cursor to the start of the block, and returns the rows of the block. If the window
// was made narrower, terminals have wrapped the lines since.
func (b *block) back(out *strings.Builder, width int) (rows int) {
	for _, line := range b.lines {
		rows += max(1, (columns(line)+width-1)/width)
	}
	out.WriteByte('\r')
	if rows > 1 {
		fmt.Fprintf(out, "\x1b[%dA", rows-1)
	}
	return rows
}

// clear removes the block from the screen.
func (b *block) clear(w io.Writer, width int) {
	if len(b.lines) > 0 {
		b.draw(w, width, nil)
	}
}

func columns(s string) int { return uniseg.StringWidth(s) }

// fit cuts text to a number of columns. With keepEnd, its start is left out.
func fit(text string, width int, keepEnd bool) string {
	for r := []rune(text); columns(text) > max(width, 0); text = string(r) {
		if keepEnd {
			r = r[1:]
		} else {
			r = r[:len(r)-1]
		}
	}
	return text
}

// drawing reports whether progress is drawn, and not written line by line.
func (u *UI) drawing() bool { return u.terminal && !u.JSON }

// redraw draws the current phase or the rows of disks.
func (u *UI) redraw() {
	if !u.drawing() {
		return
	}
	width, height := 80, 24
	if f, ok := u.stderr.(*os.File); ok {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
			width, height = w, h
		}
	}
	var lines []string
	switch {
	case u.phase != nil:
		lines = []string{u.phaseLine(u.phase, width-1)}
	case len(u.rows) > 0:
		lines = u.rowLines(width-1, height-1)
	}
	u.screen.draw(u.stderr, width, lines)
}

// clear removes the progress from the screen.
func (u *UI) clear() {
	if u.drawing() {
		u.screen.clear(u.stderr, widthOf(u.stderr))
	}
}

// phaseLine returns the line of the only phase.
func (u *UI) phaseLine(p *phase, width int) string {
	name := sanitize.Line(p.name)
	long := fmt.Sprintf("%-12s", name)
	if i := u.steps.index(p.name); i >= 0 && len(u.steps.phases) > 1 {
		long = fmt.Sprintf("%d/%d %s", i+1, len(u.steps.phases), long)
	}
	all, known := p.overall(u.steps)
	if s := u.steps; s != nil && known {
		s.shown = max(s.shown, all)
		all = s.shown
	} else if s != nil && s.shown > 0 {
		all, known = s.shown, true
	}
	return barLine([]string{long, fmt.Sprintf("%-12s", name), name}, all, known, []string{p.timeLeft(u.steps), p.amount(), u.fetched(""), p.rateText()}, width)
}

// rowLines returns a line for all disks together, and one for each.
func (u *UI) rowLines(width, height int) []string {
	sum, known, left, active := 0.0, true, "", 0
	var longest float64
	path := 0
	for _, r := range u.rows {
		all, ok := r.overall(u.steps)
		sum, known = sum+all, known && ok
		if d, _, ok := r.left(u.steps); ok && r.ended == "" && d.Seconds() > longest {
			longest, left = d.Seconds(), r.timeLeft(u.steps)
		}
		if r.ended == "" {
			active++
		}
		path = max(path, columns(sanitize.Line(r.disk)))
	}
	n := len(u.rows)
	if s := u.steps; s != nil {
		s.shown = max(s.shown, sum/float64(n))
		sum = s.shown * float64(n)
	}
	done := ""
	if active < n {
		done = fmt.Sprintf("%d of %d ended", n-active, n)
	}
	title := fmt.Sprintf("%d disks", n)
	path = min(path, max(8, width/3))
	lines := []string{barLine([]string{fmt.Sprintf("%-*s", path+14, title), fmt.Sprintf("%-*s", path, title)}, sum/float64(n), known, []string{left, done, u.fetched("")}, width)}
	for i, r := range u.rows {
		if i == height-2 && n > height-1 {
			return append(lines, fit(fmt.Sprintf("and %d more", n-i), width, false))
		}
		disk := fmt.Sprintf("%-*s", path, fit(sanitize.Line(r.disk), path, true))
		name := sanitize.Line(r.name)
		if r.ended != "" {
			lines = append(lines, fit(disk+"  "+r.ended, width, false))
			continue
		}
		all, ok := r.overall(u.steps)
		lines = append(lines, barLine([]string{fmt.Sprintf("%s  %-12s", disk, name), disk}, all, ok, []string{r.timeLeft(u.steps), r.rateText(), r.amount()}, width))
	}
	return lines
}

// Widths of bars, without their ends.
const (
	minBar = 8
	maxBar = 40
)

// barLine returns a line of up to width columns: one of the heads, the progress as a bar, and as
// many of the facts as there is room for. A shorter head is taken if the first fact would be
// left out, or no bar would fit.
func barLine(heads []string, progress float64, known bool, facts []string, width int) string {
	percent := len(" 100% ||")
	if !known {
		percent = 0
	}
	for i, head := range heads {
		room := width - columns(head)
		need := 0
		if known {
			need = percent + minBar
		}
		tail := ""
		for _, fact := range facts {
			if fact == "" {
				continue
			}
			sep := ", "
			if tail == "" {
				sep = " "
			}
			if need+columns(tail+sep+fact) > room {
				break
			}
			tail += sep + fact
		}
		if last := i == len(heads)-1; !last && (need > room || tail == "" && facts[0] != "") {
			continue
		}
		if !known {
			return fit(strings.TrimRight(head+tail, " "), width, false)
		}
		bar := min(maxBar, room-percent-columns(tail))
		if bar < 1 {
			return fit(fmt.Sprintf("%s %3.0f%%", head, 100*progress), width, false)
		}
		return head + renderBar(progress, bar) + tail
	}
	return ""
}

// renderBar returns a bar such as "  34% |███░░░░░░░|".
func renderBar(progress float64, width int) string {
	theme := progressbar.Theme{Saucer: "█", SaucerHead: "█", SaucerPadding: "░", BarStart: "|", BarEnd: "|"}
	if asciiTerminal(os.Getenv) {
		theme = progressbar.ThemeASCII
	}
	const whole = 1000
	bar := progressbar.NewOptions64(whole, progressbar.OptionSetWriter(io.Discard), progressbar.OptionSetTheme(theme), progressbar.OptionSetWidth(width),
		progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false), progressbar.OptionUseANSICodes(false))
	bar.RenderBlank() // for less than a percent, Set64 renders nothing
	bar.Set64(int64(whole * min(max(progress, 0), 1)))
	return strings.TrimRight(strings.TrimLeft(bar.String(), "\r"), " \n")
}

// asciiTerminal reports whether the terminal or the locale has ASCII only.
func asciiTerminal(env func(string) string) bool {
	name := env("TERM")
	if name == "" || strings.HasPrefix(name, "vt") || name == "ansi" {
		return true
	}
	locale := strings.ToLower(cmp.Or(env("LC_ALL"), env("LC_CTYPE"), env("LANG")))
	return !strings.Contains(locale, "utf-8") && !strings.Contains(locale, "utf8")
}
