package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"imgtool/cmd/imgtool/exit"
	"imgtool/cmd/imgtool/reference"
	"imgtool/image/imagetest"
)

// output returns the standard output of a command, which must succeed.
func output(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if status := run(args, strings.NewReader(""), &stdout, &stderr); status != 0 {
		t.Fatalf("imgtool %s: exit status %d\n%s", strings.Join(args, " "), status, &stderr)
	}
	return stdout.String()
}

// The reference in docs/ is the one of this program.
func TestCommandReference(t *testing.T) {
	got := output(t, "gen", "markdown")
	want, err := os.ReadFile("../../docs/reference/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Error("docs/reference/commands.md is not of this program: run make reference")
	}
}

// Three programs that read man pages find nothing wrong with them, and show texts as they are.
func TestManPages(t *testing.T) {
	for _, program := range []string{"man", "mandoc", "lexgrog"} {
		imagetest.Need(t, program)
	}
	dir := t.TempDir()
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	output(t, "gen", "man", dir)
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) < 30 {
		t.Fatal(len(pages), err)
	}
	for _, args := range [][]string{{"mandoc", "-T", "lint"}, {"man", "--warnings=w", "-Tutf8", "-Z", "-l"}} {
		cmd := exec.Command(args[0], append(args[1:], pages...)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		stdout, err := cmd.Output()
		if args[0] == "mandoc" {
			stderr.Write(stdout)
		}
		if err != nil || stderr.Len() > 0 {
			t.Errorf("%v: %v\n%s", args, err, &stderr)
		}
	}
	if names := strings.Count(imagetest.Run(t, "lexgrog", pages...), " - "); names != len(pages) {
		t.Errorf("lexgrog finds the names of %d of %d pages", names, len(pages))
	}
	main := imagetest.Run(t, "sh", "-c", `MANWIDTH=200 man -Tutf8 -l "$1" | col -bx`, "sh", filepath.Join(dir, "imgtool.1"))
	for _, want := range []string{"2023-11-14", "EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO", "EXAMPLES", "imgtool-seed-new(1)", "       imgtool build --board rock64\n"} {
		if !strings.Contains(main, want) {
			t.Errorf("the page has no %q:\n%s", want, main)
		}
	}
}

// Every environment variable of the program is in the reference.
func TestReferenceIsComplete(t *testing.T) {
	documented := map[string]bool{}
	for _, e := range append(exit.Meanings, reference.Environment...) {
		if documented[e.Name] {
			t.Errorf("%s is there twice", e.Name)
		}
		documented[e.Name] = true
	}
	getenv := regexp.MustCompile(`(?:Getenv|LookupEnv)\("(\w+)"\)|dirVariable = "(\w+)"`)
	found := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "imagetest") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range getenv.FindAllStringSubmatch(string(text), -1) {
			if found++; !documented[m[1]+m[2]] {
				t.Errorf("%s uses %s, which is not in the table of environment variables", path, m[1]+m[2])
			}
		}
		return err
	})
	if err != nil || found < 3 {
		t.Fatal(found, err)
	}
}
