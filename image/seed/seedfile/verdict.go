package seedfile

import (
	"errors"
	"fmt"
	"slices"

	"imgtool/image/seed"
	"imgtool/image/seed/bundle"
)

// Verdict is the device's verdict on a seed.
type Verdict struct {
	OK bool `json:"ok"`
	*bundle.Info
	Unit     string       `json:"unit,omitempty"`
	Line     int          `json:"line,omitempty"` // of the unit in its table
	Faults   []seed.Fault `json:"faults"`
	Warnings []seed.Fault `json:"warnings"`

	Name string `json:"-"` // for messages
	Body []byte `json:"-"` // the document or bundle; nil if a template could not be filled in

	Columns map[string]string `json:"-"` // of a unit
}

func newVerdict(name string, faults []seed.Fault) *Verdict {
	v := &Verdict{Name: name, Faults: []seed.Fault{}, Warnings: []seed.Fault{}}
	for _, f := range faults {
		if f.Warning {
			v.Warnings = append(v.Warnings, f)
		} else {
			v.Faults = append(v.Faults, f)
		}
	}
	v.OK = len(v.Faults) == 0
	return v
}

// Faulty returns an error with a line for each fault, or nil.
func (v *Verdict) Faulty() error { return errors.Join(lines(v.Name, v.Faults)...) }

// Refused returns an error with the number of faults, or nil.
func (v *Verdict) Refused() error {
	n := len(v.Faults)
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%s: the device would refuse it: %d fault%s", v.Name, n, map[bool]string{true: "s"}[n > 1])
}

// Warn calls warn with each warning.
func (v *Verdict) Warn(warn func(string)) {
	for _, w := range lines(v.Name, v.Warnings) {
		warn(w.Error())
	}
}

// Faulty returns an error with a line for each of the faults that is not a warning, and calls
// warn with each warning. name is the document's.
func Faulty(name string, faults []seed.Fault, warn func(string)) error {
	v := newVerdict(name, faults)
	err := v.Faulty()
	if err == nil {
		v.Warn(warn)
	}
	return err
}

func lines(name string, faults []seed.Fault) []error {
	var all []error
	for _, f := range faults {
		all = append(all, fmt.Errorf("%s:%v", name, f))
	}
	return all
}

// UnitsVerdict is the device's verdict on the documents that a template makes for each unit.
type UnitsVerdict struct {
	OK    bool       `json:"ok"`
	Units []*Verdict `json:"units"`

	template, table string
	shared          map[seed.Fault]bool // faults of all units
	bad, faults     int
}

// CheckUnits checks a template with the values of each unit.
func CheckUnits(template, table string) (*UnitsVerdict, error) {
	seeds, err := ReadUnits(template, table)
	if err != nil {
		return nil, err
	}
	all := &UnitsVerdict{template: template, table: table, shared: map[seed.Fault]bool{}}
	units := map[seed.Fault]int{} // number of units with the fault
	for _, s := range seeds {
		v := s.Verdict()
		v.Info = nil
		all.Units = append(all.Units, v)
		counted := map[seed.Fault]bool{}
		for _, f := range slices.Concat(v.Faults, v.Warnings) {
			if !counted[f] {
				counted[f] = true
				units[f]++
			}
		}
		if all.faults += len(v.Faults); !v.OK {
			all.bad++
		}
	}
	for f, n := range units {
		all.shared[f] = n == len(seeds) && n > 1
	}
	all.OK = all.bad == 0
	return all, nil
}

// Refused returns an error with the number of units and faults, or nil.
func (all *UnitsVerdict) Refused() error {
	if all.OK {
		return nil
	}
	return fmt.Errorf("%s: the device would refuse it for %d of %d units: %d faults", all.template, all.bad, len(all.Units), all.faults)
}

// Each calls fault or warning with a line for each fault. Faults that all units have are
// reported once, without a unit.
func (all *UnitsVerdict) Each(fault, warning func(line string)) {
	for i, v := range all.Units {
		for _, f := range slices.Concat(v.Faults, v.Warnings) {
			line := fmt.Sprintf("%s:%d: %s: %s:%v", all.table, v.Line, v.Unit, all.template, f)
			if all.shared[f] {
				if i > 0 {
					continue
				}
				line = fmt.Sprintf("%s:%v", all.template, f)
			}
			if f.Warning {
				warning(line)
			} else {
				fault(line)
			}
		}
	}
}
