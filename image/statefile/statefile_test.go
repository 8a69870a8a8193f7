package statefile

import (
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imgtool/image/imagetest"
)

func TestEntriesAreReadBack(t *testing.T) {
	when := time.Date(2026, 11, 3, 9, 15, 4, 0, time.UTC)
	want := []Entry{
		{1, 6, "System checked", "photon-nx", "1a2b", ""},
		{6, 6, "Provisioned: at last", "photon-nx", "1a2b", "production"},
	}
	text := "# provisioned by imgtool\n"
	for _, e := range want {
		text += e.Line(when)
	}
	if d := cmp.Diff(want, Parse(text)); d != "" {
		t.Error(d)
	}
	last, ok := Last(text)
	if !ok || !last.Final() || last.String() != "(6/6) Provisioned: at last: board photon-nx, build 1a2b, profile production" {
		t.Errorf("the last entry is %v, %v", last, ok)
	}
	if _, ok := Last("nothing\n"); ok {
		t.Error("a file without entries has a last one")
	}
}

func TestForeignLines(t *testing.T) {
	text := "Tue Nov  3 09:15:04 UTC 2026: (3/5) Lock down the system\nno step\n(5/5)"
	want := []Entry{{Step: 3, Steps: 5}, {Step: 5, Steps: 5}}
	if d := cmp.Diff(want, Parse(text)); d != "" {
		t.Error(d)
	}
	if e, _ := Last(text); !e.Final() {
		t.Errorf("the last entry is %v", e)
	}
}

// The date is as date(1) prints it.
func TestDate(t *testing.T) {
	cmd := exec.Command(imagetest.Need(t, "date"), "-u", "-d", "@1780000000")
	cmd.Env = []string{"LC_ALL=C"}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	e := Entry{1, 1, "Made", "b", "i", ""}
	if got, want := e.Line(time.Unix(1780000000, 0)), string(out[:len(out)-1])+": (1/1) Made: board b, build i\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
