package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"

	"golang.org/x/sys/unix"
)

// special makes special files: pipes, sockets, devices and directories.
var special = map[string]func(path string) error{
	"fifo":      func(path string) error { return unix.Mkfifo(path, 0o666) },
	"directory": func(path string) error { return os.Mkdir(path, 0o777) },
	"socket": func(path string) error {
		// The path may be too long for a socket address.
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		dir, err := os.Open(filepath.Dir(path))
		if err != nil {
			return err
		}
		defer dir.Close()
		return unix.Bind(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(path)})
	},
	"device":       func(path string) error { return os.Symlink("/dev/zero", path) },
	"endless link": func(path string) error { return os.Symlink(filepath.Base(path), path) },
}

// A special file in the place of any input or output is an error, reported at once with
// its name.
func TestSpecialFilesAreRefusedAtOnce(t *testing.T) {
	imagetest.Long(t)
	dir := t.TempDir()
	t.Chdir(dir)
	must(makeInputs("in"))
	imgtool(t, "build", "--board", "in/tiny.toml", "--inputs", "in", "-o", "x.img")
	must(os.WriteFile("seed.toml", []byte(tinySeed), 0o644))
	must(os.WriteFile("bare.img", make([]byte, 1<<20), 0o644))
	build := []string{"build", "--board", "in/tiny.toml", "--inputs", "in", "-o", "y.img"}
	for _, c := range []struct {
		name   string
		at     string // where the special file is put in the place of another
		args   []string
		copies string // a directory that contains at
	}{
		{name: "inspect", at: "X", args: []string{"inspect", "X"}},
		{name: "ls", at: "X", args: []string{"ls", "X"}},
		{name: "cat", at: "X", args: []string{"cat", "X:boot/a"}},
		{name: "diff", at: "X", args: []string{"diff", "x.img", "X"}},
		{name: "flash", at: "X", args: []string{"flash", "-y", "-i", "X", "disk"}},
		{name: "manifest", at: "bare.img.manifest.json", args: []string{"inspect", "bare.img"}},
		{name: "verify", at: "X", args: []string{"verify", "--image", "X", "disk"}},
		{name: "vm", at: "X", args: []string{"vm", "--headless", "X"}},
		{name: "receipt", at: "X", args: []string{"flash", "-y", "-i", "x.img", "--receipt", "X", "disk"}},
		{name: "seed check", at: "X", args: []string{"seed", "check", "X"}},
		{name: "seed render", at: "X", args: []string{"seed", "render", "X"}},
		{name: "seed put", at: "X", args: []string{"seed", "put", "x.img", "X"}},
		{name: "seed get", at: "X", args: []string{"seed", "get", "X"}},
		{name: "seed stick", at: "X", args: []string{"seed", "stick", "-y", "disk", "X"}},
		{name: "values", at: "X", args: []string{"seed", "check", "--values", "X", "seed.toml"}},
		{name: "template", at: "X", args: []string{"seed", "check", "--values", "seed.toml", "X"}},
		{name: "public key", at: "X", args: []string{"seed", "new", "--user", "ops", "--ssh-key", "X", "--container", "web", "--image", "a/b:1"}},
		{name: "bundle", at: "site/config.toml", args: []string{"seed", "bundle", "site", "-o", "b.tar.zst"}, copies: "site"},
		{name: "bundle member", at: "site2/files/x", args: []string{"seed", "bundle", "site2", "-o", "b.tar.zst"}, copies: "site2"},
		{name: "configuration to send", at: "X", args: []string{"provision", "127.0.0.1:1", "--seed", "X"}},
		{name: "edits", at: "X", args: append(build, "--edits", "X")},
		{name: "seed of a build", at: "X", args: append(build, "--seed", "X")},
		{name: "conf of a build", at: "X", args: append(build, "--provision-conf", "X")},
		{name: "root file system", at: "X", args: append(build, "--rootfs", "X")},
		{name: "input", at: "X", args: append(build, "--input", "Image=X")},
		{name: "file of --inputs", at: "in2/Image", args: []string{"build", "--board", "in/tiny.toml", "--inputs", "in2", "-o", "y.img"}, copies: "in2"},
		{name: "board", at: "X.toml", args: []string{"build", "--board", "./X.toml", "--inputs", "in", "-o", "y.img"}},
		{name: "board to show", at: "X.toml", args: []string{"boards", "./X.toml"}},
		{name: "layout", at: "in3/tiny-layout.toml", args: []string{"build", "--board", "in3/tiny.toml", "--inputs", "in", "-o", "y.img"}, copies: "in3"},
		{name: "unit", at: "X", args: []string{"factory", "-y", "--board", "photon-nx", "--sd-image", "x.img", "--sd", "disk", "--unit", "X"}},
		{name: "conf of a factory", at: "X", args: []string{"factory", "-y", "--live", "-c", "X"}},
	} {
		for kind, make := range special {
			if kind == "directory" && slices.Contains([]string{"root file system", "bundle member"}, c.name) {
				continue // what is taken
			}
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				os.RemoveAll("disk")
				must(os.WriteFile("disk", nil, 0o644))
				must(os.Truncate("disk", 256<<20))
				switch c.copies {
				case "":
				case "site", "site2":
					must(os.MkdirAll(filepath.Join(c.copies, "files"), 0o755))
					must(os.WriteFile(filepath.Join(c.copies, "config.toml"), []byte(tinySeed), 0o644))
				default:
					must(makeInputs(c.copies))
				}
				os.RemoveAll(c.at)
				must(make(c.at))
				defer os.RemoveAll(c.at)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				path, err := exec.LookPath("imgtool")
				must(err)
				cmd := exec.CommandContext(ctx, path, c.args...)
				var stdout, stderr bytes.Buffer
				cmd.Stdout, cmd.Stderr = &stdout, &stderr
				err = cmd.Run()
				if ctx.Err() != nil {
					t.Fatalf("it waits: %s", stderr.String())
				}
				var failed *exec.ExitError
				status := 0
				if errors.As(err, &failed) {
					status = failed.ExitCode()
				}
				want := exit.Input
				if c.name == "receipt" {
					want = exit.Write
				}
				var said []string
				for line := range strings.Lines(stderr.String()) {
					if strings.HasPrefix(line, "imgtool: ") && !strings.HasPrefix(line, "imgtool: warning: ") && !strings.HasPrefix(line, "imgtool: give an image from a pipe") {
						said = append(said, line)
					}
				}
				if status != want || len(said) != 1 || !strings.Contains(said[0], strings.TrimSuffix(filepath.Base(c.at), ".toml")) {
					t.Errorf("exit status %d, want %d: %s", status, want, stderr.String())
				}
				if data, _ := os.ReadFile("disk"); bytes.IndexFunc(data[:1<<20], func(r rune) bool { return r != 0 }) >= 0 {
					t.Error("the disk was written")
				}
			})
		}
	}
}
