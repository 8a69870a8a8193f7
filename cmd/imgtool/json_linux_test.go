package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"
)

// An interrupted command prints one document with what it leaves behind, whether it ends by
// itself or hangs.
func TestInterruptedCommandsPrintOneDocument(t *testing.T) {
	imagetest.Long(t)
	dir := t.TempDir()
	t.Chdir(dir)
	must(makeInputs("in"))
	imgtool(t, "build", "--board", "in/tiny.toml", "--inputs", "in", "-o", "x.img.zst")
	imgtool(t, "build", "--board", "rock64", "--inputs", "in", "-o", "rock.img")
	whole := readFile(t, "x.img.zst")
	must(os.Mkdir("root", 0o755))
	must(os.WriteFile("root/large", noise(120<<20), 0o644))
	sparseFile(t, "disk", 64<<20)
	overwriteAll(t, "disk")
	s, err := schemas()
	must(err)
	for _, c := range []struct {
		line string
		send int    // bytes to standard input
		say  string // what it says when it waits
		want string
	}{
		{"flash --yes -i - disk", 1, "", `"error": "interrupted"`},
		{"flash --yes -i - disk", 5_000_000, "", `"error": "interrupted: disk is not bootable and has no partition table now; flash it again"`},
		{"build --board rock64 --inputs in --rootfs root --compression zstd:19 --no-cache -o y.img", 0, `"event":`, `"kind": "interrupted"`},
		{"provision --wait 5m --seed in/config.toml 127.0.0.1:1", 0, "waiting up to 5m", `"kind": "interrupted"`},
		{"flash --board rock64 --timeout 5m --yes -i rock.img", 0, "waiting for it, up to 5m", `"status": 130`},
		{"seed check -", 1, "", `"status": 130`},
	} {
		args := append([]string{"--json"}, strings.Fields(c.line)...)
		cmd := tool(t, args...)
		var stdout, stderr said
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		in := feedOf(t, cmd)
		must(cmd.Start())
		if c.send > 0 {
			in.eaten(t, whole[:c.send])
		}
		if c.send > 1 {
			imagetest.Wait(t, "it writes the disk", func() bool { return readFile(t, "disk")[0] == 0 })
		}
		imagetest.Wait(t, c.line, func() bool { return strings.Contains(stderr.String(), c.say) })
		status := exitOf(interrupt(t, cmd, os.Interrupt))
		if status != exit.Interrupted || !strings.Contains(stdout.String(), c.want) {
			t.Errorf("%s: exit status %d, want %s: %s%s", c.line, status, c.want, stdout.String(), stderr.String())
		}
		if err := (record{Args: args, Status: status, Stdout: []byte(stdout.String()), Stderr: []byte(stderr.String())}).check(s); err != nil {
			t.Error(err)
		}
	}
}

// A question at a terminal is an event, and its answer decides as always.
func TestQuestionsAreEvents(t *testing.T) {
	dir := t.TempDir()
	must(makeInputs(filepath.Join(dir, "in")))
	image, disk := filepath.Join(dir, "x.img.zst"), filepath.Join(dir, "disk")
	imgtool(t, "build", "--board", filepath.Join(dir, "in", "tiny.toml"), "--inputs", filepath.Join(dir, "in"), "-o", image)
	sparseFile(t, disk, 64<<20)
	p := newPerson(t)
	cmd := p.starts("--json", "flash", "-i", image, disk)
	p.sees(`"event":"question"`)
	p.types("no\n")
	if status := p.ends(cmd); status != exit.Refused || !strings.Contains(p.text(), `"kind": "refused"`) {
		t.Errorf("exit status %d: %s", status, p.text())
	}
}
