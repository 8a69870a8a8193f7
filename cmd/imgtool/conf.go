package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"imgtool/boards"
	"imgtool/image/build"
	"imgtool/image/hostfile"
	"imgtool/image/shconf"
	"imgtool/layouts"
)

// applyConf takes over what the file a factory provisions with says of sizes,
// labels, devices and lists. What is said there and not used is told.
func applyConf(o *build.Options, path string, u *ui) error {
	text, err := hostfile.ReadStream(path, hostfile.Text)
	if err != nil {
		return fmt.Errorf("provisioning: %w", err)
	}
	values, err := shconf.Parse(path, text)
	if err != nil {
		return fmt.Errorf("provisioning: %w", err)
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if err := applyValue(o, key, values[key], u); err != nil {
			return fmt.Errorf("%s: %s: %w", path, key, err)
		}
	}
	return nil
}

func applyValue(o *build.Options, key string, v shconf.Value, u *ui) error {
	c := o.Board.Conf
	switch {
	case v.List == nil && c.Sizes[key] != "":
		p, err := o.Board.Partition(c.Sizes[key])
		if err != nil {
			return nil // left out before
		}
		return applySize(o, key, p, v.Text)
	case v.List == nil && c.Labels[key] != "":
		if p, err := o.Board.Partition(c.Labels[key]); err == nil { // not left out
			p.Label = v.Text
		}
	case v.List == nil && c.Vars[key] != "":
		if _, ok := o.Vars[c.Vars[key]]; !ok {
			o.Vars[c.Vars[key]] = v.Text
		}
	case slices.ContainsFunc(c.Lists, func(l boards.List) bool { return l.Key == key }):
		return o.Board.SetList(key, v.Fields())
	case slices.ContainsFunc(c.Fixed, func(f boards.Fixed) bool { return f.Key == key }):
		for _, f := range c.Fixed {
			if got := v.Fields(); f.Key == key && !slices.Equal(got, f.Is) {
				return fmt.Errorf("it is %s, and only %s is known here", quoted(got), quoted(f.Is))
			}
		}
	default:
		u.warn(fmt.Sprintf("%s of the provisioning is not used", key))
	}
	return nil
}

// applySize gives a partition the size that a setting has for it.
func applySize(o *build.Options, key string, p *layouts.Partition, text string) error {
	vars, optional := o.Board.Conf.Empty[key]
	switch {
	case text == "" && !optional:
		return fmt.Errorf("it is empty, and %s cannot be left out: give it a size, as 16G or ALL", p.Name)
	case text == "":
		for name, value := range vars {
			if _, ok := o.Vars[name]; !ok {
				o.Vars[name] = value
			}
		}
		return o.Board.LeaveOut(o.Board.Conf.Sizes[key])
	case text == "ALL" && p.Size != 0:
		return fmt.Errorf("%s has a size of its own in the board's layout, and cannot take what is left", p.Name)
	case text == "ALL":
		return nil
	}
	size, err := confSize(text)
	if err != nil {
		return err
	}
	if p.Size == 0 {
		return fmt.Errorf("%s takes what is left of the disk: only ALL can be said", p.Name)
	}
	p.Size = size
	return nil
}

func quoted(list []string) string { return "(" + strings.Join(list, " ") + ")" }

// confSize reads a size as fdisk takes it: 16G is 16 GiB.
func confSize(text string) (layouts.Bytes, error) {
	var size layouts.Bytes
	for short, long := range map[string]string{"K": "KiB", "M": "MiB", "G": "GiB"} {
		if n, ok := strings.CutSuffix(text, short); ok {
			return size, size.UnmarshalText([]byte(n + long))
		}
	}
	return 0, fmt.Errorf("%q is no size: write it as 16G, 512M or ALL", text)
}
