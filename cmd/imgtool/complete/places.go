package complete

import (
	"os"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/image"
	"imgtool/image/tree"
	"imgtool/image/volume"
)

// places completes IMAGE:PARTITION/PATH: images and disks, then the partitions of one, then the
// files on that partition. Only images that can be read without unpacking them are opened.
func places(r request) []cobra.Completion {
	p := volume.ParsePlace(r.word)
	if !p.Inside {
		var list []cobra.Completion
		for _, c := range images(r) {
			name, about, _ := strings.Cut(c, "\t")
			if list = append(list, c); !strings.HasSuffix(name, "/") && c != anyFile {
				list = append(list, described(name+":", about))
			}
		}
		return append(list, disks(r)...)
	}
	if info, err := os.Stat(p.File); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	s, err := volume.Open(p.File, volume.Options{})
	if err != nil {
		return nil
	}
	defer s.Close()
	if s.Image == nil {
		return nil
	}
	l, err := s.Locate(p)
	if err != nil {
		return nil
	}
	if !l.Deep && !l.Partitions.None() {
		return partitionsOf(l)
	}
	fs, err := l.FileSystem()
	if err != nil {
		return nil
	}
	return filesOf(l, fs)
}

func partitionsOf(l *volume.Location) (list []cobra.Completion) {
	rows, err := l.Rows()
	if err != nil {
		return nil
	}
	for _, row := range rows {
		if name := row.Name; name != "" && !row.Late {
			value := l.File + ":" + name
			if row.Holds != "" && row.Holds != "swap" {
				value += "/"
			}
			list = append(list, described(value, image.FormatSize(row.Len), row.Holds))
		}
	}
	return list
}

func filesOf(l *volume.Location, fs *volume.FileSystem) (list []cobra.Completion) {
	dir := l.Path[:strings.LastIndexByte(l.Path, '/')+1]
	at, err := fs.Find(dir, true)
	if err != nil {
		return nil
	}
	for name, n := range fs.Tree.List(at) {
		value := l.File + ":" + l.Part + "/" + dir + name
		if n.Type() == tree.Dir {
			list = append(list, value+"/")
		} else {
			list = append(list, described(value, image.FormatSize(n.Size())))
		}
	}
	return list
}
