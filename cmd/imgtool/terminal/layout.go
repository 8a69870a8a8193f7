package terminal

import (
	"os"
	"strings"

	"golang.org/x/term"
)

// widthOf returns the number of columns of a terminal, or 80.
func widthOf(file any) int {
	if f, ok := file.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w
		}
	}
	return 80
}

// Width returns the number of columns of the terminal that is standard output, or 80.
func (u *UI) Width() int { return widthOf(u.stdout.to) }

// Wrap breaks text between words, so that each has up to width characters after the indent that
// all but the first start with. A word that is longer than a line is broken.
func Wrap(text string, width int, indent string) string {
	width = max(width, 8)
	var b strings.Builder
	at := 0
	next := func() {
		b.WriteString("\n" + indent)
		at = 0
	}
	for i, field := range strings.Split(text, " ") {
		word := []rune(field)
		if i > 0 && at+1+len(word) > width {
			next()
		} else if i > 0 {
			b.WriteByte(' ')
			at++
		}
		for ; at+len(word) > width; word = word[width:] {
			b.WriteString(string(word[:width]))
			next()
		}
		b.WriteString(string(word))
		at += len(word)
	}
	return b.String()
}
