package image_test

import (
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// layers are the packages from the lowest to the highest. A package imports only packages
// that are listed before it, so that no change spreads downwards and nothing forms a circle.
var layers = []struct {
	name, why string
	packages  []string
}{
	{"value", "everything is a function of an image, so it depends on nothing but the standard library",
		[]string{"image"}},
	{"mechanisms", "each does one thing that has nothing to do with images or boards", []string{
		"image/suggest", "image/fault", "image/parallel", "image/sanitize", "image/cache", "image/hostfile", "image/progress", "image/remote", "image/registry", "image/xz",
		"image/compress", "image/initramfs", "image/sshkey", "image/sign"}},
	{"formats", "they know one format each, and neither boards nor users", []string{
		"image/statefile", "image/boardinfo", "image/fstab", "image/extlinux", "image/shconf", "image/uboot", "image/mbr", "image/gpt",
		"image/partition", "image/vm", "image/imagetest", "image/swap", "image/simg", "image/fat", "image/tree", "image/tree/sums", "image/tree/hostfs",
		"image/fsprobe", "image/verity", "image/cms", "image/cms/cmstest", "image/cms/signer", "image/tree/tarfs", "image/tree/treetest", "image/ext4", "image/squashfs/codec", "image/squashfs/similarity", "image/squashfs/space", "image/squashfs", "image/erofs", "image/bmap", "image/pending", "image/zip", "image/artifact", "image/foreign", "image/rauc", "image/fileinfo"}},
	{"disks", "they write whatever is given to them, and know no format", []string{"flash/disk/plist", "flash/disk/procs", "flash/disk/udisks", "flash/disk/authopen", "flash/disk/direct", "flash/disk/usb", "flash/disk", "flash/disk/match", "flash/disk/disktest", "flash"}},
	{"definitions", "data that users write, so it must not depend on how it is used", []string{"layouts", "boards"}},
	{"use cases", "they combine formats and definitions; they have no flags and print nothing", []string{
		"image/report", "image/edit", "image/edit/edittest", "image/seed/check", "image/seed", "image/seed/bundle", "image/seed/seedtest", "image/seed/seedfile", "image/seed/seedstick", "image/seed/api", "image/seed/console",
		"image/seed/console/consoletest", "image/seed/provision", "image/source", "image/starter", "image/oci", "image/volume", "image/trust", "image/sbom/rpmdb", "image/sbom", "image/sbom/sbomtest", "image/provenance", "image/build", "image/build/job",
		"image/compose", "image/compare", "image/update", "image/inspect", "image/catalog", "flash/receipt", "flash/deploy", "flash/factory"}},
	{"commands", "flags, messages and exit statuses", []string{"cmd/first-boot", "cmd/imgtool/terminal/picker", "cmd/imgtool/terminal", "cmd/imgtool/usage", "cmd/imgtool/complete", "cmd/imgtool/reference", "cmd/imgtool/exit", "cmd/imgtool/option", "cmd/imgtool/images", "cmd/imgtool/disks", "cmd/imgtool/configs", "cmd/imgtool/schematest", "cmd/imgtool", "cmd/imgtool/boottest", "docs", "packaging"}},
}

// only lists packages that may import no others of ours than these.
var only = map[string]struct {
	why      string
	packages []string
}{
	"flash":      {"what is written comes in as chunks of an image", []string{"image", "image/fault", "flash/disk"}},
	"flash/disk": {"it knows the machine, not what is written", []string{"flash/disk/plist", "flash/disk/procs", "flash/disk/udisks", "flash/disk/authopen", "flash/disk/direct", "flash/disk/usb", "image/fault"}},
	"cmd/imgtool": {"it runs commands; those about images, disks and configurations are packages below it", []string{
		"cmd/imgtool/images", "cmd/imgtool/disks", "cmd/imgtool/configs", "cmd/imgtool/complete", "cmd/imgtool/exit", "cmd/imgtool/option", "cmd/imgtool/reference",
		"cmd/imgtool/terminal", "cmd/imgtool/usage", "boards", "image", "image/build/job", "image/fault", "image/sanitize", "image/squashfs/codec"}},
}

// never lists packages that must not import others of ours, although those are below them.
var never = []struct{ from, to, why string }{
	{"cmd/imgtool/disks", "cmd/imgtool/images", "what commands about images and disks share is in cmd/imgtool/option"},
	{"cmd/imgtool/configs", "cmd/imgtool/images", "a configuration is independent of how images are made"},
}

// Each package imports only packages below it.
func TestImports(t *testing.T) {
	level := map[string]int{}
	name := map[string]string{}
	for _, l := range layers {
		for _, p := range l.packages {
			level[p], name[p] = len(level), l.name
		}
	}
	for p, imports := range list(t, "-json=ImportPath,Imports", "imgtool/...") {
		if name[p] == "" {
			t.Errorf("%s is in no layer: add it to this test", p)
		}
		for _, i := range imports {
			if strings.HasPrefix(i, "github.com/spf13/") && name[p] != "commands" {
				t.Errorf("%s (%s) imports %s: only commands have flags", p, name[p], i)
			}
			own, ours := strings.CutPrefix(i, "imgtool/")
			if !ours {
				continue
			}
			if level[own] >= level[p] {
				t.Errorf("%s (%s) imports %s (%s), which is above it", p, name[p], own, name[own])
			}
			if o, ok := only[p]; ok && !slices.Contains(o.packages, own) {
				t.Errorf("%s imports %s: %s", p, own, o.why)
			}
			for _, n := range never {
				if n.from == p && n.to == own {
					t.Errorf("%s imports %s: %s", p, own, n.why)
				}
			}
		}
		delete(level, p)
	}
	for p := range level {
		t.Errorf("there is no package %s", p)
	}
}

// The image depends on the standard library only, in all that it is built from.
func TestImportsOfImage(t *testing.T) {
	for p := range list(t, "-deps", "-json=ImportPath,Imports", "imgtool/image") {
		if first, _, _ := strings.Cut(p, "/"); strings.Contains(first, ".") || strings.HasPrefix(p, "image/fault") || strings.HasPrefix(p, "image/parallel") {
			t.Errorf("image depends on %s", p)
		}
	}
}

// list returns the imports of packages, as go list prints them.
func list(t *testing.T, args ...string) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	imports := map[string][]string{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); err == io.EOF {
			return imports
		} else if err != nil {
			t.Fatal(err)
		}
		imports[strings.TrimPrefix(p.ImportPath, "imgtool/")] = p.Imports
	}
}
