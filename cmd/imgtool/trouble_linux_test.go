package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"
)

const badSize = 128 << 20

// bad makes a block device of a file with one kind of fault; see testdata of package flash.
func bad(t *testing.T, file string, args ...string) string {
	t.Helper()
	if err := exec.Command(imagetest.Need(t, "nbdkit"), "python", "--version").Run(); err != nil {
		imagetest.Skip(t, "nbdkit has no python plugin")
	}
	script, err := filepath.Abs("../../flash/testdata/bad.py")
	must(err)
	dev, _ := imagetest.NBD(t, append([]string{"python", script, "file=" + file, fmt.Sprint("size=", badSize)}, args...)...)
	return dev
}

// gptDisk makes a file with a partition table and data in its partition.
func gptDisk(t *testing.T) string {
	t.Helper()
	file := sparseFile(t, filepath.Join(t.TempDir(), "disk"), badSize)
	imagetest.Run(t, "sgdisk", "-n", "1:8192:+16M", "-c", "1:old", file)
	overwrite(t, file, 8<<20, bytes.Repeat([]byte("old content "), 100000))
	return file
}

// bodyOf returns the offset of content in the last partition of an image.
func bodyOf(t *testing.T, image string) int64 {
	t.Helper()
	var m struct {
		Pieces []struct{ Offset, Length int64 }
	}
	must(json.Unmarshal(readFile(t, image+".manifest.json"), &m))
	last := m.Pieces[len(m.Pieces)-2]
	return last.Offset + last.Length/2
}

func jsonLines(t *testing.T, text string) (lines []map[string]any) {
	t.Helper()
	for line := range strings.Lines(text) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		lines = append(lines, m)
	}
	return lines
}

// The messages, receipt and JSON of a failed flash describe the disk as sgdisk and cmp find
// it.
func TestFailedFlashReportsTheStateOfTheDisk(t *testing.T) {
	imagetest.Long(t)
	x := tiny(t, "left")
	for _, c := range []struct {
		name, delta string
		args        []string
		status      int
		left, say   string
	}{
		{"lost", "no", []string{"mode=drop"}, exit.Mismatch, "unchanged", "takes no writes"},
		{"lost", "yes", []string{"mode=drop"}, exit.Mismatch, "unchanged", "takes no writes"},
		{"failing", "no", []string{"mode=nospace", "at=0"}, exit.Write, "unchanged", "is unchanged"},
		{"failing", "yes", []string{"mode=nospace", "at=0"}, exit.Write, "unchanged", "is unchanged"},
		{"failing later", "no", []string{"mode=eio", fmt.Sprint("at=", bodyOf(t, x))}, exit.Write, "no partition table", "has no partition table now"},
		{"wrong in a file", "no", []string{"mode=flip", fmt.Sprint("at=", kernelOf(t, x))}, exit.Mismatch, "no partition table", "boot-a/Image differs from its byte "},
		{"dead later", "no", []string{"mode=dies", "every=8"}, exit.Write, "unknown", "is not known"},
	} {
		t.Run(c.name+" "+c.delta, func(t *testing.T) {
			file := gptDisk(t)
			before := hashFile(t, file)
			dev := bad(t, file, c.args...)
			log := filepath.Join(t.TempDir(), "log")
			status, out := ended(t, tool(t, "flash", "--yes", "--delta", c.delta, "--receipt", log, "-i", x, dev))
			if status != c.status || !strings.Contains(out, c.say) {
				t.Errorf("exit status %d: %s", status, out)
			}
			same := hashFile(t, file) == before
			if same != (c.left == "unchanged") || c.left != "no partition table" && strings.Contains(out, "has no partition table now") {
				t.Errorf("unchanged: %v, and it says %s", same, out)
			}
			if got := jsonLines(t, string(readFile(t, log))); len(got) != 1 || got[0]["disk_state"] != c.left || got[0]["status"] != float64(c.status) {
				t.Errorf("the receipt is %v", got)
			}
			if c.left == "unchanged" {
				imagetest.Run(t, "sgdisk", "-v", file)
			}
			if c.name == "lost" {
				out, err := tool(t, "flash", "--yes", "--json", "-i", x, dev).Output()
				var receipt struct {
					Status  int
					State   string `json:"disk_state"`
					Written int64
					Disks   map[string]string
				}
				must(json.Unmarshal(out, &receipt))
				if receipt.Status != exitOf(err) || receipt.State != "unchanged" || receipt.Disks[dev] != "unchanged" || receipt.Written == 0 {
					t.Errorf("%v: %s", err, out)
				}
			}
		})
	}
}

// imgtool waits for a slow write as long as --stall-timeout says, and does not report the
// disk as gone.
func TestASlowDiskIsWaitedForAndNamed(t *testing.T) {
	imagetest.Long(t)
	x := tiny(t, "slow")
	// flash flashes a disk whose 12th write ends when something is said.
	flash := func(limit, say string) (status int, out, dev string) {
		stall := filepath.Join(t.TempDir(), "stall")
		dev = bad(t, gptDisk(t), "mode=stall", "every=12", "until="+stall)
		cmd := tool(t, "flash", "--yes", "--stall-timeout", limit, "-i", x, dev)
		var text said
		cmd.Stdout, cmd.Stderr = &text, &text
		must(cmd.Start())
		imagetest.Wait(t, say, func() bool { return strings.Contains(text.String(), say) })
		must(os.Remove(stall))
		return exitOf(cmd.Wait()), text.String(), dev
	}
	status, out, dev := flash("20s", ": waiting for up to 20s (--stall-timeout)")
	if status != exit.OK || !strings.Contains(out, dev+": no answer for ") || !strings.Contains(out, dev+": it answers again, after ") {
		t.Errorf("exit status %d: %s", status, out)
	}
	status, out, dev = flash("1s", "has not answered for 1s")
	if status != exit.Gone || !strings.Contains(out, "has not answered for 1s, and is still there") || strings.Contains(out, "gone") || !strings.Contains(out, "is not known") {
		t.Errorf("exit status %d: %s", status, out)
	}
	if status, out := ended(t, tool(t, "flash", "--yes", "--stall-timeout", "0s", "-i", x, dev)); status != exit.Usage {
		t.Errorf("exit status %d: %s", status, out)
	}
}

// A bad sector below an image is not reported as a fault of the target disk.
func TestAnImageThatCannotBeReadIsNamed(t *testing.T) {
	imagetest.Long(t)
	x := tiny(t, "unread")
	raw := filepath.Join(t.TempDir(), "raw")
	must(os.WriteFile(raw, nil, 0o644))
	imagetest.Run(t, "sh", "-c", `zstd -qdc "$0" > "$1" && xz -qk0 "$1" && gzip -qk1 "$1"`, x, raw)
	script, err := filepath.Abs("../../flash/testdata/bad.py")
	must(err)
	for _, name := range []string{raw, raw + ".xz", raw + ".gz", x} {
		info, err := os.Stat(name)
		must(err)
		at := info.Size() / 3 / 512 * 512
		if name == raw {
			at = 10 << 20
		}
		file, _ := imagetest.NBDFile(t, "python", script, "file="+name, fmt.Sprint("size=", info.Size()), "mode=readeio", fmt.Sprint("at=", at))
		for _, args := range [][]string{{"flash", "--yes", "-i", file}, {"verify", "--image", file}} {
			disk := sparseFile(t, filepath.Join(t.TempDir(), "disk"), badSize)
			status, out := ended(t, tool(t, append(args, disk)...))
			if args[0] == "verify" && status == exit.Mismatch {
				continue // what is before that place differs
			}
			var off int64
			_, place, _ := strings.Cut(out, file+": reading at byte ")
			fmt.Sscan(place, &off)
			if status != exit.Corrupt || strings.Contains(out, "corrupt") || strings.Contains(out, "writing") && strings.Contains(out, "failed") || off > at || off < at-(4<<20) || off <= 0 {
				t.Errorf("%s: %v: exit status %d, byte %d for %d: %s", name, args, status, off, at, out)
			}
		}
	}
}

// slowDisk makes a disk that takes some seconds to flash.
func slowDisk(t *testing.T) string {
	t.Helper()
	dev, _ := imagetest.NBD(t, "--filter=delay", "memory", fmt.Sprint(badSize), "wdelay=100ms")
	return dev
}

// begun waits until a flash has wiped the disk.
func begun(t *testing.T, dev string) {
	t.Helper()
	f, err := os.Open(dev)
	must(err)
	defer f.Close()
	block := make([]byte, 4096)
	imagetest.Wait(t, "it begins", func() bool {
		unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
		f.ReadAt(block, 4096)
		return bytes.HasPrefix(block, []byte("imgtool: flash in progress"))
	})
}

// A flash completes and writes its receipt when its terminal is closed, under nohup, and
// when the readers of its output exit.
func TestAFlashOutlivesItsTerminalAndReaders(t *testing.T) {
	imagetest.Long(t)
	x := tiny(t, "outlive")
	path, err := exec.LookPath("imgtool")
	must(err)
	for _, c := range []struct {
		name   string
		shell  string
		signal os.Signal
		status int
	}{
		{"nohup", `trap "" HUP; exec "$@"`, syscall.SIGHUP, exit.OK},
		{"a closed terminal", `exec "$@"`, syscall.SIGHUP, exit.OK},
		{"in the background", `trap "" INT; exec "$@"`, syscall.SIGINT, exit.OK},
		{"interrupted", `exec "$@"`, syscall.SIGINT, exit.Interrupted},
		{"no reader of stderr", `exec "$@"`, nil, exit.OK},
	} {
		t.Run(c.name, func(t *testing.T) {
			var dev string
			var cmd *exec.Cmd
			var got []map[string]any
			// The flash may end before the interrupt.
			for try := 0; try == 0 || c.status == exit.Interrupted && cmd.ProcessState.Success() && try < 20; try++ {
				dev = slowDisk(t)
				log := filepath.Join(t.TempDir(), "log")
				cmd = exec.Command("bash", "-c", c.shell, "bash", path, "flash", "--yes", "--delta", "no", "--receipt", log, "-i", x, dev)
				r, w, err := os.Pipe()
				must(err)
				defer r.Close()
				cmd.Stderr = w
				if c.signal == nil {
					cmd.Stdout = w
				}
				must(cmd.Start())
				w.Close()
				begun(t, dev)
				if c.signal == nil {
					r.Close()
				} else {
					must(cmd.Process.Signal(c.signal))
				}
				cmd.Wait()
				got = jsonLines(t, string(readFile(t, log)))
			}
			if cmd.ProcessState.ExitCode() != c.status || len(got) != 1 || got[0]["status"] != float64(c.status) {
				t.Errorf("%v: %v", cmd.ProcessState, got)
			}
			if verified := tool(t, "verify", "--image", x, dev).Run() == nil; verified != (c.status == exit.OK) {
				t.Errorf("it is on the disk: %v", verified)
			}
			if c.status == exit.Interrupted && got[0]["disk_state"] != "no partition table" {
				t.Errorf("%v", got)
			}
		})
	}
	// Before writing begins, a closed terminal ends the program, and a closed pipe is not
	// reported to itself.
	cmd := tool(t, "flash", "--yes", "--image", "-", filepath.Dir(x))
	in := feedOf(t, cmd)
	must(cmd.Start())
	in.eaten(t, []byte{0})
	if interrupt(t, cmd, syscall.SIGHUP); cmd.ProcessState.ExitCode() != exit.Interrupted {
		t.Errorf("a terminal closed before anything: %v", cmd.ProcessState)
	}
	cmd = tool(t, "ls", x)
	r, w, err := os.Pipe()
	must(err)
	r.Close()
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &stderr
	cmd.Run()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGPIPE || stderr.Len() > 0 {
		t.Errorf("no reader of ls: %v: %s", cmd.ProcessState, stderr.String())
	}
}

// A disk that hangs and an interrupt leave a receipt too.
func TestAnInterruptedFlashOfAHangingDiskHasAReceipt(t *testing.T) {
	imagetest.Long(t)
	x := tiny(t, "hang")
	stall := filepath.Join(t.TempDir(), "stall")
	dev := bad(t, gptDisk(t), "mode=stall", "every=12", "until="+stall)
	log := filepath.Join(t.TempDir(), "log")
	cmd := tool(t, "flash", "--yes", "--delta", "no", "--receipt", log, "-i", x, dev)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	must(cmd.Start())
	imagetest.Wait(t, "the disk hangs", func() bool { _, err := os.Stat(stall); return err == nil })
	must(cmd.Process.Signal(os.Interrupt))
	// The kernel delays the end of the program until the disk has answered.
	imagetest.Wait(t, "a receipt", func() bool { return bytes.HasSuffix(readFile(t, log), []byte("\n")) })
	got := jsonLines(t, string(readFile(t, log)))
	must(os.Remove(stall))
	cmd.Wait()
	if len(got) != 1 || got[0]["status"] != float64(exit.Interrupted) || got[0]["disk_state"] != "unknown" || !strings.Contains(stderr.String(), "is not known") {
		t.Errorf("%v: %s", got, stderr.String())
	}
}

// If one of several disks is refused, none is written and each has a receipt.
func TestRefusedDisksHaveReceipts(t *testing.T) {
	x := tiny(t, "refused")
	t.Chdir(t.TempDir())
	sparseFile(t, "good", 256<<20)
	sparseFile(t, "small", 1<<20)
	before := hashFile(t, "good")
	status, out := ended(t, tool(t, "flash", "--yes", "--receipt", "log", "-i", x, "good", "small"))
	got := jsonLines(t, string(readFile(t, "log")))
	if status != exit.Refused || len(got) != 2 || hashFile(t, "good") != before {
		t.Fatalf("exit status %d: %v: %s", status, got, out)
	}
	for i, want := range []string{"nothing is written, because another disk is refused: small: ", "small: "} {
		if text := fmt.Sprint(got[i]["error"]); got[i]["status"] != float64(exit.Refused) || got[i]["disk_state"] != "unchanged" || !strings.HasPrefix(text, want) || got[i]["build_id"] != "refused" {
			t.Errorf("%v", got[i])
		}
	}
	// Commands that only read leave no receipts.
	ended(t, tool(t, "flash", "--yes", "--dry-run", "--receipt", "new", "-i", x, "good", "small"))
	if _, err := os.Stat("new"); err == nil {
		t.Error("a dry run makes a file")
	}
}

// A warning follows if a unit that has a receipt is written to another disk.
func TestUnitWithAReceiptGivesAWarning(t *testing.T) {
	t.Chdir(t.TempDir())
	must(makeInputs("in"))
	text := strings.ReplaceAll(string(readFile(t, "in/config.toml")), "web:1", "web:@{TAG}")
	must(os.WriteFile("seed.toml", []byte(text), 0o644))
	must(os.WriteFile("units.csv", []byte("unit,TAG\nW1,1\nW2,2\n"), 0o644))
	for i, c := range []struct {
		unit, receipt string
		again, warned bool
	}{
		{"W1", "log", false, false},
		{"W2", "log", false, false},
		{"W1", "log", false, true},
		{"W1", "log", true, false},
		{"W1", "other", false, false},
	} {
		disk := sparseFile(t, fmt.Sprint("disk", i), 70<<20)
		args := []string{"seed", "stick", "--yes", "--receipt", c.receipt, "--values", "units.csv", "--unit", c.unit, disk, "seed.toml"}
		if c.again {
			args = append(args, "--reprovision")
		}
		status, out := ended(t, tool(t, args...))
		warned := strings.Contains(out, "warning: log says that unit "+c.unit+" was written to disk0 at ") || strings.Contains(out, "warning: log says that unit "+c.unit+" was written to disk2 at ")
		if status != exit.OK || warned != c.warned {
			t.Errorf("%d: exit status %d: %s", i, status, out)
		}
		f, err := os.OpenFile(c.receipt, os.O_APPEND|os.O_WRONLY, 0)
		must(err)
		f.WriteString("{\"unit\":\"W1\",\"sta\n") // as of an interrupted write
		f.Close()
	}
}

// A loop device that is mounted in another mount namespace is in use for all commands.
func TestAMountInAnotherNamespaceIsInUse(t *testing.T) {
	imagetest.NeedRoot(t)
	x := tiny(t, "elsewhere")
	dev := imagetest.Loop(t, sparseFile(t, filepath.Join(t.TempDir(), "disk"), badSize))
	imagetest.Run(t, "mkfs.ext4", "-q", dev)
	at := t.TempDir()
	cmd := exec.Command(imagetest.Need(t, "unshare"), "--mount", "sh", "-c", fmt.Sprintf("mount %s %s && echo mounted && read x", dev, at))
	in, err := cmd.StdinPipe()
	must(err)
	out, err := cmd.StdoutPipe()
	must(err)
	must(cmd.Start())
	defer func() { in.Close(); cmd.Wait() }()
	if n, _ := out.Read(make([]byte, 10)); n == 0 {
		t.Fatal("it is not mounted")
	}
	for _, args := range [][]string{{"flash", "--yes", "--dry-run", "-i", x, dev}, {"flash", "--yes", "-i", x, dev}} {
		if status, out := ended(t, tool(t, args...)); status != exit.Refused || !strings.Contains(out, "mounted in another mount namespace") {
			t.Errorf("%v: exit status %d: %s", args, status, out)
		}
	}
	var rows []map[string]any
	must(json.Unmarshal([]byte(imgtool(t, "disks", "--json")), &rows))
	i := slices.IndexFunc(rows, func(r map[string]any) bool { return r["path"] == dev })
	if i < 0 || rows[i]["target"] != false || !strings.Contains(fmt.Sprint(rows[i]["reason"]), "another mount namespace") {
		t.Errorf("%v", rows)
	}
}

// Outputs that cannot be written are reported before any work.
func TestOutputsAreCheckedBeforeAnyWork(t *testing.T) {
	imagetest.NeedRoot(t)
	t.Chdir(t.TempDir())
	must(makeInputs("in"))
	imgtool(t, "build", "--board", "in/tiny.toml", "--inputs", "in", "-o", "x.img.zst")
	sparseFile(t, "disk", 256<<20)
	must(os.Mkdir("ro", 0o755))
	imagetest.Run(t, "mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "ro")
	defer exec.Command("umount", "ro").Run()
	must(os.WriteFile("file", nil, 0o644))
	must(os.WriteFile("x.img.zst.bad", nil, 0o644))
	for _, c := range []struct {
		dir    string
		status int
		say    string
	}{
		{"ro", exit.Write, "the directory ro is not writable: read-only file system"},
		{"none", exit.Input, "the directory none does not exist"},
		{"file", exit.Input, "not a directory"},
	} {
		for _, args := range [][]string{
			// The inputs of these do not exist, but are not opened.
			{"build", "--board", "rock64", "--rootfs", "docker://127.0.0.1:1/x:1", "-o", c.dir + "/x.img"},
			{"seed", "bundle", "in", "-o", c.dir + "/x.tar.zst"},
			{"seed", "new", "-o", c.dir + "/x.toml"},
			{"provision", "export", "127.0.0.1:1", "-o", c.dir + "/x.toml"},
			{"vm", "--headless", "--keep", c.dir + "/disk", "none.img"},
			{"vm", "--headless", "--env", c.dir + "/env", "none.img"},
			{"flash", "--yes", "--receipt", c.dir + "/log", "-i", "none.img", "disk"},
			{"flash", "--yes", "--dry-run", "--receipt", c.dir + "/log", "-i", "none.img", "disk"},
			{"seed", "stick", "--yes", "--receipt", c.dir + "/log", "disk", "none.toml"},
		} {
			want := c.status
			if slices.Contains(args, "--receipt") {
				want = exit.Write
			}
			status, out := ended(t, tool(t, args...))
			if status != want || !strings.Contains(out, c.say) {
				t.Errorf("%v: exit status %d: %s", args, status, out)
			}
		}
		cmd := tool(t, "build", "--board", "in/tiny.toml", "--inputs", "none", "-o", "y.img")
		cmd.Env = append(os.Environ(), "TMPDIR="+c.dir)
		if status, out := ended(t, cmd); status != c.status || !strings.Contains(out, "TMPDIR") || !strings.Contains(out, c.say) {
			t.Errorf("TMPDIR %s: exit status %d: %s", c.dir, status, out)
		}
	}
	for _, args := range [][]string{
		{"flash", "--delta", "x", "-i", "none.img", "disk"},
		{"flash", "--verify", "x", "-i", "none.img", "disk"},
		{"flash", "--stall-timeout", "-1s", "-i", "none.img", "disk"},
		{"verify", "--stall-timeout", "0", "--image", "none.img", "disk"},
		{"vm", "--headless", "--disk", "x", "none.img"},
		{"build", "--board", "in/tiny.toml", "--jobs", "-1", "--inputs", "none"},
	} {
		if status, out := ended(t, tool(t, args...)); status != exit.Usage {
			t.Errorf("%v: exit status %d: %s", args, status, out)
		}
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
