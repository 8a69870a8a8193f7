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
	"imgtool/image/squashfs"
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

func (b *builder) check() (err error) {
	if err := b.checkMedia(); err != nil {
		return err
	}
	b.Profile = cmp.Or(b.Profile, boards.Profiles[0])
	if !slices.Contains(boards.Profiles, b.Profile) {
		return fmt.Errorf("unknown profile %q (known: %s)", b.Profile, strings.Join(boards.Profiles, ", "))
	}
	for flag := range b.Flags {
		if !slices.Contains(b.Board.Options(), flag) {
			return fmt.Errorf("%s has no option %s", b.Board.Name, flag)
		}
	}
	if err := b.squashfs().Check(); err != nil {
		return err
	}
	if b.codec, err = squashfs.Codec(b.Compression); err != nil {
		return err
	}
	if b.BuildID != "" && !goodID.MatchString(b.BuildID) {
		return fmt.Errorf("build id %q: it must be 1 to 64 letters, digits and . _ + -, starting with a letter or digit", b.BuildID)
	}
	if err := checkCmdline(b.Cmdline); err != nil {
		return err
	}
	if script := b.Board.Script.Text; b.Cmdline != "" && !strings.Contains(script, cmdlineMark) {
		b.Warn(fmt.Sprintf("the kernel arguments %q are not used: %s has no boot script for them; change its boot configuration with --edits", b.Cmdline, b.Board.Name))
	} else if _, err := putCmdline(script, b.Cmdline); err != nil {
		return err
	}
	if err := b.checkSeed(); err != nil {
		return err
	}
	inputs := b.Board.Inputs()
	none := len(b.Inputs) == 0
	if none {
		b.Inputs = map[string]string{}
	}
	var missing []string
	for _, name := range inputs {
		_, optional := b.Board.IsOptional(name)
		switch {
		case none && (!optional || b.Board.Starter.Inputs[name] != ""):
			b.Inputs[name] = "starter"
		case b.Inputs[name] == "" && !optional:
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return &MissingInputsError{b.Board.Name, missing}
	}
	for name, ref := range b.Inputs {
		if !slices.Contains(inputs, name) {
			return fmt.Errorf("%s has no input %q; it has %s", b.Board.Name, name, strings.Join(inputs, ", "))
		}
		if ref == "starter" {
			if b.Inputs[name] = b.Board.Starter.Inputs[name]; b.Inputs[name] == "" {
				return fmt.Errorf("%s has no default source for %s: pass --input %s=FILE", b.Board.Name, name, name)
			}
		}
	}
	return nil
}

func (b *builder) checkMedia() error {
	for _, name := range slices.AppendSeq(slices.Clone(b.Media), maps.Keys(b.Sizes)) {
		if !slices.Contains(b.Board.MediaNames(), name) {
			return fmt.Errorf("%s has no medium %q; it has %s", b.Board.Name, name, strings.Join(b.Board.MediaNames(), ", "))
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
			return fmt.Errorf("%s: %w", d.Name, err)
		}
		b.disks = append(b.disks, d)
	}
	return nil
}

func (b *builder) checkSeed() (err error) {
	switch {
	case b.Seed == nil:
		return nil
	case b.Board.Seed.Path == "":
		return b.Board.NoSeed()
	case strings.Contains(b.Slots, "b"):
		return errors.New("an image with both slots cannot carry a seed: the device takes a seed from boot-a only on the first boot after a flash, and knows that boot by there being no boot-b; leave out --slots ab or --seed")
	}
	b.seed, err = b.Seed.Check(b.Board.Seed.Format, b.Warn)
	return err
}
