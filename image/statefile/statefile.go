// Package statefile reads and writes the file in a root file system that records which
// provisioning steps were done. Each line is one step:
//
//	Mon Nov 30 09:15:04 UTC 2026: (6/6) Provisioned: board photon-nx, build 1a2b3c4d
//
// The date is as date(1) prints it in the C locale. Waggle's factory scripts write such
// lines too; of theirs only the numbers of the step are used.
package statefile

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Entry is a step that was done.
type Entry struct {
	Step, Steps int    // number of the step, from 1, and of all steps
	Name        string // of the step
	Board       string
	Build       string // build ID
	Profile     string // empty: not recorded
}

// String returns the entry as a line without its date.
func (e Entry) String() string {
	text := fmt.Sprintf("(%d/%d) %s: board %s, build %s", e.Step, e.Steps, e.Name, e.Board, e.Build)
	if e.Profile != "" {
		text += ", profile " + e.Profile
	}
	return text
}

// Line returns the entry as a line of the file, for a step done at a time.
func (e Entry) Line(when time.Time) string {
	return when.UTC().Format("Mon Jan _2 15:04:05 MST 2006") + ": " + e.String() + "\n"
}

// Final reports whether it is the last step.
func (e Entry) Final() bool { return e.Step == e.Steps }

var (
	step  = regexp.MustCompile(`\((\d{1,9})/(\d{1,9})\)(.*)`)
	about = regexp.MustCompile(`^ (.*): board (.*), build ([^\s,]+)(?:, profile (\S+))?`)
)

// Parse returns the entries of a file, without lines that are not of steps.
func Parse(text string) (all []Entry) {
	for line := range strings.Lines(text) {
		m := step.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		var e Entry
		e.Step, _ = strconv.Atoi(m[1])
		e.Steps, _ = strconv.Atoi(m[2])
		if m := about.FindStringSubmatch(m[3]); m != nil {
			e.Name, e.Board, e.Build, e.Profile = m[1], m[2], m[3], m[4]
		}
		all = append(all, e)
	}
	return all
}

// Last returns the last entry of a file, and whether there is one.
func Last(text string) (Entry, bool) {
	all := Parse(text)
	if len(all) == 0 {
		return Entry{}, false
	}
	return all[len(all)-1], true
}
