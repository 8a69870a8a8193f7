package layouts

import (
	"fmt"
	"slices"
	"strings"
)

// Definition is a file of systemd-repart, as repart.d(5) has it.
type Definition struct {
	Name string `json:"name"` // such as 10-boot-a.conf
	Text string `json:"text"`
}

// Repart are the definitions by which systemd-repart makes the late partitions, or
// nothing if there are none. It finds those that are there by their types, in the order
// of the names, so all partitions are defined.
func (l *Layout) Repart() []Definition {
	if !slices.ContainsFunc(l.Partitions, func(p Partition) bool { return p.Late }) {
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
		if len(p.Folders) > 0 {
			fmt.Fprintf(&b, "MakeDirectories=%s\n", strings.Join(p.Folders, " "))
		}
		all = append(all, Definition{fmt.Sprintf("%02d-%s.conf", 10*(i+1), p.Name), b.String()})
	}
	return all
}

// repartType is what systemd-repart knows a type as.
func repartType(name string) string {
	if name == "microsoft" { // the one that systemd has no name for
		return strings.ToLower(Types[name])
	}
	return name
}
