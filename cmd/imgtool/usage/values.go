package usage

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"imgtool/layouts"
)

// MapFlag is a flag that sets a key of a map, or without a key takes KEY=VALUE.
type MapFlag struct {
	Map  map[string]string
	Key  string
	Kind string
}

func (f MapFlag) Set(text string) error {
	key := f.Key
	if key == "" {
		var ok bool
		if key, text, ok = strings.Cut(text, "="); !ok || key == "" {
			return fmt.Errorf("it must be %s", f.Kind)
		}
	}
	if f.Map[key] = text; text == "" {
		delete(f.Map, key)
	}
	return nil
}

func (f MapFlag) Type() string { return f.Kind }

func (f MapFlag) String() string {
	if f.Key != "" {
		return f.Map[f.Key]
	}
	var all []string
	for _, key := range slices.Sorted(maps.Keys(f.Map)) {
		all = append(all, key+"="+f.Map[key])
	}
	return strings.Join(all, ",")
}

// Size is a size in bytes; 0 is the default.
type Size int64

func (s *Size) Set(text string) error {
	var size layouts.Bytes
	if err := size.UnmarshalText([]byte(text)); err != nil || size <= 0 {
		return errors.New("it must be a size such as 500MiB or 4GiB")
	}
	*s = Size(size)
	return nil
}

func (s *Size) Type() string { return "SIZE" }

func (s *Size) String() string {
	if *s == 0 {
		return ""
	}
	return strings.ReplaceAll(layouts.Bytes(*s).String(), " ", "")
}
