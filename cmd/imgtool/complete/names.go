package complete

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/boards"
	"imgtool/image/seed/seedfile"
)

// boardNames completes built-in boards and paths of definitions.
func boardNames(r request) (list []cobra.Completion) {
	for _, name := range boards.Names() {
		if b, err := boards.Get(name); err == nil {
			list = append(list, described(name, b.Description))
		}
	}
	if strings.ContainsAny(r.word, "./") {
		return named("toml")(r)
	}
	return append(list, anyFile)
}

// board returns the board of the command line, or nil.
func (r request) board() *boards.Board {
	b, err := boards.LoadLayout(r.flag("board"), r.flag("layout"))
	if err != nil {
		return nil
	}
	return b
}

func layoutNames(r request) (list []cobra.Completion) {
	return boards.Layouts(r.flag("board"))
}

// after returns a source for the value after NAME= if the word has one, and else for NAME=.
func after(names func(*boards.Board) []cobra.Completion, values func(r request, name string) []cobra.Completion) source {
	return func(r request) (list []cobra.Completion) {
		name, word, ok := strings.Cut(r.word, "=")
		if ok {
			r.word = word
			for _, c := range values(r, name) {
				if c != anyFile {
					c = name + "=" + c
				}
				list = append(list, c)
			}
			return list
		}
		if b := r.board(); b != nil {
			for _, c := range names(b) {
				value, about, _ := strings.Cut(c, "\t")
				list = append(list, described(value+"=", about))
			}
		}
		return list
	}
}

var (
	inputs = after((*boards.Board).Inputs, func(r request, name string) []cobra.Completion {
		return append([]cobra.Completion{described("starter", "the board's default source"), described("rootfs:/", "a file in the root file system")}, paths(r)...)
	})
	partitions   = after(partitionNames, func(r request, name string) []cobra.Completion { return paths(r) })
	mediumDisks  = after((*boards.Board).MediaNames, func(r request, name string) []cobra.Completion { return targets(r) })
	mediumImages = after((*boards.Board).MediaNames, func(r request, name string) []cobra.Completion { return images(r) })
	sizes        = after((*boards.Board).MediaNames, func(request, string) []cobra.Completion { return []cobra.Completion{"16GiB", "32GiB", "64GiB"} })
	variables    = after(func(b *boards.Board) (names []string) {
		for name, value := range b.Vars {
			names = append(names, described(name, value))
		}
		slices.Sort(names)
		return names
	}, func(request, string) []cobra.Completion { return nil })
)

// paths completes any file. The shell cannot do so after NAME=.
var paths = listing(func(string) bool { return true })

func media(r request) (list []cobra.Completion) {
	if b := r.board(); b != nil {
		list = b.MediaNames()
	}
	return list
}

func partitionNames(b *boards.Board) (list []cobra.Completion) {
	for _, m := range b.Media {
		for _, p := range m.Layout.Partitions {
			name := p.Name
			if len(b.Media) > 1 {
				name = m.Name + "/" + name
			}
			list = append(list, described(name, p.Content))
		}
	}
	return list
}

// starterRoot completes the board's default source of the root file system.
func starterRoot(r request) []cobra.Completion {
	if b := r.board(); b == nil || b.Starter.Inputs["rootfs"] == "" {
		return nil
	}
	return []cobra.Completion{described("starter", "the board's default source")}
}

func compressions(request) []cobra.Completion {
	return []cobra.Completion{described("zstd", "levels 1 to 22"), described("zstd:19", "smaller, and slow to make"), described("zstd:3", "quick"),
		described("xz", "smallest, and slow to read"), "gzip", described("lz4", "levels 1 to 9, quick to read")}
}

// settings completes parts of a configuration.
func settings(request) []cobra.Completion {
	return []cobra.Completion{"users.", "containers.container.", "containers.network.", "containers.volume.", "network", "network.dns_servers",
		"network.default_gateway", "network.dnsmasq", "network.firewall"}
}

// units completes the units of the table of --values, or the files of units of a command without
// such a table.
func units(r request) []cobra.Completion {
	values := r.flag("values")
	if values == "" {
		return named("toml")(r)
	}
	list, _ := seedfile.Units(values)
	return list
}
