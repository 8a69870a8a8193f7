package edit

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"imgtool/image/extlinux"
	"imgtool/image/fstab"
	"imgtool/image/tree"
)

// ExtlinuxConf is the configuration file of CBoot.
const ExtlinuxConf = "/boot/extlinux/extlinux.conf"

func isSwap(where string) bool { return where == "none" || where == "swap" }

func checkFstab(e *Edit) error {
	switch {
	case isSwap(e.Where) && e.Spec == "":
		return fmt.Errorf("an entry for swap needs spec")
	case !isSwap(e.Where) && checkPath(e.Where) != nil:
		return fmt.Errorf(`where %q is not a mount point: it must be a path that begins with /, or "none" or "swap"`, e.Where)
	case e.Dump < 0 || e.Pass < 0:
		return errors.New("dump and pass must not be negative")
	}
	for key, text := range map[string]string{"spec": e.Spec, "type": e.Type, "options": e.Options} {
		if e.has(key) && text == "" || strings.ContainsAny(text, "\n\x00") {
			return fmt.Errorf("%s is empty, or contains a line end or a zero byte", key)
		}
	}
	return nil
}

// changeFstab changes the given fields of the entry of a mount point, or adds an entry.
func changeFstab(e *Edit, path, text string) (string, error) {
	table := fstab.Parse(text)
	entry, ok, err := table.Lookup(e.Where, e.Spec)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	if !ok {
		if e.Spec == "" || e.Type == "" {
			return "", fmt.Errorf("%s has no entry for %s, and a new one needs spec and type", path, e.Where)
		}
		entry = fstab.Entry{Where: e.Where, Options: "defaults", Dump: "0", Pass: "0"}
	}
	for key, set := range map[string]func(){
		"spec":    func() { entry.Spec = e.Spec },
		"type":    func() { entry.Type = e.Type },
		"options": func() { entry.Options = e.Options },
		"dump":    func() { entry.Dump = strconv.Itoa(e.Dump) },
		"pass":    func() { entry.Pass = strconv.Itoa(e.Pass) },
	} {
		if e.has(key) {
			set()
		}
	}
	if err := table.Put(entry, e.Comment); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return table.String(), nil
}

func removeFstab(e *Edit, path, text string) (string, error) {
	table := fstab.Parse(text)
	ok, err := table.Remove(e.Where, e.Spec)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w", path, err)
	case !ok && !e.MissingOK:
		return "", fmt.Errorf("%s has no entry for %s", path, e.Where)
	case !ok:
		return text, nil
	}
	return table.String(), nil
}

func checkExtlinux(e *Edit) error {
	entry := false
	for _, key := range words("menu linux initrd fdt append-replace append-set append-remove") {
		entry = entry || e.has(key)
	}
	switch {
	case e.has("add") && e.has("label"):
		return errors.New("add and label exclude each other")
	case e.has("copy-of") && !e.has("add"):
		return errors.New("copy-of needs add")
	case entry && !e.has("add") && !e.has("label"):
		return errors.New("add or label is missing")
	case e.has("label") && !entry:
		return errors.New("an edit with label needs a key that changes the label")
	case e.Timeout < 0:
		return fmt.Errorf("timeout %d is negative", e.Timeout)
	}
	for _, key := range slices.Sorted(maps.Keys(e.AppendReplace)) {
		if !isToken(key) || !isToken(e.AppendReplace[key]) {
			return fmt.Errorf("append-replace: %q and %q must be one token each", key, e.AppendReplace[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(e.AppendSet)) {
		if !isToken(key + "=" + e.AppendSet[key]) {
			return fmt.Errorf("append-set: %s=%s must be one token", key, e.AppendSet[key])
		}
	}
	return nil
}

func isToken(s string) bool { return s != "" && !strings.ContainsAny(s, " \t\r\n#\x00") }

func editExtlinux(e *Edit, path, text string) (string, error) {
	conf := extlinux.Parse(text)
	if err := changeExtlinux(conf, e); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return conf.String(), nil
}

// changeExtlinux makes or changes a label, removes labels, and sets default and timeout, in
// this order.
func changeExtlinux(conf *extlinux.Config, e *Edit) error {
	label := e.Label
	if e.has("add") {
		label = e.Add
		// If the edit is repeated, the original may have been removed.
		names := conf.Labels()
		done := slices.Contains(names, e.Add) && (e.CopyOf == "" && names[0] == e.Add || e.CopyOf != "" && !slices.Contains(names, e.CopyOf))
		if !done {
			if err := conf.Copy(e.Add, e.CopyOf); err != nil {
				return err
			}
		}
	}
	for _, v := range []struct{ given, key, value string }{
		{"menu", extlinux.MenuLabel, e.Menu},
		{"linux", extlinux.Linux, e.Linux},
		{"initrd", extlinux.Initrd, e.Initrd},
		{"fdt", extlinux.FDT, e.FDT},
	} {
		if e.has(v.given) {
			if err := conf.SetValue(label, v.key, v.value); err != nil {
				return err
			}
		}
	}
	if e.has("append-replace") || e.has("append-set") || e.has("append-remove") {
		if err := changeAppend(conf, label, e); err != nil {
			return fmt.Errorf("label %s: APPEND: %w", label, err)
		}
	}
	// After the copy, whose original may be removed here.
	for _, name := range e.RemoveLabels {
		if e.MissingOK && !slices.Contains(conf.Labels(), name) {
			continue
		}
		if err := conf.Remove(name); err != nil {
			return err
		}
	}
	if e.has("default") {
		if !slices.Contains(conf.Labels(), e.Default) {
			return fmt.Errorf("default: unknown label %s; known labels: %s", e.Default, strings.Join(conf.Labels(), ", "))
		}
		if err := conf.Set(extlinux.Default, e.Default); err != nil {
			return err
		}
	}
	if e.has("timeout") {
		return conf.Set(extlinux.Timeout, strconv.Itoa(e.Timeout))
	}
	return nil
}

func changeAppend(conf *extlinux.Config, label string, e *Edit) error {
	value, _, err := conf.Value(label, extlinux.Append)
	if err != nil {
		return err
	}
	args := extlinux.ParseArgs(value)
	for _, old := range slices.Sorted(maps.Keys(e.AppendReplace)) {
		if err := args.Replace(old, e.AppendReplace[old]); err != nil {
			return err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(e.AppendSet)) {
		if args, err = args.Set(key, e.AppendSet[key]); err != nil {
			return err
		}
	}
	for _, name := range e.AppendRemove {
		args = args.Without(name)
	}
	return conf.SetValue(label, extlinux.Append, args.String())
}

// LintExtlinux checks the tree's extlinux.conf and the files it names.
func LintExtlinux(t *tree.Tree) ([]extlinux.Problem, error) {
	_, _, text, err := (&work{t: t}).text(ExtlinuxConf)
	if err != nil {
		return nil, err
	}
	return extlinux.Lint(text, func(path string) int64 {
		n, err := t.Open(path)
		if err != nil || n.Type() != tree.Regular {
			return -1
		}
		return n.Size()
	}), nil
}
