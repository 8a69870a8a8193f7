package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/boards"
	"imgtool/cmd/imgtool/exit"
	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/terminal"
	"imgtool/flash"
	"imgtool/flash/deploy"
	"imgtool/flash/factory"
	"imgtool/image/compose"
	"imgtool/image/gpt"
	"imgtool/image/imagetest"
	"imgtool/image/progress"
	"imgtool/image/volume"
)

// bench has the three images of a build and a loop device for each.
type bench struct {
	t     *testing.T
	dir   string
	disks map[string]string // devices, by medium
	files map[string]string // what is behind them
	wrap  []string          // what imgtool is run by, if that is something
	board *boards.Board
}

func newBench(t *testing.T) *bench {
	t.Helper()
	return newBenchOf(t, "photon-nx")
}

func newBenchOf(t *testing.T, name string) *bench {
	t.Helper()
	imagetest.NeedRoot(t)
	board, err := boards.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, dir: t.TempDir(), board: board, disks: map[string]string{}, files: map[string]string{}}
	if err := makeL4T(filepath.Join(b.dir, "l4t.tar")); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(b.dir, "initrd"), initrdWith("init", "scripts/init-bottom/overlayroot"), 0o644)
	for medium, size := range map[string]int64{"emmc": 15758000128, "sd": 15931539456, "nvme": 512110190592} {
		b.files[medium] = sparseFile(t, filepath.Join(b.dir, medium), size)
		b.disks[medium] = imagetest.Loop(t, b.files[medium])
	}
	return b
}

func (b *bench) build(args ...string) {
	b.t.Helper()
	imgtool(b.t, append([]string{"build", "--board", b.board.Name, "--rootfs", filepath.Join(b.dir, "l4t.tar"), "-o", filepath.Join(b.dir, "p.img")}, args...)...)
}

func (b *bench) blank() {
	for _, dev := range b.disks {
		imagetest.Run(b.t, "blkdiscard", "--force", dev)
	}
}

// unitFile writes the data and keys of a unit, and returns the file.
func (b *bench) unitFile(vsn string) string {
	b.t.Helper()
	put := func(name, text string) {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
	line := func(kind string) string {
		blob := append(binary.BigEndian.AppendUint32(nil, uint32(len(kind))), kind...)
		blob = append(blob, make([]byte, 100)...)
		rand.Read(blob[len(blob)-100:])
		return kind + " " + base64.StdEncoding.EncodeToString(blob) + "\n"
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		b.t.Fatal(err)
	}
	put(vsn+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	put(vsn+".cert", line("ssh-ed25519-cert-v01@openssh.com"))
	put(vsn+".pub", line("ssh-ed25519"))
	put(vsn+".toml", fmt.Sprintf("vsn = %q\nwan0-mac = \"48:b0:2d:00:00:%02x\"\n[keys]\nbk-key = \"%s.key\"\nbk-cert = \"%[1]s.cert\"\nbk-pub = \"%[1]s.pub\"\n", vsn, vsn[1], vsn))
	return filepath.Join(b.dir, vsn+".toml")
}

func (b *bench) factory(unit string, args ...string) *exec.Cmd {
	args = append([]string{"factory", "-y", "--board", b.board.Name, "-i", filepath.Join(b.dir, "p.img"), "--unit", unit,
		"--emmc", b.disks["emmc"], "--sd", b.disks["sd"], "--nvme", b.disks["nvme"]}, args...)
	cmd := tool(b.t, args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+b.dir)
	return cmd
}

// unit reads the file of a unit.
func (b *bench) unit(file string) *factory.Unit {
	b.t.Helper()
	own, err := factory.ReadUnit(file, &b.board.Unit, b.board.Name, progress.Discard)
	must(err)
	return own
}

// has returns the status of a disk, and whether it has exactly the content of the unit.
func (b *bench) has(medium, file string) (status factory.Status, is bool) {
	b.t.Helper()
	files, _ := b.unit(file).Files(medium, nil)
	src, err := volume.Open(filepath.Join(b.dir, "p-"+medium+".img"), volume.Options{})
	must(err)
	defer src.Close()
	d, err := deploy.Find(b.disks[medium])
	must(err)
	imagetest.Run(b.t, "blockdev", "--flushbufs", b.disks[medium])
	o := option.Deploying(terminal.New(nil, io.Discard, io.Discard), true, flash.DefaultStall)
	_, err = deploy.Verify(b.t.Context(), d, src, files, &o)
	return factory.ReadStatus(d, src.Manifest, &b.board.Unit), err == nil
}

// The kernel mounts the file systems and finds the files of the unit.
func TestKernelReadsPerUnitData(t *testing.T) {
	imagetest.Long(t)
	b := newBench(t)
	b.build("--input", "initrd="+filepath.Join(b.dir, "initrd"))
	unit := b.unitFile("W1")
	if out, err := b.factory(unit).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	at := filepath.Join(b.dir, "at")
	os.Mkdir(at, 0o755)
	for _, c := range []struct {
		medium, name, sub, want string
	}{
		{"nvme", "system-data", "overlay", "600 bk_key.pem\n600 bk_key.pem-cert.pub\n600 bk_pubkey.pem\n644 node-id\n644 vsn\n"},
		{"sd", "recovery-root", "", "644 node-id\n644 vsn\n"},
		{"emmc", "APP", "", ""},
	} {
		part := partOf(t, b.files[c.medium], c.name)
		dev := strings.TrimSpace(imagetest.Run(t, "losetup", "--find", "--show", "--read-only", "--offset", fmt.Sprint(part.Off), "--sizelimit", fmt.Sprint(part.Len), b.files[c.medium]))
		imagetest.Run(t, "mount", "-t", "ext4", "-o", "ro,noload", dev, at)
		got := imagetest.Run(t, "sh", "-c", "cd "+filepath.Join(at, c.sub, "etc/waggle")+" && for f in *; do case $f in vsn|node-id|bk_*|sage_*) stat -c '%a %n' $f;; esac; done")
		key, err := os.ReadFile(filepath.Join(at, c.sub, "etc/waggle/bk_key.pem"))
		imagetest.Run(t, "umount", at)
		imagetest.Run(t, "losetup", "--detach", dev)
		if got != c.want {
			t.Errorf("%s has\n%s, want\n%s", c.name, got, c.want)
		}
		if want, _ := os.ReadFile(filepath.Join(b.dir, "W1.key")); err == nil && string(key) != string(want) {
			t.Errorf("%s: the key is another", c.name)
		}
	}
	for medium := range b.disks {
		if _, is := b.has(medium, unit); !is {
			t.Errorf("%s is not as it should be", medium)
		}
	}
}

// Data that is the same for all units stays at its offset in the image.
func TestPerUnitDataMovesNothing(t *testing.T) {
	b := newBench(t)
	b.build("--input", "initrd="+filepath.Join(b.dir, "initrd"))
	own := b.unit(b.unitFile("W1"))
	for _, medium := range []string{"sd", "nvme"} {
		pic, err := volume.Open(filepath.Join(b.dir, "p-"+medium+".img"), volume.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer pic.Close()
		more, _ := own.Files(medium, nil)
		made, err := compose.Fit(pic, pic.Manifest.Size, more)
		if err != nil {
			t.Fatal(err)
		}
		var differ, all int64
		for c, err := range made.Image.Chunks(4096) {
			if err != nil {
				t.Fatal(err)
			}
			was := make([]byte, len(c.Data))
			pic.Image.ReadAt(was, c.Off)
			if all++; string(was) != string(c.Data) {
				differ++
			}
		}
		t.Logf("%s: %d of %d blocks differ", medium, differ, all)
		// Counters in all copies of the superblock and the descriptors, bitmaps, inodes,
		// directories and the files.
		if differ > 60 {
			t.Errorf("%s: %d of %d blocks differ", medium, differ, all)
		}
	}
}

// A factory run that is killed at any moment leaves no disk that is wrongly marked as
// provisioned, and the same command completes it.
func TestKilledFactoryIsCompletedByTheNext(t *testing.T) {
	imagetest.Long(t)
	b := newBench(t)
	b.build("--input", "initrd="+filepath.Join(b.dir, "initrd"))
	r := random(t)
	units := [2]string{b.unitFile("W1"), b.unitFile("W2")}
	whole := imagetest.MovedBy(t, b.factory(units[0]))
	t.Logf("a whole one reads and writes %d bytes", whole)
	var early, halfway, done int
	for i := range soak(2, 50) {
		// On blank disks, or on disks of another unit.
		next, args := i%2, []string{"--reprovision"}
		fresh := r.IntN(2) == 0
		if fresh {
			b.blank()
			args = nil
		}
		cmd := b.factory(units[next], args...)
		after := r.Int64N(whole * 11 / 10)
		endAt(cmd, after, os.Kill)
		n, claims := 0, 0
		for medium := range b.disks {
			there, is := b.has(medium, units[next])
			if is && there.Done {
				n++
			}
			if there.Done {
				claims++
			}
			if there.Done && !is {
				if _, old := b.has(medium, units[1-next]); fresh || !old {
					t.Errorf("killed after %d bytes: the %s says %+v, and is not", after, medium, there)
				}
			}
		}
		switch {
		case n == 3:
			done++
		case fresh && n == 0 && claims == 0 || claims == 3:
			early++
		default:
			halfway++
		}
		out, err := b.factory(units[next], args...).CombinedOutput()
		if status := exitOf(err); status != exit.OK && !(n == 3 && status == exit.Refused) {
			t.Fatalf("killed after %d bytes with %d media done: the next ended with %d: %s", after, n, status, out)
		}
		for medium := range b.disks {
			if there, is := b.has(medium, units[next]); !is || !there.Done {
				t.Errorf("killed after %d bytes: the next left %s as %+v", after, medium, there)
			}
		}
	}
	t.Logf("%d before the first was done, %d in the middle, %d done", early, halfway, done)
	if left, _ := filepath.Glob(filepath.Join(b.dir, "imgtool-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// partOf returns a partition of a disk by its name.
func partOf(t *testing.T, file, name string) gpt.Part {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(io.NewSectionReader(f, 0, info.Size()), 512)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range table.Parts {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("%s has no partition %s", file, name)
	return gpt.Part{}
}
