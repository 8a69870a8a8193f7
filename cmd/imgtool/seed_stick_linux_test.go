package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"
)

// udev creates links to the stick by its label and its partition name, in which a device looks for
// a seed.
func TestSeedStickLabels(t *testing.T) {
	imagetest.NeedRoot(t)
	dir := t.TempDir()
	seed := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(seed, []byte(tinySeed), 0o644); err != nil {
		t.Fatal(err)
	}
	disk := sparseFile(t, filepath.Join(dir, "disk"), 200<<20)
	dev := imagetest.Loop(t, disk)
	imgtool(t, "seed", "stick", "--yes", dev, seed)
	if out := imagetest.Run(t, "sfdisk", "--verify", dev); !strings.Contains(out, "No errors detected") {
		t.Error(out)
	}
	// Not all kernels read partition tables of loop devices.
	exec.Command(imagetest.Need(t, "partx"), "--delete", dev).Run()
	imagetest.Run(t, "partx", "--add", dev)
	defer exec.Command("partx", "--delete", dev).Run()
	out := imagetest.Run(t, "blkid", "--probe", "--output", "udev", dev+"p1")
	for _, want := range []string{"ID_FS_TYPE=vfat", "ID_FS_LABEL_ENC=SEED", "ID_PART_ENTRY_NAME=seed", "ID_PART_ENTRY_TYPE=ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	imagetest.Run(t, "fsck.fat", "-n", dev+"p1")
	if got := imagetest.Run(t, "mtype", "-i", dev+"p1", "::config.toml"); got != tinySeed {
		t.Errorf("%q", got)
	}
}

func TestSeedStickConfirmation(t *testing.T) {
	dir := t.TempDir()
	template, values := filepath.Join(dir, "seed.toml"), filepath.Join(dir, "units.csv")
	for path, text := range map[string]string{template: tinySeed + "Environment = \"@{unit}\"\n", values: "unit\nW1\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	disk := sparseFile(t, filepath.Join(dir, "disk"), 66<<20)
	before := hashFile(t, disk)
	for _, answer := range []string{"no", "yes"} {
		p := newPerson(t)
		cmd := p.starts("seed", "stick", "--values", values, "--unit", "W1", disk, template)
		p.sees("Write a seed stick with " + template + " (66.0 MiB) for unit W1")
		p.sees("[y/N] ")
		p.types(answer + "\n")
		status, written := p.ends(cmd), hashFile(t, disk) != before
		if yes := answer == "yes"; written != yes || yes != (status == exit.OK) || !yes && status != exit.Refused {
			t.Errorf("%s: exit status %d, written: %v:\n%s", answer, status, written, p.text())
		}
	}
}
