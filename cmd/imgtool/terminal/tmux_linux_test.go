package terminal

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"imgtool/flash/deploy"
	"imgtool/image"
	"imgtool/image/imagetest"
)

// The test program plays one of these on the terminal if the variable is set. The file that it
// names directs it: with each line "next" the work goes on, and others only draw it again.
const playVariable = "IMGTOOL_TEST_PLAY"

var plays = map[string]func(u *UI, next func() (int64, bool)){
	"flash": playFlash,
	"disks": playDisks,
}

func TestMain(m *testing.M) {
	name, fifo, ok := strings.Cut(os.Getenv(playVariable), ":")
	if !ok {
		os.Exit(m.Run())
	}
	f, err := os.Open(fifo)
	if err != nil {
		panic(err)
	}
	lines := bufio.NewScanner(f)
	u := New(os.Stdin, os.Stdout, os.Stderr)
	u.Start()
	for range 60 {
		u.Infof("a message")
	}
	plays[name](u, func() (int64, bool) {
		more := lines.Scan()
		return int64(strings.Count(lines.Text(), "next")), more
	})
}

// announce announces the phases of a flash of 3 GiB.
func announce(u *UI) {
	u.Expect(deploy.Phase{Name: "checking"}, deploy.Phase{Name: "writing", Total: 3072 * mib}, deploy.Phase{Name: "reading back", Total: 3072 * mib})
}

// pass makes a phase begin a minute ago, and shows it.
func (u *UI) pass(p *phase, more image.Progress, n int64) {
	u.mu.Lock()
	p.begin, p.last = time.Now().Add(-time.Minute), time.Time{}
	u.mu.Unlock()
	more(n)
}

func playFlash(u *UI, next func() (int64, bool)) {
	announce(u)
	u.Phase("checking", 3072*mib)(3072 * mib)
	more := u.Phase("writing", 3072*mib)
	for n, ok := next(); ok; n, ok = next() {
		u.pass(u.phase, more, n*512*mib)
	}
	u.Infof("the end")
	time.Sleep(time.Minute)
}

func playDisks(u *UI, next func() (int64, bool)) {
	announce(u)
	var rows []image.Progress
	var ends []func(error)
	for i := range 3 {
		phases, end := u.Disk(fmt.Sprintf("/dev/sd%c", 'b'+i))
		rows, ends = append(rows, phases("writing", 3072*mib)), append(ends, end)
	}
	for n, ok := next(); ok; n, ok = next() {
		for i, more := range rows[:2] {
			u.pass(u.rows[i], more, n*int64(i+1)*512*mib)
		}
		ends[2](errors.New("bad"))
	}
	u.Expect()
	u.Infof("the end")
	time.Sleep(time.Minute)
}

// screen is a terminal in which the test program plays.
type screen struct {
	*imagetest.Screen
	orders *os.File
}

func startScreen(t *testing.T, play string, width, height int) *screen {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "orders")
	noError(t, syscall.Mkfifo(fifo, 0o600))
	s := &screen{Screen: imagetest.StartScreen(t, width, height, fmt.Sprintf("%s=%s:%s %s", playVariable, play, fifo, os.Args[0]))}
	var err error
	s.orders, err = os.OpenFile(fifo, os.O_WRONLY, 0)
	noError(t, err)
	t.Cleanup(func() { s.orders.Close() })
	s.History = true
	s.Draw = func() { s.orders.WriteString("draw\n") }
	return s
}

func (s *screen) next() { s.orders.WriteString("next\n") }

// Progress takes one line at any width, also after the window was made smaller or larger, and
// nothing is left of it.
func TestProgressInAWindow(t *testing.T) {
	s := startScreen(t, "flash", 80, 24)
	s.next()
	s.Sees(`(a message
)+2/3 writing +20% \|█+░+\| 8m0s left, 512\.0 MiB of 3\.0 GiB, 8\.5 MiB/s`)
	s.Resize(40, 20)
	s.next()
	s.Sees(`(a message
)+writing +30% \|█+░+\| 3m30s left`)
	s.Resize(200, 50)
	s.next()
	s.Sees(`(a message
)+2/3 writing +40% \|█{16}░{24}\| 2m0s left, 1\.5 GiB of 3\.0 GiB, 25\.6 MiB/s`)
	s.Resize(40, 20)
	s.Sees(`(a message
)+writing +40% .*`)
	s.Draw = nil
	s.orders.Close()
	s.Sees("(a message\n)+the end")
}

// With several disks each has a line.
func TestRowsInAWindow(t *testing.T) {
	s := startScreen(t, "disks", 80, 24)
	s.next()
	s.Sees(`(a message
)+3 disks +\d+% \|█+░+\| 8m0s left, 1 of 3 ended
/dev/sdb  writing +\d+% \|█+░+\| \S+ left, 8\.5 MiB/s
/dev/sdc  writing +\d+% \|█+░+\| \S+ left, 17\.1 MiB/s
/dev/sdd  failed`)
	s.Resize(40, 20)
	s.next()
	s.Sees(`(a message
)+3 disks +\d+% \|█+░+\| 3m30s left
/dev/sdb +\d+% \|█+░+\| 3m30s left
/dev/sdc +\d+% \|█+░+\| \S+ left
/dev/sdd  failed`)
	s.Resize(200, 50)
	s.next()
	s.Sees(`(a message
)+3 disks +\d+% \|█+░+\| 2m0s left, 1 of 3 ended
/dev/sdb  writing +\d+% \|█+░+\| 2m0s left, 25\.6 MiB/s, 1\.5 GiB of 3\.0 GiB
/dev/sdc  writing +\d+% \|█+░*\| \S+ left, 51\.2 MiB/s, 3\.0 GiB of 3\.0 GiB
/dev/sdd  failed`)
	s.orders.Close()
	s.Sees("(a message\n)+the end")
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
