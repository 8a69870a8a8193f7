package docs_test

import (
	"fmt"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"imgtool/image/imagetest"
)

// The phrases that comments, messages and pages do not use, with the usual words.
var phrases = []struct {
	pattern *regexp.Regexp
	instead string
	// perThousand is how many are allowed in a thousand words of comments and pages.
	perThousand float64
	// except matches files in which the phrase is allowed, or is nil.
	except *regexp.Regexp
}{
	// Former keys of definitions, and names in manifests, are still read and written.
	{regexp.MustCompile(`[Ff]olders?\b`), "directory", 0, regexp.MustCompile(`^(boards/info_test|image/boardinfo/unit|image/ext4/write|layouts/layouts|layouts/layouts_test)\.go$|^(CHANGELOG|docs/reference/boards|docs/glossary)\.md$`)},
	{regexp.MustCompile(`(?:^|[.;:!] )(?:What|Who|Whoever|Whatever) [^?]*?[.;]`), "a sentence with a noun as its subject", 0, nil},
	{regexp.MustCompile(`\b(?:lies|lie|lain)\b`), "is, is stored, is at", 0, nil},
	// "nobody" is also the name of a user.
	{regexp.MustCompile(`\b(?:[Nn]obody|[Ss]omebody)\b`), "no user, no process, a person", 0, regexp.MustCompile(`^(cmd/imgtool/(e2e|status|provision_linux)_test|image/seed/check/check|image/source/deb_test|flash/disk/access_linux_test|image/sbom/sbom_test)\.go$`)},
	{regexp.MustCompile(`\b(?:is|are|was|were|be) told\b`), "receives, is given, reports", 0, nil},
	{regexp.MustCompile(`\bas far as\b`), "where, to the extent that", 0, nil},
	{regexp.MustCompile(`\banew\b`), "again", 0, nil},
	{regexp.MustCompile("\\bcannot be(?:[.,:;\"`]|$)"), "is invalid, because ...", 0, nil},
	{regexp.MustCompile(`\bfor want of\b`), "because ... is missing", 0, nil},
	{regexp.MustCompile(`\b(?:one|ones|those) (?:that|who|of)\b`), "the noun itself", 0.7, nil},
}

// exempt are files whose words are not ours, or that accept former spellings.
var exempt = regexp.MustCompile(`(^|/)(testdata|\.git)/|^docs/words_test\.go$|^docs/reference/commands\.md$|^LICENSE$`)

// text is a comment, string or paragraph with its line.
type text struct {
	line    int
	s       string
	literal bool // a string literal: a message or help text
}

// Comments, messages, scripts and pages use the terms of the glossary.
func TestWords(t *testing.T) {
	imagetest.Long(t)
	total := 0
	found := make([][]string, len(phrases))
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		name := filepath.ToSlash(strings.TrimPrefix(path, "../"))
		if err != nil || exempt.MatchString(name+"/") && d.IsDir() {
			if err == nil {
				err = fs.SkipDir
			}
			return err
		}
		if !d.Type().IsRegular() || exempt.MatchString(name) {
			return nil
		}
		texts, err := textsOf(path)
		for _, x := range texts {
			if !x.literal {
				total += len(strings.Fields(x.s))
			}
			for i, p := range phrases {
				if m := p.pattern.FindString(x.s); m != "" && (p.except == nil || !p.except.MatchString(name)) {
					found[i] = append(found[i], fmt.Sprintf("%s:%d: %q: write %s", name, x.line, m, p.instead))
				}
			}
		}
		return err
	})
	if err != nil || total < 50_000 {
		t.Fatalf("%d words: %v", total, err)
	}
	for i, p := range phrases {
		if allowed := int(p.perThousand * float64(total) / 1000); len(found[i]) > allowed {
			t.Errorf("%d times %s, %d are allowed:\n%s", len(found[i]), p.pattern, allowed, strings.Join(found[i], "\n"))
		}
	}
}

// textsOf returns the comments and strings of a Go file, the comments of a script or
// definition, or the paragraphs of a page.
func textsOf(path string) ([]text, error) {
	script := filepath.Base(filepath.Dir(path)) == ".ci"
	switch filepath.Ext(path) {
	case ".go", ".md":
	case ".sh", ".toml", ".yml", ".scr":
		script = true
	default:
		if !script && filepath.Base(path) != "Makefile" {
			return nil, nil
		}
		script = true
	}
	b, err := os.ReadFile(path)
	switch {
	case err != nil:
		return nil, err
	case filepath.Ext(path) == ".go":
		return textsOfGo(path, b), nil
	case script:
		return joined(commentLines(string(b))), nil
	}
	return paragraphs(string(b)), nil
}

func textsOfGo(path string, b []byte) (texts []text) {
	var s scanner.Scanner
	files := token.NewFileSet()
	file := files.AddFile(path, -1, len(b))
	s.Init(file, b, nil, scanner.ScanComments)
	var comments []text
	for {
		pos, tok, lit := s.Scan()
		switch line := file.Line(pos); tok {
		case token.EOF:
			return append(texts, joined(comments)...)
		case token.COMMENT:
			if !strings.HasPrefix(lit, "//go:") {
				comments = append(comments, text{line: line, s: strings.Trim(lit, "/* \n")})
			}
		case token.STRING:
			texts = append(texts, text{line, strings.ReplaceAll(strings.Trim(lit, "\"`"), `\n`, "\n"), true})
		case token.IDENT:
			if regexp.MustCompile(`(?i)folder`).MatchString(lit) {
				texts = append(texts, text{line, lit, true})
			}
		}
	}
}

func commentLines(s string) (lines []text) {
	for i, line := range strings.Split(s, "\n") {
		if _, comment, ok := strings.Cut(line, "#"); ok {
			lines = append(lines, text{line: i + 1, s: strings.TrimSpace(comment)})
		}
	}
	return lines
}

// joined makes one text of comments on lines that follow each other.
func joined(lines []text) (texts []text) {
	last := -1
	for _, x := range lines {
		if x.line == last+1 && len(texts) > 0 {
			texts[len(texts)-1].s += " " + x.s
		} else {
			texts = append(texts, x)
		}
		last = x.line
	}
	return texts
}

// paragraphs are those of a Markdown page, without its code blocks.
func paragraphs(s string) (texts []text) {
	code := false
	var lines []text
	for i, line := range strings.Split(s, "\n") {
		if strings.HasPrefix(line, "```") {
			code = !code
		} else if !code && strings.TrimSpace(line) != "" {
			lines = append(lines, text{line: i + 1, s: line})
		}
	}
	return joined(lines)
}
