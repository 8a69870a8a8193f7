// Package boards is what each board is flashed with, as data: its media and
// their layouts, the blobs its boot ROM reads, the files and the script on its
// boot partitions, and where inputs come from when none are given.
package boards

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"imgtool/layouts"
)

//go:embed *.toml
var builtin embed.FS

// Board is a definition that was read and checked.
type Board struct {
	Name        string   `toml:"name"`
	Description string   `toml:"description"`
	Arch        string   `toml:"arch"` // as Debian and OCI name it
	Media       []Medium `toml:"medium"`
	Boot        []File   `toml:"boot"`
	Seed        Seed     `toml:"seed"`
	Script      Script   `toml:"script"`
	Recovery    Recovery `toml:"recovery"`
	Starter     Starter  `toml:"starter"`

	Source []byte `toml:"-"` // the definition as it was read
}

// Medium is a disk of the board.
type Medium struct {
	Name   string `toml:"name"`
	Layout string `toml:"layout"` // a built-in one, or a file beside the board's
	Blobs  []Blob `toml:"blob"`

	Placing       *layouts.Layout `toml:"-"`
	PlacingSource []byte          `toml:"-"`
}

// Blob is an input that lies on a medium outside of its partitions.
type Blob struct {
	Input  string `toml:"input"`
	Sector int64  `toml:"sector"` // of 512 bytes
	Kind   string `toml:"kind"`   // what it should look like, see Kinds
}

// File is an input on every boot partition.
type File struct {
	Path  string `toml:"path"`
	Input string `toml:"input"`
	Kind  string `toml:"kind"`
}

// Seed says where a seed configuration goes.
type Seed struct {
	Path string `toml:"path"` // on the boot partition of slot A; empty: none
}

// Script is the boot script with @BUILD_ID@ and @CMDLINE@ in its text.
type Script struct {
	Path string `toml:"path"`
	Text string `toml:"text"`
}

// Recovery is how a board shows its disk to a host over USB.
type Recovery struct {
	Enter string    `toml:"enter"` // what a person does to get there
	USB   []USBDisk `toml:"usb"`   // any of these
}

// USBDisk is what tells the board's disk from others. What is left out is not
// asked; what is matched by a regular expression is matched as a whole.
type USBDisk struct {
	VendorID     string   `toml:"vendor-id"`    // four hexadecimal digits
	ProductIDs   []string `toml:"product-ids"`  // any of these
	Interface    string   `toml:"interface"`    // class/subclass/protocol, such as 08/06/50
	Manufacturer string   `toml:"manufacturer"` // regular expressions from here on
	Product      string   `toml:"product"`
	Vendor       string   `toml:"vendor"` // of the SCSI inquiry, as model and rev
	Model        string   `toml:"model"`
	Rev          string   `toml:"rev"`
	Sectors      int64    `toml:"sectors"` // of 512 bytes, exactly
}

// Starter is a small system to build when no inputs are given.
type Starter struct {
	Kernel  string            `toml:"kernel"`  // Debian package with kernel and modules
	Busybox string            `toml:"busybox"` // Debian package with a static /bin/busybox
	Modules []string          `toml:"modules"` // for the initrd, without what they depend on
	Inputs  map[string]string `toml:"inputs"`  // input to reference
}

// Kinds are what inputs can be recognised as: bytes at an offset.
var Kinds = map[string][]Magic{
	"rockchip-idb": {{0, "\x3b\x8c\xdc\xfc"}},
	"fit":          {{0, "\xd0\x0d\xfe\xed"}},
	"dtb":          {{0, "\xd0\x0d\xfe\xed"}},
	"arm64-image":  {{56, "ARM\x64"}}, // Documentation/arch/arm64/booting.rst
	"initrd": {{0, "070701"}, {0, "070702"}, {0, "\x1f\x8b"}, {0, "\x28\xb5\x2f\xfd"}, {0, "\xfd7zXZ\x00"},
		{0, "BZh"}, {0, "\x02\x21\x4c\x18"}, {0, "\x5d\x00\x00"}, {0, "\x89LZO"}, {0, "\x27\x05\x19\x56"}},
}

// Magic is bytes that a kind of file has at an offset.
type Magic struct {
	Off   int64
	Bytes string
}

// Names are the boards that come with the program.
func Names() []string {
	files, _ := fs.Glob(builtin, "*.toml")
	for i, f := range files {
		files[i] = strings.TrimSuffix(f, ".toml")
	}
	return files
}

// Get returns a board that comes with the program.
func Get(name string) (*Board, error) {
	text, err := builtin.ReadFile(name + ".toml")
	if err != nil {
		return nil, fmt.Errorf("there is no board %q; there are %s, or give the path of a definition such as ./mine.toml", name, strings.Join(Names(), ", "))
	}
	return Parse("boards/"+name+".toml", text, nil)
}

// Parse reads and checks a definition. Layouts that do not come with the program
// are looked for in beside, which may be nil.
func Parse(file string, text []byte, beside fs.FS) (*Board, error) {
	b := &Board{Source: text}
	if err := layouts.Decode(file, text, b); err != nil {
		return nil, err
	}
	for i := range b.Media {
		if err := b.Media[i].load(beside); err != nil {
			return nil, fmt.Errorf("%s: medium %q: %w", file, b.Media[i].Name, err)
		}
	}
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return b, nil
}

func (m *Medium) load(beside fs.FS) (err error) {
	if strings.HasSuffix(m.Layout, ".toml") && beside != nil {
		if m.PlacingSource, err = fs.ReadFile(beside, m.Layout); err != nil {
			return fmt.Errorf("layout: %w", err)
		}
		m.Placing, err = layouts.Parse(m.Layout, m.PlacingSource)
		return err
	}
	if m.PlacingSource, err = layouts.Source(m.Layout); err != nil {
		return err
	}
	m.Placing, err = layouts.Get(m.Layout)
	return err
}

var hexID = regexp.MustCompile(`^[0-9a-f]{4}$`)

var goodName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

func (b *Board) check() error {
	switch {
	case !goodName.MatchString(b.Name):
		return fmt.Errorf("name is %q; it must be 1 to 64 lower-case letters, digits and any of - . _", b.Name)
	case b.Arch == "":
		return errors.New("arch is missing")
	case len(b.Media) == 0:
		return errors.New("there is no [[medium]]")
	case len(b.Media) > 1:
		return fmt.Errorf("there are %d media; one is what can be built", len(b.Media))
	case (b.Script.Path == "") != (b.Script.Text == ""):
		return errors.New("[script] needs both path and text")
	}
	for _, m := range b.Media {
		if !goodName.MatchString(m.Name) {
			return fmt.Errorf("a medium's name is %q; it must be 1 to 64 lower-case letters, digits and any of - . _", m.Name)
		}
		for _, blob := range m.Blobs {
			if blob.Input == "rootfs" {
				return errors.New("a blob cannot be the input rootfs: that is the root file system")
			}
			if blob.Input == "" || blob.Sector < 1 {
				return fmt.Errorf("a blob of medium %q needs an input and a sector from 1 on", m.Name)
			}
			if err := checkKind(blob.Input, blob.Kind); err != nil {
				return err
			}
		}
	}
	paths := map[string]bool{}
	taken := func(path string) error {
		if path == "" || strings.HasPrefix(path, "/") || !fs.ValidPath(path) || path == "." {
			return fmt.Errorf("%q is no path on a boot partition", path)
		}
		if lower := strings.ToLower(path); paths[lower] {
			return fmt.Errorf("the boot partition has two files %s", path)
		} else {
			paths[lower] = true
		}
		return nil
	}
	for _, f := range b.Boot {
		if f.Input == "rootfs" {
			return fmt.Errorf("the file %q on the boot partition cannot be the input rootfs: that is the root file system", f.Path)
		}
		if f.Input == "" {
			return fmt.Errorf("the file %q on the boot partition needs an input", f.Path)
		}
		if err := errors.Join(taken(f.Path), checkKind(f.Input, f.Kind)); err != nil {
			return err
		}
	}
	for _, path := range []string{b.Script.Path, b.Seed.Path} {
		if path != "" {
			if err := taken(path); err != nil {
				return err
			}
		}
	}
	for _, u := range b.Recovery.USB {
		if !hexID.MatchString(u.VendorID) || slices.ContainsFunc(u.ProductIDs, func(id string) bool { return !hexID.MatchString(id) }) {
			return fmt.Errorf("[[recovery.usb]] has the ids %q and %q; each must be four lower-case hexadecimal digits", u.VendorID, u.ProductIDs)
		}
		for _, pattern := range []string{u.Manufacturer, u.Product, u.Vendor, u.Model, u.Rev} {
			if _, err := regexp.Compile(pattern); err != nil {
				return fmt.Errorf("[[recovery.usb]]: %w", err)
			}
		}
	}
	known := map[string]bool{"rootfs": true}
	for _, name := range b.Inputs() {
		known[name] = true
	}
	for name := range b.Starter.Inputs {
		if !known[name] {
			return fmt.Errorf("[starter.inputs] has %q, which the board does not use; it uses %s", name, strings.Join(b.Inputs(), ", "))
		}
	}
	return nil
}

func checkKind(input, kind string) error {
	if kind != "" && Kinds[kind] == nil {
		return fmt.Errorf("%s: kind %q is not known", input, kind)
	}
	return nil
}

// Inputs are the names of the inputs the board uses, in the order of the
// definition, the root file system ("rootfs") last.
func (b *Board) Inputs() []string {
	var names []string
	seen := map[string]bool{}
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for _, m := range b.Media {
		for _, blob := range m.Blobs {
			add(blob.Input)
		}
	}
	for _, f := range b.Boot {
		add(f.Input)
	}
	for _, m := range b.Media {
		for _, p := range m.Placing.Partitions {
			if p.Content == "rootfs" {
				add("rootfs")
			}
		}
	}
	return names
}

// KindOf is what an input should look like, or "".
func (b *Board) KindOf(input string) string {
	for _, m := range b.Media {
		for _, blob := range m.Blobs {
			if blob.Input == input {
				return blob.Kind
			}
		}
	}
	for _, f := range b.Boot {
		if f.Input == input {
			return f.Kind
		}
	}
	return ""
}

// LooksLike says whether something starts as files of a kind do. Everything
// looks like no kind.
func LooksLike(kind string, r io.ReaderAt) bool {
	for _, m := range Kinds[kind] {
		got := make([]byte, len(m.Bytes))
		if n, _ := r.ReadAt(got, m.Off); n == len(got) && string(got) == m.Bytes {
			return true
		}
	}
	return kind == ""
}
