package terminal

import (
	"fmt"
	"slices"
	"time"

	"imgtool/flash"
	"imgtool/flash/deploy"
	"imgtool/image"
)

// phase is the current part of the work on an image or on one of several disks.
type phase struct {
	name, disk  string // disk is empty unless there are several
	done, total int64
	begin, last time.Time
	marks       []mark // in the last seconds
	step        int    // index of the announced phase that this is, or comes after; -1: before all
	ended       string // "done" or "failed" when the work on the disk has ended
}

// mark is how many bytes were done at a time.
type mark struct {
	at   time.Time
	done int64
}

// steps are the phases of an operation that is shown as a whole.
type steps struct {
	phases []deploy.Phase
	at     int     // index of the phase that began last, apart from phases of single disks
	past   float64 // cost of the phases that ended, apart from those of single disks
	shown  float64 // progress that was shown, which does not go back
}

// How often progress is shown.
const (
	redrawEvery = 100 * time.Millisecond
	eventEvery  = 300 * time.Millisecond
	lineEvery   = 10 * time.Second
)

// rateAfter is how long a phase must have run before its rate is shown: at first, bytes that a
// cache takes or that are skipped make it too high. rateOver is how long it is averaged.
const (
	rateAfter = time.Second
	rateOver  = 15 * time.Second
)

// costs are the relative times that phases take for a byte, for the overall progress.
var costs = map[string]float64{flash.Writing: 6, flash.Reading: 3, "unpacking": 2}

// usualRate is what writing a card is assumed to reach, in bytes per second, while the disk has
// not been written to.
const usualRate = 25 << 20

func cost(name string, n int64) float64 {
	if c := costs[name]; c > 0 {
		return c * float64(n)
	}
	return float64(n)
}

// Expect announces the phases of an operation, which is shown as a whole from then on. If the
// first of them was announced before, they replace it and those after it. Without phases the
// operation ends.
func (u *UI) Expect(phases ...deploy.Phase) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(phases) == 0 {
		u.clear()
		u.steps, u.rows, u.before = nil, nil, nil
		return
	}
	if u.steps == nil {
		u.steps = &steps{at: -1}
	}
	s := u.steps
	i := s.index(phases[0].Name)
	if i < 0 {
		*s, i = steps{at: -1}, 0
	}
	s.phases = append(slices.Clone(s.phases[:i]), phases...)
}

func (s *steps) index(name string) int {
	if s == nil {
		return -1
	}
	return slices.IndexFunc(s.phases, func(p deploy.Phase) bool { return p.Name == name })
}

// enter sets the step of a phase that begins after the step of another.
func (s *steps) enter(p *phase, after int) {
	if p.step = s.index(p.name); p.step < 0 {
		p.step = after
	}
}

// later returns the announced phases after p.
func (s *steps) later(p *phase) []deploy.Phase {
	if s == nil || p.step+1 >= len(s.phases) {
		return nil
	}
	return s.phases[p.step+1:]
}

// before returns the cost of the phases before p.
func (s *steps) before(p *phase) float64 {
	past := s.past
	if p.disk == "" {
		return past
	}
	end := p.step
	if s.index(p.name) < 0 {
		end++ // p comes after it
	}
	for i := s.at + 1; i < min(end, len(s.phases)); i++ {
		past += cost(s.phases[i].Name, s.phases[i].Total)
	}
	return past
}

// end counts the phase that ended last.
func (u *UI) end() {
	if p := u.before; p != nil && u.steps != nil {
		u.steps.past += cost(p.name, max(p.done, p.total))
	}
	u.before = nil
}

// Phase shows a new phase.
func (u *UI) Phase(name string, total int64) image.Progress {
	u.EndPhase()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.end()
	p := newPhase(name, "", total)
	if u.steps != nil {
		u.steps.enter(p, u.steps.at)
		u.steps.at = p.step
	}
	u.phase = p
	u.begin(p)
	return func(n int64) { u.add(p, n) }
}

func newPhase(name, disk string, total int64) *phase {
	now := time.Now()
	return &phase{name: name, disk: disk, total: total, begin: now, last: now}
}

// Disk shows the work on one of several disks as a row.
func (u *UI) Disk(path string) (image.Phases, func(error)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	u.phase = nil
	u.end()
	row := newPhase("waiting", path, 0)
	if row.step = -1; u.steps != nil {
		row.step = u.steps.at
	}
	u.rows = append(u.rows, row)
	phases := func(name string, total int64) image.Progress {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.JSON && row.total > 0 {
			u.progress(row)
		}
		after := row.step
		*row = *newPhase(name, path, total)
		u.steps.enter(row, after)
		u.begin(row)
		return func(n int64) { u.add(row, n) }
	}
	return phases, func(err error) {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.JSON {
			u.progress(row)
		}
		if row.ended = "done"; err != nil {
			row.ended = "failed"
		}
		u.redraw()
	}
}

// begin shows that a phase begins.
func (u *UI) begin(p *phase) {
	switch {
	case u.JSON:
		u.progress(p)
	case u.drawing():
		u.redraw()
	case p.total > 0:
		u.Line("%s%s: %s", p.prefix(), p.name, image.FormatSize(p.total))
	default:
		u.Line("%s%s", p.prefix(), p.name)
	}
}

func (p *phase) prefix() string {
	if p.disk == "" {
		return ""
	}
	return p.disk + ": "
}

// add counts bytes, and shows the progress from time to time.
func (u *UI) add(p *phase, n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p.done += n
	every := lineEvery
	switch {
	case u.JSON:
		every = eventEvery
	case u.drawing():
		every = redrawEvery
	}
	now := time.Now()
	if now.Sub(p.last) < every {
		return
	}
	p.mark(now)
	p.last = now
	if u.phase == nil && p.disk == "" {
		u.phase = p // a message ended it
	}
	switch {
	case u.JSON:
		u.progress(p)
	case !u.drawing():
		u.Line("%s", p.prefix()+p.name+": "+p.text(u.steps)+u.fetched(", "))
	case u.phase == p || p.disk != "" && u.phase == nil:
		u.redraw()
	}
}

// Notef shows a message and does not end the phase.
func (u *UI) Notef(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	u.message("message", "", format, args)
}

func (p *phase) mark(now time.Time) {
	if n := len(p.marks); n > 0 && now.Sub(p.marks[n-1].at) < time.Second {
		return
	}
	p.marks = append(p.marks, mark{now, p.done})
	for len(p.marks) > 2 && now.Sub(p.marks[1].at) > rateOver {
		p.marks = p.marks[1:]
	}
}

// rate returns the bytes per second of the last seconds, or 0 if they are not known yet.
func (p *phase) rate() float64 {
	from := mark{p.begin, 0}
	if len(p.marks) > 0 && time.Since(p.marks[0].at) >= rateAfter && time.Since(p.begin) > rateOver {
		from = p.marks[0]
	}
	took := time.Since(from.at)
	if took < rateAfter || p.done == from.done {
		return 0
	}
	return float64(p.done-from.done) / took.Seconds()
}

// left returns how long this phase and those after it will take, if that is known. The disk's
// rate is not known before it is written to, so the time is a guess.
func (p *phase) left(s *steps) (left time.Duration, guess, ok bool) {
	rate := p.rate()
	if rate == 0 || p.total < p.done || p.total == 0 {
		return 0, false, false
	}
	seconds := float64(p.total-p.done) / rate
	speed := cost(p.name, 1) * rate // in costs per second
	if costs[p.name] < costs[flash.Reading] {
		speed = costs[flash.Writing] * min(rate, usualRate)
	}
	for _, later := range s.later(p) {
		if later.Total == 0 {
			return 0, false, false
		}
		guess = guess || later.Total > 0 && costs[p.name] < costs[flash.Reading]
		seconds += cost(later.Name, later.Total) / speed
	}
	// At its end, a phase may still wait for something that is not counted.
	return time.Duration(seconds * float64(time.Second)), guess, seconds > 0
}

// timeLeft returns a text such as "3m20s left", or "".
func (p *phase) timeLeft(s *steps) string {
	left, guess, ok := p.left(s)
	switch {
	case !ok:
		return ""
	case guess:
		return "about " + roundTime(left) + " left"
	}
	return roundTime(left) + " left"
}

// roundTime rounds to seconds, and above an hour to minutes.
func roundTime(d time.Duration) string {
	if d >= time.Hour {
		d = d.Round(time.Minute)
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return d.Round(time.Second).String()
}

// overall returns the progress of the operation that the phase is part of, from 0 to 1. It is
// false if no phases were announced, or their lengths are not known.
func (p *phase) overall(s *steps) (float64, bool) {
	if p.ended != "" {
		return 1, true
	}
	if s == nil {
		if p.total == 0 {
			return 0, false
		}
		return float64(min(p.done, p.total)) / float64(p.total), true
	}
	later := 0.0
	for _, l := range s.later(p) {
		if l.Total == 0 {
			return 0, false
		}
		later += cost(l.Name, l.Total)
	}
	if p.total == 0 && s.index(p.name) >= 0 {
		return 0, false
	}
	past := s.before(p)
	done := past + cost(p.name, min(p.done, p.total))
	all := past + cost(p.name, p.total) + later
	return done / max(all, 1), true
}

// fetched returns a text such as "12.0 MiB fetched" after a prefix, or "" if nothing came from a
// server.
func (u *UI) fetched(prefix string) string {
	if n := u.Fetched.Load(); n > 0 {
		return prefix + image.FormatSize(n) + " fetched"
	}
	return ""
}

func (p *phase) text(s *steps) string {
	text := p.amount()
	if p.total > 0 {
		text += fmt.Sprintf(", %d %%", 100*min(p.done, p.total)/p.total)
	}
	if rate := p.rateText(); rate != "" {
		text += ", " + rate
	}
	if left := p.timeLeft(s); left != "" {
		text += ", " + left
	}
	return text
}

func (p *phase) amount() string {
	if p.total > 0 {
		return image.FormatSize(p.done) + " of " + image.FormatSize(p.total)
	}
	return image.FormatSize(p.done)
}

func (p *phase) rateText() string {
	if rate := p.rate(); rate > 0 {
		return image.FormatSize(int64(rate)) + "/s"
	}
	return ""
}

// progress writes the progress of a phase as JSON.
func (u *UI) progress(p *phase) {
	e := map[string]any{"event": "progress", "phase": p.name, "bytes": p.done}
	if p.disk != "" {
		e["disk"] = p.disk
	}
	if p.total > 0 {
		e["total"] = p.total
	}
	if rate := p.rate(); rate > 0 {
		e["rate"] = int64(rate)
	}
	if n := u.Fetched.Load(); n > 0 {
		e["fetched"] = n
	}
	if left, _, ok := p.left(u.steps); ok {
		e["eta_s"] = int64(left.Seconds())
	}
	if i := u.steps.index(p.name); i >= 0 {
		e["step"], e["steps"] = i+1, len(u.steps.phases)
	}
	if all, ok := p.overall(u.steps); ok && u.steps != nil {
		e["overall"] = float64(int(all*1000)) / 1000
	}
	u.Event(e)
}

// EndPhase ends the phase, if there is one.
func (u *UI) EndPhase() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	if u.phase == nil {
		return
	}
	if u.JSON {
		u.progress(u.phase)
	}
	u.before, u.phase = u.phase, nil
}
