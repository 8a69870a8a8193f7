package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"
)

// A flash that is killed at any moment leaves the disk unchanged, without a table, or
// complete, and the next one completes it.
func TestAKilledFlashIsFinishedByTheNext(t *testing.T) {
	imagetest.Long(t)
	imagetest.NeedRoot(t)
	r := random(t)
	images := [2]string{tiny(t, "kill-a"), tiny(t, "kill-b")}
	disk := sparseFile(t, filepath.Join(t.TempDir(), "disk"), 64<<20)
	dev := imagetest.Loop(t, disk)
	imgtool(t, "flash", "--yes", "-i", images[0], dev)
	whole := imagetest.MovedBy(t, tool(t, "flash", "--yes", "--delta", "no", "-i", images[0], dev))
	has := func(i int) bool { return tool(t, "verify", "--image", images[i], dev).Run() == nil }
	on := 0
	var untouched, halfway, done int
	for i := 0; i < soak(6, 200) || halfway == 0 && !t.Failed(); i++ {
		if i == soak(100, 400) {
			t.Fatal("none was killed in the middle: that proves nothing")
		}
		next := 1 - on
		delta := []string{"no", "yes"}[r.IntN(2)]
		cmd := tool(t, "flash", "--yes", "--delta", delta, "-i", images[next], dev)
		after := r.Int64N(whole * 11 / 10)
		endAt(cmd, after, os.Kill)
		table := make([]byte, 520)
		f, err := os.Open(disk)
		if err == nil {
			_, err = f.ReadAt(table, 0)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case string(table[512:]) != "EFI PART":
			halfway++
		case has(next):
			done++
		case has(on):
			untouched++
		default:
			t.Errorf("killed after %d bytes, with --delta=%s: it has a table, and neither what was there nor what was to be", after, delta)
		}
		imgtool(t, "flash", "--yes", "-i", images[next], dev)
		if !has(next) {
			t.Fatalf("killed after %d bytes, with --delta=%s: the next flash did not finish it", after, delta)
		}
		on = next
	}
	t.Logf("%d untouched, %d without a table, %d done", untouched, halfway, done)
}

// An interrupt at any moment leaves the disk unchanged, without a table, or complete.
func TestInterruptedFlashIsNotBootable(t *testing.T) {
	imagetest.Long(t)
	dir := built(t)
	x := filepath.Join(dir, "x.img.zst")
	disk := sparseFile(t, filepath.Join(dir, "disk"), 2500<<20)
	imgtool(t, "flash", "--yes", "--image", x, disk)
	whole := imagetest.MovedBy(t, tool(t, "flash", "--yes", "--image", x, disk))
	r := random(t)
	interrupted := 0
	for i := 0; i < 12 || interrupted == 0 && !t.Failed(); i++ {
		if i == 100 {
			t.Fatal("no interrupt came in the middle")
		}
		at := whole * int64(i) / 12
		if i >= 12 {
			at = r.Int64N(whole)
		}
		cmd := tool(t, "flash", "--yes", "--image", x, disk)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := endAt(cmd, at, os.Interrupt)
		verify := tool(t, "verify", "--image", x, disk).Run()
		head := make([]byte, 4200)
		f, _ := os.Open(disk)
		f.ReadAt(head, 0)
		f.Close()
		table := string(head[512:520]) == "EFI PART"
		switch code := cmd.ProcessState.ExitCode(); {
		case err == nil && verify != nil, table && verify != nil:
			t.Errorf("after %d bytes: %v: there is a table, and the disk does not verify: %s", at, err, stderr.String())
		case err != nil && code != exit.Interrupted && code != -1:
			t.Errorf("after %d bytes: exit status %d: %s", at, code, stderr.String())
		}
		if !table {
			interrupted++
		}
	}
	t.Logf("%d without a table", interrupted)
	imgtool(t, "flash", "--yes", "--image", x, disk)
	imgtool(t, "verify", "--image", x, disk)
}

// An interrupt ends a flash that waits for a pipe, and the state of the disk is reported.
func TestAnInterruptDoesNotWaitForAPipe(t *testing.T) {
	imagetest.Long(t)
	dir := t.TempDir()
	in, img := filepath.Join(dir, "in"), filepath.Join(dir, "t.img.zst")
	if err := makeInputs(in); err != nil {
		t.Fatal(err)
	}
	imgtool(t, "build", "--board", filepath.Join(in, "tiny.toml"), "--inputs", in, "-o", img)
	whole := readFile(t, img)
	for _, c := range []struct {
		name  string
		first int
		say   string
		lost  bool
	}{
		{"before anything came", 1, "imgtool: interrupted\n", false},
		{"in the middle", 5_000_000, "disk is not bootable and has no partition table now; flash it again", true},
	} {
		disk := sparseFile(t, filepath.Join(dir, "disk"), 64<<20)
		overwriteAll(t, disk)
		first := func() byte { return readFile(t, disk)[0] }
		cmd := tool(t, "flash", "--yes", "--image", "-", disk)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		pipe := feedOf(t, cmd)
		must(cmd.Start())
		pipe.eaten(t, whole[:c.first])
		if c.lost {
			imagetest.Wait(t, "it writes the disk", func() bool { return first() == 0 })
		}
		// The pipe stays open.
		interrupt(t, cmd, os.Interrupt)
		if cmd.ProcessState.ExitCode() != exit.Interrupted || !strings.Contains(stderr.String(), c.say) {
			t.Errorf("%s: exit status %d: %s", c.name, cmd.ProcessState.ExitCode(), stderr.String())
		}
		if lost := first() == 0; lost != c.lost {
			t.Errorf("%s: the disk is touched: %v", c.name, lost)
		}
	}
}
