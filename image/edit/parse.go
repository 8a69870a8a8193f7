package edit

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"imgtool/layouts"
)

// verb is a kind of edit, with its required and optional keys.
type verb struct {
	need  []string
	may   []string
	check func(*Edit) error // checks the combination of keys; may be nil
	apply func(*work, *Edit) error
}

var words = strings.Fields

var verbs = map[string]verb{
	"write":        {words("path text"), words("mode owner parents"), nil, (*work).write},
	"mkdir":        {words("path"), words("mode owner parents"), nil, (*work).mkdir},
	"symlink":      {words("path target"), words("replace dangling missing-ok parents"), checkSymlink, (*work).symlink},
	"remove":       {words("path"), words("contents missing-ok"), nil, (*work).remove},
	"rename":       {words("from to"), words("missing-ok parents"), nil, (*work).rename},
	"chmod":        {words("path mode"), nil, nil, (*work).chmod},
	"chown":        {words("path owner"), words("recursive"), nil, (*work).chown},
	"copy":         {words("from to"), words("replace parents"), nil, (*work).copy},
	"move-tree":    {words("from to"), words("link make parents"), nil, (*work).moveTree},
	"lock-user":    {words("user"), words("missing-ok"), checkUser, textVerb("/etc/shadow", lockUser)},
	"append-line":  {words("path line"), nil, nil, textVerb("", appendLine)},
	"comment-line": {words("path"), words("lines pattern missing-ok"), checkCommentLine, textVerb("", commentLine)},
	"set-var":      {words("path key value"), nil, checkSetVar, textVerb("", setVar)},
	"enable-unit":  {words("unit"), nil, checkUnit, (*work).enableUnit},
	"disable-unit": {words("unit"), words("missing-ok"), checkUnit, (*work).disableUnit},
	"fstab":        {words("where"), words("spec type options dump pass comment path"), checkFstab, textVerb("/etc/fstab", changeFstab)},
	"fstab-remove": {words("where"), words("spec missing-ok path"), checkFstab, textVerb("/etc/fstab", removeFstab)},
	"extlinux": {nil, words("add copy-of label menu linux initrd fdt append-replace append-set append-remove" +
		" remove-labels missing-ok default timeout path"), checkExtlinux, textVerb(ExtlinuxConf, editExtlinux)},
}

// Parse parses a TOML file of edits. Unknown verbs and keys are errors, which name the
// file, the line and the known ones. Values with variables are checked by [Apply].
func Parse(name string, text []byte) ([]Edit, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("%s: %d bytes; edits have at most %d", name, len(text), MaxText)
	}
	tables, err := findTables(name, text)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, t := range tables {
		errs = append(errs, t.check(name))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var doc struct {
		Edit []fields `toml:"edit"`
	}
	if err := layouts.Decode(name, text, &doc); err != nil {
		return nil, err
	}
	if len(doc.Edit) != len(tables) {
		return nil, fmt.Errorf("%s: %d edits in %d [[edit]] tables", name, len(doc.Edit), len(tables))
	}
	edits := make([]Edit, len(tables))
	for i, t := range tables {
		e := Edit{fields: doc.Edit[i], pos: fmt.Sprintf("%s:%d", name, t.line), keys: t.keys}
		edits[i] = e
		vars := false
		e.eachText(func(s string) string {
			vars = vars || variable.MatchString(s)
			return s
		})
		if vars {
			continue
		}
		if err := e.check(); err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", e, err))
		}
	}
	return edits, errors.Join(errs...)
}

type table struct {
	line int
	do   string
	keys map[string]int // with their lines
}

func (t *table) check(file string) error {
	all := strings.Join(slices.Sorted(maps.Keys(verbs)), ", ")
	if t.keys["do"] == 0 {
		return fmt.Errorf("%s:%d: the key do is missing; known verbs: %s", file, t.line, all)
	}
	v, ok := verbs[t.do]
	if !ok {
		return fmt.Errorf("%s:%d: unknown verb %q; known verbs: %s", file, t.keys["do"], t.do, all)
	}
	var errs []error
	known := slices.Concat(v.need, v.may, []string{"do", "needs"})
	slices.Sort(known)
	for _, key := range slices.Sorted(maps.Keys(t.keys)) {
		if !slices.Contains(known, key) {
			errs = append(errs, fmt.Errorf("%s:%d: %s has no key %q; known keys: %s", file, t.keys[key], t.do, key, strings.Join(known, ", ")))
		}
	}
	for _, key := range v.need {
		if t.keys[key] == 0 {
			errs = append(errs, fmt.Errorf("%s:%d: %s needs the key %q", file, t.line, t.do, key))
		}
	}
	return errors.Join(errs...)
}

// findTables returns the edits with the lines of their keys, which decoding does not give.
func findTables(file string, text []byte) ([]table, error) {
	var p unstable.Parser
	p.Reset(text)
	line, counted := 1, 0
	lineOf := func(n *unstable.Node) int {
		off := int(n.Raw.Offset)
		if off > counted {
			line += bytes.Count(text[counted:off], []byte("\n"))
			counted = off
		}
		return line
	}
	var tables []table
	inner := false // in a table of an edit, such as [edit.append-set]
	for p.NextExpression() {
		e := p.Expression()
		var key []string
		at := line
		for it := e.Key(); it.Next(); {
			if len(key) == 0 {
				at = lineOf(it.Node())
			}
			key = append(key, string(it.Node().Data))
		}
		last := len(tables) - 1
		switch {
		case e.Kind == unstable.ArrayTable && len(key) == 1 && key[0] == "edit":
			tables = append(tables, table{line: at, keys: map[string]int{}})
			inner = false
		case e.Kind == unstable.Table && len(key) == 2 && key[0] == "edit" && last >= 0:
			tables[last].keys[key[1]] = at
			inner = true
		case e.Kind == unstable.KeyValue && inner:
		case e.Kind == unstable.KeyValue && last >= 0:
			tables[last].keys[key[0]] = at
			if v := e.Value(); key[0] == "do" && v.Kind == unstable.String {
				tables[last].do = string(v.Data)
			}
		case e.Kind == unstable.Comment:
		default:
			return nil, fmt.Errorf("%s:%d: unknown key %q; a file of edits has only [[edit]] tables", file, at, strings.Join(key, "."))
		}
	}
	if p.Error() != nil {
		var doc map[string]any
		if err := layouts.Decode(file, text, &doc); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s: %w", file, p.Error())
	}
	return tables, nil
}
