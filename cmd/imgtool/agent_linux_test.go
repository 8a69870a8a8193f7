package main

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/edit/edittest"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
)

const agentConf = `#!/bin/bash -e
KERNEL_DTB=/boot/dtb/tegra194-xavier-nx-cti-NGX003-WAGGLE-WS.dtb
NVME_DEVICE=/dev/nvme0n1
NVME_PART_SIZE_SWAP=16G
NVME_PART_SIZE_BACKUP=16G
NVME_PART_SIZE_PLUGIN="ALL"
NVME_K3S_SERVICE="k3s-agent"
SD_DEVICE=/dev/mmcblk1
SD_PART_SIZE_SCRATCH="ALL"
SD_FILES_CLEAN=(/var/log/journal)
`

// newAgent returns a bench with the images of an agent.
func newAgent(t *testing.T) *bench {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", "1780000000")
	b := newBenchOf(t, "photon-nx-agent")
	f, err := os.Create(filepath.Join(b.dir, "l4t.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := writeTree(w, liveAgent()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.build()
	return b
}

// An agent that provisions itself gets the same files as one that is provisioned offline.
func TestLiveAgentEqualsTheOfflineOne(t *testing.T) {
	b := newAgent(t)
	root, conf := filepath.Join(b.dir, "root"), filepath.Join(b.dir, "factory_provision_agent.conf")
	if err := os.WriteFile(conf, []byte(agentConf), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := makeAgent(root); err != nil {
		t.Fatal(err)
	}
	if status, out := b.live(root, conf); status != exit.OK {
		t.Fatalf("exit status %d: %s", status, out)
	}
	image := func(medium string) string { return filepath.Join(b.dir, "p-"+medium+".img") }
	// The steps are in the order in which they were done.
	steps := func(t *tree.Tree) *tree.Tree {
		return t.Without(func(p string) bool { return strings.HasSuffix(p, "factory_provision") || p == "lost+found" })
	}
	for name, got := range map[string]*tree.Tree{"APP": dirTree(t, root), "recovery-root": partTree(t, b.files["sd"], "recovery-root"),
		"backup-root": partTree(t, b.files["nvme"], "backup-root"), "plugin-data": partTree(t, b.files["nvme"], "plugin-data")} {
		medium := map[string]string{"APP": "emmc", "recovery-root": "sd"}[name]
		if medium == "" {
			medium = "nvme"
		}
		if d := cmp.Diff(words(steps(partTree(t, image(medium), name))), words(steps(got))); d != "" {
			t.Errorf("%s is not as it is offline: %s", name, d)
		}
	}
	if _, err := os.Lstat(filepath.Join(root, "etc/rc.local")); !os.IsNotExist(err) {
		t.Errorf("the root keeps its first-boot script: %v", err)
	}
	if status, out := b.live(root, conf); status != exit.Refused || !strings.Contains(out, "the unit is provisioned") {
		t.Errorf("once more: exit status %d: %s", status, out)
	}
}

// Per-unit data of an agent is stored in both of its root file systems, and its NVMe is
// recognised as the NVMe of a unit.
func TestPerUnitDataOfAnAgent(t *testing.T) {
	imagetest.Long(t)
	b := newAgent(t)
	unit := filepath.Join(b.dir, "A1.toml")
	if err := os.WriteFile(unit, []byte("vsn = \"A1\"\nnode-id = \"000048B02D012345\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := b.factory(unit).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, c := range []struct{ medium, part string }{{"emmc", "APP"}, {"sd", "recovery-root"}, {"nvme", "plugin-data"}} {
		got := partTree(t, b.files[c.medium], c.part)
		for path, want := range map[string]string{"/etc/waggle/vsn": "A1\n", "/etc/waggle/node-id": "000048B02D012345"} {
			if text := edittest.Text(got, path); text != want {
				t.Errorf("%s of %s is %q", path, c.part, text)
			}
		}
		if there, is := b.has(c.medium, unit); !is || !there.Done || there.Unit != "A1" {
			t.Errorf("%s is %+v, and is %v as it should be", c.medium, there, is)
		}
		part := partOf(t, b.files[c.medium], c.part)
		imagetest.Run(t, "e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", b.files[c.medium], part.Off))
	}
	// None of its disks is accepted in the place of another.
	other := filepath.Join(b.dir, "A2.toml")
	if err := os.WriteFile(other, []byte("vsn = \"A2\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, medium := range []string{"emmc", "sd", "nvme"} {
		status, out := ended(t, tool(t, "factory", "-y", "--board", "photon-nx-agent", "-i", filepath.Join(b.dir, "p.img"), "--unit", other, "--"+medium, b.disks[medium]))
		if status != exit.Refused || !strings.Contains(out, "A1") {
			t.Errorf("%s for another agent: exit status %d: %s", medium, status, out)
		}
	}
}
