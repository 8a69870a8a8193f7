package boards

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// UBootCommands are those of U-Boot that recovery needs, with the short help that each has in a
// binary, and what is not possible without it.
var UBootCommands = map[string]struct{ Help, Without string }{
	"gpio": {"query and control gpio pins", "recovery by the button is not possible"},
	"ums":  {"Use the UMS [USB Mass Storage]", "recovery over USB is not possible"},
}

// maxUBoot is how many bytes of a blob are looked at: all up to the first partition of a
// Rock64.
const maxUBoot = 8 << 20

// banner is what the version in each U-Boot begins with.
const banner = "U-Boot 20"

// LackedByUBoot says which of the named commands the U-Boot in a blob does not have, each in a
// sentence. It says nothing of a blob in which no U-Boot is found, such as one that is
// compressed.
func LackedByUBoot(blob io.Reader, commands []string) ([]string, error) {
	b, err := io.ReadAll(io.LimitReader(blob, maxUBoot))
	if err != nil {
		return nil, err
	}
	at := bytes.Index(b, []byte(banner))
	if at < 0 {
		return nil, nil
	}
	version, _, _ := bytes.Cut(b[at:min(at+64, len(b))], []byte{0})
	version, _, _ = bytes.Cut(version, []byte(" (")) // the date of its build
	var lacking []string
	for _, name := range commands {
		c := UBootCommands[name]
		if !bytes.Contains(b, append([]byte(c.Help), 0)) {
			lacking = append(lacking, fmt.Sprintf("%s has no %s command: %s with it", version, name, c.Without))
		}
	}
	return lacking, nil
}

// check looks at what recovery needs of U-Boot, which is one of the board's inputs.
func (r *Recovery) check(inputs []string) error {
	if len(r.Commands) > 0 && !slices.Contains(inputs, r.UBoot) {
		return fmt.Errorf("[recovery] has u-boot = %q, which is no input of the board; it has %s", r.UBoot, strings.Join(inputs, ", "))
	}
	for _, name := range r.Commands {
		if _, ok := UBootCommands[name]; !ok {
			return fmt.Errorf("[recovery] needs the U-Boot command %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(UBootCommands)), ", "))
		}
	}
	return nil
}
