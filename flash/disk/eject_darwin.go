package disk

import (
	"errors"
	"fmt"
	"strings"
)

// Eject ejects a disk and its volumes: a board that shows its disk then knows that the host
// has finished. root is "/".
func Eject(root string, d *Disk) error {
	if d.File {
		return errors.New("it is a file")
	}
	if out, err := runHere("diskutil", "eject", d.Name); err != nil {
		return fmt.Errorf("diskutil eject %s: %w %s", d.Name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
