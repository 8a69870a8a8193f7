package build

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"imgtool/boards"
	"imgtool/image/fault"
	"imgtool/image/squashfs/codec"
	"imgtool/image/suggest"
	"imgtool/layouts"
)

// MissingInputsError means that inputs were not given.
type MissingInputsError struct {
	Board string
	Names []string
}

func (e *MissingInputsError) Error() string {
	if len(e.Names) == 1 {
		return fmt.Sprintf("%s needs the input %s, which is missing", e.Board, e.Names[0])
	}
	return fmt.Sprintf("%s needs the inputs %s, which are missing", e.Board, strings.Join(e.Names, ", "))
}

var goodID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

// check checks the options without opening an input.
func (b *builder) check() (err error) {
	if err := b.checkMedia(); err != nil {
		return err
	}
	if err := b.checkOptions(); err != nil {
		return fault.As(fault.Usage, err)
	}
	if b.codec, err = codec.Describe(b.Compression); err != nil {
		return fault.As(fault.Usage, err)
	}
	if err := b.checkSeed(); err != nil {
		return err
	}
	return b.checkInputs()
}

// checkOptions checks what is said about the board and not in a file.
func (b *builder) checkOptions() error {
	b.Profile = cmp.Or(b.Profile, boards.Profiles[0])
	if err := b.checkProfile(); err != nil {
		return err
	}
	for flag := range b.Flags {
		if !slices.Contains(b.Board.Options(), flag) {
			return fmt.Errorf("%s has no option %s", b.Board.Name, flag)
		}
	}
	if err := b.squashfs().Check(); err != nil {
		return err
	}
	if b.BuildID != "" && !goodID.MatchString(b.BuildID) {
		return fmt.Errorf("build id %q: it must be 1 to 64 letters, digits and . _ + -, starting with a letter or digit", b.BuildID)
	}
	if err := b.checkVars(); err != nil {
		return err
	}
	if err := checkCmdline(b.Cmdline); err != nil {
		return err
	}
	if script := b.Board.Script.Text; b.Cmdline != "" && !strings.Contains(script, cmdlineMark) {
		b.Warn(fmt.Sprintf("the kernel arguments %q are not used: %s has no boot script for them; change its boot configuration with --edits", b.Cmdline, b.Board.Name))
	} else if _, err := putCmdline(script, b.Cmdline); err != nil {
		return err
	}
	return nil
}

func (b *builder) checkProfile() error {
	if !slices.Contains(boards.Profiles, b.Profile) {
		return errors.New(suggest.Unknown("profile", b.Profile, boards.Profiles))
	}
	if b.Profile != boards.Profiles[0] && !b.Board.HasProfiles() && !b.uses("PROFILE") {
		return fmt.Errorf("%s is the same in all profiles: leave out --profile %s", b.Board.Name, b.Profile)
	}
	return nil
}

// checkVars refuses variables that nothing uses.
func (b *builder) checkVars() error {
	known := slices.AppendSeq(slices.Collect(maps.Keys(b.Board.Vars)), maps.Keys(b.partitionVars()))
	for name := range b.Vars {
		if slices.Contains(known, name) || slices.Contains([]string{"KERNEL", "KERNEL_DTB", "TFTP_ROOT"}, name) || b.uses(name) {
			continue
		}
		return fmt.Errorf("variable %s: nothing in the build of %s uses @%s@%s", name, b.Board.Name, name, suggest.DidYouMean(name, known))
	}
	return nil
}

// checkInputs checks the names of the inputs, and sets the missing ones to their default.
func (b *builder) checkInputs() error {
	inputs := b.Board.Inputs()
	for name, ref := range b.Inputs {
		if !slices.Contains(inputs, name) {
			return fault.New(fault.Usage, "%s has no input %q%s (it has %s)", b.Board.Name, name, suggest.DidYouMean(name, inputs), strings.Join(inputs, ", "))
		}
		if ref == "starter" && b.Board.Starter.Inputs[name] == "" {
			return fault.New(fault.Usage, "%s has no default source for %s: pass --input %s=FILE", b.Board.Name, name, name)
		}
	}
	none := len(b.Inputs) == 0
	if none {
		b.Inputs = map[string]string{}
	}
	var missing []string
	for _, name := range inputs {
		_, optional := b.Board.IsOptional(name)
		switch {
		case none && b.Board.Starter.Inputs[name] != "":
			b.Inputs[name] = "starter"
		case b.Inputs[name] == "" && !optional:
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return &MissingInputsError{b.Board.Name, missing}
	}
	for name, ref := range b.Inputs {
		if ref == "starter" {
			b.Inputs[name] = b.Board.Starter.Inputs[name]
		}
	}
	return nil
}

func (b *builder) checkMedia() error {
	for _, name := range slices.AppendSeq(slices.Clone(b.Media), maps.Keys(b.Sizes)) {
		if !slices.Contains(b.Board.MediaNames(), name) {
			return fault.New(fault.Usage, "%s has no medium %q%s (it has %s)", b.Board.Name, name, suggest.DidYouMean(name, b.Board.MediaNames()), strings.Join(b.Board.MediaNames(), ", "))
		}
	}
	for i := range b.Board.Media {
		d := &disk{Medium: &b.Board.Media[i]}
		if len(b.Media) > 0 && !slices.Contains(b.Media, d.Name) {
			continue
		}
		if len(b.Board.Media) > 1 {
			d.prefix = d.Name + "/"
		}
		var err error
		if d.placed, err = d.Layout.Place(b.Slots, b.Sizes[d.Name]); err != nil {
			err = fmt.Errorf("%s: %w", d.Name, err)
			if b.Sizes[d.Name] != 0 {
				err = fault.As(fault.Usage, err)
			}
			return err
		}
		b.disks = append(b.disks, d)
	}
	if b.Slots == "ab" && !b.used(func(p layouts.Part) bool { return p.Slot == "b" }) {
		return fault.New(fault.Usage, "%s", b.noSlots())
	}
	return b.checkParts()
}

// checkParts refuses content for partitions that the image leaves to the device.
func (b *builder) checkParts() error {
	for name := range b.Parts {
		full, _, err := b.part(name)
		if err != nil {
			return fault.As(fault.Usage, err)
		}
		for _, d := range b.disks {
			if slices.ContainsFunc(d.placed.Parts, func(p layouts.Part) bool { return p.Deferred && d.Name+"/"+p.Name == full }) {
				return fault.New(fault.Usage, "partition %s: the device makes it on its first boot, so the image cannot have its content", name)
			}
		}
	}
	return nil
}

func (b *builder) noSlots() string {
	text := b.Board.Name + " has no second slot: leave out --slots ab"
	for _, name := range boards.Layouts(b.Board.Name) {
		if other, err := boards.LoadLayout(b.Board.Name, name); err == nil && other.HasSlots() {
			text += ", or choose a layout with two by --layout " + name
		}
	}
	return text
}

func (b *builder) checkSeed() (err error) {
	switch {
	case b.Seed == nil:
		return nil
	case b.Board.Seed.Path == "":
		return fault.As(fault.Usage, b.Board.NoSeed())
	case strings.Contains(b.Slots, "b"):
		return fault.New(fault.Usage, "an image with both slots cannot carry a seed: the device takes a seed from boot-a only on the first boot after a flash, and knows that boot by there being no boot-b; leave out --slots ab or --seed")
	}
	b.seed, err = b.Seed.Check(b.Board.Seed.Format, b.Warn)
	return err
}
