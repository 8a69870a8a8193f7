package extlinux

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Limits of CBoot 32.4.4.
const (
	maxFile   = 4095 // of a buffer of 4096 bytes with a zero at the end
	maxLabels = 20
	maxArgs   = 2048
	maxPath   = 127 // with the mount point before it and a zero after it

	// the longer of CBoot's two mount points, which are this and /sd
	mountPoint = "/sdmmc_user"
)

// maxSize is the size of CBoot's memory for each file.
var maxSize = map[string]int64{Linux: 80 << 20, Initrd: 64 << 20, FDT: 4 << 20}

// Problem is a violation of a rule.
type Problem struct {
	Line  int // counted from 1; 0: the whole file
	Fatal bool
	Text  string
}

func (p Problem) String() string {
	if p.Line == 0 {
		return p.Text
	}
	return fmt.Sprintf("line %d: %s", p.Line, p.Text)
}

// Lint returns the problems of a file: first problems of the whole file, then the others in
// the order of the lines. A problem is fatal if CBoot does not boot, boots something else, or waits for
// a key. size returns the size of a file that CBoot would load, with symbolic links resolved,
// or -1 if it does not exist; if size is nil, files are not checked.
func Lint(text string, size func(path string) int64) []Problem {
	l := &lint{size: size}
	l.file(text)
	return l.problems
}

type lint struct {
	size     func(path string) int64
	problems []Problem
}

func (l *lint) say(line int, fatal bool, format string, args ...any) {
	l.problems = append(l.problems, Problem{line, fatal, fmt.Sprintf(format, args...)})
}

func (l *lint) file(text string) {
	c := Parse(text)
	names := c.Labels()
	if len(text) > maxFile {
		l.say(0, true, "the file has %d bytes; CBoot reads at most %d and boots nothing from this disk", len(text), maxFile)
	}
	if len(names) > maxLabels {
		l.say(0, true, "there are %d labels; CBoot has room for %d and does not check the number", len(names), maxLabels)
	} else if len(names) > 9 {
		l.say(0, false, "there are %d labels; the menu takes one digit, so only the first 9 can be chosen", len(names))
	}
	if len(names) == 0 {
		l.say(0, true, "the file has no LABEL")
	}
	if _, ok := c.Get(Default); !ok {
		l.say(0, true, "DEFAULT is missing; CBoot crashes without it")
	}
	if _, ok := c.Get(Timeout); !ok {
		l.say(0, true, "TIMEOUT is missing; CBoot waits forever for a key")
	}
	if strings.IndexByte(text, 0) >= 0 {
		l.say(0, true, "the file has a zero byte; CBoot stops reading there")
	}

	seen := map[string]int{} // line of a key, outside of labels or in this one
	label, from := "", 0
	for i, raw := range slices.Collect(strings.Lines(text)) {
		n := i + 1
		this := c.lines[i]
		l.line(n, raw, this)
		if this.key == "" {
			continue
		}
		own := slices.Contains(entryKeys, this.key)
		if this.key == LabelKey {
			if label != "" {
				l.label(from, label, seen)
			}
			label, from = this.value, n
			for _, key := range entryKeys {
				delete(seen, key)
			}
			l.name(n, label, names)
			continue
		}
		if own && from == 0 {
			l.say(n, true, "%s stands before the first LABEL, where CBoot ignores it", this.key)
			continue
		}
		if first := seen[this.key]; first > 0 {
			where := ""
			if own {
				where = " of label " + label
			}
			l.say(n, true, "%s%s was set before, in line %d", this.key, where, first)
		}
		seen[this.key] = n
		l.value(n, this, names)
	}
	if from > 0 {
		l.label(from, label, seen)
	}
	slices.SortStableFunc(l.problems, func(a, b Problem) int { return a.Line - b.Line })
}

func (l *lint) line(n int, raw string, this line) {
	body, comment, cut := strings.Cut(strings.TrimRight(raw, "\n"), "#")
	body = strings.Trim(body, blanks)
	if body == "" {
		return
	}
	if cut {
		l.say(n, this.key == Append, "CBoot cuts the line at #: %q is not read", "#"+comment)
	}
	word := body
	if i := strings.IndexAny(body, blanks); i >= 0 {
		word = body[:i]
	}
	if this.key == "" {
		for _, key := range keys {
			if len(body) >= len(key) && strings.EqualFold(body[:len(key)], key) {
				l.say(n, true, "%s is ignored: CBoot knows this key as %s only", body[:len(key)], key)
				return
			}
		}
		l.say(n, false, "%s is ignored: CBoot does not know it", word)
		return
	}
	if this.gap == "" && this.value != "" {
		l.say(n, true, "%s is not known to CBoot, which takes it for %s", word, this.key)
	}
	if strings.ContainsAny(this.value, `"'`) && this.key != MenuTitle && this.key != MenuLabel {
		l.say(n, false, "CBoot does not remove quotes: they are a part of the value")
	}
}

// name compares the name of a label with the others.
func (l *lint) name(n int, name string, names []string) {
	if name == "" {
		l.say(n, true, "LABEL has no name")
		return
	}
	count := 0
	for _, other := range names {
		if other == name {
			count++
		} else if strings.HasPrefix(other, name) {
			l.say(n, false, "the name of label %s is the beginning of the name of label %s, and CBoot compares only the beginning: DEFAULT %s would match both", name, other, name)
		}
	}
	if count > 1 {
		l.say(n, true, "there are %d labels %s", count, name)
	}
}

func (l *lint) value(n int, this line, names []string) {
	v := this.value
	if v == "" {
		l.say(n, this.key != MenuTitle && this.key != MenuLabel, "%s has no value", this.key)
		return
	}
	switch this.key {
	case Timeout:
		t, err := strconv.Atoi(v)
		if err != nil || t < 0 {
			l.say(n, true, "TIMEOUT is %s; it must be a number of tenths of a second", v)
		} else if t < 10 {
			l.say(n, true, "TIMEOUT %s is less than 10 tenths of a second; CBoot makes 0 of it and waits forever for a key", v)
		}
	case Default:
		match := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !strings.HasPrefix(name, v) })
		switch {
		case len(match) == 0:
			l.say(n, true, "DEFAULT is %s, and the name of no label begins with that", v)
		case len(match) > 1:
			last := match[len(match)-1]
			l.say(n, last != v, "DEFAULT is %s, and the names of the labels %s begin with that; CBoot takes the last, %s", v, strings.Join(match, ", "), last)
		case match[0] != v:
			l.say(n, false, "DEFAULT is %s, which is not a label; CBoot takes %s, which begins with that", v, match[0])
		}
	case Linux, Initrd, FDT:
		l.path(n, this.key, v)
	case Append:
		args := ParseArgs(v)
		if !slices.Contains(args, "${cbootargs}") {
			l.say(n, false, "APPEND has no ${cbootargs}, so the command line of the device tree is dropped")
		}
		// The arguments of the device tree are added to these.
		if len(v) >= maxArgs {
			l.say(n, true, "APPEND has %d bytes; a command line has less than %d", len(v), maxArgs)
		}
	}
}

func (l *lint) path(n int, key, path string) {
	if !strings.HasPrefix(path, "/") {
		l.say(n, true, "%s %s does not begin with /", key, path)
		return
	}
	if full := len(mountPoint) + len(path); full > maxPath {
		l.say(n, true, "%s: the path has %d bytes with %s in front; CBoot has room for %d", key, full, mountPoint, maxPath)
	}
	if l.size == nil {
		return
	}
	switch size := l.size(path); {
	case size < 0:
		l.say(n, true, "%s %s does not exist", key, path)
	case size > maxSize[key]:
		l.say(n, true, "%s %s has %d bytes; CBoot has room for %d", key, path, size, maxSize[key])
	}
}

func (l *lint) label(n int, name string, has map[string]int) {
	if has[Linux] == 0 {
		l.say(n, true, "label %s has no LINUX", name)
	}
	if has[Append] == 0 {
		l.say(n, false, "label %s has no APPEND, so it names no root for the kernel", name)
	}
	if has[FDT] == 0 {
		l.say(n, false, "label %s has no FDT, so CBoot takes the device tree of the partition kernel-dtb", name)
	}
}
