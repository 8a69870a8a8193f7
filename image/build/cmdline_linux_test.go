package build

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"imgtool/image"
	"imgtool/image/fat"
	"imgtool/image/gpt"
	"imgtool/image/imagetest"
	"imgtool/image/uboot"
	"imgtool/image/vm"
	"imgtool/layouts"
)

// scriptDisk is a disk with a boot script for U-Boot, and nothing else.
func scriptDisk(t testing.TB, script string) string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	scr, err := uboot.Script(script, 1)
	must(err)
	volume, err := fat.New(16<<20, fat.Options{Label: "BOOT"}, []fat.File{{Path: "boot.scr", Content: bytes.NewReader(scr)}})
	must(err)
	table := &gpt.Table{GUID: "7B3A5D4E-0C11-4E23-9D0A-3C5B1F9A7E01", Size: 32 << 20, FirstUsable: 1 << 20,
		Parts: []gpt.Part{{Number: 1, Name: "boot", Type: layouts.Types["xbootldr"], GUID: "7B3A5D4E-0C11-4E23-9D0A-3C5B1F9A7E02", Off: 1 << 20, Len: 16 << 20}}}
	extents, err := table.Extents()
	must(err)
	disk, err := image.New(32<<20, append(extents, image.Extent{Name: "boot", Off: 1 << 20, Content: volume})...)
	must(err)
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	must(err)
	must(f.Truncate(disk.Size()))
	for e := range disk.Extents() {
		data := make([]byte, e.Size())
		e.ReadAt(data, 0)
		_, err := f.WriteAt(data, e.Off)
		must(err)
	}
	must(f.Close())
	return path
}

// U-Boot passes every argument unchanged.
func TestKernelArgumentsInUBoot(t *testing.T) {
	imagetest.Long(t)
	args := []string{"video=HDMI-A-1:1280x720M@30", "crashkernel=128M@0x90000000", "slub_debug=FZP,zs_handle,zspage;FZPU", "rootflags=subvol=@", "@BUILD_ID@ @CMDLINE@",
		`dyndbg="file x.c +p"`, `a="b c";d`, "a=$v ${v} $(v) $", `a=\\b \n c\`, "a=`b`", `all=!"#$%&()*+,-./:;<=>?@[\]^_{|}~`, "two  spaces", "a # b", `"`, "$", `\`, "naïve=ü"}
	contexts := []struct{ line, want string }{
		{`setenv bootargs "${base} @CMDLINE@ end=${v}"`, "console=x %s end=VALUE"},
		{`setenv bootargs "no variables @CMDLINE@ end"`, "no variables %s end"},
		{`  if true; then setenv bootargs "${base} it @CMDLINE@"; fi`, "console=x it %s"},
		{`setenv bootargs plain @CMDLINE@ end`, "plain %s end"},
		{`setenv bootargs 'single @CMDLINE@ end'`, "single %s end"},
	}
	var script strings.Builder
	script.WriteString("setenv v VALUE # it's a comment\nsetenv base console=x\n")
	var want []string
	add := func(line, form, args string) {
		made, err := putCmdline(line+"\necho \"<${bootargs}>\"; printenv bootargs\n", args)
		if err != nil {
			t.Fatalf("%s: %s: %v", line, args, err)
		}
		script.WriteString(made)
		want = append(want, fmt.Sprintf(form, args))
	}
	for _, c := range contexts {
		for _, a := range args {
			add(c.line, c.want, a)
		}
	}
	add("setenv bootargs plain @CMDLINE@ end", "plain %s end", `it's 'so'`)
	script.WriteString("echo the end of it\n")

	log := imagetest.Boot(t, vm.Machine{Disks: []vm.Disk{{Path: scriptDisk(t, script.String()), Bus: "virtio"}}}, `the end of it`)
	got := regexp.MustCompile(`(?m)^bootargs=(.*?)\r*$`).FindAllStringSubmatch(log, -1)
	if len(got) != len(want) {
		t.Fatalf("%d lines of %d:\n%s", len(got), len(want), log)
	}
	for i := range want {
		if got[i][1] != want[i] {
			t.Errorf("U-Boot has\n%s\nwant\n%s", got[i][1], want[i])
		}
	}
}

func TestInvalidKernelArguments(t *testing.T) {
	for _, line := range []string{`setenv bootargs "${base} @CMDLINE@"`, "# it's quoted below\nsetenv bootargs 'x @CMDLINE@'"} {
		if _, err := putCmdline(line, "a='b'"); err == nil || !strings.Contains(err.Error(), "cannot have an apostrophe (')") {
			t.Errorf("%s: %v", line, err)
		}
	}
	if err := checkCmdline("a\nb"); err == nil || !strings.Contains(err.Error(), `control character '\n'`) {
		t.Error(err)
	}
	// Other lines do not change.
	if made, err := putCmdline("# @CMDLINE@\nx \"@CMDLINE@\"\n", "quiet a=b;c#d"); err != nil || made != "# @CMDLINE@\nx \"quiet a=b;c#d\"\n" {
		t.Errorf("%q, %v", made, err)
	}
}
