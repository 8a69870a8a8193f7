package main

import (
	"archive/tar"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"imgtool/image/imagetest"
)

// A build that is ended at any moment, also by SIGKILL, leaves the old image or the complete
// new one and no other file, and a valid cache.
func TestAnEndedBuildLeavesNothing(t *testing.T) {
	imagetest.Long(t)
	r := random(t)
	dir := t.TempDir()
	in := filepath.Join(dir, "in")
	if err := makeInputs(in); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root.tar")
	f, err := os.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	data := make([]byte, 300_000)
	for i := range 40 {
		for j := range data {
			data[j] = byte(r.IntN(20))
		}
		if err := w.WriteHeader(&tar.Header{Name: string(rune('a'+i%26)) + string(rune('a'+i/26)), Size: int64(len(data)), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		w.Write(data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f.Close()

	for _, name := range []string{"x.img", "x.img.zst"} {
		out, temp, blocks := filepath.Join(dir, "out-"+name), filepath.Join(dir, "tmp-"+name), filepath.Join(dir, "blocks-"+name)
		for _, d := range []string{out, temp} {
			if err := os.Mkdir(d, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		build := func() *exec.Cmd {
			cmd := tool(t, "build", "--board", filepath.Join(in, "tiny.toml"), "--inputs", in, "--rootfs", root, "--compression", "zstd:15", "--cache-dir", blocks, "-o", filepath.Join(out, name))
			cmd.Env = append(os.Environ(), "TMPDIR="+temp)
			return cmd
		}
		entries := func() (names []string) {
			all, err := os.ReadDir(out)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range all {
				names = append(names, e.Name())
			}
			return names
		}
		begin := time.Now()
		if text, err := build().CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		whole := time.Since(begin)
		want := readText(t, filepath.Join(out, name))
		for _, e := range []string{out, blocks} {
			if err := os.RemoveAll(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(out, 0o777); err != nil {
			t.Fatal(err)
		}
		early := 0
		for range soak(4, 100) {
			cmd := build()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			signal := []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM}[r.IntN(3)]
			after := time.Duration(r.Int64N(int64(whole * 11 / 10)))
			if r.IntN(2) == 0 {
				// The image is written at the end.
				after = whole*3/4 + time.Duration(r.Int64N(int64(whole*3/10)))
			}
			time.Sleep(after)
			cmd.Process.Signal(signal)
			err := cmd.Wait()
			if left, _ := os.ReadDir(temp); len(left) > 0 {
				t.Errorf("%s: %s after %s leaves %v in TMPDIR", name, signal, after, left)
			}
			if _, there := os.Stat(filepath.Join(out, name)); there != nil {
				early++
				whole = whole * 11 / 10
				// The manifest and the block map come first.
				for _, left := range entries() {
					if signal != syscall.SIGKILL || left != name+".bmap" && left != name+".manifest.json" {
						t.Errorf("%s: %s after %s leaves %s: %v", name, signal, after, left, err)
					}
				}
			} else {
				// A build with a cache, or on an idle machine, takes less time than the first.
				whole = min(whole, after) * 4 / 5
				if readText(t, filepath.Join(out, name)) != want || len(entries()) != 3 {
					t.Errorf("%s: %s after %s leaves another image, or others than %v", name, signal, after, entries())
				}
			}
			// Half of the builds use the cache.
			if r.IntN(2) == 0 {
				os.RemoveAll(blocks)
			}
			os.RemoveAll(out)
			os.Mkdir(out, 0o777)
		}
		if early == 0 {
			t.Errorf("%s: none was ended early: that proves nothing", name)
		}
		if text, err := build().CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if readText(t, filepath.Join(out, name)) != want {
			t.Errorf("%s: after all that it is another image", name)
		}
		t.Logf("%s: %d of %d ended before the image was there", name, early, soak(4, 100))
	}
}

// A cache on a full disk does not affect the image.
func TestFullCacheIsNotAnError(t *testing.T) {
	imagetest.NeedRoot(t)
	dir := t.TempDir()
	in := filepath.Join(dir, "in")
	if err := makeInputs(in); err != nil {
		t.Fatal(err)
	}
	full := filepath.Join(dir, "full")
	os.Mkdir(full, 0o755)
	imagetest.Run(t, "mount", "-t", "tmpfs", "-o", "size=16K", "tmpfs", full)
	defer exec.Command("umount", full).Run()
	os.WriteFile(filepath.Join(full, "ballast"), make([]byte, 16<<10), 0o644)
	var images []string
	for _, args := range [][]string{{"--no-cache"}, {"--cache-dir", filepath.Join(full, "blocks")}} {
		path := filepath.Join(dir, "x"+args[0]+".img")
		status, out := ended(t, tool(t, append([]string{"build", "--board", filepath.Join(in, "tiny.toml"), "--inputs", in, "-o", path}, args...)...))
		if status != 0 {
			t.Fatalf("%v: exit status %d: %s", args, status, out)
		}
		if len(args) > 1 && !(strings.Contains(out, "warning: the cache was not updated") && strings.Contains(out, "no space left on device")) {
			t.Errorf("it is not told: %s", out)
		}
		images = append(images, readText(t, path))
	}
	if images[0] != images[1] {
		t.Error("they differ")
	}
}

func readText(t *testing.T, file string) string {
	t.Helper()
	return string(readFile(t, file))
}
