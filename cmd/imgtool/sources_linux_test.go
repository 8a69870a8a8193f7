package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"
)

// othersImage makes a disk image with an MBR without imgtool, of size bytes. The first noise
// bytes of its partition are random.
func othersImage(t *testing.T, path string, size, noise int64) []byte {
	t.Helper()
	sparseFile(t, path, size)
	sh(t, filepath.Dir(path), fmt.Sprintf("printf 'label: dos\\nstart=2048, size=%d, type=83\\n' | PATH=$PATH:/usr/sbin sfdisk -q %s", size/512-2048, path))
	b := make([]byte, noise)
	rand.NewChaCha8([32]byte{9}).Read(b)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, 1<<20); err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func needAll(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		imagetest.Need(t, p)
	}
}

// sh runs a shell command in a directory.
func sh(t *testing.T, dir, command string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", command)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v %s", command, err, out)
	}
}

// stale makes a disk of size bytes with other data.
func stale(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte("old "), int(size/4)), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// packings are the ways in which other projects compress images.
var packings = map[string]string{
	"x.img.xz":      "xz -0 -c x.img > x.img.xz",
	"padded.img.xz": "(xz -0 -c x.img; head -c 8192 /dev/zero) > padded.img.xz",
	"bcj.img.xz":    "xz --arm64 --lzma2=preset=0 -c x.img > bcj.img.xz",
	"x.img.gz":      "gzip -1 -c x.img > x.img.gz",
	"more.img.gz":   `(gzip -1 -c x.img; printf '\0\0\0\0{ "metadata_version": "1.1" }FWx0') > more.img.gz`,
	"zeros.img.gz":  "(gzip -1 -c x.img; head -c 5000 /dev/zero) > zeros.img.gz",
	"x.img.bz2":     "bzip2 -1 -c x.img > x.img.bz2",
	"x.img.lz4":     "lz4 -q -c x.img > x.img.lz4",
	"legacy.lz4":    "lz4 -q -l -c x.img > legacy.lz4",
	"x.img.zst":     "zstd -q -1 -c x.img > x.img.zst",
	"long.img.zst":  "zstd -q -1 --long=31 < x.img > long.img.zst",
	"x.zip":         "zip -q -1 x.zip x.img",
}

func TestPackedImagesOfOthersAreWrittenAsByDD(t *testing.T) {
	imagetest.Long(t)
	needAll(t, "sfdisk", "xz", "bzip2", "lz4", "zstd", "zip")
	dir := t.TempDir()
	want := othersImage(t, filepath.Join(dir, "x.img"), 8<<20, 2<<20)
	sample := random(t)
	for name, command := range packings {
		sh(t, dir, command)
		path := filepath.Join(dir, name)
		both := []bool{true, false}
		if sample.IntN(2) == 0 {
			both = []bool{false, true}
		}
		for _, scratch := range both[:soak(1, 2)] {
			tmp := t.TempDir()
			if !scratch {
				tmp = filepath.Join(tmp, "not", "there")
			}
			run := func(args ...string) (int, string) {
				cmd := tool(t, args...)
				cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
				return ended(t, cmd)
			}
			disk := stale(t, 10<<20)
			status, said := run("--json", "flash", "--yes", "-i", path, disk)
			got, _ := os.ReadFile(disk)
			if status != 0 || !bytes.Equal(got[:len(want)], want) {
				t.Errorf("%s, scratch file %v: status %d: %s", name, scratch, status, said)
				continue
			}
			if twice := strings.Contains(said, "read twice"); twice == scratch {
				t.Errorf("%s, scratch file %v: %s", name, scratch, said)
			}
			if told := strings.Contains(said, "bytes after the end of the gzip data are ignored"); told != (name == "more.img.gz") {
				t.Errorf("%s: the warning about ignored bytes was %v", name, told)
			}
			for line := range strings.Lines(said) {
				var e struct {
					Event, Phase string
					Total        int64
				}
				if json.Unmarshal([]byte(line), &e) == nil && e.Event == "progress" && e.Phase == "writing" && e.Total == 0 {
					t.Errorf("%s, scratch file %v: no total: %s", name, scratch, line)
				}
			}
			// An image that does not fit is refused before anything is written.
			small := stale(t, 6<<20)
			before := hashFile(t, small)
			for _, args := range [][]string{{"flash", "--dry-run", "-i", path, small}, {"flash", "--yes", "-i", path, small}} {
				if status, said := run(args...); status != exit.Refused || hashFile(t, small) != before {
					t.Errorf("%s onto a smaller disk: status %d: %s", name, status, said)
				}
			}
			// So is an image that is damaged, at any offset.
			b, _ := os.ReadFile(path)
			at := len(b) * 2 / 3
			if name == "legacy.lz4" {
				b = b[:at] // it has no checksums
			} else {
				if name == "padded.img.xz" || name == "zeros.img.gz" {
					at = len(b) / 2
				}
				b[at] ^= 0x04
			}
			bad := filepath.Join(t.TempDir(), "bad-"+name)
			os.WriteFile(bad, b, 0o644)
			disk = stale(t, 10<<20)
			before = hashFile(t, disk)
			for _, args := range [][]string{{"verify", bad}, {"flash", "--dry-run", "-i", bad, disk}, {"flash", "--yes", "-i", bad, disk}} {
				if status, said := run(args...); status != exit.Corrupt || hashFile(t, disk) != before {
					t.Errorf("%s, damaged, %v: status %d: %s", name, args[:2], status, said)
				}
			}
		}
		if status, said := ended(t, tool(t, "verify", path)); status != 0 {
			t.Errorf("verify %s: status %d: %s", name, status, said)
		}
		// An image from a pipe is read as a stream.
		disk := stale(t, 10<<20)
		cmd := tool(t, "flash", "--yes", "-i", "-", disk)
		cmd.Stdin, _ = os.Open(path)
		status, said := ended(t, cmd)
		got, _ := os.ReadFile(disk)
		if name == "x.zip" {
			if status != exit.Input || !strings.Contains(said, "unzip -p") {
				t.Errorf("a zip archive from a pipe: status %d: %s", status, said)
			}
		} else if status != 0 || !bytes.Equal(got[:len(want)], want) {
			t.Errorf("%s from a pipe: status %d: %s", name, status, said)
		}
	}
}

func TestManifestsAreFoundUnderOtherNames(t *testing.T) {
	imagetest.Long(t)
	dir := built(t)
	inputs := filepath.Join(dir, "in")
	for _, d := range []string{"img", "out", "moved", "packed", "two"} {
		os.Mkdir(filepath.Join(dir, d), 0o755)
	}
	imgtool(t, "build", "--board", "rock64", "--inputs", inputs, "-o", filepath.Join(dir, "img", "r.img"))
	sh(t, dir, `ln -s ../img/r.img out/latest.img && ln -s latest.img out/newest
		cp --sparse=always img/r.img moved/other.raw && cp img/r.img.manifest.json moved/
		gzip -1 -c img/r.img > packed/os.gz && cp img/r.img.manifest.json packed/r.img.manifest.json
		mkdir bare && cp --sparse=always img/r.img bare/r.img`)
	small := sparseFile(t, filepath.Join(dir, "small"), 2<<30)
	disk := sparseFile(t, filepath.Join(dir, "disk"), 3<<30)
	for _, at := range []string{"out/latest.img", "out/newest", "moved/other.raw", "packed/os.gz"} {
		at = filepath.Join(dir, at)
		if status, said := ended(t, tool(t, "flash", "--dry-run", "--board", "photon-nx", "-i", at, disk)); status != exit.WrongBoard {
			t.Errorf("%s for another board: status %d: %s", at, status, said)
		}
		if status, said := ended(t, tool(t, "flash", "--dry-run", "-i", at, small)); status != exit.Refused {
			t.Errorf("%s on a disk that is too small: status %d: %s", at, status, said)
		}
		if status, said := ended(t, tool(t, "verify", at)); status != 0 || !strings.Contains(said, "as its manifest says") {
			t.Errorf("verify %s: status %d: %s", at, status, said)
		}
	}
	sh(t, dir, `printf X | dd of=moved/other.raw bs=1 seek=$((17<<20)) conv=notrunc status=none; printf X | dd of=img/r.img bs=1 seek=$((17<<20)) conv=notrunc status=none`)
	before := hashFile(t, disk)
	for _, at := range []string{"out/latest.img", "moved/other.raw"} {
		for _, args := range [][]string{{"verify", filepath.Join(dir, at)}, {"flash", "--dry-run", "-i", filepath.Join(dir, at), disk}, {"flash", "--yes", "-i", filepath.Join(dir, at), disk}} {
			if status, said := ended(t, tool(t, args...)); status != exit.Corrupt || hashFile(t, disk) != before {
				t.Errorf("%s, damaged, %v: status %d: %s", at, args[:2], status, said)
			}
		}
	}
	bare := filepath.Join(dir, "bare", "r.img")
	if status, said := ended(t, tool(t, "flash", "--yes", "--dry-run", "--board", "rock64", "-i", bare, disk)); status != 0 ||
		!strings.Contains(said, "has no manifest") || !strings.Contains(said, "and not known to be for rock64") || !strings.Contains(said, "not known whether this image is for rock64") {
		t.Errorf("without a manifest: status %d: %s", status, said)
	}
}

func TestABlockMapBesideIsUsed(t *testing.T) {
	imagetest.Long(t)
	needAll(t, "bmaptool", "sfdisk")
	dir := t.TempDir()
	want := othersImage(t, filepath.Join(dir, "core.wic"), 24<<20, 6<<20)
	sh(t, dir, "bmaptool create -o core.wic.bmap core.wic 2>/dev/null; gzip -1 -k core.wic; xz -0 -k core.wic")
	for _, name := range []string{"core.wic", "core.wic.gz", "core.wic.xz"} {
		disk := sparseFile(t, filepath.Join(t.TempDir(), "disk"), 32<<20)
		status, said := ended(t, tool(t, "flash", "--yes", "-i", filepath.Join(dir, name), disk))
		got, _ := os.ReadFile(disk)
		if status != 0 || !bytes.Equal(got[:len(want)], want) || !strings.Contains(said, "core.wic.bmap is used") {
			t.Errorf("%s: status %d: %s", name, status, said)
		}
		if status, said := ended(t, tool(t, "verify", "--image", filepath.Join(dir, name), disk)); status != 0 {
			t.Errorf("%s: verify: status %d: %s", name, status, said)
		}
	}
	sh(t, dir, "printf BAD | dd of=core.wic bs=1 seek=$((5<<20)) conv=notrunc status=none; gzip -1 -f -k core.wic")
	if exec.Command("bmaptool", "copy", filepath.Join(dir, "core.wic"), filepath.Join(dir, "out")).Run() == nil {
		t.Fatal("bmaptool takes the damaged image")
	}
	disk := stale(t, 32<<20)
	before := hashFile(t, disk)
	for _, name := range []string{"core.wic", "core.wic.gz"} {
		for _, args := range [][]string{{"verify"}, {"flash", "--dry-run", "-i"}, {"flash", "--yes", "-i"}} {
			args = append(args, filepath.Join(dir, name))
			if args[0] == "flash" {
				args = append(args, disk)
			}
			if status, said := ended(t, tool(t, args...)); status != exit.Corrupt || !strings.Contains(said, "block map") || hashFile(t, disk) != before {
				t.Errorf("%s, damaged, %v: status %d: %s", name, args, status, said)
			}
		}
	}
}

// The next flash of the same image completes one that was killed, also for images from
// other builders.
func TestKilledFlashOfAForeignImageIsCompleted(t *testing.T) {
	imagetest.Long(t)
	needAll(t, "sfdisk", "lz4")
	dir := t.TempDir()
	want := othersImage(t, filepath.Join(dir, "x.img"), 200<<20, 190<<20)
	sh(t, dir, "lz4 -q -c x.img > x.img.lz4")
	disk := sparseFile(t, filepath.Join(dir, "disk"), 256<<20)
	path := filepath.Join(dir, "x.img.lz4")
	for try := range 40 {
		cmd := tool(t, "--json", "flash", "--yes", "--delta", "no", "-i", path, disk)
		events, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for d := json.NewDecoder(events); ; {
			var e struct{ Phase string }
			if d.Decode(&e) != nil || e.Phase == "writing" {
				break
			}
		}
		imagetest.EndAt(cmd, imagetest.Moved(cmd.Process.Pid)+int64(try)*10<<20, os.Kill)
		got, _ := os.ReadFile(disk)
		// Random data of the image is on the disk, but no table.
		if some := bytes.Equal(got[2<<20:3<<20], want[2<<20:3<<20]); got[510] == 0x55 || !some {
			continue
		}
		cmd = tool(t, "--json", "flash", "--yes", "-i", path, disk)
		out, err := cmd.Output()
		var r struct{ Written, Skipped int64 }
		if err != nil || json.Unmarshal(out, &r) != nil || r.Skipped < 1<<20 {
			t.Errorf("%v: %s", err, out)
		}
		got, _ = os.ReadFile(disk)
		if !bytes.Equal(got[:len(want)], want) {
			t.Error("the disk is not the image")
		}
		return
	}
	t.Error("none was killed in the middle: that proves nothing")
}

func TestOutputsThroughSymbolicLinks(t *testing.T) {
	dir := built(t)
	os.Mkdir(filepath.Join(dir, "there"), 0o755)
	sh(t, dir, "ln -s there/r.img out.img; ln -s there/k.toml seed.toml")
	imgtool(t, "build", "--board", "rock64", "--inputs", filepath.Join(dir, "in"), "-o", filepath.Join(dir, "out.img"))
	for _, name := range []string{"there/r.img", "there/r.img.manifest.json", "there/r.img.bmap"} {
		if info, err := os.Lstat(filepath.Join(dir, name)); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s: %v", name, err)
		}
	}
	if to, err := os.Readlink(filepath.Join(dir, "out.img")); err != nil || to != "there/r.img" {
		t.Errorf("out.img leads to %q, %v", to, err)
	}
	key := filepath.Join(dir, "key")
	imagetest.Run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	imgtool(t, "seed", "new", "--user", "admin", "--ssh-key", key+".pub", "--container", "web", "--image", "docker.io/nginx:1", "-o", filepath.Join(dir, "seed.toml"))
	if info, err := os.Lstat(filepath.Join(dir, "there", "k.toml")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("seed new: %v", err)
	}
}
