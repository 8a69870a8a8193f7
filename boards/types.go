package boards

import (
	"fmt"

	"imgtool/image/boardinfo"
	"imgtool/layouts"
)

// Board is a checked definition.
type Board struct {
	Name        string            `toml:"name"`
	Description string            `toml:"description"`
	Arch        string            `toml:"arch"` // as Debian and OCI name it
	Media       []Medium          `toml:"medium"`
	Optional    []Optional        `toml:"optional"`
	Trees       []Tree            `toml:"tree"`
	Vars        map[string]string `toml:"vars"` // for edits, beside the variables that a build sets
	State       State             `toml:"state"`
	Unit        boardinfo.Unit    `toml:"unit"`
	Live        Live              `toml:"live"`
	Conf        Conf              `toml:"conf"`
	Boot        []File            `toml:"boot"`
	Seed        Seed              `toml:"seed"`
	Verity      bool              `toml:"verity"` // the root file systems of slots have hash trees for dm-verity
	Script      Script            `toml:"script"`
	Recovery    Recovery          `toml:"recovery"`
	Trust       Trust             `toml:"trust"`
	AfterFlash  string            `toml:"after-flash"` // what to do with a disk that was written
	Starter     Starter           `toml:"starter"`
	RAUC        RAUC              `toml:"rauc"`

	Source []byte `toml:"-"` // the text of the definition
}

// Medium is a disk of the board.
type Medium struct {
	Name       string           `toml:"name"`
	Kind       string           `toml:"kind"`   // of boardinfo.Kinds; empty: the name, if it is a kind
	LayoutName string           `toml:"layout"` // a built-in layout, or a file in the directory of the board
	Device     string           `toml:"device"` // the name in the board's Linux, such as /dev/mmcblk0
	Blobs      []boardinfo.Blob `toml:"blob"`

	Layout       *layouts.Layout `toml:"-"`
	LayoutSource []byte          `toml:"-"`
}

// Optional is an input that may be missing.
type Optional struct {
	Input   string `toml:"input"`
	Kind    string `toml:"kind"`
	Path    string `toml:"path"`    // in the root file system, where it replaces a file; empty: none
	Without string `toml:"without"` // warning if it is missing
}

// Tree is a file system that is made from an input or another tree.
type Tree struct {
	Name    string   `toml:"name"`
	From    string   `toml:"from"`    // rootfs, or a tree before this one; empty: an empty tree
	Sub     string   `toml:"sub"`     // only this directory of it, as the root; it may be missing
	Without []string `toml:"without"` // patterns of paths to leave out, see edit.Derive
	Live    bool     `toml:"live"`    // leave out the paths of a running system, see edit.Live
	Steps   []Step   `toml:"step"`
	Forbid  []string `toml:"forbid"` // paths that must not exist
	Boots   bool     `toml:"boots"`  // the boot loader reads its /boot/extlinux/extlinux.conf
}

// Step is a file of edits.
type Step struct {
	Edits   string `toml:"edits"`   // built-in edits, or a file in the directory of the board
	Profile string `toml:"profile"` // only for this profile
	Unless  string `toml:"unless"`  // not with this option, see Board.Options

	// Only if the board has this partition, medium/partition. [conf.empty] can remove it.
	Partition string `toml:"partition"`

	Text []byte `toml:"-"`
}

// State is the file that records the provisioning of a medium.
type State struct {
	Paths []string `toml:"paths"` // in the trees; the first is read
	Steps []string `toml:"steps"` // the steps, in order
}

// Live is how a running unit is provisioned from its own root file system. The first of
// State.Steps is the check, the last the end; steps of no medium are changes of the root file
// system.
type Live struct {
	Tree  string       `toml:"tree"` // the tree that its root becomes
	Media []LiveMedium `toml:"medium"`
	Stop  []string     `toml:"stop"` // systemd units that write to directories that are moved
	Last  []string     `toml:"last"` // files that change what is booted, changed last and in this order
	Log   string       `toml:"log"`  // identifier of its messages in the journal
}

// LiveMedium is a medium that is made from the root file system, in this order.
type LiveMedium struct {
	Name string `toml:"name"`
	Step int    `toml:"step"` // of State.Steps, counted from 1
}

// Profiles are the purposes of an image. The first is the default.
var Profiles = []string{"production", "development"}

// File is an input on each boot partition.
type File struct {
	Path  string `toml:"path"`
	Input string `toml:"input"`
	Kind  string `toml:"kind"`
}

// Seed is the place of a seed configuration.
type Seed struct {
	Path    string `toml:"path"`    // on the boot partition of slot A; empty: none
	Format  string `toml:"format"`  // atomixos, or empty for any TOML
	Without string `toml:"without"` // why the board takes none, and what to do instead
}

// NoSeed returns the error for a seed if the board takes none.
func (b *Board) NoSeed() error {
	if b.Seed.Without == "" {
		return fmt.Errorf("%s takes no seed: its definition has no path in [seed]", b.Name)
	}
	return fmt.Errorf("%s takes no seed: %s", b.Name, b.Seed.Without)
}

// Script is the boot script. @BUILD_ID@, @CMDLINE@, @SLOT_SELECT@, @ROOTFS_TYPE@ and @VERITY@ are
// replaced in its text.
type Script struct {
	Path string `toml:"path"`
	Text string `toml:"text"`

	// How the slot is chosen: bootmeth, which is U-Boot's boot method for RAUC, or script.
	SlotSelect string `toml:"slot-select"`
}

// VerityMark is replaced in a boot script by the kernel's arguments for dm-verity, with a space
// before them, or by nothing.
const VerityMark = "@VERITY@"

// SlotSelects are the ways to choose a slot.
var SlotSelects = []string{"bootmeth", "script"}

// Recovery is how a board exposes its disks over USB.
type Recovery struct {
	Enter string    `toml:"enter"` // instructions for the user
	USB   []USBDisk `toml:"usb"`   // the disk matches an element

	UBoot    string   `toml:"u-boot"`   // the input with U-Boot
	Commands []string `toml:"commands"` // of UBootCommands, that recovery needs
}

// USBDisk are the properties of a disk of the board. Empty properties are ignored. Regular
// expressions match whole values.
type USBDisk struct {
	Medium       string   `toml:"medium"`       // empty: the only medium
	VendorID     string   `toml:"vendor-id"`    // four hexadecimal digits
	ProductIDs   []string `toml:"product-ids"`  // the disk has any of these
	Interface    string   `toml:"interface"`    // class/subclass/protocol, such as 08/06/50
	Manufacturer string   `toml:"manufacturer"` // regular expressions from here on
	Product      string   `toml:"product"`
	Vendor       string   `toml:"vendor"` // of the SCSI inquiry, as model and rev
	Model        string   `toml:"model"`
	Rev          string   `toml:"rev"`
	Sectors      int64    `toml:"sectors"` // of 512 bytes, exactly
}

// Starter describes the system that is built without inputs, see package starter.
type Starter struct {
	Kernel  string            `toml:"kernel"`  // Debian package with kernel and modules
	Busybox string            `toml:"busybox"` // Debian package with a static /bin/busybox
	Modules []string          `toml:"modules"` // for the initrd; their dependencies are added
	Inputs  map[string]string `toml:"inputs"`  // references by input

	Programs []Program `toml:"program"`

	// Replaces the slot-select of the script if the root file system is the starter's.
	SlotSelect string `toml:"slot-select"`
}

// Program is a program of a Debian package. The shared libraries that it needs are added.
type Program struct {
	Package string `toml:"package"` // or NAME|NAME: the first that has the program
	Path    string `toml:"path"`
	In      string `toml:"in"`  // initrd or rootfs
	Dir     string `toml:"dir"` // directory in the target; empty: bin in an initrd, usr/bin in a root file system
	If      string `toml:"if"`  // verity: only for a board with dm-verity
	// An optional program is left out if the package does not have it.
	Optional bool `toml:"optional"`
}

// RAUC describes the update bundles for devices with RAUC. A board without Compatible has
// none.
type RAUC struct {
	Compatible  string      `toml:"compatible"` // as in the system.conf of the devices
	Version     string      `toml:"version"`    // empty: the build ID
	Description string      `toml:"description"`
	HookFile    string      `toml:"hook-file"` // a file in the directory of the board
	Hooks       []string    `toml:"hooks"`     // of the whole bundle
	Images      []RAUCImage `toml:"image"`

	// SHA-256 of public keys whose private keys are public, too. Bundles that they sign are
	// for development.
	DevelopmentKeys []string `toml:"development-keys"`

	HookText []byte `toml:"-"`
}

// RAUCImage is the content of a partition, which RAUC writes to a slot.
type RAUCImage struct {
	Slot      string   `toml:"slot"`      // the class of the slots, as in their system.conf
	Medium    string   `toml:"medium"`    // empty: the first
	Partition string   `toml:"partition"` // of slot a
	File      string   `toml:"file"`      // its name in the bundle, from which RAUC knows its type
	Hooks     []string `toml:"hooks"`
	Adaptive  []string `toml:"adaptive"`
}
