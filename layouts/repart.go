package layouts

import (
	"fmt"
	"slices"
	"strings"
)

// Definition is a partition definition for systemd-repart, see repart.d(5).
type Definition struct {
	Name string `json:"name"` // such as 10-boot-a.conf
	Text string `json:"text"`
}

// Repart returns the definitions by which systemd-repart makes the deferred partitions, or
// nil if the layout has no deferred partitions. All partitions have one, because systemd-repart assigns existing
// partitions to definitions by their types, in the order of the names.
func (l *Layout) Repart() []Definition {
	if !slices.ContainsFunc(l.Partitions, func(p Partition) bool { return p.Deferred }) {
		return nil
	}
	var all []Definition
	for i, p := range l.Partitions {
		var b strings.Builder
		fmt.Fprintf(&b, "[Partition]\nType=%s\nLabel=%s\n", repartType(p.Type), p.Name)
		if least := max(p.Size, p.MinSize); least > 0 {
			fmt.Fprintf(&b, "SizeMinBytes=%d\n", int64(least))
		}
		if p.Size > 0 {
			fmt.Fprintf(&b, "SizeMaxBytes=%d\n", int64(p.Size))
		}
		if p.Format != "" {
			fmt.Fprintf(&b, "Format=%s\n", p.Format)
		}
		if len(p.Directories) > 0 {
			fmt.Fprintf(&b, "MakeDirectories=%s\n", strings.Join(p.Directories, " "))
		}
		all = append(all, Definition{fmt.Sprintf("%02d-%s.conf", 10*(i+1), p.Name), b.String()})
	}
	return all
}

func repartType(name string) string {
	if name == "microsoft" { // systemd has no name for it
		return strings.ToLower(Types[name])
	}
	return name
}
