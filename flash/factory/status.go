package factory

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"imgtool/flash/deploy"
	"imgtool/flash/disk"
	"imgtool/image/artifact"
	"imgtool/image/boardinfo"
	"imgtool/image/statefile"
)

// Status is what a disk says about its provisioning.
type Status struct {
	where  string // a file and its partition
	step   string // "6 of 6", if there is a state file
	Done   bool   // it was provisioned completely
	build  string
	Unit   string            // name of the unit
	values map[string]string // of the unit's variables that a file on the disk is for; "" if it is missing
	err    error             // why it cannot be read
}

// ReadStatus reads the status of a disk from the places of a manifest.
func ReadStatus(d *disk.Disk, m *artifact.Manifest, def *boardinfo.Unit) Status {
	s := Status{values: map[string]string{}}
	for _, part := range m.Partitions {
		if part.State == "" {
			continue
		}
		text, _ := deploy.ReadFile(d, part, part.State)
		if last, ok := statefile.Last(text); ok {
			s.where, s.step, s.Done = part.State+" on "+part.Name, fmt.Sprintf("%d of %d", last.Step, last.Steps), last.Final()
			s.build = cmp.Or(last.Build, s.build)
		}
	}
	// The options of a build do not matter: a place that was not written to has no files.
	for _, place := range def.Places {
		of, name, _ := strings.Cut(place.Partition, "/")
		i := slices.IndexFunc(m.Partitions, func(p artifact.Partition) bool { return p.Name == name })
		if of != m.Medium || i < 0 {
			continue
		}
		s.readUnit(d, m.Partitions[i], place, def)
	}
	s.Unit = nameIn(def, s.values)
	return s
}

func (s *Status) readUnit(d *disk.Disk, part artifact.Partition, place boardinfo.Place, def *boardinfo.Unit) {
	for _, name := range place.Files {
		f, _ := def.File(name)
		v, ok := def.Holds(f)
		if !ok {
			continue
		}
		path := place.In(f)
		text, err := deploy.ReadFile(d, part, path)
		text = strings.TrimSpace(text)
		s.values[v.Name] = cmp.Or(text, s.values[v.Name])
		switch {
		case part.State != "":
		case err != nil:
			s.err = fmt.Errorf("%s: %w", part.Name, err)
		case text != "":
			s.where, s.Done = cmp.Or(s.where, path+" on "+part.Name), true
		}
	}
}

// String returns the status as a clause.
func (s Status) String() string {
	about := []string{"step " + s.step, "build " + s.build, "unit " + s.Unit}
	about = slices.DeleteFunc(about, func(s string) bool { return s == "step " || s == "build " || s == "unit " })
	return fmt.Sprintf("%s says that it was provisioned (%s)", s.where, strings.Join(about, ", "))
}

func (s Status) isFor(values map[string]string) bool {
	for name, v := range s.values {
		if values[name] != v {
			return false
		}
	}
	return true
}

func (s Status) isForAnother(values map[string]string) bool {
	for name, v := range s.values {
		if v != "" && values[name] != v {
			return true
		}
	}
	return false
}
