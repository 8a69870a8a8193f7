package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgtool/image/fault"
)

// printers are the functions that may write to stdout and stderr, or pass them to
// others. Those in ui.go sanitize their output unless documented otherwise.
var printers = map[string][]string{
	"cmd/imgtool/main.go":     {"main", "run"},
	"cmd/imgtool/ui.go":       {"line", "printf", "listing", "text", "write", "data", "toTerminal", "machineConsole", "event", "print", "start", "await"},
	"cmd/imgtool/progress.go": {"draw"},
	"cmd/first-boot/main.go":  {"main", "say"},
}

// All output goes through the ui, which sanitizes it, or through the log of first-boot.
func TestThereIsOneWayToPrint(t *testing.T) {
	seen := map[string]bool{}
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && name != "." || d.Name() == "testdata" || strings.HasSuffix(d.Name(), "test")) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			in := ""
			if f, ok := decl.(*ast.FuncDecl); ok {
				in = f.Name.Name
			}
			ast.Inspect(decl, func(n ast.Node) bool {
				what := prints(n)
				if what == "" || what == ".machineConsole" && name == "cmd/imgtool/console.go" {
					return true
				}
				if seen[name] = true; !slices.Contains(printers[name], in) {
					t.Errorf("%s: %s uses %s; print with the ui", name, in, what)
				}
				return true
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range printers {
		if !seen[name] {
			t.Errorf("%s prints nothing: this test does not see what it should", name)
		}
	}
}

// prints returns the expression in a node that writes to stdout or stderr, or refers to them.
func prints(n ast.Node) string {
	switch n := n.(type) {
	case *ast.SelectorExpr:
		from, _ := n.X.(*ast.Ident)
		switch name := n.Sel.Name; {
		case slices.Contains([]string{"stdout", "stderr", "machineConsole"}, name):
			return "." + name
		case from == nil:
		case from.Name == "os" && (name == "Stdout" || name == "Stderr"), from.Name == "slog",
			(from.Name == "fmt" || from.Name == "log") && strings.HasPrefix(name, "Print"), from.Name == "log" && strings.HasPrefix(name, "Fatal"):
			return from.Name + "." + name
		}
	case *ast.CallExpr:
		if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "print" || f.Name == "println") {
			return f.Name
		}
	}
	return ""
}

// Each of several joined errors is printed on its own line, also when wrapped; newlines in names are escaped.
func TestErrorsHaveLines(t *testing.T) {
	a, b := errors.New("a\nx"), errors.New("b")
	for _, test := range []struct {
		err  error
		want []string
	}{
		{a, []string{"a\nx"}},
		{errors.Join(a, b), []string{"a\nx", "b"}},
		{fmt.Errorf("in\ny: %w", errors.Join(a, b)), []string{"in\ny: a\nx", "b"}},
		{fault.WithHint(fault.As(fault.Usage, errors.Join(errors.Join(a, b), b)), "h"), []string{"a\nx", "b", "b"}},
		{fmt.Errorf("%w and %w", a, b), []string{"a\nx and b"}},
		{fmt.Errorf("%w, which is bad", errors.Join(a, b)), []string{"a\nx\nb, which is bad"}},
	} {
		if got := errorLines(test.err); !slices.Equal(got, test.want) {
			t.Errorf("%q, not %q", got, test.want)
		}
	}
}
