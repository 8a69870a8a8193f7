package picker

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/rivo/uniseg"
)

// script drives a model as bubbletea would.
type script struct {
	t *testing.T
	*model
	stopped bool
	waits   []tea.Cmd
}

func start(t *testing.T, opt Options) *script {
	opt.Title, opt.Empty, opt.Right = "Which?", "Plug one in.", 1
	opt.Wrap = func(text string, width int, indent string) string { return text }
	return &script{t: t, model: &model{opt: opt, width: 80, height: 24}}
}

func (s *script) send(msg tea.Msg) *script {
	_, cmd := s.Update(msg)
	switch {
	case cmd == nil:
	case s.opt.Settle > 0 && s.chosen == "" && s.items != nil && isList(msg):
		s.waits = append(s.waits, cmd)
	default:
		_, s.stopped = cmd().(tea.QuitMsg)
	}
	return s
}

func isList(msg tea.Msg) bool { _, ok := msg.(itemsMsg); return ok }

func (s *script) list(items ...Item) *script { return s.send(itemsMsg(items)) }

func (s *script) press(keys ...string) *script {
	codes := map[string]rune{"up": tea.KeyUp, "down": tea.KeyDown, "enter": tea.KeyEnter, "esc": tea.KeyEscape}
	for _, k := range keys {
		msg := tea.KeyPressMsg{Code: codes[k]}
		if msg.Code == 0 {
			msg = tea.KeyPressMsg{Code: []rune(k)[0], Text: k}
		}
		s.send(msg)
	}
	return s
}

func (s *script) shows(want string) *script {
	s.t.Helper()
	if got := strings.Join(s.lines(), "\n"); got != strings.TrimPrefix(want, "\n") {
		s.t.Errorf("it shows\n%s\nand not%s", got, want)
	}
	return s
}

var (
	one   = Item{Key: "1", Columns: []string{"/dev/sdb", "14.9 GiB", "SanDisk Ultra"}, Detail: "FAT32"}
	two   = Item{Key: "2", Columns: []string{"/dev/sdc", "128.0 GiB", "Disk"}, Detail: "ext4"}
	small = Item{Key: "3", Columns: []string{"/dev/sdd", "1.0 GiB", ""}, Reason: "too small"}
)

func TestKeysAndNumbersChoose(t *testing.T) {
	for keys, want := range map[string]string{"enter": "1", "down enter": "2", "down down enter": "2", "down up enter": "1", "up enter": "1", "2 enter": "2", "2 1 enter": "1", "9 enter": "1", "x enter": "1", "j enter": "2"} {
		s := start(t, Options{}).list(small, one, two).press(strings.Fields(keys)...)
		if s.chosen != want || !s.stopped {
			t.Errorf("%s: chosen is %q", keys, s.chosen)
		}
	}
	for _, key := range []string{"q", "esc"} {
		if s := start(t, Options{}).list(one, two).press(key); s.chosen != "" || !s.stopped {
			t.Errorf("%s: chosen is %q", key, s.chosen)
		}
	}
	var many []Item
	for i := range 12 {
		many = append(many, Item{Key: string(rune('a' + i)), Columns: []string{"x"}})
	}
	if s := start(t, Options{}).list(many...).press("1", "2", "enter"); s.chosen != "l" {
		t.Errorf("chosen is %q", s.chosen)
	}
}

// Disks appear and disappear while the list is open; the selection stays on its disk.
func TestListChanges(t *testing.T) {
	s := start(t, Options{}).list(small).shows(`
Plug one in.
1 more cannot be used; ? shows why`)
	s.press("enter")
	if s.stopped {
		t.Error("nothing can be chosen, and it ends")
	}
	s.list(two, small).shows(`
Which?
> 1  /dev/sdc  128.0 GiB  Disk

     ext4
1 more cannot be used; ? shows why`)
	s.list(one, two, small).shows(`
Which?
  1  /dev/sdb   14.9 GiB  SanDisk Ultra
> 2  /dev/sdc  128.0 GiB  Disk

     ext4
1 more cannot be used; ? shows why`)
	// The selected disk is gone: Enter does not choose another one.
	if s.list(one, small).press("enter"); s.stopped {
		t.Error("a disk that was not selected is chosen")
	}
	s.press("?").shows(`
Which?
  1  /dev/sdb  14.9 GiB  SanDisk Ultra

` + faint("     /dev/sdd  1.0 GiB: too small"))
	s.press("down").shows(`
Which?
> 1  /dev/sdb  14.9 GiB  SanDisk Ultra

     FAT32

` + faint("     /dev/sdd  1.0 GiB: too small"))
	if s.list(small).press("enter"); s.stopped {
		t.Error("the disk is gone, and it ends")
	}
}

// A disk that is plugged in is chosen when it was the only one for a while.
func TestOnlyItemIsChosenAfterItSettled(t *testing.T) {
	opt := Options{Settle: 20 * time.Millisecond}
	s := start(t, opt).list(small).list(one, small)
	if s.send(s.waits[0]()); s.chosen != "1" || !s.stopped {
		t.Error("it was not chosen")
	}
	s = start(t, opt).list().list(one).list(one, two)
	if s.send(s.waits[0]()); s.chosen != "" {
		t.Error("there are two, and one was chosen")
	}
	s = start(t, opt).list().list(one).list(two)
	if s.send(settledMsg{"1"}); s.chosen != "" {
		t.Error("another one was chosen")
	}
	s = start(t, opt).list().list(one).press("down")
	if s.list(one); len(s.waits) != 1 {
		t.Error("the user chooses, and it does not wait")
	}
	if s = start(t, opt).list(one, two).list(one); len(s.waits) != 0 {
		t.Error("of two, the last one would be chosen")
	}
}

// Lines fit the window, and the selected item is among them.
func TestWindowSizes(t *testing.T) {
	var many []Item
	for range 30 {
		many = append(many, Item{Key: strings.Repeat("x", len(many)+1), Columns: []string{"/dev/sdx", "10.0 GiB", "SanDisk Ultra with a long name", "FAT32"}})
	}
	for _, size := range [][2]int{{80, 24}, {40, 20}, {200, 50}, {20, 6}} {
		s := start(t, Options{}).list(append(many, small)...)
		s.send(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
		for i := range 30 {
			lines := s.lines()
			text := strings.Join(lines, "\n")
			if len(lines) >= size[1] || strings.Count(text, "> ") != 1 {
				t.Fatalf("%v: item %d:\n%s", size, i, text)
			}
			for _, line := range lines[1 : len(lines)-1] {
				if uniseg.StringWidth(line) >= size[0] {
					t.Errorf("%v: %q", size, line)
				}
			}
			s.press("down")
		}
	}
}

func TestPickEndsWithItsContext(t *testing.T) {
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	r, w := io.Pipe()
	defer w.Close()
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	if _, err := Pick(ctx, Options{In: r, Out: io.Discard, Wrap: func(s string, _ int, _ string) string { return s }}, nil); err != why {
		t.Errorf("got %v", err)
	}
}
