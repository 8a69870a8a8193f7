package catalog

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/volume"
)

// describe sets what users read of an image, and the devices for which it is offered.
func (m *maker) describe(e *Entry, s *volume.Source) error {
	board := m.boardOf(s.Manifest)
	name, arch := "", ""
	if board != nil {
		name, arch, e.Description = board.Name, board.Arch, board.Description
		e.Info = strings.TrimSpace(board.AfterFlash)
		m.used[name] = true
	}
	if man := s.Manifest; man != nil {
		name = man.Board
		parts := []string{man.Board}
		if info, err := boards.InfoOf(man.Board, man.Medium, man.Info); err == nil {
			arch = info.Arch
			if len(info.Media) > 1 {
				parts = append(parts, man.Medium)
			}
		}
		e.Name = strings.Join(append(parts, man.BuildID), " ")
		e.Description = strings.Join(append(slices.DeleteFunc([]string{e.Description}, isEmpty), needs(man)), "; ")
		e.Init = "none" // these programs do not know the format of seeds
		e.ReleaseDate = date(man.Time)
		if s.Info.Mode().Perm()&0o077 == 0 {
			m.warn("%s can only be read by its owner, as images with a seed are: everyone who downloads it will be able to read the secrets in it", s.Name)
		}
	} else {
		e.Name = filepath.Base(s.Name)
		e.Description = cmp.Or(e.Description, "image of a disk")
		if m.When != 0 {
			e.ReleaseDate = date(m.When)
		}
	}
	e.Name, e.Description, e.ReleaseDate = cmp.Or(m.Name, e.Name), cmp.Or(m.Description, e.Description), cmp.Or(m.Date, e.ReleaseDate)
	e.Architecture = architectures[arch]
	if e.Devices = m.Devices; len(e.Devices) == 0 {
		if name == "" {
			return fault.New(fault.Usage, "%s: it has no manifest, so its board is not known: name it with --board or --device", s.Name)
		}
		e.Devices = []string{name}
	}
	if e.ReleaseDate == "" {
		return fault.New(fault.Usage, "%s: it has no manifest, so its release date is not known: give it with --date", s.Name)
	}
	for _, tag := range e.Devices {
		m.addDevice(tag, board, e.Architecture)
	}
	return nil
}

func isEmpty(s string) bool { return s == "" }

func date(when int64) string { return time.Unix(when, 0).UTC().Format(time.DateOnly) }

// needs says which disks an image is for.
func needs(m *artifact.Manifest) string {
	if m.Disk != 0 {
		return fmt.Sprintf("needs a disk of exactly %d bytes", m.Disk)
	}
	return "needs a disk of at least " + image.FormatSize(max(m.Floor, m.Size))
}

// boardOf returns the definition of an image's board, or nil if it is not known. The manifest
// names the board; without one it is the board that was given.
func (m *maker) boardOf(man *artifact.Manifest) *boards.Board {
	if man == nil {
		if len(m.Boards) == 1 {
			return m.Boards[0]
		}
		return nil
	}
	for _, b := range m.Boards {
		if b.Name == man.Board {
			return b
		}
	}
	if b, err := boards.Get(man.Board); err == nil {
		return b
	}
	return nil
}

func (m *maker) addDevice(tag string, board *boards.Board, arch string) {
	if slices.ContainsFunc(m.Imager.Devices, func(d Device) bool { return d.Name == tag }) {
		return
	}
	d := Device{Name: tag, Description: "device " + tag, Tags: []string{tag}, Matching: "exclusive", Architecture: arch, Flasher: "SdCard"}
	if board != nil && board.Name == tag {
		d.Description = board.Description
	}
	m.Imager.Devices = append(m.Imager.Devices, d)
}

// tellApart adds the names of the files to the names of images that have the same.
func (m *maker) tellApart() {
	count := map[string]int{}
	for _, e := range m.Catalog.Images {
		count[e.Name]++
	}
	for i, path := range m.Request.Images {
		if e := &m.Catalog.Images[i]; count[e.Name] > 1 {
			e.Name += " (" + filepath.Base(path) + ")"
		}
	}
}
