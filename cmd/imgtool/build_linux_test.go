package main

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"imgtool/cmd/imgtool/exit"
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
		cold := imagetest.MovedBy(t, build())
		warm := imagetest.MovedBy(t, build())
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
		whole := cold
		n := soak(4, 100)
		for i := 0; i < n || early == 0 && !t.Failed(); i++ {
			if i == 100+n {
				t.Fatalf("%s: none was ended early: that proves nothing", name)
			}
			cmd := build()
			var text bytes.Buffer
			cmd.Stderr = &text
			signal := []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM}[r.IntN(3)]
			after := r.Int64N(whole * 11 / 10)
			if r.IntN(2) == 0 {
				// The image is written at the end.
				after = whole*3/4 + r.Int64N(whole*3/10)
			}
			err := endAt(cmd, after, signal)
			status := cmd.ProcessState.ExitCode()
			if left, _ := os.ReadDir(temp); len(left) > 0 {
				t.Errorf("%s: %s after %d bytes leaves %v in TMPDIR", name, signal, after, left)
			}
			if _, there := os.Stat(filepath.Join(out, name)); there != nil {
				early++
				if signal != syscall.SIGKILL && status != -1 && (status != exit.Interrupted || !strings.HasSuffix(text.String(), "imgtool: interrupted\n")) {
					t.Errorf("%s: %s after %d bytes: exit status %d: %s", name, signal, after, status, text.String())
				}
				// The manifest and the block map come first.
				for _, left := range entries() {
					if signal != syscall.SIGKILL || left != name+".bmap" && left != name+".manifest.json" {
						t.Errorf("%s: %s after %d bytes leaves %s: %v", name, signal, after, left, err)
					}
				}
			} else if readText(t, filepath.Join(out, name)) != want || len(entries()) != 3 {
				t.Errorf("%s: %s after %d bytes leaves another image, or others than %v", name, signal, after, entries())
			}
			// Half of the builds use the cache.
			whole = warm
			if r.IntN(2) == 0 {
				os.RemoveAll(blocks)
				whole = cold
			}
			os.RemoveAll(out)
			os.Mkdir(out, 0o777)
		}
		if text, err := build().CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if readText(t, filepath.Join(out, name)) != want {
			t.Errorf("%s: after all that it is another image", name)
		}
		t.Logf("%s: %d ended before the image was there", name, early)
	}
}

// An interrupted build leaves no files.
func TestAnInterruptedBuildLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in")
	if err := makeInputs(in); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	os.Mkdir(root, 0o755)
	must(os.WriteFile(filepath.Join(root, "a"), noise(64<<20), 0o644))
	out := filepath.Join(dir, "out")
	os.Mkdir(out, 0o755)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		status, text := exit.OK, bytes.Buffer{}
		for try := 0; status == exit.OK && try < 50; try++ {
			cmd := tool(t, "build", "--board", "rock64", "--inputs", in, "--rootfs", root, "--compression", "zstd:19", "--no-cache", "-o", filepath.Join(out, "x.img"))
			cmd.Env = append(os.Environ(), "TMPDIR="+out)
			text.Reset()
			cmd.Stderr = &text
			must(cmd.Start())
			// It has a scratch file, and has begun to compress.
			imagetest.Wait(t, "a scratch file", func() bool { return holds(cmd.Process.Pid, out+"/") || imagetest.Moved(cmd.Process.Pid) == 0 })
			imagetest.EndAt(cmd, 8<<20, signal)
			if status = cmd.ProcessState.ExitCode(); status == exit.OK {
				must(os.RemoveAll(out)) // it was complete at once
				must(os.Mkdir(out, 0o755))
			}
		}
		if status != exit.Interrupted || !strings.HasSuffix(text.String(), "imgtool: interrupted\n") {
			t.Errorf("%v: exit status %d: %s", signal, status, text.String())
		}
		if left, _ := os.ReadDir(out); len(left) != 0 {
			t.Errorf("%v is left", left)
		}
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
