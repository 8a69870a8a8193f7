package main

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"imgtool/image/imagetest"
)

// soak returns the size of a large matrix with SOAK=1, else of its sample.
func soak(few, many int) int {
	if os.Getenv("SOAK") != "" {
		return many
	}
	return few
}

// random returns a random generator; its seed is logged, and can be set with SEED.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	n := rand.Uint64()
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", n)
	return rand.New(rand.NewPCG(n, 0))
}

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
	begin := time.Now()
	imgtool(t, "flash", "--yes", "--delta", "no", "-i", images[0], dev)
	whole := time.Since(begin)
	has := func(i int) bool { return tool(t, "verify", "--image", images[i], dev).Run() == nil }
	on := 0
	var untouched, halfway, done int
	for range soak(10, 200) {
		next := 1 - on
		delta := []string{"no", "yes"}[r.IntN(2)]
		cmd := tool(t, "flash", "--yes", "--delta", delta, "-i", images[next], dev)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := time.Duration(r.Int64N(int64(whole * 11 / 10)))
		time.Sleep(after)
		cmd.Process.Kill()
		cmd.Wait()
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
			t.Errorf("killed after %s, with --delta=%s: it has a table, and neither what was there nor what was to be", after, delta)
		}
		imgtool(t, "flash", "--yes", "-i", images[next], dev)
		if !has(next) {
			t.Fatalf("killed after %s, with --delta=%s: the next flash did not finish it", after, delta)
		}
		on = next
	}
	t.Logf("%d untouched, %d without a table, %d done", untouched, halfway, done)
	if halfway == 0 {
		t.Error("none was killed in the middle: that proves nothing")
	}
}
