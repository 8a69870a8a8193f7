package image_test

import (
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The arrows of the design: what each package may import of ours.
var imports = map[string][]string{
	"image":            {"image/parallel"},
	"image/parallel":   {},
	"image/cache":      {},
	"image/heap":       {},
	"image/fault":      {},
	"image/sanitize":   {},
	"image/statefile":  {},
	"image/hostfile":   {"image/fault"},
	"image/imagetest":  {"image/vm"},
	"image/ext4":       {"image", "image/tree"},
	"image/swap":       {"image"},
	"image/simg":       {"image"},
	"image/gpt":        {"image"},
	"image/mbr":        {},
	"image/partition":  {"image", "image/gpt", "image/mbr"},
	"image/fat":        {"image"},
	"image/uboot":      {},
	"image/xz":         {},
	"image/compress":   {"image/xz", "image/fault"},
	"image/initramfs":  {"image/compress"},
	"image/vm":         {},
	"image/squashfs":   {"image", "image/tree", "image/parallel", "image/tree/sums"},
	"image/source":     {"image", "image/cache", "image/compress", "image/hostfile", "image/tree", "image/fault", "image/tree/hostfs", "image/tree/sums", "image/tree/tarfs"},
	"image/artifact":   {"image", "image/hostfile", "image/parallel", "image/simg", "image/compress", "image/fault", "image/boardinfo"},
	"image/boardinfo":  {},
	"image/fileinfo":   {"image/tree"},
	"image/progress":   {"image"},
	"image/volume":     {"image", "image/artifact", "image/compress", "image/ext4", "image/fat", "image/fault", "image/fileinfo", "image/gpt", "image/hostfile", "image/partition", "image/progress", "image/squashfs", "image/tree"},
	"image/compose":    {"image", "image/artifact", "image/build", "image/ext4", "image/fault", "image/gpt", "image/partition", "image/tree", "image/volume"},
	"image/compare":    {"image", "image/artifact", "image/compose", "image/fault", "image/fileinfo", "image/gpt", "image/progress", "image/tree", "image/volume", "layouts"},
	"image/inspect":    {"boards", "image", "image/artifact", "image/edit", "image/fileinfo", "image/gpt", "image/report", "image/sanitize", "image/uboot", "image/volume", "layouts"},
	"image/starter":    {"boards", "image", "image/compress", "image/source", "image/tree", "image/tree/sums"},
	"image/fstab":      {},
	"image/extlinux":   {},
	"image/shconf":     {},
	"image/seed":       {"image/seed/check"},
	"image/seed/check": {},

	"image/seed/api":                 {"image/seed/check"},
	"image/seed/console":             {"image/seed/api"},
	"image/seed/console/consoletest": {"image/imagetest", "image/seed", "image/seed/api", "image/seed/bundle", "image/seed/console"},
	"image/seed/bundle":              {"image/fault", "image/seed"},
	"image/seed/provision":           {"image/fault", "image/hostfile", "image/seed", "image/seed/api", "image/seed/check", "image/seed/seedfile"},
	"image/seed/seedfile":            {"image/hostfile", "image/seed", "image/seed/bundle"},
	"image/seed/seedstick":           {"image", "image/fat", "image/gpt", "layouts"},

	"docs":                {},
	"image/tree":          {"image"},
	"image/tree/hostfs":   {"image", "image/tree"},
	"image/tree/sums":     {"image", "image/tree"},
	"image/tree/tarfs":    {"image", "image/tree"},
	"image/tree/treetest": {"image/tree", "image/tree/sums"},

	"layouts":    {},
	"boards":     {"layouts", "image/boardinfo"},
	"flash":      {"image", "image/fault", "flash/disk"},
	"flash/disk": {"image/fault"},
	"image/build": {"boards", "layouts", "image", "image/artifact", "image/compress", "image/edit", "image/ext4", "image/extlinux", "image/fat", "image/fstab", "image/gpt", "image/initramfs", "image/simg", "image/source",
		"image/report", "image/seed/seedfile", "image/squashfs", "image/statefile", "image/swap", "image/tree", "image/uboot", "image/tree/sums", "image/starter"},
	"image/report":        {"image/tree"},
	"image/edit":          {"layouts", "image/tree", "image/fstab", "image/extlinux"},
	"image/edit/edittest": {"image/tree"},
	"cmd/first-boot":      {"image", "image/fat", "image/sanitize", "image/seed", "image/seed/api", "image/seed/bundle", "image/seed/console"},
	"cmd/imgtool": {"image/compare", "image/compose", "image/fileinfo", "image/inspect", "image/volume", "boards", "layouts", "flash", "flash/disk", "image", "image/artifact", "image/build", "image/cache", "image/compress", "image/edit", "image/ext4", "image/fat", "image/fault", "image/gpt", "image/heap", "image/hostfile", "image/report", "image/sanitize", "image/seed", "image/seed/bundle", "image/seed/provision", "image/seed/seedfile", "image/seed/seedstick", "image/shconf",
		"image/source", "image/squashfs", "image/statefile", "image/tree", "image/uboot", "image/vm", "image/partition", "image/tree/hostfs", "image/tree/sums"},
}

func TestImportsPointTheWayTheDesignSays(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "imgtool/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, "imgtool/")
		may, ok := imports[name]
		if !ok {
			t.Errorf("%s has no place in the design", name)
		}
		seen++
		for _, i := range p.Imports {
			own, ours := strings.CutPrefix(i, "imgtool/")
			if ours && !slices.Contains(may, own) {
				t.Errorf("%s imports %s", name, own)
			}
		}
	}
	if seen != len(imports) {
		t.Errorf("%d packages, %d in the design", seen, len(imports))
	}
}

// Package image depends on the standard library only, so that every program that
// uses an image as a value can import it without taking in formats and codecs.
func TestImportsOfImageAreStandardLibrary(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "imgtool/image").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(out))
	if want := []string{"imgtool/image/parallel", "imgtool/image"}; !slices.Equal(got, want) {
		t.Errorf("package image and its dependencies outside the standard library are %v, want %v", got, want)
	}
}
