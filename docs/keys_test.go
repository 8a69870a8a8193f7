package docs_test

import (
	"go/ast"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// keys are the structures that definitions are read into, and the headings of
// reference/boards.md with a row for each of their keys.
var keys = []struct{ pkg, structure, heading string }{
	{"boards", "Board", "## Board"},
	{"boards", "Medium", "### `[[medium]]`"},
	{"image/boardinfo", "Blob", "### `[[medium.blob]]`"},
	{"boards", "File", "### `[[boot]]`"},
	{"boards", "Optional", "### `[[optional]]`"},
	{"boards", "Tree", "### `[[tree]]`"},
	{"boards", "Step", "### `[[tree.step]]`"},
	{"boards", "State", "### `[state]`"},
	{"boards", "Live", "### `[live]`"},
	{"boards", "LiveMedium", "### `[[live.medium]]`"},
	{"boards", "Conf", "### `[conf]`"},
	{"boards", "List", "### `[[conf.list]]`"},
	{"boards", "Fixed", "### `[[conf.fixed]]`"},
	{"boards", "Seed", "### `[seed]`"},
	{"boards", "Script", "### `[script]`"},
	{"boards", "Recovery", "### `[recovery]`"},
	{"boards", "USBDisk", "### `[[recovery.usb]]`"},
	{"boards", "Trust", "### `[trust]`"},
	{"boards", "RAUC", "### `[rauc]`"},
	{"boards", "RAUCImage", "### `[[rauc.image]]`"},
	{"boards", "Starter", "### `[starter]`"},
	{"boards", "Program", "### `[[starter.program]]`"},
	{"image/boardinfo", "Variable", "### `[[unit.variable]]`"},
	{"image/boardinfo", "MAC", "### `[[unit.variable]]`"},
	{"image/boardinfo", "File", "### `[[unit.file]]`"},
	{"image/boardinfo", "Place", "### `[[unit.place]]`"},
	{"layouts", "Layout", "## Layout"},
	{"layouts", "Partition", "### `[[partition]]`"},
}

// Every key of board definitions and layouts is described.
func TestKeysAreDescribed(t *testing.T) {
	page := readFile(t, "reference/boards.md")
	n := 0
	for _, k := range keys {
		_, text, ok := strings.Cut(page, "\n"+k.heading+"\n")
		if !ok {
			t.Errorf("boards.md has no heading %s", k.heading)
		}
		text, _, _ = strings.Cut(text, "\n##")
		var first []string // cells
		for row := range strings.Lines(text) {
			cell, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " | ")
			first = append(first, cell)
		}
		described := strings.Join(first, "\n")
		for _, key := range tomlKeys(t, k.pkg, k.structure) {
			n++
			// A table in this one has a heading, or a sentence.
			table := regexp.MustCompile("[`.\\[]" + regexp.QuoteMeta(key) + "[].]")
			if !strings.Contains(described, "`"+key+"`") && !table.MatchString(page) {
				t.Errorf("boards.md has no row for the key %s of %s below %s", key, k.structure, k.heading)
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d keys were found", n)
	}
}

// Every key of edits is described.
func TestKeysOfEditsAreDescribed(t *testing.T) {
	page := readFile(t, "reference/edits.md")
	for _, key := range tomlKeys(t, "image/edit", "fields") {
		if !strings.Contains(page, "`"+key+"`") {
			t.Errorf("edits.md does not describe the key %s", key)
		}
	}
}

// tomlKeys returns the keys of a structure in TOML, except former names.
func tomlKeys(t *testing.T, pkg, structure string) (names []string) {
	t.Helper()
	for _, tag := range tagsOf(t, pkg, structure) {
		if name := tag.Get("toml"); name != "" && name != "-" && tag.Get("former") == "" {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		t.Errorf("%s has no structure %s with keys", pkg, structure)
	}
	return names
}

// tagsOf returns the tags of the fields of a structure.
func tagsOf(t *testing.T, pkg, structure string) (tags []reflect.StructTag) {
	t.Helper()
	eachGoFile(t, filepath.Join("..", pkg), func(file *ast.File) {
		ast.Inspect(file, func(node ast.Node) bool {
			spec, ok := node.(*ast.TypeSpec)
			if !ok || spec.Name.Name != structure {
				return true
			}
			s, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			for _, f := range s.Fields.List {
				if f.Tag != nil {
					text, _ := strconv.Unquote(f.Tag.Value)
					tags = append(tags, reflect.StructTag(text))
				}
			}
			return false
		})
	})
	return tags
}
