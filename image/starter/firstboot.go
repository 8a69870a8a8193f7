package starter

import (
	"embed"
	"strings"

	"imgtool/image"
)

// firstBootDir has the program first-boot of cmd/first-boot for arm64, if make built it.
//
//go:embed first-boot
var firstBootDir embed.FS

// firstBoot returns that program, or nil.
func firstBoot() image.Content {
	text, err := firstBootDir.ReadFile("first-boot/first-boot")
	if err != nil {
		return nil
	}
	return strings.NewReader(string(text))
}
