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

	"imgtool/image/boardinfo"
	"imgtool/layouts"
)

//go:embed *.toml edits/*.toml
var builtin embed.FS

// Board is a definition that was read and checked.
type Board struct {
	Name        string            `toml:"name"`
	Description string            `toml:"description"`
	Arch        string            `toml:"arch"` // as Debian and OCI name it
	Media       []Medium          `toml:"medium"`
	Optional    []Optional        `toml:"optional"`
	Trees       []Tree            `toml:"tree"`
	Vars        map[string]string `toml:"vars"` // for edits, beside those of the builder
	State       State             `toml:"state"`
	Unit        boardinfo.Unit    `toml:"unit"`
	Live        Live              `toml:"live"`
	Conf        Conf              `toml:"conf"`
	Boot        []File            `toml:"boot"`
	Seed        Seed              `toml:"seed"`
	Script      Script            `toml:"script"`
	Recovery    Recovery          `toml:"recovery"`
	Starter     Starter           `toml:"starter"`

	Source []byte `toml:"-"` // the definition as it was read
}

// Medium is a disk of the board.
type Medium struct {
	Name   string `toml:"name"`
	Kind   string `toml:"kind"`   // one of boardinfo.Kinds; empty: the name, if it is one
	Layout string `toml:"layout"` // a built-in one, or a file beside the board's
	Device string `toml:"device"` // what the board's Linux calls it, such as /dev/mmcblk0
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

// Optional is an input that may be left out.
type Optional struct {
	Input   string `toml:"input"`
	Kind    string `toml:"kind"`
	Path    string `toml:"path"`    // in the root file system, where it takes the place of what is there
	Without string `toml:"without"` // what it means that it is missing
}

// Tree is a root file system, or another, made from an input or another tree.
type Tree struct {
	Name    string   `toml:"name"`
	From    string   `toml:"from"`    // rootfs, or a tree before this one; empty: nothing
	Sub     string   `toml:"sub"`     // only this folder of it, as the root; it may be missing
	Without []string `toml:"without"` // patterns of what is left out, as edit.Derive has them
	Live    bool     `toml:"live"`    // leaves out what only a running system has there, as edit.Live
	Steps   []Step   `toml:"step"`
	Forbid  []string `toml:"forbid"` // paths that must not be in it
	Boots   bool     `toml:"boots"`  // a boot loader reads /boot/extlinux/extlinux.conf of it
}

// Step is a file of edits.
type Step struct {
	Edits   string `toml:"edits"`   // one that comes with the program, or a file beside the board's
	Profile string `toml:"profile"` // for this profile only
	Unless  string `toml:"unless"`  // not if this is asked for, see Board.Options

	// As medium/partition: only if the board has it. [conf.empty] can leave it out.
	Partition string `toml:"partition"`

	Text []byte `toml:"-"`
}

// State is the file that says that a medium was provisioned.
type State struct {
	Paths []string `toml:"paths"` // in the trees that have it, the first is looked at
	Steps []string `toml:"steps"` // what was done, in order
}

// Live is how a unit that runs is provisioned from its own root file system. The
// first and the last of State.Steps are for the check and the end, those of no medium
// for what is changed in the root.
type Live struct {
	Tree  string       `toml:"tree"` // what its root is to be
	Media []LiveMedium `toml:"medium"`
	Stop  []string     `toml:"stop"` // units of systemd that write to what is moved
	Last  []string     `toml:"last"` // files that switch the boot over, changed last and in this order
	Log   string       `toml:"log"`  // what its steps are in the journal under
}

// LiveMedium is a medium that is made of the root, in the order of the definition.
type LiveMedium struct {
	Name string `toml:"name"`
	Step int    `toml:"step"` // of State.Steps, from 1 on
}

// Profiles are for what an image is: production is the default.
var Profiles = []string{"production", "development"}

// File is an input on every boot partition.
type File struct {
	Path  string `toml:"path"`
	Input string `toml:"input"`
	Kind  string `toml:"kind"`
}

// Seed says where a seed configuration goes.
type Seed struct {
	Path    string `toml:"path"`    // on the boot partition of slot A; empty: none
	Format  string `toml:"format"`  // atomixos, or empty for any TOML
	Without string `toml:"without"` // why there is none, and what to do instead
}

// NoSeed is the error of a seed for a board that takes none, with the reason.
func (b *Board) NoSeed() error {
	if b.Seed.Without == "" {
		return fmt.Errorf("%s takes no seed", b.Name)
	}
	return fmt.Errorf("%s takes no seed: %s", b.Name, b.Seed.Without)
}

// Script is the boot script with @BUILD_ID@, @CMDLINE@ and @SLOT_SELECT@ in its text.
type Script struct {
	Path string `toml:"path"`
	Text string `toml:"text"`

	// What chooses the slot: bootmeth, which is U-Boot's own method for RAUC, or script.
	SlotSelect string `toml:"slot-select"`
}

// SlotSelects are what can choose a slot.
var SlotSelects = []string{"bootmeth", "script"}

// Recovery is how a board shows its disk to a host over USB.
type Recovery struct {
	Enter string    `toml:"enter"` // what a person does to get there
	USB   []USBDisk `toml:"usb"`   // any of these

	UBoot    string   `toml:"u-boot"`   // the input that is U-Boot
	Commands []string `toml:"commands"` // of UBootCommands, that it needs
}

// USBDisk is what tells the board's disk from others. What is left out is not
// asked; what is matched by a regular expression is matched as a whole.
type USBDisk struct {
	Medium       string   `toml:"medium"`       // which of the board's it is; empty: the only one
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

	Programs []Program `toml:"program"`

	// With the starter's root file system, in place of the script's.
	SlotSelect string `toml:"slot-select"`
}

// Program is one of a Debian package, with the shared libraries it needs.
type Program struct {
	Package string `toml:"package"` // or several as NAME|NAME: the first that has it
	Path    string `toml:"path"`
	In      string `toml:"in"`  // initrd or rootfs
	Dir     string `toml:"dir"` // where it is put; empty is bin in an initrd and usr/bin in a root file system
	// Optional programs are left out where no version of the package has them.
	Optional bool `toml:"optional"`
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
	var names []string
	for _, f := range files {
		// The rest is boards with another layout, NAME.LAYOUT.toml.
		if name := strings.TrimSuffix(f, ".toml"); !strings.Contains(name, ".") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Layouts are the other layouts a board that comes with the program can have.
func Layouts(board string) []string {
	files, _ := fs.Glob(builtin, board+".*.toml")
	for i, f := range files {
		files[i] = strings.TrimSuffix(strings.TrimPrefix(f, board+"."), ".toml")
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
	if err := b.normalizeUnit(); err != nil {
		return nil, err
	}
	for i := range b.Media {
		if err := b.Media[i].load(beside); err != nil {
			return nil, fmt.Errorf("%s: medium %q: %w", file, b.Media[i].Name, err)
		}
	}
	for i := range b.Trees {
		for j := range b.Trees[i].Steps {
			if err := b.Trees[i].Steps[j].load(beside); err != nil {
				return nil, fmt.Errorf("%s: tree %q: %w", file, b.Trees[i].Name, err)
			}
		}
	}
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, l := range b.Conf.Lists {
		if err := b.SetList(l.Key, l.Default); err != nil {
			return nil, fmt.Errorf("%s: [[conf.list]] %s: %w", file, l.Key, err)
		}
	}
	return b, nil
}

func (s *Step) load(beside fs.FS) (err error) {
	if strings.HasSuffix(s.Edits, ".toml") && beside != nil {
		s.Text, err = fs.ReadFile(beside, s.Edits)
	} else {
		s.Text, err = builtin.ReadFile("edits/" + s.Edits + ".toml")
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("edits: there is no file %q", s.Edits)
	}
	if err != nil {
		return fmt.Errorf("edits: %w", err)
	}
	return nil
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
	case (b.Script.Path == "") != (b.Script.Text == ""):
		return errors.New("[script] needs both path and text")
	}
	if err := b.checkTrees(); err != nil {
		return err
	}
	media, late := map[string]bool{}, ""
	for _, m := range b.Media {
		if err := (boardinfo.Medium{Name: m.Name, Kind: m.Kind}).Check(); err != nil {
			return err
		}
		if media[m.Name] {
			return fmt.Errorf("there are two media %s", m.Name)
		}
		media[m.Name] = true
		if m.Placing.Repart() != nil {
			if late != "" {
				return fmt.Errorf("media %s and %s both leave partitions to the device: one at most can", late, m.Name)
			}
			late = m.Name
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
	if b.Seed.Path != "" && b.Seed.Without != "" {
		return errors.New("[seed] has a path, and says why there is none")
	}
	if err := boardinfo.CheckSeedFormat(b.Seed.Format); err != nil {
		return err
	}
	for _, path := range []string{b.Script.Path, b.Seed.Path} {
		if path != "" {
			if err := taken(path); err != nil {
				return err
			}
		}
	}
	for _, u := range b.Recovery.USB {
		if u.Medium != "" && !media[u.Medium] || u.Medium == "" && len(b.Media) > 1 {
			return fmt.Errorf("[[recovery.usb]] is for the medium %q; there are %s", u.Medium, strings.Join(b.MediaNames(), ", "))
		}
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
	if err := b.Recovery.check(b.Inputs()); err != nil {
		return err
	}
	for _, by := range []string{b.Script.SlotSelect, b.Starter.SlotSelect} {
		if by != "" && !slices.Contains(SlotSelects, by) {
			return fmt.Errorf("slot-select is %q; there are %s", by, strings.Join(SlotSelects, ", "))
		}
	}
	for _, p := range b.Starter.Programs {
		if p.Package == "" || !fs.ValidPath(p.Path) || p.In != "initrd" && p.In != "rootfs" {
			return fmt.Errorf("[[starter.program]] %q needs a package, a path such as usr/bin/NAME, and in = \"initrd\" or \"rootfs\"", p.Path)
		}
	}
	for name := range b.Starter.Inputs {
		if !known[name] {
			return fmt.Errorf("[starter.inputs] has %q, which the board does not use; it uses %s", name, strings.Join(b.Inputs(), ", "))
		}
	}
	return nil
}

func (b *Board) checkTrees() error {
	known := map[string]bool{"rootfs": true, "": true}
	for _, t := range b.Trees {
		switch {
		case !goodName.MatchString(t.Name) || known[t.Name]:
			return fmt.Errorf("a tree's name is %q; it must be 1 to 64 lower-case letters, digits and any of - . _, and be there once", t.Name)
		case !known[t.From]:
			return fmt.Errorf("tree %s is from %q, and no tree before it is", t.Name, t.From)
		}
		for _, s := range t.Steps {
			if s.Profile != "" && !slices.Contains(Profiles, s.Profile) {
				return fmt.Errorf("tree %s: profile %q is not known; there are %s", t.Name, s.Profile, strings.Join(Profiles, ", "))
			}
		}
		known[t.Name] = true
	}
	for _, m := range b.Media {
		for _, p := range m.Placing.Partitions {
			if p.Tree == "rootfs" || !known[p.Tree] {
				return fmt.Errorf("partition %s of medium %s holds the tree %q, which there is not", p.Name, m.Name, p.Tree)
			}
		}
	}
	for _, t := range b.Trees {
		for _, s := range t.Steps {
			if _, err := b.Partition(s.Partition); s.Partition != "" && err != nil {
				return fmt.Errorf("tree %s: %w", t.Name, err)
			}
		}
	}
	if err := b.checkConf(); err != nil {
		return err
	}
	for _, o := range b.Optional {
		if err := checkKind(o.Input, o.Kind); err != nil {
			return err
		}
	}
	if err := b.checkLive(); err != nil {
		return err
	}
	return b.checkUnit()
}

func (b *Board) checkLive() error {
	l, steps := b.Live, map[int]bool{}
	if l.Tree == "" {
		return nil
	}
	if !slices.ContainsFunc(b.Trees, func(t Tree) bool { return t.Name == l.Tree }) {
		return fmt.Errorf("[live] has the tree %q, which there is not", l.Tree)
	}
	if len(b.State.Paths) == 0 || len(b.State.Steps) < 2 {
		return errors.New("[live] needs [state] with paths and steps")
	}
	for _, m := range l.Media {
		if !slices.Contains(b.MediaNames(), m.Name) {
			return fmt.Errorf("[[live.medium]] is %q; there are %s", m.Name, strings.Join(b.MediaNames(), ", "))
		}
		if m.Step < 2 || m.Step >= len(b.State.Steps) || steps[m.Step] {
			return fmt.Errorf("[[live.medium]] %s has the step %d; it must be one of its own from 2 to %d", m.Name, m.Step, len(b.State.Steps)-1)
		}
		steps[m.Step] = true
	}
	return nil
}

func (b *Board) checkUnit() error {
	if err := b.Unit.Check(); err != nil {
		return err
	}
	for _, place := range b.Unit.Places {
		p, err := b.Partition(place.Partition)
		switch {
		case err != nil:
			return fmt.Errorf("[[unit.place]]: %w", err)
		case p.Content != "ext4":
			return fmt.Errorf("[[unit.place]]: the content of %s is %q; it must be ext4", place.Partition, p.Content)
		case place.Only != "" && !slices.Contains(b.Options(), place.Only):
			return fmt.Errorf("[[unit.place]] %s: unknown option %q", place.Partition, place.Only)
		}
	}
	return nil
}

// MediaNames are the names of the media.
func (b *Board) MediaNames() (names []string) {
	for _, m := range b.Media {
		names = append(names, m.Name)
	}
	return names
}

// Repart are the definitions for systemd-repart of the medium with partitions that the
// device makes, or nothing if none has.
func (b *Board) Repart() []layouts.Definition {
	for _, m := range b.Media {
		if all := m.Placing.Repart(); all != nil {
			return all
		}
	}
	return nil
}

// IsOptional says what it means if an input is missing, and whether it may be.
func (b *Board) IsOptional(input string) (without string, ok bool) {
	for _, o := range b.Optional {
		if o.Input == input {
			return o.Without, true
		}
	}
	return "", false
}

// Options are what can be asked for beside a profile.
func (b *Board) Options() (names []string) {
	for _, t := range b.Trees {
		for _, s := range t.Steps {
			if s.Unless != "" && !slices.Contains(names, s.Unless) {
				names = append(names, s.Unless)
			}
		}
	}
	return names
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
	root := slices.ContainsFunc(b.Trees, func(t Tree) bool { return t.From == "rootfs" })
	for _, m := range b.Media {
		for _, p := range m.Placing.Partitions {
			if p.Content == "input" {
				add(p.Input)
			}
			root = root || p.Content == "rootfs"
		}
	}
	for _, o := range b.Optional {
		add(o.Input)
	}
	if root {
		add("rootfs")
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
	for _, o := range b.Optional {
		if o.Input == input {
			return o.Kind
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
