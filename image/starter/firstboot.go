package build

import (
	"embed"
	"strings"

	"imgtool/image"
)

// firstBootFolder has the program first-boot of cmd/first-boot for arm64, if make
// put it there.
//
//go:embed starter/first-boot
var firstBootFolder embed.FS

// firstBoot is that program, or nil.
func firstBoot() image.Content {
	text, err := firstBootFolder.ReadFile("starter/first-boot/first-boot")
	if err != nil {
		return nil
	}
	return strings.NewReader(string(text))
}
