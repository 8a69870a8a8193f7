package factory

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"imgtool/boards"
	"imgtool/image/boardinfo"
	"imgtool/image/compose"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/progress"
	"imgtool/image/volume"
	"imgtool/layouts"
)

// Unit is the per-unit data of one device. The content of its keys is written to disks only:
// no message, receipt, log or scratch file has any of it.
type Unit struct {
	Values map[string]string // of the variables; those without a value are missing
	def    *boardinfo.Unit
	files  map[string]compose.File // by name
}

// Name returns what identifies the unit, the value of its first variable.
func (u *Unit) Name() string {
	if u == nil {
		return ""
	}
	return nameIn(u.def, u.Values)
}

func nameIn(def *boardinfo.Unit, values map[string]string) string {
	if def == nil || len(def.Variables) == 0 {
		return ""
	}
	return values[def.Variables[0].Name]
}

// ReadUnit reads the TOML file of a unit, and the keys it names by paths relative to it.
// It refuses what a unit of the board could not use.
func ReadUnit(file string, def *boardinfo.Unit, board string, r progress.Reporter) (*Unit, error) {
	if def == nil || len(def.Files) == 0 {
		return nil, fault.New(fault.Usage, "%s has no per-unit data: leave out --unit", board)
	}
	text, err := hostfile.ReadStream(file, hostfile.Text)
	if err != nil {
		return nil, fmt.Errorf("unit: %w", err)
	}
	given, keys, err := decodeUnit(file, text, def)
	if err != nil {
		return nil, err
	}
	u := &Unit{def: def, files: map[string]compose.File{}}
	u.Values, err = def.Values(given, board, func(text string) { r.Warnf("%s: %s", file, text) })
	if err == nil {
		err = u.readFiles(filepath.Dir(file), keys, r)
	}
	if err == nil {
		err = checkKeyNames(keys, def, board)
	}
	if err == nil {
		err = u.checkFiles(file, r)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return u, nil
}

func decodeUnit(file string, text []byte, def *boardinfo.Unit) (values, keys map[string]string, err error) {
	fields := []reflect.StructField{{Name: "Keys", Type: reflect.TypeFor[map[string]string](), Tag: `toml:"keys"`}}
	names := def.Keys()
	for i, name := range names {
		fields = append(fields, reflect.StructField{Name: fmt.Sprint("V", i), Type: reflect.TypeFor[string](), Tag: reflect.StructTag(fmt.Sprintf("toml:%q", name))})
	}
	doc := reflect.New(reflect.StructOf(fields))
	if err := layouts.Decode(file, text, doc.Interface()); err != nil {
		return nil, nil, err
	}
	values = map[string]string{}
	for i, name := range names {
		if v := doc.Elem().Field(i + 1).String(); v != "" {
			values[name] = v
		}
	}
	return values, doc.Elem().Field(0).Interface().(map[string]string), nil
}

func (u *Unit) readFiles(dir string, keys map[string]string, r progress.Reporter) error {
	for _, f := range u.def.Files {
		var data []byte
		if f.Text != "" {
			text, ok := u.def.Fill(f, u.Values)
			if !ok {
				continue
			}
			data = []byte(text)
		} else if keys[f.Name] == "" {
			continue
		} else {
			var err error
			if data, err = readKey(dir, keys[f.Name], f.Kind, r); err != nil {
				return fmt.Errorf("%s: %w", f.Name, err)
			}
		}
		u.files[f.Name] = compose.File{Path: f.Path, Mode: uint32(f.Perm()), Data: data}
	}
	return nil
}

func checkKeyNames(keys map[string]string, def *boardinfo.Unit, board string) error {
	var known []string
	for _, f := range def.Files {
		if f.Text == "" {
			known = append(known, f.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		if len(known) == 0 {
			return fmt.Errorf("[keys] has %q, and units of %s have no keys: leave [keys] out", name, board)
		}
		if !slices.Contains(known, name) {
			return fmt.Errorf("[keys] has %q, which %s does not know; it knows %s", name, board, strings.Join(known, ", "))
		}
	}
	return nil
}

// checkFiles refuses files without those they need, and warns of files that are not used.
func (u *Unit) checkFiles(file string, r progress.Reporter) error {
	has := func(name string) bool { _, ok := u.files[name]; return ok }
	for _, f := range u.def.Files {
		if !has(f.Name) {
			continue
		}
		for _, need := range f.Needs {
			if !has(need) {
				return fmt.Errorf("there is %s without %s, and one is of no use without the other", f.Name, need)
			}
		}
		for _, other := range f.NotWith {
			if has(other) {
				r.Warnf("%s: a unit that has %s does not use %s, and never deletes it: leave it out", file, other, f.Name)
			}
		}
	}
	return nil
}

// Files returns the files that are added to a medium, by partition, and their names.
func (u *Unit) Files(medium string, options map[string]bool) (files map[string][]compose.File, names []string) {
	if u == nil {
		return nil, nil
	}
	files = map[string][]compose.File{}
	for _, place := range u.def.On(medium, options) {
		for _, name := range place.Files {
			f, ok := u.files[name]
			if !ok {
				continue
			}
			def, _ := u.def.File(name)
			f.Path = place.In(def)
			files[place.Partition] = append(files[place.Partition], f)
			names = append(names, name)
		}
	}
	return files, names
}

// UnitFiles returns the files that a unit has in an image in addition, by partition.
func UnitFiles(src *volume.Source, file string, enabled map[string]bool, r progress.Reporter) (map[string][]compose.File, error) {
	m := src.Manifest
	if m == nil {
		return nil, fmt.Errorf("%s: it has no manifest, so the places of per-unit data are not known", src.Name)
	}
	info, err := boards.InfoOf(m.Board, m.Medium, m.Info)
	if err != nil {
		return nil, err
	}
	unit, err := ReadUnit(file, info.Unit, m.Board, r)
	if err != nil {
		return nil, err
	}
	files, _ := unit.Files(m.Medium, enabled)
	return files, nil
}
