package boards

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"imgtool/image/suggest"
)

// UBootCommands are the commands of U-Boot that recovery can need. Help is the text by which
// a command is found in a binary.
var UBootCommands = map[string]struct{ Help, Without string }{
	"gpio": {"query and control gpio pins", "recovery by the button is not possible"},
	"ums":  {"Use the UMS [USB Mass Storage]", "recovery over USB is not possible"},
}

// maxUBoot bounds how much of a blob is searched: everything before the first partition of a
// Rock64.
const maxUBoot = 8 << 20

// banner begins the version of each U-Boot.
const banner = "U-Boot 20"

// LackedByUBoot returns a sentence for each of the commands that the U-Boot in a blob does not
// have. It returns nil for a blob in which no U-Boot is found, such as a compressed U-Boot.
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

func (r *Recovery) checkCommands(inputs []string) error {
	if len(r.Commands) > 0 && !slices.Contains(inputs, r.UBoot) {
		return fmt.Errorf("[recovery] has u-boot = %q, which is not an input of the board; it has %s", r.UBoot, strings.Join(inputs, ", "))
	}
	for _, name := range r.Commands {
		if _, ok := UBootCommands[name]; !ok {
			return fmt.Errorf("[recovery]: %s", suggest.Unknown("U-Boot command", name, slices.Sorted(maps.Keys(UBootCommands))))
		}
	}
	return nil
}
