// Package edit changes a [tree.Tree] by data: a list of edits, each of which declares an
// end state. It runs no program of the tree.
//
// Edits are an array of TOML tables named edit, each with a verb:
//
//	[[edit]]
//	do = "append-line"
//	path = "/etc/ssh/sshd_config"
//	line = "ListenAddress 127.0.0.1"
//
// The verbs and their keys, with optional keys in brackets:
//
//	write          path text [mode owner parents]
//	mkdir          path [mode owner parents]
//	symlink        path target [replace dangling missing-ok parents]
//	remove         path [contents missing-ok]
//	rename         from to [missing-ok parents]
//	chmod          path mode
//	chown          path owner [recursive]
//	copy           from to [replace parents]
//	move-tree      from to [link make parents]
//	lock-user      user [missing-ok]
//	append-line    path line
//	comment-line   path (lines or pattern) [missing-ok]
//	set-var        path key value
//	enable-unit    unit
//	disable-unit   unit [missing-ok]
//	fstab          where [spec type options dump pass comment path]
//	fstab-remove   where [spec missing-ok path]
//	extlinux       [add copy-of | label] [menu linux initrd fdt append-replace
//	               append-set append-remove] [remove-labels missing-ok]
//	               [default timeout path]
//
// Any edit can have needs, a list of paths that must exist.
//
// If the end state is reached already, an edit changes nothing, so edits can be repeated.
// If the file to change is missing, that is an error. To be repeatable, remove, rename and
// other verbs that take something away need missing-ok, copy needs replace, and move-tree
// needs link.
//
// Paths begin with / and are resolved as by a process whose root directory the tree is.
// Symbolic links are followed, and so is a link in the last element, except by symlink,
// remove, rename, move-tree and the key to of copy, which act on the link. An edit of
// /etc/resolv.conf that is a link changes the target. A file with several hard links is
// changed under all its names.
//
// All values except do and pattern can have variables: @NAME@ with NAME in capitals.
package edit

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"imgtool/image"
	"imgtool/image/tree"
)

// MaxText is the size in bytes of the largest text file that can be edited.
const MaxText = 1 << 20

// Edit is one parsed and checked edit.
type Edit struct {
	fields
	pos  string         // file:line
	keys map[string]int // the keys that are given, with their lines
}

// fields are the keys of all verbs.
type fields struct {
	Do    string   `toml:"do"`
	Needs []string `toml:"needs"`

	Path      string `toml:"path"`
	Text      string `toml:"text"`
	Mode      string `toml:"mode"`  // octal
	Owner     string `toml:"owner"` // user:group, names or numbers
	Parents   bool   `toml:"parents"`
	Target    string `toml:"target"`
	Replace   bool   `toml:"replace"`
	Dangling  bool   `toml:"dangling"`
	MissingOK bool   `toml:"missing-ok"`
	Contents  bool   `toml:"contents"`
	Recursive bool   `toml:"recursive"`
	From      string `toml:"from"`
	To        string `toml:"to"`
	Link      bool   `toml:"link"`
	Make      bool   `toml:"make"`

	Line    string   `toml:"line"`
	Lines   []string `toml:"lines"`
	Pattern string   `toml:"pattern"`
	Key     string   `toml:"key"`
	Value   string   `toml:"value"`

	Unit string `toml:"unit"`
	User string `toml:"user"`

	Where   string `toml:"where"`
	Spec    string `toml:"spec"`
	Type    string `toml:"type"`
	Options string `toml:"options"`
	Dump    int    `toml:"dump"`
	Pass    int    `toml:"pass"`
	Comment string `toml:"comment"`

	Add           string            `toml:"add"`
	CopyOf        string            `toml:"copy-of"`
	Label         string            `toml:"label"`
	Menu          string            `toml:"menu"`
	Linux         string            `toml:"linux"`
	Initrd        string            `toml:"initrd"`
	FDT           string            `toml:"fdt"`
	AppendReplace map[string]string `toml:"append-replace"`
	AppendSet     map[string]string `toml:"append-set"`
	AppendRemove  []string          `toml:"append-remove"`
	Default       string            `toml:"default"`
	Timeout       int               `toml:"timeout"`
	RemoveLabels  []string          `toml:"remove-labels"`
}

// String returns the position and the verb, such as "sd.toml:12: fstab".
func (e Edit) String() string { return e.pos + ": " + e.Do }

func (e *Edit) has(key string) bool { return e.keys[key] > 0 }

// Apply returns a copy of t with the edits applied in order. The trees share unchanged
// inodes. New and changed inodes get modTime, in seconds since 1970; directories keep
// theirs when entries are added or removed. vars are the values of variables.
//
// An error names the file and line of the edit, the path, and what is missing. warn is
// called for each file that an edit replaces by a symbolic link; it may be nil.
func Apply(t *tree.Tree, edits []Edit, vars map[string]string, modTime int64, warn func(string)) (*tree.Tree, error) {
	if warn == nil {
		warn = func(string) {}
	}
	ready := make([]Edit, len(edits))
	for i, e := range edits {
		err := e.substitute(vars)
		if err == nil {
			err = e.check()
		}
		if err != nil {
			return nil, fmt.Errorf("%v: %w", e, err)
		}
		ready[i] = e
	}
	w := &work{t.Without(nil), modTime, map[*tree.Inode]bool{}, warn}
	seen := map[*tree.Inode]bool{}
	for _, n := range w.t.All() {
		if n.Type() != tree.Dir {
			w.linked[n] = seen[n]
			seen[n] = true
		}
	}
	for _, e := range ready {
		if err := w.apply(&e); err != nil {
			return nil, fmt.Errorf("%v: %w", e, err)
		}
	}
	return w.t, nil
}

func (w *work) apply(e *Edit) error {
	for _, path := range e.Needs {
		if _, err := w.t.Open(path); err != nil {
			return fmt.Errorf("needs %w", err)
		}
	}
	return verbs[e.Do].apply(w, e)
}

type work struct {
	t       *tree.Tree
	modTime int64
	linked  map[*tree.Inode]bool // inodes with several hard links
	warn    func(string)
}

var variable = regexp.MustCompile(`@([A-Z][A-Z0-9_]*)@`)

func (e *Edit) substitute(vars map[string]string) error {
	var missing string
	text := func(s string) string {
		return variable.ReplaceAllStringFunc(s, func(m string) string {
			v, ok := vars[m[1:len(m)-1]]
			if !ok && missing == "" {
				missing = m
			}
			return v
		})
	}
	e.eachText(text)
	if missing == "" {
		return nil
	}
	if len(vars) == 0 {
		return fmt.Errorf("unknown variable %s; no variables are set", missing)
	}
	return fmt.Errorf("unknown variable %s; known variables: %s", missing, strings.Join(slices.Sorted(maps.Keys(vars)), ", "))
}

// eachText changes every value that may have variables. It copies lists and maps, as
// copies of an edit share them.
func (e *Edit) eachText(change func(string) string) {
	v := reflect.ValueOf(&e.fields).Elem()
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("toml"); key == "do" || key == "pattern" {
			continue
		}
		switch f := v.Field(i).Addr().Interface().(type) {
		case *string:
			*f = change(*f)
		case *[]string:
			*f = slices.Clone(*f)
			for i := range *f {
				(*f)[i] = change((*f)[i])
			}
		case *map[string]string:
			*f = maps.Clone(*f)
			for _, k := range slices.Sorted(maps.Keys(*f)) {
				(*f)[k] = change((*f)[k])
			}
		}
	}
}

// check checks an edit without a tree.
func (e *Edit) check() error {
	for key, path := range map[string]string{"path": e.Path, "from": e.From, "to": e.To, "linux": e.Linux, "initrd": e.Initrd, "fdt": e.FDT} {
		if e.has(key) {
			if err := checkPath(path); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	for _, path := range e.Needs {
		if err := checkPath(path); err != nil {
			return fmt.Errorf("needs: %w", err)
		}
	}
	for key, text := range map[string]string{"line": e.Line, "key": e.Key, "value": e.Value, "comment": e.Comment, "target": e.Target} {
		if strings.ContainsAny(text, "\n\x00") {
			return fmt.Errorf("%s has a line end or a zero byte", key)
		}
	}
	if e.has("mode") {
		if _, err := parseMode(e.Mode); err != nil {
			return err
		}
	}
	if user, group, ok := strings.Cut(e.Owner, ":"); e.has("owner") && (!ok || user == "" || group == "" || strings.Contains(group, ":")) {
		return fmt.Errorf("owner %q is not user:group", e.Owner)
	}
	if check := verbs[e.Do].check; check != nil {
		return check(e)
	}
	return nil
}

func checkPath(path string) error {
	if !strings.HasPrefix(path, "/") || path != "/" && !fs.ValidPath(path[1:]) || path == "/." || strings.IndexByte(path, 0) >= 0 {
		return fmt.Errorf("%q is not a valid path: it must begin with / and have no empty, . or .. elements", path)
	}
	return nil
}

func parseMode(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 8, 12)
	if err != nil || len(s) < 3 {
		return 0, fmt.Errorf(`mode %q is not three or four octal digits, such as "0644"`, s)
	}
	return uint32(n), nil
}

var typeNames = map[uint32]string{tree.Dir: "a directory", tree.Regular: "a file", tree.Symlink: "a symbolic link",
	tree.BlockDev: "a device", tree.CharDev: "a device", tree.Fifo: "a fifo", tree.Socket: "a socket"}

// find returns the inode that path leads to, and its path in the tree. A link in the last
// element is followed with last.
func find(t *tree.Tree, path string, last bool) (at string, n *tree.Inode, err error) {
	if at, err = t.Resolve(path, last); err != nil {
		return "", nil, err
	}
	if n = t.Lookup(at); n == nil {
		_, err = t.Open(path)
	}
	return at, n, err
}

// text returns the text of the regular file that path leads to, and its path in the tree.
func (w *work) text(path string) (at string, n *tree.Inode, text string, err error) {
	if at, n, err = find(w.t, path, true); err != nil {
		return "", nil, "", err
	}
	if n.Type() != tree.Regular {
		return "", nil, "", fmt.Errorf("%s is %s, not a file", path, typeNames[n.Type()])
	}
	text, err = readText(path, n)
	return at, n, text, err
}

func readText(path string, n *tree.Inode) (string, error) {
	if n.Size() > MaxText {
		return "", fmt.Errorf("%s has %d bytes; only text of up to %d bytes can be edited", path, n.Size(), MaxText)
	}
	if n.Size() == 0 {
		return "", nil
	}
	b := make([]byte, n.Size())
	if _, err := image.ReadFull(n.Content, b, 0); err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	if slices.Contains(b, 0) || !utf8.Valid(b) {
		return "", fmt.Errorf("%s is not text", path)
	}
	return string(b), nil
}

// textVerb returns the apply function of a verb that changes the text of the file e.Path,
// or path if that is empty. The errors of change contain the path.
func textVerb(path string, change func(e *Edit, path, text string) (string, error)) func(*work, *Edit) error {
	return func(w *work, e *Edit) error {
		path := cmp.Or(e.Path, path)
		at, n, old, err := w.text(path)
		if err != nil {
			return err
		}
		text, err := change(e, path, old)
		if err != nil || text == old {
			return err
		}
		return w.change(at, n, w.withText(n, text))
	}
}

func (w *work) withText(n *tree.Inode, text string) *tree.Inode {
	c := *n
	c.ModTime = w.modTime
	c.Content = strings.NewReader(text)
	// As in the kernel, writing to a program removes its capabilities.
	c.Xattrs = slices.DeleteFunc(slices.Clone(n.Xattrs), func(x tree.Xattr) bool { return x.Name == "security.capability" })
	return &c
}

// change replaces the inode at path and at its other hard links.
func (w *work) change(at string, old, n *tree.Inode) error {
	if !w.linked[old] {
		return w.t.Put(at, n)
	}
	w.linked[n] = true
	for path, node := range w.t.All() {
		if node == old {
			if err := w.t.Put(path, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// place resolves the path of a new file. Its directory must exist; with parents, missing
// directories are made.
func (w *work) place(path string, follow, parents bool) (string, error) {
	at, err := w.t.Resolve(path, follow)
	if err != nil {
		return "", err
	}
	var missing []string
	for up := tree.Parent(at); ; up = tree.Parent(up) {
		n := w.t.Lookup(up)
		if n != nil && n.Type() != tree.Dir {
			return "", fmt.Errorf("%s: /%s is %s, not a directory", path, up, typeNames[n.Type()])
		}
		if n != nil {
			break
		}
		missing = append(missing, up)
	}
	if len(missing) > 0 && !parents {
		return "", fmt.Errorf("%s: the directory /%s does not exist; parents = true makes it", path, missing[0])
	}
	slices.Reverse(missing)
	for _, up := range missing {
		if err := w.t.Put(up, &tree.Inode{Mode: tree.Dir | 0o755, ModTime: w.modTime}); err != nil {
			return "", err
		}
	}
	return at, nil
}

// below returns the paths below a directory, parents first.
func (w *work) below(at string) (paths []string) {
	for path := range w.t.Below(at) {
		paths = append(paths, path)
	}
	return paths
}
