package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"
)

// Without /sys a file can be flashed, but not a disk; without /proc neither can, because
// other users cannot be detected.
func TestWithoutSysOrProc(t *testing.T) {
	imagetest.NeedRoot(t)
	t.Chdir(t.TempDir())
	must(makeInputs("in"))
	imgtool(t, "build", "--board", "in/tiny.toml", "--inputs", "in", "-o", "x.img.zst")
	sparseFile(t, "disk", 256<<20)
	loop := imagetest.Loop(t, sparseFile(t, "attached", 256<<20))
	path, err := exec.LookPath("imgtool")
	must(err)
	for _, c := range []struct {
		without, disk string
		status        int
		want          string
	}{
		{"/sys", "disk", exit.OK, "written"},
		{"/sys", "attached", exit.Refused, "attached as " + loop},
		{"/sys", loop, exit.Refused, "/sys is not mounted"},
		{"/proc", "disk", exit.Refused, "/proc is not mounted"},
		{"/proc", loop, exit.Refused, "/proc is not mounted"},
	} {
		cmd := exec.Command(imagetest.Need(t, "unshare"), "--mount", "sh", "-c", fmt.Sprintf("umount -l %s && exec %s flash -y -i x.img.zst %s", c.without, path, c.disk))
		if status, out := ended(t, cmd); status != c.status || !strings.Contains(out, c.want) {
			t.Errorf("%s without %s: exit status %d: %s", c.disk, c.without, status, out)
		}
	}
}

// A file that is removed while it is written is an error.
func TestRemovedTargetIsAnError(t *testing.T) {
	t.Chdir(t.TempDir())
	must(makeInputs("in"))
	imgtool(t, "build", "--board", "in/tiny.toml", "--inputs", "in", "-o", "x.img.zst")
	sparseFile(t, "disk", 256<<20)
	f, err := os.Open("disk")
	must(err)
	defer f.Close()
	cmd := tool(t, "flash", "-y", "--receipt", "log", "-i", "-", "disk")
	var text said
	cmd.Stdout, cmd.Stderr = &text, &text
	in, image := feedOf(t, cmd), readFile(t, "x.img.zst")
	must(cmd.Start())
	in.eaten(t, image[:5_000_000])
	imagetest.Wait(t, "the record of a flash", func() bool {
		first := make([]byte, 1)
		f.ReadAt(first, 4096)
		return first[0] != 0
	})
	must(os.Remove("disk"))
	go func() {
		in.w.Write(image[5_000_000:])
		in.w.Close()
	}()
	status, out := exitOf(cmd.Wait()), text.String()
	if status != exit.Gone || !strings.Contains(out, "imgtool: disk: the file was removed, renamed or replaced while it was written") {
		t.Errorf("exit status %d: %s", status, out)
	}
	if log, _ := os.ReadFile("log"); !strings.Contains(string(log), `"status":9`) {
		t.Errorf("the receipt: %s", log)
	}
}
