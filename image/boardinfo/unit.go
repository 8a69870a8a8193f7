package boardinfo

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Unit describes the data in which one unit differs from the others of its build. It is
// written when the unit is flashed.
type Unit struct {
	Variables []Variable `toml:"variable" json:"variables"` // the first names the unit
	Files     []File     `toml:"file" json:"files"`
	Places    []Place    `toml:"place" json:"places"`

	MACPrefix string `toml:"mac-prefix" former:"yes" json:"-"` // of all variables with a MAC
}

// Variable is a value that differs from unit to unit. In texts of files it is written as its
// name in upper case between @, with _ for -: node-id is @NODE_ID@.
type Variable struct {
	Name     string `toml:"name" json:"name"`       // the key in a unit's file
	Pattern  string `toml:"pattern" json:"pattern"` // a regular expression that matches all of the value
	Expect   string `toml:"expect" json:"expect"`   // the pattern in words, such as "16 digits of 0 to 9 and A to F"
	Example  string `toml:"example" json:"example,omitempty"`
	Required bool   `toml:"required" json:"required,omitempty"`
	MAC      *MAC   `toml:"mac" json:"mac,omitempty"`
}

// MAC is how a variable is derived from the address of a network interface.
type MAC struct {
	Key    string `toml:"key" json:"key"`       // in a unit's file, such as wan0-mac
	Prefix string `toml:"prefix" json:"prefix"` // of the board's interfaces, such as 48:b0:2d; empty: any
	Format string `toml:"format" json:"format"` // of the value, with @MAC@ for 12 upper-case hexadecimal digits
}

// File is a file of a unit: a text or a key.
type File struct {
	Name    string   `toml:"name" json:"name"`
	Path    string   `toml:"path" json:"path"`                   // in the root file system
	Text    string   `toml:"text" json:"text,omitempty"`         // with variables; empty: a key, of this name in [keys]
	Kind    string   `toml:"kind" json:"kind,omitempty"`         // of a key, see KeyKinds
	Mode    string   `toml:"mode" json:"mode,omitempty"`         // octal; empty: 0600 for a key, else 0644
	Needs   []string `toml:"needs" json:"needs,omitempty"`       // files that must be there as well
	NotWith []string `toml:"not-with" json:"not_with,omitempty"` // files with which it is never used nor deleted
}

// Place is a partition that gets files of a unit.
type Place struct {
	Partition string   `toml:"partition" json:"partition"`           // medium/partition
	Directory string   `toml:"directory" json:"directory,omitempty"` // the root file system in the partition; empty: the partition's root
	Folder    string   `toml:"folder" former:"yes" json:"-"`         // means directory
	Files     []string `toml:"files" json:"files"`
	Only      string   `toml:"only" json:"only,omitempty"` // the build option that asks for it; empty: always
}

// KeyKinds are the kinds of keys.
var KeyKinds = []string{"private-key", "public-key", "certificate"}

// Mark returns what stands for the variable in texts, such as @NODE_ID@.
func (v Variable) Mark() string {
	return "@" + strings.ToUpper(strings.ReplaceAll(v.Name, "-", "_")) + "@"
}

// Perm returns the mode of the file.
func (f File) Perm() fs.FileMode {
	if n, err := strconv.ParseUint(f.Mode, 8, 9); err == nil && f.Mode != "" {
		return fs.FileMode(n)
	}
	if f.Text == "" {
		return 0o600
	}
	return 0o644
}

// In returns the path of a file in the place's partition.
func (p Place) In(f File) string { return path.Join("/", p.Directory, f.Path) }

// On returns the places on a medium whose option, if they have one, is in options. Their
// partition is without the medium.
func (u *Unit) On(medium string, options map[string]bool) (places []Place) {
	if u == nil {
		return nil
	}
	for _, p := range u.Places {
		of, part, _ := strings.Cut(p.Partition, "/")
		if of == medium && (p.Only == "" || options[p.Only]) {
			p.Partition = part
			places = append(places, p)
		}
	}
	return places
}

// File returns the file of a name.
func (u *Unit) File(name string) (File, bool) {
	for _, f := range u.Files {
		if f.Name == name {
			return f, true
		}
	}
	return File{}, false
}

// Holds returns the variable whose value is all that is in the file, such as a file with
// the serial number.
func (u *Unit) Holds(f File) (Variable, bool) {
	for _, v := range u.Variables {
		if strings.TrimSpace(f.Text) == v.Mark() {
			return v, true
		}
	}
	return Variable{}, false
}

// Paths returns the paths of all files in the root file system.
func (u *Unit) Paths() (paths []string) {
	if u == nil {
		return nil
	}
	for _, f := range u.Files {
		paths = append(paths, f.Path)
	}
	return paths
}

// Keys returns the names that a unit's file may have beside [keys].
func (u *Unit) Keys() (keys []string) {
	for _, v := range u.Variables {
		keys = append(keys, v.Name)
		if v.MAC != nil {
			keys = append(keys, v.MAC.Key)
		}
	}
	return keys
}

// Values checks the values that a unit's file has for the keys of [Unit.Keys], and
// returns the values of the variables. A variable without a value is left out. It warns of
// the address of a network interface that does not have the board's prefix.
func (u *Unit) Values(given map[string]string, board string, warn func(string)) (map[string]string, error) {
	values := map[string]string{}
	for _, v := range u.Variables {
		value := given[v.Name]
		if v.MAC != nil && given[v.MAC.Key] != "" {
			text := given[v.MAC.Key]
			if value != "" {
				return nil, fmt.Errorf("%s and %s both set %s: leave one out", v.MAC.Key, v.Name, v.Name)
			}
			mac, err := net.ParseMAC(text)
			if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
				return nil, fmt.Errorf("%s is %q; it must be the address of one card, such as 48:b0:2d:01:23:45", v.MAC.Key, text)
			}
			if !strings.HasPrefix(mac.String(), v.MAC.Prefix) {
				warn(fmt.Sprintf("%s is %s, and addresses of %s start with %s", v.MAC.Key, mac, board, v.MAC.Prefix))
			}
			value = strings.ReplaceAll(v.MAC.Format, "@MAC@", strings.ToUpper(hex.EncodeToString(mac)))
		}
		switch {
		case value == "" && v.Required:
			return nil, fmt.Errorf("%s is missing: write it as %s = %q", v.Name, v.Name, v.Example)
		case value == "":
			continue
		case !v.pattern().MatchString(value):
			return nil, fmt.Errorf("%s is %q; it must be %s, such as %s", v.Name, value, v.Expect, v.Example)
		}
		values[v.Name] = value
	}
	return values, nil
}

// Fill returns the text of a file with the values of variables. It returns false if a value
// is missing.
func (u *Unit) Fill(f File, values map[string]string) (string, bool) {
	var pairs []string
	for _, v := range u.Variables {
		value, ok := values[v.Name]
		if !ok && strings.Contains(f.Text, v.Mark()) {
			return "", false
		}
		pairs = append(pairs, v.Mark(), value)
	}
	return strings.NewReplacer(pairs...).Replace(f.Text), true
}

func (v Variable) pattern() *regexp.Regexp {
	return regexp.MustCompile(`^(?:` + v.Pattern + `)$`)
}

// maxPattern bounds a variable's pattern.
const maxPattern = 256

// Normalize moves the values of former keys to their present keys.
func (u *Unit) Normalize() {
	for i := range u.Places {
		if p := &u.Places[i]; p.Directory == "" {
			p.Directory, p.Folder = p.Folder, ""
		}
	}
	for i := range u.Variables {
		if mac := u.Variables[i].MAC; mac != nil && u.MACPrefix != "" {
			mac.Prefix = u.MACPrefix
		}
	}
	u.MACPrefix = ""
}

// Check checks names, paths and references between files.
func (u *Unit) Check() error {
	if err := u.checkVariables(); err != nil {
		return err
	}
	files := map[string]bool{}
	for _, f := range u.Files {
		switch {
		case !GoodName(f.Name) || files[f.Name]:
			return fmt.Errorf("[[unit.file]]: the name is %.80q; it must be %s, and be there once", f.Name, NameRule)
		case !strings.HasPrefix(f.Path, "/") || !fs.ValidPath(f.Path[1:]):
			return fmt.Errorf("[[unit.file]] %s: %.80q is not an absolute path", f.Name, f.Path)
		case (f.Text == "") != slices.Contains(KeyKinds, f.Kind):
			return fmt.Errorf("[[unit.file]] %s needs a text, or for a key a kind (known: %s)", f.Name, strings.Join(KeyKinds, ", "))
		}
		if _, err := strconv.ParseUint(f.Mode, 8, 9); f.Mode != "" && err != nil {
			return fmt.Errorf("[[unit.file]] %s: mode is %.80q; it must be octal, such as 0640", f.Name, f.Mode)
		}
		files[f.Name] = true
	}
	known := func(of string, names []string) error {
		for _, name := range names {
			if !files[name] {
				return fmt.Errorf("%s has %.80q, which is not a [[unit.file]]", of, name)
			}
		}
		return nil
	}
	for _, f := range u.Files {
		if err := known("[[unit.file]] "+f.Name, slices.Concat(f.Needs, f.NotWith)); err != nil {
			return err
		}
	}
	for _, p := range u.Places {
		if p.Directory != "" && (!strings.HasPrefix(p.Directory, "/") || !fs.ValidPath(p.Directory[1:])) {
			return fmt.Errorf("[[unit.place]] %.80s: %.80q is not an absolute path of a directory", p.Partition, p.Directory)
		}
		if err := known("[[unit.place]] "+p.Partition, p.Files); err != nil {
			return err
		}
	}
	return nil
}

func (u *Unit) checkVariables() error {
	seen := map[string]bool{"keys": true}
	for _, key := range u.Keys() {
		if !GoodName(key) || seen[key] {
			return fmt.Errorf("[[unit.variable]]: the key is %.80q; it must be %s, be there once, and not be keys", key, NameRule)
		}
		seen[key] = true
	}
	for _, v := range u.Variables {
		if len(v.Pattern) > maxPattern {
			return fmt.Errorf("[[unit.variable]] %s: the pattern has %d bytes; it may have %d", v.Name, len(v.Pattern), maxPattern)
		}
		if _, err := regexp.Compile(`^(?:` + v.Pattern + `)$`); v.Pattern == "" || err != nil {
			return fmt.Errorf("[[unit.variable]] %s: the pattern %.80q is not a regular expression", v.Name, v.Pattern)
		}
	}
	return nil
}
