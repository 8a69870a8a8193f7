package edit

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"imgtool/image/tree"
)

// Directories in which systemd searches for units, in order, and the directory for links
// to enabled units: systemd.unit(5).
const unitLinks = "/etc/systemd/system"

var unitDirs = []string{unitLinks, "/usr/local/lib/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system"}

var unitName = regexp.MustCompile(`^[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?\.(service|socket|device|mount|automount|swap|target|path|timer|slice|scope)$`)

func checkUnit(e *Edit) error {
	if !unitName.MatchString(e.Unit) {
		return fmt.Errorf("unit %q is not a valid unit name, such as docker.service", e.Unit)
	}
	return nil
}

// unit is the name of a unit in parts: foo@bar.service has the prefix foo, the template
// foo@.service and the instance bar.
type unit struct {
	name, prefix, instance, suffix string
	template                       string // "" without an @
}

func splitUnit(name string) unit {
	dot := strings.LastIndexByte(name, '.')
	u := unit{name: name, prefix: name[:dot], suffix: name[dot:]}
	if prefix, instance, ok := strings.Cut(u.prefix, "@"); ok {
		u.prefix, u.instance, u.template = prefix, instance, prefix+"@"+u.suffix
	}
	return u
}

func (u unit) isTemplate() bool { return u.template != "" && u.instance == "" }

// findUnit finds the file of a unit, or of its template. The path is not resolved, as links
// to the unit contain it.
func (w *work) findUnit(u unit) (path string, n *tree.Inode, err error) {
	for _, file := range []string{u.name, u.template} {
		for _, dir := range unitDirs {
			path := dir + "/" + file
			at, err := w.t.Resolve(path, false)
			if file == "" || err != nil || w.t.Lookup(at) == nil {
				continue
			}
			return path, w.t.Lookup(at), nil
		}
	}
	return "", nil, fmt.Errorf("unknown unit %s: it is not in %s", u.name, strings.Join(unitDirs, ", "))
}

// enableUnit makes the links that systemctl enable makes, from the [Install] section of the
// unit. It does not read drop-in directories (.d).
func (w *work) enableUnit(e *Edit) error {
	_, err := w.enable(e.Unit, false, map[string]bool{})
	return err
}

// enable makes the links of a unit and of the units in its Also, and reports whether there
// were any. A unit that another one lists in Also may have none.
func (w *work) enable(name string, also bool, seen map[string]bool) (bool, error) {
	if seen[name] {
		return true, nil
	}
	seen[name] = true
	u := splitUnit(name)
	path, n, err := w.findUnit(u)
	if err != nil {
		return false, err
	}
	if n.Type() == tree.Symlink {
		if n.Target == "/dev/null" {
			return false, fmt.Errorf("%s is masked: %s leads to /dev/null", name, path)
		}
		if real := n.Target[strings.LastIndexByte(n.Target, '/')+1:]; real != path[strings.LastIndexByte(path, '/')+1:] {
			return false, fmt.Errorf("%s is an alias of %s; enable that", name, real)
		}
	}
	_, _, text, err := w.text(path)
	if err != nil {
		return false, err
	}
	if text == "" {
		return false, fmt.Errorf("%s is masked: %s is empty", name, path)
	}
	in, err := readInstall(text)
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	if u.isTemplate() && in.defaultInstance != "" {
		u = splitUnit(u.prefix + "@" + in.defaultInstance + u.suffix)
	}
	links := false
	for _, dir := range []struct {
		units  []string
		suffix string
	}{{in.wantedBy, ".wants/"}, {in.requiredBy, ".requires/"}, {in.upheldBy, ".upholds/"}} {
		for _, by := range dir.units {
			if u.isTemplate() {
				return false, fmt.Errorf("%s is a template without DefaultInstance; give an instance name between @ and %s", name, u.suffix)
			}
			if by, err = u.specifiers(by); err != nil {
				return false, fmt.Errorf("%s: %w", path, err)
			}
			if err := w.unitLink(by+dir.suffix+u.name, path); err != nil {
				return false, err
			}
			links = true
		}
	}
	for _, alias := range in.alias {
		if alias, err = u.specifiers(alias); err != nil {
			return false, fmt.Errorf("%s: %w", path, err)
		}
		if !strings.HasSuffix(alias, u.suffix) {
			return false, fmt.Errorf("%s: the alias %s has another type", path, alias)
		}
		if err := w.unitLink(alias, path); err != nil {
			return false, err
		}
		links = true
	}
	for _, other := range in.also {
		if other, err = u.specifiers(other); err != nil {
			return false, fmt.Errorf("%s: %w", path, err)
		}
		linked, err := w.enable(other, true, seen)
		if err != nil {
			return false, fmt.Errorf("%s: Also=%s: %w", path, other, err)
		}
		links = links || linked
	}
	if !links && !also {
		return false, fmt.Errorf("%s cannot be enabled: %s has no [Install] section with WantedBy or the like", name, path)
	}
	return links, nil
}

func (w *work) unitLink(name, target string) error {
	at, err := w.place(unitLinks+"/"+name, false, true)
	if err != nil {
		return err
	}
	if n := w.t.Lookup(at); n != nil && n.Type() != tree.Symlink {
		return fmt.Errorf("%s/%s is %s, not a symbolic link to %s", unitLinks, name, typeNames[n.Type()], target)
	}
	return w.link(at, target)
}

// specifiers replaces specifiers for parts of the unit's name, and checks that the result
// is a unit name.
func (u unit) specifiers(s string) (string, error) {
	values := map[string]string{"i": u.instance, "p": u.prefix, "n": u.name, "N": strings.TrimSuffix(u.name, u.suffix), "%": "%"}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		i++
		if value, ok := values[s[i:min(i+1, len(s))]]; ok {
			b.WriteString(value)
		} else {
			return "", fmt.Errorf("%s: unsupported specifier; supported: %%i, %%p, %%n, %%N and %%%%", s)
		}
	}
	if !unitName.MatchString(b.String()) {
		return "", fmt.Errorf("[Install] has %q, which is not a valid unit name", s)
	}
	return b.String(), nil
}

// install is the [Install] section of a unit.
type install struct {
	wantedBy, requiredBy, upheldBy, alias, also []string

	defaultInstance string
}

func readInstall(text string) (install, error) {
	var in install
	lists := map[string]*[]string{"WantedBy": &in.wantedBy, "RequiredBy": &in.requiredBy, "UpheldBy": &in.upheldBy,
		"Alias": &in.alias, "Also": &in.also}
	section, more := "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue // also between continuation lines
		}
		if before, ok := strings.CutSuffix(line, `\`); ok {
			more += before + " "
			continue
		}
		line, more = more+line, ""
		if strings.HasPrefix(line, "[") {
			section = line
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if section != "[Install]" || !ok {
			continue
		}
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if list := lists[key]; list != nil {
			if value == "" {
				*list = nil // resets the list
			}
			*list = append(*list, strings.Fields(value)...)
		}
		if key == "DefaultInstance" {
			in.defaultInstance = value
		}
	}
	if more != "" {
		return install{}, fmt.Errorf("the file ends in a continuation line")
	}
	return in, nil
}

// disableUnit removes the links to a unit in /etc/systemd/system, which start it or are
// aliases. The unit or a link to it must exist.
func (w *work) disableUnit(e *Edit) error {
	at, err := w.t.Resolve(unitLinks, true)
	if err != nil {
		return err
	}
	var links []string
	for _, path := range w.below(at) {
		n := w.t.Lookup(path)
		if n.Type() != tree.Symlink {
			continue
		}
		dir, name := tree.Parent(path), path[strings.LastIndexByte(path, '/')+1:]
		real := n.Target[strings.LastIndexByte(n.Target, '/')+1:]
		started := slices.ContainsFunc([]string{".wants", ".requires", ".upholds"}, func(s string) bool { return strings.HasSuffix(dir, s) })
		if started && name == e.Unit || (started || dir == at) && real == e.Unit {
			links = append(links, path)
		}
	}
	if len(links) == 0 && !e.MissingOK {
		if _, _, err := w.findUnit(splitUnit(e.Unit)); err != nil {
			return err
		}
	}
	for _, path := range links {
		w.t.Remove(path)
	}
	return nil
}
