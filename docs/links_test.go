package docs_test

import (
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// A page is a Markdown file of the project.
type page struct {
	name string // path below the top of the project, with slashes
	text string
}

// readPages returns all Markdown pages except those in testdata.
func readPages(t *testing.T) (pages []page) {
	t.Helper()
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || name != ".." && strings.HasPrefix(d.Name(), ".")) {
			return fs.SkipDir
		}
		if d.IsDir() || filepath.Ext(name) != ".md" {
			return nil
		}
		b, err := os.ReadFile(name)
		pages = append(pages, page{filepath.ToSlash(strings.TrimPrefix(name, "../")), string(b)})
		return err
	})
	if err != nil || len(pages) < 15 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	return pages
}

var (
	codeBlock = regexp.MustCompile("(?ms)^```.*?^```$")
	codeSpan  = regexp.MustCompile("`[^`\n]*`")
	link      = regexp.MustCompile(`\]\(\s*<?([^)>\s]+)>?\s*\)|(?m:^\[[^\]]+\]:\s*(\S+))|(?:src|href)="([^"]+)"`)
	heading   = regexp.MustCompile(`(?m)^#{1,6} +(.*?) *#*$`)
)

// anchors returns the anchors of a page's headings as Git forges derive them: lower case,
// without punctuation, with dashes for spaces, and with a number for a repeated heading.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	times := map[string]int{}
	for _, m := range heading.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
		title := regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(m[1], "$1")
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, title)
		if n := times[name]; n > 0 {
			found[name+"-"+string(rune('0'+n))] = true
		}
		times[name]++
		found[name] = true
	}
	return found
}

// Links within the project lead to files and headings that exist; other links are https.
func TestLinks(t *testing.T) {
	pages := readPages(t)
	texts := map[string]string{}
	for _, p := range pages {
		texts[p.name] = p.text
	}
	inside := 0
	for _, p := range pages {
		prose := codeSpan.ReplaceAllString(codeBlock.ReplaceAllString(p.text, ""), "")
		for _, m := range link.FindAllStringSubmatch(prose, -1) {
			target := m[1] + m[2] + m[3]
			u, err := url.Parse(target)
			if err != nil {
				t.Errorf("%s: %v", p.name, err)
				continue
			}
			if u.Scheme != "" || u.Host != "" {
				if u.Scheme != "https" || !strings.Contains(u.Host, ".") || u.User != nil {
					t.Errorf("%s: %s is no https address", p.name, target)
				}
				continue
			}
			inside++
			name := p.name
			if u.Path != "" {
				name = path.Join(path.Dir(p.name), u.Path)
				if _, err := os.Stat(filepath.Join("..", filepath.FromSlash(name))); err != nil || strings.HasPrefix(name, "..") {
					t.Errorf("%s: the link %s leads to no file", p.name, target)
					continue
				}
			}
			if u.Fragment != "" && !anchors(texts[name])[u.Fragment] {
				t.Errorf("%s: the link %s leads to no heading of %s", p.name, target, name)
			}
		}
	}
	if inside < 50 {
		t.Errorf("only %d links within the project", inside)
	}
}

// Every page below docs is in the list of pages, docs/README.md.
func TestEveryPageIsListed(t *testing.T) {
	pages := readPages(t)
	listed := map[string]bool{}
	for _, p := range pages {
		if p.name == "docs/README.md" {
			for _, m := range link.FindAllStringSubmatch(p.text, -1) {
				listed[path.Join("docs", m[1])] = true
			}
		}
	}
	for _, p := range pages {
		if strings.HasPrefix(p.name, "docs/") && p.name != "docs/README.md" && !listed[p.name] {
			t.Errorf("docs/README.md does not list %s", p.name)
		}
	}
}
