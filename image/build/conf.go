package build

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"imgtool/boards"
	"imgtool/image/hostfile"
	"imgtool/image/shconf"
	"imgtool/layouts"
)

func (o *Options) ApplyConf(path string) error {
	text, err := hostfile.ReadStream(path, hostfile.Text)
	if err != nil {
		return fmt.Errorf("provisioning: %w", err)
	}
	values, err := shconf.Parse(path, text)
	if err != nil {
		return fmt.Errorf("provisioning: %w", err)
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if err := o.ApplySetting(key, values[key]); err != nil {
			return fmt.Errorf("%s: %s: %w", path, key, err)
		}
	}
	return nil
}

// ApplySetting applies a setting of a factory_provision.conf: the size or label of a
// partition, a variable, or a list. It changes the board, and warns of settings that the
// board does not use. A setting with another value than the definition is made for is an
// error.
func (o *Options) ApplySetting(key string, v shconf.Value) error {
	c := o.Board.Conf
	switch {
	case v.List == nil && c.Sizes[key] != "":
		p, err := o.Board.Partition(c.Sizes[key])
		if err != nil {
			return nil // left out before
		}
		return o.applySize(key, p, v.Text)
	case v.List == nil && c.Labels[key] != "":
		if p, err := o.Board.Partition(c.Labels[key]); err == nil { // not left out
			p.Label = v.Text
		}
	case v.List == nil && c.Vars[key] != "":
		o.setVar(c.Vars[key], v.Text)
	case slices.ContainsFunc(c.Lists, func(l boards.List) bool { return l.Key == key }):
		return o.Board.SetList(key, v.Items())
	case slices.ContainsFunc(c.Fixed, func(f boards.Fixed) bool { return f.Key == key }):
		for _, f := range c.Fixed {
			if got := v.Items(); f.Key == key && !slices.Equal(got, f.Is) {
				return fmt.Errorf("the value is (%s); only (%s) is supported", strings.Join(got, " "), strings.Join(f.Is, " "))
			}
		}
	default:
		o.Warn(fmt.Sprintf("%s of the provisioning is not used", key))
	}
	return nil
}

func (o *Options) setVar(name, value string) {
	if _, ok := o.Vars[name]; !ok {
		o.Vars[name] = value
	}
}

// applySize sets the size of a partition, or leaves the partition out if the size is empty.
func (o *Options) applySize(key string, p *layouts.Partition, text string) error {
	vars, optional := o.Board.Conf.Empty[key]
	switch {
	case text == "" && !optional:
		return fmt.Errorf("it is empty, and %s cannot be left out: give it a size such as 16G or ALL", p.Name)
	case text == "":
		for name, value := range vars {
			o.setVar(name, value)
		}
		return o.Board.LeaveOut(o.Board.Conf.Sizes[key])
	case text == "ALL" && p.Size != 0:
		return fmt.Errorf("%s has a size in the board's layout, and cannot take the rest of the disk", p.Name)
	case text == "ALL":
		return nil
	}
	size, err := confSize(text)
	if err != nil {
		return err
	}
	if p.Size == 0 {
		return fmt.Errorf("%s takes the rest of the disk: only ALL is possible", p.Name)
	}
	p.Size = size
	return nil
}

// confSize parses a size as fdisk takes it: 16G is 16 GiB.
func confSize(text string) (layouts.Bytes, error) {
	var size layouts.Bytes
	for short, long := range map[string]string{"K": "KiB", "M": "MiB", "G": "GiB"} {
		if n, ok := strings.CutSuffix(text, short); ok {
			return size, size.UnmarshalText([]byte(n + long))
		}
	}
	return 0, fmt.Errorf("invalid size %q: write it as 16G, 512M or ALL", text)
}
