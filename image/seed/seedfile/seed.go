package build

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"imgtool/image/seed"
)

// Seed is a seed configuration, or with Columns a template and what a unit has in
// its places.
type Seed struct {
	Name    string // for messages
	Text    []byte
	Columns map[string]string // nil: Text is what the device gets
}

// Check returns what the device gets. It refuses what the device would: that looks
// at a seed once only. format is that of boards.Seed. No error or warning has a
// value of a unit in it.
func (s *Seed) Check(format string, warn func(string)) ([]byte, error) {
	text := s.Text
	var faults []seed.Fault
	switch atomixos := format == "atomixos"; {
	case s.Columns == nil && atomixos:
		_, faults = seed.Check(text)
	case s.Columns != nil && atomixos:
		text, _, faults = seed.CheckFilled(text, s.Columns)
	case s.Columns != nil:
		text, faults = seed.Fill(text, s.Columns)
	}
	var errs []error
	for _, f := range faults {
		if f.Warning {
			warn(fmt.Sprintf("%s:%v", s.Name, f))
		} else {
			errs = append(errs, fmt.Errorf("%s:%v", s.Name, f))
		}
	}
	if errs != nil || format == "atomixos" {
		return text, errors.Join(errs...)
	}
	var any map[string]any
	if err := toml.Unmarshal(text, &any); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, _ := at.Position()
			return nil, fmt.Errorf("%s:%d: the seed is no TOML: %s", s.Name, line, strings.TrimPrefix(at.Error(), "toml: "))
		}
		return nil, fmt.Errorf("%s: the seed is no TOML: %w", s.Name, err)
	}
	return text, nil
}
