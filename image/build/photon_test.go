package build_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/build"
	"imgtool/image/edit"
	"imgtool/image/edit/edittest"
	"imgtool/image/ext4"
	"imgtool/image/imagetest"
	"imgtool/image/source"
	"imgtool/image/tree"
	"imgtool/image/vm"
)

// buildBoard builds a board's media from a root file system, or the starter
// without one.
func buildBoard(t *testing.T, board, rootfs string, change func(*build.Options)) (*build.Result, error) {
	t.Helper()
	b, err := boards.Get(board)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	o := build.Options{Board: b, BuildID: "golden", Time: build.DefaultTime, TempDir: t.TempDir(), Warn: func(text string) { t.Log(text) },
		Opener: source.NewOpener(source.Options{Arch: "arm64", ModTime: build.DefaultTime, CacheDir: filepath.Join(cache, "imgtool")})}
	t.Cleanup(func() { o.Opener.Close() })
	if rootfs != "" {
		o.Inputs = map[string]string{"rootfs": rootfs}
	}
	if change != nil {
		change(&o)
	}
	r, err := build.Build(t.Context(), o)
	if none := (*source.NoAptError)(nil); errors.As(err, &none) {
		imagetest.Skip(t, "%v", err)
	}
	if err == nil {
		t.Cleanup(r.Close)
	}
	return r, err
}

func medium(t *testing.T, r *build.Result, name string) build.Image {
	t.Helper()
	i := slices.IndexFunc(r.Images, func(m build.Image) bool { return m.Manifest.Medium == name })
	if i < 0 {
		t.Fatalf("no image of %s", name)
	}
	return r.Images[i]
}

// readBack is the tree of a partition, from the image's bytes.
func readBack(t *testing.T, r *build.Result, name, part string) *tree.Tree {
	t.Helper()
	m := medium(t, r, name)
	for _, p := range m.Manifest.Partitions {
		if p.Name == part {
			made, opt, err := ext4.Read(io.NewSectionReader(m.Image, p.Off, p.Len), p.Len)
			if err != nil {
				t.Fatalf("%s of %s: %v", part, name, err)
			}
			if opt.Label != part {
				t.Errorf("%s of %s has the label %q", part, name, opt.Label)
			}
			return made
		}
	}
	t.Fatalf("%s has no partition %s", name, part)
	return nil
}

// l4t returns a squashfs of edittest's tree, with registration keys for tests.
func l4t(t *testing.T, more map[string]string) string {
	t.Helper()
	root := edittest.L4T()
	more["etc/waggle/bk_pubkey.pem"] = "public\n"
	more["etc/waggle/bk_key.pem-cert.pub"] = "certificate\n"
	for path, text := range more {
		if err := root.Put(path, &tree.Inode{Mode: tree.Regular | 0o600, Content: strings.NewReader(text)}); err != nil {
			t.Fatal(err)
		}
	}
	return squashed(t, root)
}

const photonArgs = "rootwait rootfstype=ext4 console=ttyTCU0,115200n8 console=tty0 fbcon=map:0 net.ifnames=0\n"

// photonFiles are the files that the factory's script leaves on a Photon NX core. Comments
// name differences.
var photonFiles = map[string]map[string]string{
	"emmc": {
		"/etc/fstab": `/dev/mmcblk0p1            /                     ext4           defaults                                     0 1
/dev/mmcblk0p11 /media/rpi ext4 defaults,nofail,ro,x-systemd.after=local-fs-pre.target,x-systemd.before=local-fs.target 0 2
# nvme swap
/dev/nvme0n1p1 swap swap defaults,nofail,pri=100 0 0
# plugin-data
/dev/nvme0n1p4 /media/plugin-data ext4 defaults,nofail,x-systemd.after=local-fs-pre.target,x-systemd.before=local-fs.target 0 2
`,
		edit.ExtlinuxConf: `TIMEOUT 30
DEFAULT waggle

MENU TITLE L4T boot options

LABEL primary
      MENU LABEL primary kernel
      LINUX /boot/Image
      INITRD /boot/initrd
      APPEND ${cbootargs} quiet root=/dev/mmcblk0p1 rw ` + photonArgs + `
# To try another kernel, add a label for it.

LABEL waggle
      MENU LABEL waggle kernel
      LINUX /boot/Image
      INITRD /boot/initrd
      FDT /boot/dtb/tegra194-xavier-nx-cti-NGX003-WAGGLE-WS.dtb
      APPEND ${cbootargs} quiet root=/dev/mmcblk0p1 ro ` + photonArgs,
		"/etc/overlayroot.conf":           "overlayroot_cfgdisk=\"disabled\"\noverlayroot=\"device:dev=/dev/nvme0n1p3,timeout=180,recurse=0,swap=1\"\n",
		"/etc/waggle/bk_pubkey.pem":       "public\n",
		"/etc/waggle/bk_key.pem-cert.pub": "certificate\n",
		"/var/log/syslog":                 "",
	},
	"sd": {
		"/etc/fstab": `/dev/mmcblk1p1            /                     ext4           defaults                                     0 1
/dev/mmcblk0p11 /media/rpi ext4 defaults,nofail,ro,x-systemd.after=local-fs-pre.target,x-systemd.before=local-fs.target 0 2
# scratch
/dev/mmcblk1p2 /media/scratch ext4 defaults,nofail,x-systemd.after=local-fs-pre.target,x-systemd.before=local-fs.target 0 2
`,
		// Not the factory's: the label primary is dropped, which would boot the eMMC.
		edit.ExtlinuxConf: `TIMEOUT 30
DEFAULT wagglerecovery

MENU TITLE L4T boot options


# To try another kernel, add a label for it.

LABEL wagglerecovery
      MENU LABEL waggle recovery kernel
      LINUX /boot/Image
      INITRD /boot/initrd
      FDT /boot/dtb/tegra194-xavier-nx-cti-NGX003-WAGGLE-WS.dtb
      APPEND ${cbootargs} quiet root=/dev/mmcblk1p1 ro ` + photonArgs,
		"/etc/overlayroot.conf": "overlayroot_cfgdisk=\"disabled\"\noverlayroot=\"tmpfs:recurse=0\"\n",
	},
	"both": {
		"/etc/ssh/sshd_config": "Port 22\n#PermitRootLogin prohibit-password\nPermitRootLogin yes\nListenAddress 127.0.0.1\n",
		// As in the factory's guide, not its script: no login on the serial console.
		"/etc/securetty": "console\ntty1\n# ttyTCU0\n",
		"/boot/initrd":   edittest.Initrd,
	},
}

// photonLinks are the links that the factory's script makes.
var photonLinks = map[string]map[string]string{
	"both": {
		"/etc/waggle/config.ini":     "/etc/waggle/config-prod.ini",
		"/etc/waggle/firewall/rules": "/etc/waggle/firewall/rules.prod",
		"/root/.ssh/authorized_keys": "/root/.ssh/authorized_keys.prod",
		"/boot/initrd":               "/boot/initrd.img-" + edittest.Kernel,
		// Not the factory's, as securetty.
		"/etc/systemd/system/serial-getty@ttyTCU0.service": "/dev/null",
		"/etc/systemd/system/serial-getty@ttyGS0.service":  "/dev/null",
	},
	"emmc": {
		"/var/lib/docker":  "/media/plugin-data/docker",
		"/etc/rancher":     "/media/plugin-data/k3s/etc/rancher",
		"/var/lib/kubelet": "/media/plugin-data/k3s/kubelet",
		"/var/lib/rancher": "/media/plugin-data/k3s/rancher",

		"/etc/systemd/system/multi-user.target.wants/docker.service":                     "/lib/systemd/system/docker.service",
		"/etc/systemd/system/multi-user.target.wants/k3s.service":                        "/etc/systemd/system/k3s.service",
		"/etc/systemd/system/default.target.wants/waggle-registry-mirror-docker.service": "/etc/systemd/system/waggle-registry-mirror-docker.service",
		"/etc/systemd/system/default.target.wants/waggle-registry-mirror-sage.service":   "/etc/systemd/system/waggle-registry-mirror-sage.service",
		"/etc/systemd/system/default.target.wants/waggle-registry-local.service":         "/etc/systemd/system/waggle-registry-local.service",
	},
}

func TestPhotonMedia(t *testing.T) {
	r, err := buildBoard(t, "photon-nx", l4t(t, map[string]string{}), nil)
	if err != nil {
		t.Fatal(err)
	}
	roots := map[string]*tree.Tree{"emmc": readBack(t, r, "emmc", "APP"), "sd": readBack(t, r, "sd", "recovery-root")}
	for name, root := range roots {
		for _, which := range []string{name, "both"} {
			for path, want := range photonFiles[which] {
				got := edittest.Text(root, path)
				if path == "/etc/fstab" {
					_, got, _ = strings.Cut(got, "<dump> <pass>\n")
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("%s: %s:\n%s", name, path, d)
				}
			}
			for path, target := range photonLinks[which] {
				if n := root.Lookup(path[1:]); n == nil || n.Type() != tree.Symlink || n.Target != target {
					t.Errorf("%s: %s is %+v, not a link to %s", name, path, n, target)
				}
			}
		}
		for _, path := range []string{"/etc/waggle/factory_provision", "/etc/waggle/factory/factory_provision"} {
			var want strings.Builder
			for i, step := range []string{"System checked", "System locked down", "Initrd checked", "Recovery SD card made", "NVMe made", "Provisioned"} {
				fmt.Fprintf(&want, "Thu Jan  1 00:00:00 UTC 2026: (%d/6) %s: board photon-nx, build golden, profile production\n", i+1, step)
			}
			if d := cmp.Diff(want.String(), edittest.Text(root, path)); d != "" {
				t.Errorf("%s: %s:\n%s", name, path, d)
			}
		}
		for path, mode := range map[string]uint32{
			"root/.ssh":                                  tree.Dir | 0o700,
			"root/.ssh/authorized_keys.prod":             tree.Regular | 0o600,
			"etc/NetworkManager/system-connections/wan0": tree.Regular | 0o600,
			"etc/sudoers.d/waggle":                       tree.Regular | 0o440,
			"etc/waggle/docker/certs/domain.key":         tree.Regular | 0o600,
		} {
			if n := root.Lookup(path); n == nil || n.Mode != mode {
				t.Errorf("%s: %s: %+v, want mode %o", name, path, n, mode)
			}
		}
		if ping := root.Lookup("bin/ping"); ping == nil || ping != root.Lookup("bin/ping4") || len(ping.Xattrs) != 1 {
			t.Errorf("%s: ping: %+v", name, ping)
		}
	}
	// Not the factory's, but its guide's: the card has no registration keys.
	for _, path := range []string{"etc/waggle/bk_pubkey.pem", "etc/waggle/bk_key.pem-cert.pub", "var/log/journal", "dev/null", "run/initctl", "tmp/left"} {
		if roots["sd"].Lookup(path) != nil {
			t.Errorf("sd: /%s is there", path)
		}
	}
	if n := roots["sd"].Lookup("media/rpi/boot"); n == nil || n.Type() != tree.Dir {
		t.Error("sd: dnsmasq's directory is missing")
	}

	// The directories of the other file systems.
	for _, c := range []struct{ medium, part, want string }{
		{"emmc", "WAGGLE-RPI", "boot boot/kernel8.img"},
		{"sd", "scratch", ""},
		{"nvme", "backup-root", ""},
		{"nvme", "system-data", "overlay overlay-workdir"},
		{"nvme", "plugin-data", "docker docker/engine-id docker_registry docker_registry/local docker_registry/mirrors docker_registry/mirrors/docker " +
			"docker_registry/mirrors/sage k3s k3s/etc k3s/etc/rancher k3s/etc/rancher/k3s k3s/etc/rancher/k3s/k3s.yaml k3s/kubelet k3s/rancher k3s/rancher/k3s " +
			"k3s/rancher/k3s/agent k3s/rancher/k3s/agent/images k3s/rancher/k3s/agent/images/base.tar"},
	} {
		got := []string{}
		for path := range readBack(t, r, c.medium, c.part).All() {
			if path != "" && path != "lost+found" {
				got = append(got, path)
			}
		}
		if d := cmp.Diff(strings.Fields(c.want), got); d != "" {
			t.Errorf("%s of %s:\n%s", c.part, c.medium, d)
		}
	}
}

// photonTables are the partitions of the media: start and length in sectors, type
// and name. The eMMC's are where NVIDIA's flash XML for L4T 32.4.4 puts them, as
// Waggle changed it.
var photonTables = map[string]string{
	"emmc": `40 20971520 EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 APP
20971560 131072 EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 kernel
21102632 131072 EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 kernel_b
21233704 896 EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 kernel-dtb
21234600 896 EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 kernel-dtb_b
21235496 129024 EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 recovery
21364520 1024 EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 recovery-dtb
21365544 512 EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 kernel-bootctrl
21366056 512 EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 kernel-bootctrl_b
21366568 614400 EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 RECROOTFS
21980968 8388608 EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 WAGGLE-RPI
30369576 407728 EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 UDA
`,
	"sd": `2048 20971520 0FC63DAF-8483-4772-8E79-3D69D8477DE4 recovery-root
20973568 10141696 0FC63DAF-8483-4772-8E79-3D69D8477DE4 scratch
`,
	"nvme": `2048 33554432 0657FD6D-A4AB-43C4-84E5-0933C84B4F4F nvme-swap
33556480 33554432 0FC63DAF-8483-4772-8E79-3D69D8477DE4 backup-root
67110912 536870912 0FC63DAF-8483-4772-8E79-3D69D8477DE4 system-data
603981824 396232704 0FC63DAF-8483-4772-8E79-3D69D8477DE4 plugin-data
`,
}

// sfdiskLine matches a partition in the output of sfdisk --dump.
var sfdiskLine = regexp.MustCompile(`(?m)^.*start= *(\d+), size= *(\d+), type=([0-9A-F-]+), uuid=[0-9A-F-]+, name="([^"]+)"`)

// fileSystems are the types of the file systems, by label.
var fileSystems = map[string]string{"APP": "ext4", "WAGGLE-RPI": "ext4", "recovery-root": "ext4", "scratch": "ext4",
	"nvme-swap": "swap", "backup-root": "ext4", "system-data": "ext4", "plugin-data": "ext4"}

// eachFileSystem calls do with the file of a medium, and offset and size of a file system.
func eachFileSystem(r *build.Result, files map[string]string, do func(file, label, kind string, off, size int64)) {
	for _, m := range r.Images {
		for _, p := range m.Manifest.Partitions {
			if kind := fileSystems[p.Name]; kind != "" {
				do(files[m.Manifest.Medium], p.Name, kind, p.Off, p.Len)
			}
		}
	}
}

func fsck(t *testing.T, r *build.Result, files map[string]string) {
	t.Helper()
	eachFileSystem(r, files, func(file, label, kind string, off, size int64) {
		if kind != "ext4" {
			return
		}
		// It prints the name of the checked file system.
		if out := imagetest.Run(t, "e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", file, off)); !strings.Contains(out, label+": ") {
			t.Errorf("%s: e2fsck: %s", label, out)
		}
	})
}

// The starter's media are checked with sfdisk and sgdisk, e2fsck and blkid, U-Boot's file
// system reader, and the kernel.
func TestPhotonStarter(t *testing.T) {
	imagetest.Long(t)
	begin := time.Now()
	r, err := buildBoard(t, "photon-nx", "", func(o *build.Options) { o.BuildID = "boot-test-3" })
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("built in %s", time.Since(begin).Round(time.Millisecond))
	dir := t.TempDir()
	files := map[string]string{}
	for _, m := range r.Images {
		begin := time.Now()
		name := m.Manifest.Medium
		files[name] = filepath.Join(dir, name+".img")
		if err := artifact.Save(t.Context(), files[name], m.Image, m.Manifest, nil); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes in %d, written in %s", name, m.Image.ContentSize(), m.Image.Size(), time.Since(begin).Round(time.Millisecond))
	}

	t.Run("the same twice", func(t *testing.T) {
		again, err := buildBoard(t, "photon-nx", "", func(o *build.Options) { o.BuildID = "boot-test-3" })
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range again.Images {
			sums, err := image.Sum(t.Context(), m.Image, image.Phases(nil).Start("", 0))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(r.Images[i].Manifest.Pieces, sums.Pieces.Entries); d != "" {
				t.Errorf("%s:\n%s", m.Manifest.Medium, d)
			}
		}
	})
	t.Run("partitions", func(t *testing.T) {
		for name, file := range files {
			var got strings.Builder
			for _, p := range sfdiskLine.FindAllStringSubmatch(imagetest.Run(t, "sfdisk", "--dump", file), -1) {
				fmt.Fprintln(&got, p[1], p[2], p[3], p[4])
			}
			if d := cmp.Diff(photonTables[name], got.String()); d != "" {
				t.Errorf("%s:\n%s", name, d)
			}
			if out := imagetest.Run(t, "sgdisk", "-v", file); !strings.Contains(out, "No problems found") {
				t.Errorf("%s: sgdisk -v: %s", name, out)
			}
		}
	})
	t.Run("file systems", func(t *testing.T) {
		fsck(t, r, files)
		seen := 0
		eachFileSystem(r, files, func(file, label, kind string, off, size int64) {
			seen++
			out := imagetest.Run(t, "blkid", "-p", "-O", fmt.Sprint(off), "-S", fmt.Sprint(size), file)
			if !strings.Contains(out, ` LABEL="`+label+`"`) || !strings.Contains(out, ` TYPE="`+kind+`"`) {
				t.Errorf("%s: blkid says %s", label, out)
			}
		})
		if seen != len(fileSystems) {
			t.Errorf("there are %d file systems, not %d", seen, len(fileSystems))
		}
	})
	t.Run("the card boots", func(t *testing.T) {
		log := bootPhoton(t, `starter ready: root overlay on /dev/mmcblk1p1 \(ext4 ro\), upper tmpfs, boot 1, build boot-test-3`, files["sd"], "")
		wantLines(t, log, `append:  quiet root=/dev/mmcblk1p1 ro `, `1:	waggle recovery kernel`, `/media/scratch mounted: /dev/mmcblk1p2 ext4 rw`)
	})
	// Files of the first boot exist in the second one, and each file system is clean
	// after power-off.
	t.Run("the eMMC boots", func(t *testing.T) {
		off := vm.Reply{Seen: "starter ready", Type: "poweroff\n"}
		for boot := 1; boot <= 2; boot++ {
			log := bootPhoton(t, "reboot: Power down", files["emmc"], files["nvme"], off)
			wantLines(t, log, `append:  quiet root=/dev/mmcblk0p1 ro `,
				fmt.Sprintf(`starter ready: root overlay on /dev/mmcblk0p1 (ext4 ro), upper /dev/nvme0n1p3, boot %d, build boot-test-3`, boot),
				`2:	waggle kernel`,
				`swap on /dev/nvme0n1p1, 16383 MiB`,
				`/media/plugin-data mounted: /dev/nvme0n1p4 ext4 rw`,
				`/media/rpi mounted: /dev/mmcblk0p11 ext4 ro`,
				`/var/lib/docker -> /media/plugin-data/docker`,
				`/etc/rancher -> /media/plugin-data/k3s/etc/rancher`,
				`/var/lib/kubelet -> /media/plugin-data/k3s/kubelet`,
				`/var/lib/rancher -> /media/plugin-data/k3s/rancher`)
		}
		fsck(t, r, files)
	})
}

// bootPhoton boots a disk that it does not change, with an NVMe that it does change, by the
// extlinux.conf that U-Boot finds on its first partition.
func bootPhoton(t *testing.T, ready, disk, nvme string, replies ...vm.Reply) string {
	t.Helper()
	m := vm.Machine{Disks: []vm.Disk{{Path: disk, Bus: "virtio"}}}
	if nvme != "" {
		m.Disks = append(m.Disks, vm.Disk{Path: nvme, Bus: "nvme", Keep: true})
	}
	return imagetest.Boot(t, m, ready, append([]vm.Reply{
		{Seen: "Hit any key", Type: "\n"},
		{Seen: "=> ", Type: "boot\n"},
	}, replies...)...)
}

func wantLines(t *testing.T, log string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(log, line) {
			t.Errorf("%q is missing in\n%s", line, log)
		}
	}
}

func TestAgentStarter(t *testing.T) {
	imagetest.Long(t)
	r, err := buildBoard(t, "photon-nx-agent", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	app := readBack(t, r, "emmc", "APP")
	if text := edittest.Text(app, "/etc/os-release"); !strings.Contains(text, "not an L4T") || !strings.Contains(text, "BUILD_ID=golden\n") {
		t.Errorf("/etc/os-release is %q", text)
	}
	if text := edittest.Text(app, "/etc/fstab"); strings.Contains(text, "/media/rpi") {
		t.Errorf("/etc/fstab is %q", text)
	}
}

// A starter can also be built with Rock64's slots, for U-Boot.
func TestPhotonStarterWithSlots(t *testing.T) {
	imagetest.Long(t)
	r, err := buildBoard(t, "photon-nx.ab-squashfs", "", func(o *build.Options) { o.BuildID = "boot-test-4" })
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "slots.img")
	if err := artifact.Save(t.Context(), file, r.Images[0].Image, r.Images[0].Manifest, nil); err != nil {
		t.Fatal(err)
	}
	log := imagetest.Boot(t, vm.Machine{Disks: []vm.Disk{{Path: file, Bus: "virtio"}}}, `starter ready: slot a, build boot-test-4`)
	wantLines(t, log, "Build ID: boot-test-4", "Booting boot.0 from virtio 0:1")
}
