package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// printers are the functions that may write to stdout and stderr, or pass them to
// others. Those of package terminal sanitize their output unless documented otherwise.
var printers = map[string][]string{
	"cmd/imgtool/main.go":              {"main", "run"},
	"cmd/imgtool/terminal/ui.go":       {"New", "Line", "Printf", "Listing", "Text", "Write", "Data", "ToTerminal", "Console", "Start", "await", "Paragraph", "wrapped", "Choose"},
	"cmd/imgtool/terminal/document.go": {"Write", "collect", "List", "Conclude", "Event", "Abort"},
	"cmd/imgtool/terminal/stdout.go":   {"Stdout", "Lost"},
	"cmd/imgtool/terminal/signals.go":  {"HandleSignals"},
	"cmd/imgtool/terminal/draw.go":     {"redraw", "clear"},
	"cmd/imgtool/terminal/choose.go":   {"Pick"},
	"cmd/imgtool/terminal/layout.go":   {"Width"},
	"docs/pictures/main.go":            {"main", "run"},
	"cmd/first-boot/main.go":           {"main", "say"},
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
				if what == "" || what == ".Console" && name == "cmd/imgtool/images/console.go" {
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
		case slices.Contains([]string{"stdout", "stderr", "Console"}, name):
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
