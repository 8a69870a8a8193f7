// Package picker lets users choose an item from a list that changes while it is shown, such as
// the disks of a computer.
package picker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/rivo/uniseg"
)

// An Item can be chosen, unless it has a Reason. All texts must be sanitized.
type Item struct {
	Key     string   // identifies the item in later lists
	Columns []string // of its line
	Detail  string   // shown while the item is selected
	Reason  string   // why it cannot be chosen
}

// Options are the texts of a picker.
type Options struct {
	Title string // shown if there is an item to choose
	Empty string // shown if there is none
	Right int    // index of the column that is aligned to the right; 0: none
	In    io.Reader
	Out   io.Writer
	Wrap  func(text string, width int, indent string) string

	// Settle is how long the only item must be there to be chosen without a key, after there
	// was none. 0: a key must be pressed.
	Settle time.Duration
}

// ErrStopped is the error if the user stops.
var ErrStopped = errors.New("nothing was chosen")

// Pick shows the lists as they come, and returns the key of the item that the user chooses.
func Pick(ctx context.Context, opt Options, lists <-chan []Item) (string, error) {
	m := &model{opt: opt, width: 80, height: 24}
	p := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(opt.In), tea.WithOutput(opt.Out), tea.WithoutSignalHandler())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case l, ok := <-lists:
				if !ok {
					return
				}
				p.Send(itemsMsg(l))
			}
		}
	}()
	_, err := p.Run()
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case err != nil:
		return "", err
	case m.chosen == "":
		return "", ErrStopped
	}
	return m.chosen, nil
}

// itemsMsg is a new list.
type itemsMsg []Item

// settledMsg comes when an item may have been the only one for long enough.
type settledMsg struct{ key string }

// model is the state of a picker. Its methods make it a bubbletea model.
type model struct {
	opt           Options
	width, height int

	items    []Item // selectable items come first
	selected string // key
	since    time.Time
	empty    bool   // there was nothing to choose
	others   bool   // show items that cannot be chosen
	digits   string // typed so far
	chosen   string
}

func (m *model) Init() tea.Cmd { return nil }

func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = max(msg.Width, 10), max(msg.Height, 5)
	case itemsMsg:
		return m, m.replace(msg)
	case settledMsg:
		if n := m.choices(); len(n) == 1 && n[0].Key == msg.key && time.Since(m.since) >= m.opt.Settle {
			return m, m.choose(msg.key)
		}
	case tea.KeyPressMsg:
		return m, m.key(msg.String())
	}
	return m, nil
}

// choices returns the items that can be chosen.
func (m *model) choices() []Item {
	n := slices.IndexFunc(m.items, func(i Item) bool { return i.Reason != "" })
	if n < 0 {
		n = len(m.items)
	}
	return m.items[:n]
}

// replace takes a new list, and keeps the selected item.
func (m *model) replace(items []Item) tea.Cmd {
	before := m.choices()
	m.items = slices.Clone(items)
	slices.SortStableFunc(m.items, func(a, b Item) int { return min(1, len(a.Reason)) - min(1, len(b.Reason)) })
	now := m.choices()
	switch {
	case len(now) == 0:
		m.selected, m.empty = "", true
	case m.selected == "":
		m.selected = now[0].Key
	} // If the selected item is gone, none is selected: Enter must not choose another one.
	if m.opt.Settle == 0 || !m.empty || len(now) != 1 {
		return nil
	}
	if len(before) != 1 || before[0].Key != now[0].Key {
		m.since = time.Now()
	}
	key := now[0].Key
	return tea.Tick(m.opt.Settle+10*time.Millisecond, func(time.Time) tea.Msg { return settledMsg{key} })
}

func (m *model) index() int {
	return slices.IndexFunc(m.choices(), func(i Item) bool { return i.Key == m.selected })
}

func (m *model) choose(key string) tea.Cmd {
	m.chosen = key
	return tea.Quit
}

func (m *model) key(key string) tea.Cmd {
	choices := m.choices()
	digit := len(key) == 1 && key[0] >= '0' && key[0] <= '9'
	if !digit {
		defer func() { m.digits = "" }()
	}
	move := func(by int) {
		m.empty = false // the user is choosing
		if n := len(choices); n > 0 {
			m.selected = choices[min(max(m.index()+by, 0), n-1)].Key
		}
	}
	switch key {
	case "up", "k", "shift+tab":
		move(-1)
	case "down", "j", "tab":
		move(1)
	case "home":
		move(-len(choices))
	case "end":
		move(len(choices))
	case "?":
		m.others = !m.others
	case "q", "esc", "ctrl+c", "ctrl+d":
		return tea.Quit
	case "enter":
		if i := m.index(); i >= 0 {
			return m.choose(choices[i].Key)
		}
	default:
		if digit {
			m.digit(key, choices)
		}
	}
	return nil
}

// digit selects an item by its number. Of a list with ten items or more, the number may have
// several digits.
func (m *model) digit(key string, choices []Item) {
	m.empty = false
	for _, digits := range []string{m.digits + key, key} {
		if n, err := strconv.Atoi(digits); err == nil && n >= 1 && n <= len(choices) {
			m.selected, m.digits = choices[n-1].Key, digits
			return
		}
	}
}

func (m *model) View() tea.View {
	v := tea.NewView(strings.Join(m.lines(), "\n"))
	v.AltScreen = true // lines that are drawn in place do not survive a change of the width
	return v
}

// lines returns what is shown: the items in aligned columns, the details of the selected one,
// and the items that cannot be chosen.
func (m *model) lines() []string {
	choices := m.choices()
	others := m.items[len(choices):]
	wrap := func(text, indent string) []string {
		return strings.Split(indent+m.opt.Wrap(text, m.width-1-len(indent), indent), "\n")
	}
	head := m.opt.Title
	if len(choices) == 0 {
		head = m.opt.Empty
	}
	lines := wrap(head, "")
	widths := columnWidths(choices)
	var below []string
	if i := m.index(); i >= 0 && choices[i].Detail != "" {
		below = append([]string{""}, wrap(choices[i].Detail, "     ")...)
	}
	if n := len(others); n > 0 && !m.others {
		what := fmt.Sprintf("%d more cannot be used; ? shows why", n)
		if n == 1 {
			what = "1 more cannot be used; ? shows why"
		}
		below = append(below, wrap(what, "")...)
	}
	if m.others {
		below = append(below, "")
		for _, o := range others {
			columns := slices.DeleteFunc(slices.Clone(o.Columns), func(c string) bool { return c == "" })
			for _, line := range wrap(strings.Join(columns, "  ")+": "+o.Reason, "     ") {
				below = append(below, faint(line))
			}
		}
	}
	// The selected item stays visible if there are more than fit.
	room := max(1, m.height-1-len(lines)-len(below))
	from := min(max(0, m.index()-room+1), max(0, len(choices)-room))
	for i, c := range choices[from:min(len(choices), from+room)] {
		mark := "  "
		if c.Key == m.selected {
			mark = "> "
		}
		text := fmt.Sprintf("%s%*d  %s", mark, len(strconv.Itoa(len(choices))), from+i+1, m.aligned(c.Columns, widths))
		lines = append(lines, cut(text, m.width-1))
	}
	if lines = append(lines, below...); len(lines) > m.height-1 {
		lines = lines[:m.height-1]
	}
	return lines
}

// faint makes text less visible.
func faint(s string) string { return "\x1b[2m" + s + "\x1b[22m" }

func columnWidths(items []Item) (widths []int) {
	for _, item := range items {
		for i, c := range item.Columns {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], uniseg.StringWidth(c))
		}
	}
	return widths
}

// aligned pads columns.
func (m *model) aligned(columns []string, widths []int) string {
	var b strings.Builder
	for i, c := range columns {
		pad := strings.Repeat(" ", widths[i]-uniseg.StringWidth(c))
		if i > 0 {
			b.WriteString("  ")
		}
		if i > 0 && i == m.opt.Right {
			b.WriteString(pad + c)
		} else {
			b.WriteString(c + pad)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

func cut(s string, width int) string {
	for r := []rune(s); uniseg.StringWidth(s) > width; s = string(r) {
		r = r[:len(r)-1]
	}
	return s
}
