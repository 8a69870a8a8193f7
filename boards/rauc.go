package boards

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"

	"imgtool/image/fault"
	"imgtool/image/rauc"
)

var sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Manifest returns what the manifests of the board's bundles have in common.
func (r *RAUC) Manifest() rauc.Manifest {
	m := rauc.Manifest{Compatible: r.Compatible, Version: r.Version, Description: r.Description, HookFile: r.HookFile, Hooks: r.Hooks}
	for _, i := range r.Images {
		m.Images = append(m.Images, rauc.Image{Class: i.Slot, File: i.File, Hooks: i.Hooks, Adaptive: i.Adaptive})
	}
	return m
}

// CheckBundles reports a board without bundles.
func (b *Board) CheckBundles() error {
	if b.RAUC.Compatible == "" {
		return fault.New(fault.Usage, "%s has no bundles: its definition has no table [rauc], see docs/reference/boards.md", b.Name)
	}
	return nil
}

func (r *RAUC) load(beside fs.FS) (err error) {
	if r.HookFile == "" {
		return nil
	}
	if beside == nil {
		return errors.New("hook-file needs a directory with the definition")
	}
	r.HookText, err = fs.ReadFile(beside, r.HookFile)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("hook-file: no file %q", r.HookFile)
	}
	return err
}

func (b *Board) checkRAUC() error {
	r := &b.RAUC
	if r.Compatible == "" {
		if len(r.Images) > 0 || r.HookFile != "" {
			return errors.New("[rauc] has no compatible")
		}
		return nil
	}
	m := r.Manifest()
	if err := m.Check(); err != nil {
		return fmt.Errorf("[rauc]: %w", err)
	}
	for i := range r.Images {
		if err := b.checkRAUCImage(&r.Images[i]); err != nil {
			return fmt.Errorf("[[rauc.image]] %s: %w", r.Images[i].Slot, err)
		}
	}
	for _, sum := range r.DevelopmentKeys {
		if !sha256Hex.MatchString(sum) {
			return fmt.Errorf("[rauc]: development-keys has %q, which is not a SHA-256 in lower-case hexadecimal", sum)
		}
	}
	return nil
}

func (b *Board) checkRAUCImage(i *RAUCImage) error {
	if i.Medium == "" {
		i.Medium = b.Media[0].Name
	}
	n := slices.IndexFunc(b.Media, func(m Medium) bool { return m.Name == i.Medium })
	if n < 0 {
		return fmt.Errorf("the board has no medium %q", i.Medium)
	}
	if i.Medium != b.RAUC.Images[0].Medium {
		return fmt.Errorf("it is on the medium %s, and the first image on %s: a bundle is made of one image", i.Medium, b.RAUC.Images[0].Medium)
	}
	for _, p := range b.Media[n].Layout.Partitions {
		if p.Name != i.Partition {
			continue
		}
		if p.Deferred {
			return fmt.Errorf("the partition %s is made by the device", i.Partition)
		}
		return nil
	}
	return fmt.Errorf("the medium %s has no partition %q", i.Medium, i.Partition)
}
