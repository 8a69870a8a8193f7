package main

import (
	"bytes"
	"fmt"
	"html"
	"slices"
	"strings"
	"time"

	"github.com/hinshun/vt10x"
)

// Sizes in pixels of a cell and of the space around the screen.
const (
	cellWidth  = 8.4
	cellHeight = 18
	margin     = 14
)

// colours are the colours of a terminal, 0 to 15.
var colours = [16]string{"#1d2129", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#c8ccd4",
	"#7f8696", "#ff7b86", "#b5e090", "#ffd78a", "#82c4ff", "#dd9bf0", "#7fd5df", "#ffffff"}

// hold is how long the last frame is shown, and shortest how long each is at least.
const (
	hold     = 5 * time.Second
	shortest = 150 * time.Millisecond
)

// render returns frames as an SVG. Several frames are an animation; readers who prefer no motion
// see the last.
func render(frames []frame, rows int, title string) []byte {
	frames = thin(frames, 24)
	total := frames[len(frames)-1].at + hold
	var b bytes.Buffer
	width, height := columns*cellWidth+2*margin, rows*cellHeight+2*margin
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" width="%.0f" height="%d" role="img">
<title>%s</title>
<style>
text{font:14px ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;fill:#d7dae0;white-space:pre}
`, width, height, width, height, html.EscapeString(title))
	var body bytes.Buffer
	classes := map[string]string{}
	for y := range rows {
		for from := 0; from < len(frames); {
			to := from + 1
			for to < len(frames) && slices.Equal(frames[to].rows[y], frames[from].rows[y]) {
				to++
			}
			class := ""
			if from > 0 || to < len(frames) {
				key := fmt.Sprint(from, to)
				if class = classes[key]; class == "" {
					class = fmt.Sprintf("f%d", len(classes))
					classes[key] = class
					begin, end := percent(frames[from].at, total), 100.0
					shown := "visible"
					if to < len(frames) {
						end, shown = percent(frames[to].at, total), "hidden"
					}
					fmt.Fprintf(&b, ".%s{visibility:%s;animation:%s %.1fs step-end infinite}", class, shown, class, total.Seconds())
					keyframes(&b, class, begin, end)
				}
			}
			row(&body, frames[from].rows[y], y, class)
			from = to
		}
	}
	fmt.Fprintf(&b, "@media (prefers-reduced-motion:reduce){text{animation:none!important}}\n</style>\n<rect width=\"100%%\" height=\"100%%\" rx=\"8\" fill=\"%s\"/>\n", colours[0])
	b.Write(body.Bytes())
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// keyframes writes an animation that is visible from begin to end, in percent of its time.
func keyframes(b *bytes.Buffer, name string, begin, end float64) {
	fmt.Fprintf(b, "@keyframes %s{", name)
	if begin > 0 {
		b.WriteString("0%{visibility:hidden}")
	}
	fmt.Fprintf(b, "%.2f%%{visibility:visible}", begin)
	if end < 100 {
		fmt.Fprintf(b, "%.2f%%{visibility:hidden}", end)
	}
	b.WriteString("}\n")
}

func percent(at, total time.Duration) float64 { return 100 * at.Seconds() / total.Seconds() }

// thin returns at most n frames: the first, the last, and others at about equal distances.
func thin(frames []frame, n int) []frame {
	if len(frames) <= n {
		return frames
	}
	gap := max(frames[len(frames)-1].at/time.Duration(n), shortest)
	kept := frames[:1:1]
	for _, f := range frames[1 : len(frames)-1] {
		if f.at-kept[len(kept)-1].at >= gap {
			kept = append(kept, f)
		}
	}
	return append(kept, frames[len(frames)-1])
}

// row writes a row of cells, with a part for each style.
func row(b *bytes.Buffer, cells []vt10x.Glyph, y int, class string) {
	end := len(cells)
	for end > 0 && (cells[end-1].Char == ' ' || cells[end-1].Char == 0) {
		end--
	}
	if end == 0 {
		return
	}
	if class != "" {
		class = ` class="` + class + `"`
	}
	fmt.Fprintf(b, `<text%s x="%d" y="%d" textLength="%.1f" lengthAdjust="spacingAndGlyphs">`, class, margin, margin+y*cellHeight+14, float64(end)*cellWidth)
	for from := 0; from < end; {
		to := from + 1
		for to < end && style(cells[to]) == style(cells[from]) {
			to++
		}
		var text strings.Builder
		for _, g := range cells[from:to] {
			text.WriteRune(max(g.Char, ' '))
		}
		if s := style(cells[from]); s != "" {
			fmt.Fprintf(b, `<tspan%s>%s</tspan>`, s, html.EscapeString(text.String()))
		} else {
			b.WriteString(html.EscapeString(text.String()))
		}
		from = to
	}
	b.WriteString("</text>\n")
}

// Attributes of a glyph, which vt10x does not export.
const (
	reverse = 1 << iota
	underline
	bold
)

func style(g vt10x.Glyph) (s string) {
	if g.FG < 16 {
		s += ` fill="` + colours[g.FG] + `"`
	}
	if g.Mode&bold != 0 {
		s += ` font-weight="bold"`
	}
	if g.Mode&underline != 0 {
		s += ` text-decoration="underline"`
	}
	return s
}
