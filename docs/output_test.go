package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// documents are the structures that are printed with --json or written to files, and the
// headings of the pages that describe them.
var documents = []struct{ page, heading, pkg, structure string }{
	{"output.md", "Receipts", "flash/deploy", "Receipt"},
	{"output.md", "Receipts of units", "flash/factory", "MediumReceipt"},
	{"output.md", "build", "image/build/job", "File"},
	{"output.md", "bundle", "image/update", "File"},
	{"output.md", "Manifest of a bundle", "image/rauc", "Manifest"},
	{"output.md", "Manifest of a bundle", "image/rauc", "Image"},
	{"output.md", "inspect", "image/inspect", "Bundle"},
	{"output.md", "inspect", "image/inspect", "Signer"},
	{"output.md", "push", "image/oci", "Pushed"},
	{"output.md", "push", "image/oci", "PushedImage"},
	{"output.md", "pull", "image/oci", "Pulled"},
	{"output.md", "disks", "cmd/imgtool/disks", "diskRow"},
	{"output.md", "sign", "image/trust", "Signed"},
	{"output.md", "sign", "image/sign", "Signer"},
	{"output.md", "sign", "image/sign", "Checked"},
	{"output.md", "inspect", "image/inspect", "Report"},
	{"output.md", "inspect", "image/inspect", "Blob"},
	{"output.md", "inspect", "image/inspect", "Check"},
	{"output.md", "inspect", "image/artifact", "Input"},
	{"output.md", "Partitions", "image/volume", "Row"},
	{"output.md", "Partitions", "image/inspect", "Partition"},
	{"output.md", "inspect", "image/artifact", "Attached"},
	{"output.md", "Partitions", "image/inspect", "FAT"},
	{"output.md", "Partitions", "image/inspect", "File"},
	{"output.md", "Partitions", "image/inspect", "Squashfs"},
	{"output.md", "Partitions", "image/inspect", "Ext4"},
	{"output.md", "Partitions", "image/volume", "Swap"},
	{"output.md", "ls", "image/fileinfo", "File"},
	{"output.md", "diff", "image/compare", "Difference"},
	{"output.md", "diff", "image/compare", "Detail"},
	{"output.md", "seed check", "image/seed/seedfile", "Verdict"},
	{"output.md", "seed check", "image/seed/seedfile", "UnitsVerdict"},
	{"output.md", "seed check", "image/seed/bundle", "Info"},
	{"output.md", "seed check", "image/seed", "Fault"},
	{"../how-to/catalog.md", "What is in the list", "image/catalog", "Device"},
	{"../how-to/catalog.md", "What is in the list", "image/catalog", "Entry"},
	{"manifest.md", "Fields", "image/artifact", "Manifest"},
	{"manifest.md", "Fields", "image", "Manifest"},
	{"manifest.md", "Fields", "image/artifact", "DocumentSum"},
	{"manifest.md", "Inputs", "image/artifact", "Input"},
	{"manifest.md", "Partitions", "image/artifact", "Partition"},
	{"manifest.md", "Ranges", "image", "Entry"},
	{"manifest.md", "The board", "image/boardinfo", "Info"},
	{"manifest.md", "The board", "image/boardinfo", "Medium"},
	{"manifest.md", "The board", "image/boardinfo", "Seed"},
	{"manifest.md", "The board", "image/boardinfo", "Blob"},
	{"manifest.md", "The board", "image/boardinfo", "Unit"},
	{"manifest.md", "The board", "image/boardinfo", "Variable"},
	{"manifest.md", "The board", "image/boardinfo", "MAC"},
	{"manifest.md", "The board", "image/boardinfo", "File"},
	{"manifest.md", "The board", "image/boardinfo", "Place"},
}

// Every field of every document is described.
func TestFieldsAreDescribed(t *testing.T) {
	n := 0
	for _, d := range documents {
		text := section(t, filepath.Join("reference", d.page), d.heading)
		fields := fieldsOf(t, d.pkg, d.structure)
		for _, field := range fields {
			n++
			if !strings.Contains(text, "`"+field+"`") {
				t.Errorf("%s does not describe the field %s of %s.%s under %q", d.page, field, d.pkg, d.structure, d.heading)
			}
		}
	}
	if n < 150 {
		t.Errorf("only %d fields were found", n)
	}
}

// Every field of the objects that commands make without a structure is described.
func TestOtherFieldsAreDescribed(t *testing.T) {
	page := readFile(t, "reference/output.md")
	n := 0
	eachGoFile(t, "../cmd/imgtool", func(file *ast.File) {
		ast.Inspect(file, func(node ast.Node) bool {
			var key ast.Expr
			switch x := node.(type) {
			case *ast.CompositeLit:
				if m, ok := x.Type.(*ast.MapType); !ok || len(x.Elts) == 0 || !isAny(m.Value) {
					return true
				}
				for _, e := range x.Elts {
					if k := literal(e.(*ast.KeyValueExpr).Key); k != "" {
						n++
						wantField(t, page, k)
					}
				}
			case *ast.AssignStmt:
				for _, left := range x.Lhs {
					if i, ok := left.(*ast.IndexExpr); ok {
						key = i.Index
					}
					if k := literal(key); regexp.MustCompile(`^[a-z_]+$`).MatchString(k) {
						n++
						wantField(t, page, k)
					}
				}
			}
			return true
		})
	})
	if n < 40 {
		t.Errorf("only %d fields were found", n)
	}
}

func wantField(t *testing.T, page, field string) {
	t.Helper()
	if !strings.Contains(page, "`"+field+"`") {
		t.Errorf("output.md does not describe the field %s", field)
	}
}

func isAny(e ast.Expr) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == "any"
}

// literal returns the value of a string literal, or "".
func literal(e ast.Expr) string {
	if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		s, _ := strconv.Unquote(lit.Value)
		return s
	}
	return ""
}

// fieldsOf returns the names that the fields of a structure have in JSON.
func fieldsOf(t *testing.T, pkg, structure string) (names []string) {
	t.Helper()
	for _, tag := range tagsOf(t, pkg, structure) {
		if name, _, _ := strings.Cut(tag.Get("json"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	if len(names) == 0 && structure != "UnitsVerdict" {
		t.Errorf("%s has no structure %s with fields in JSON", pkg, structure)
	}
	return names
}

// eachGoFile calls do with the Go files of a directory except tests.
func eachGoFile(t *testing.T, dir string, do func(*ast.File)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && name != dir && dir != "../cmd/imgtool" {
			return fs.SkipDir
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err == nil {
			do(file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// section returns the text below a heading of the second level, up to the next.
func section(t *testing.T, name, title string) string {
	t.Helper()
	_, text, ok := strings.Cut(readFile(t, name), "\n## "+title+"\n")
	if !ok {
		t.Errorf("%s has no heading %q", name, title)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}
