package boards

import (
	"fmt"

	"imgtool/image/boardinfo"
	"imgtool/layouts"
)

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
