package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"imgtool/cmd/imgtool/exit"

	"github.com/spf13/cobra"
)

// Every command fails if it cannot write to standard output.
func TestAFullStandardOutputIsAnError(t *testing.T) {
	t.Chdir(t.TempDir())
	must(makeInputs("in"))
	imgtool(t, "build", "--board", "in/tiny.toml", "--inputs", "in", "-o", "x.img.zst")
	imgtool(t, "build", "--board", "rock64", "--inputs", "in", "--seed", "in/config.toml", "-o", "seeded.img.zst")
	must(os.WriteFile("bad.toml", []byte("version = 2\n"), 0o644))
	must(os.WriteFile("disk", nil, 0o644))
	must(os.Truncate("disk", 256<<20))
	commands := [][]string{
		{"disks"}, {"boards"}, {"boards", "rock64"}, {"boards", "rock64", "--repart"}, {"version"}, {"cache"},
		{"seed", "render", "in/config.toml"}, {"seed", "schema"}, {"seed", "get", "seeded.img.zst"}, {"seed", "check", "bad.toml"},
		{"inspect", "x.img.zst"}, {"ls", "x.img.zst"}, {"ls", "x.img.zst:rootfs-a/"}, {"diff", "x.img.zst", "seeded.img.zst"},
		{"cat", "x.img.zst:boot-a/Image"},
		{"build", "--board", "in/tiny.toml", "--inputs", "in", "-o", "y.img"}, {"completion", "bash"}, {"completion", "fish"}, {"help"}, {"help", "flash"},
	}
	for _, c := range commands[:17] {
		if c[0] != "cat" && c[0] != "completion" {
			commands = append(commands, append(slices.Clone(c), "--json"))
		}
	}
	commands = append(commands, []string{"flash", "-y", "--json", "-i", "x.img.zst", "disk"}, []string{"seed", "check", "--json", "in/config.toml"})
	var helps func(cmd *cobra.Command)
	helps = func(cmd *cobra.Command) {
		commands = append(commands, append(strings.Fields(cmd.CommandPath())[1:], "--help"))
		for _, sub := range cmd.Commands() {
			helps(sub)
		}
	}
	helps(newCommand(&ui{}))
	for _, args := range commands {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		must(err)
		var stderr, stdout bytes.Buffer
		cmd := tool(t, args...)
		cmd.Stdout, cmd.Stderr = full, &stderr
		status := exitOf(cmd.Run())
		full.Close()
		if status != exit.Write || strings.Count(stderr.String(), "writing to standard output: no space left on device") != 1 {
			t.Errorf("%v: exit status %d: %s", args, status, stderr.String())
		}
		// The error is not one of usage.
		cmd = tool(t, args...)
		cmd.Stdout = &stdout
		if cmd.Run(); stdout.Len() == 0 {
			t.Errorf("%v writes nothing", args)
		}
	}
}

// A receipt that cannot be written is an error, if possible before the disk is touched.
func TestAReceiptThatCannotBeWrittenIsAnError(t *testing.T) {
	t.Chdir(t.TempDir())
	must(makeInputs("in"))
	imgtool(t, "build", "--board", "in/tiny.toml", "--inputs", "in", "-o", "x.img.zst")
	must(os.Symlink("/dev/full", "full"))
	for _, receipt := range []string{"full", "/dev/full", "none/receipt", "/proc/self/fd/1"} {
		must(os.WriteFile("disk", nil, 0o644))
		must(os.Truncate("disk", 256<<20))
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		must(err)
		var stderr bytes.Buffer
		cmd := tool(t, "flash", "-y", "-i", "x.img.zst", "--receipt", receipt, "disk")
		cmd.Stdout, cmd.Stderr = full, &stderr
		status := exitOf(cmd.Run())
		full.Close()
		if status != exit.Write || !strings.Contains(stderr.String(), receipt+": writing the receipt: ") {
			t.Errorf("%s: exit status %d: %s", receipt, status, stderr.String())
		}
		if out, err := exec.Command("stat", "-c", "%b", "disk").Output(); string(out) != "0\n" {
			t.Errorf("%s: the disk was written: %s blocks, %v", receipt, out, err)
		}
	}
	// Receipts are appended, and only their owner can read a new file.
	for range 2 {
		imgtool(t, "flash", "-y", "-i", "x.img.zst", "--receipt", "log", "disk")
	}
	text, err := os.ReadFile("log")
	if strings.Count(string(text), "\n") != 2 || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	if info, err := os.Stat("log"); err != nil || info.Mode() != 0o600 {
		t.Error(info.Mode(), err)
	}
}

// exitOf returns the exit status of a command.
func exitOf(err error) int {
	var failed *exec.ExitError
	switch {
	case err == nil:
		return exit.OK
	case errors.As(err, &failed):
		return failed.ExitCode()
	}
	return -1
}
