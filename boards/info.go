package boards

import (
	"cmp"
	"slices"

	"imgtool/image/boardinfo"
)

// Info returns what the manifest of a medium's image records of the board.
func (b *Board) Info(medium string) *boardinfo.Info {
	info := &boardinfo.Info{Arch: b.Arch, NoSeed: b.Seed.Without}
	for _, m := range b.Media {
		info.Media = append(info.Media, boardinfo.Medium{Name: m.Name, Kind: m.Kind})
		if m.Name != medium {
			continue
		}
		if b.Seed.Path != "" {
			info.Seed = b.seedOn(m)
		}
		for _, blob := range m.Blobs {
			if blob.Input == b.Recovery.UBoot {
				blob.Commands = b.Recovery.Commands
			}
			info.Blobs = append(info.Blobs, blob)
		}
	}
	if len(b.Unit.Files) > 0 {
		info.Unit = &b.Unit
	}
	return info
}

// seedOn returns the place of the seed on a medium, or nil if it has no boot partition.
func (b *Board) seedOn(m Medium) *boardinfo.Seed {
	var seed *boardinfo.Seed
	for _, p := range m.Layout.Partitions {
		switch {
		case p.Content != "boot":
		case p.Slot == "a" && seed == nil:
			seed = &boardinfo.Seed{Number: p.Number, Partition: p.Name, Path: b.Seed.Path, Format: b.Seed.Format}
		case p.Slot == "b" && seed != nil:
			seed.SlotB = p.Name
		}
	}
	return seed
}

// InfoOf returns what is known of the board of an image: recorded, which is the manifest's
// own record, or for the manifest of an older version the built-in board of that name.
func InfoOf(board, medium string, recorded *boardinfo.Info) (*boardinfo.Info, error) {
	if recorded != nil {
		return recorded, nil
	}
	b, err := Get(board)
	if err != nil {
		return nil, err
	}
	return b.Info(medium), nil
}

// normalizeUnit sets the kinds of media. Per-unit data without variables gets the variables
// of the Photon NX: definitions had no [[unit.variable]] once.
func (b *Board) normalizeUnit() error {
	for i := range b.Media {
		m := &b.Media[i]
		if slices.Contains(boardinfo.Kinds, m.Name) {
			m.Kind = cmp.Or(m.Kind, m.Name)
		}
	}
	if len(b.Unit.Files) > 0 && len(b.Unit.Variables) == 0 {
		photon, err := Get("photon-nx")
		if err != nil {
			return err
		}
		b.Unit.Variables = photon.Unit.Variables
	}
	b.Unit.Normalize()
	return nil
}
