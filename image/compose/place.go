package compose

import (
	"fmt"
	"strings"

	"imgtool/boards"
	"imgtool/image/artifact"
	"imgtool/image/boardinfo"
	"imgtool/image/fault"
)

type seedPlace struct {
	board string
	*boardinfo.Seed
}

// seedPlaces returns where the seed of an image may be: where the board takes it, or the
// manifest says, or if there is neither any built-in board takes it.
func seedPlaces(m *artifact.Manifest, board *boards.Board) ([]seedPlace, error) {
	switch {
	case board != nil && m != nil && m.Board != board.Name:
		return nil, fault.New(fault.WrongBoard, "it is an image for %s, and the board is %s", m.Board, board.Name)
	case board != nil:
		if board.Seed.Path == "" {
			return nil, board.NoSeed()
		}
		return placesOf(board), nil
	case m != nil:
		info, err := boards.InfoOf(m.Board, m.Medium, m.Info)
		switch {
		case err != nil:
			return nil, fmt.Errorf("it is an image for %s, which is not a built-in board, and its manifest does not record where a seed goes: pass the board's definition with --board", m.Board)
		case info.Seed != nil:
			return []seedPlace{{m.Board, info.Seed}}, nil
		case info.NoSeed != "":
			return nil, fmt.Errorf("%s takes no seed: %s", m.Board, info.NoSeed)
		}
		return nil, fmt.Errorf("%s takes no seed on its medium %s", m.Board, m.Medium)
	}
	var all []seedPlace
	for _, name := range boards.Names() {
		b, err := boards.Get(name)
		if err != nil {
			return nil, err
		}
		all = append(all, placesOf(b)...)
	}
	return all, nil
}

func placesOf(b *boards.Board) (all []seedPlace) {
	for _, medium := range b.Media {
		if s := b.Info(medium.Name).Seed; s != nil {
			all = append(all, seedPlace{b.Name, s})
		}
	}
	return all
}

func expected(places []seedPlace) string {
	var all []string
	for _, p := range places {
		all = append(all, fmt.Sprintf("%s has it as partition %d with the name %s", p.board, p.Number, p.Partition))
	}
	return strings.Join(all, "; ")
}
