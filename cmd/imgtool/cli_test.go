package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"imgtool/cmd/imgtool/complete"
	"imgtool/image/gpt"
	"imgtool/image/imagetest"
	"imgtool/image/seed/seedtest"
)

func TestMain(m *testing.M) {
	complete.Limit = time.Minute // tests run on busy computers
	testscript.Main(cached{m}, map[string]func(){
		"imgtool":  recorded,
		"mkinputs": func() { must(makeInputs(os.Args[1])) },
		"mkl4t":    func() { must(makeL4T(os.Args[1])) },
		"mklive":   func() { must(makeLive(os.Args[1])) },
		"mkagent":  func() { must(makeAgent(os.Args[1])) },
		"mkinitrd": func() { must(os.WriteFile(os.Args[1], initrdWith(os.Args[2:]...), 0o644)) },
		"cutpart":  func() { must(cutPart(os.Args[1], os.Args[2], os.Args[3])) },
		"dense": func() {
			must(eachRun(os.Args[1], 0, math.MaxInt64, func(_ int64, r io.Reader) error { _, err := io.Copy(os.Stdout, r); return err }))
		},
		"poke": func() { must(poke(os.Args[1], os.Args[2])) },
	})
}

// cached gives the programs under test a cache of this run, so that they never use blocks
// compressed by an earlier version, and a directory for records of what they print.
type cached struct{ *testing.M }

func (c cached) Run() int {
	dir, err := os.MkdirTemp("", "imgtool-blocks-")
	must(err)
	defer os.RemoveAll(dir)
	must(os.Setenv("IMGTOOL_CACHE_DIR", dir))
	records, err := os.MkdirTemp("", "imgtool-records-")
	must(err)
	defer os.RemoveAll(records)
	must(os.Setenv(recordsVar, records))
	_, err = schemas() // before a test changes the working directory
	must(err)
	status := c.M.Run()
	failed := checkRecords(records)
	if all := flag.Lookup("test.run").Value.String() == "" && !testing.Short() && os.Geteuid() == 0; all {
		failed = checkSeen() || failed
	}
	if failed && status == 0 {
		status = 1
	}
	return status
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// tool returns a command that runs the program under test.
func tool(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("imgtool")
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command(path, args...)
}

// imgtool runs the program, which must succeed, and returns its output.
func imgtool(t testing.TB, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := tool(t, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("imgtool %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String()
}

// long are the scripts that are skipped with -short.
var long = []string{"reseed.txt", "flash.txt", "cache.txt", "vm.txt", "flash_odd.txt", "formats.txt", "photon_conf.txt", "photon.txt", "diff.txt",
	"factory_live.txt", "cat.txt", "ls.txt", "own_board.txt", "sign.txt"}

func TestScripts(t *testing.T) {
	for _, program := range []string{"sfdisk", "sgdisk", "zstd", "xz", "gzip", "dumpimage", "fsck.fat", "mdir", "mcopy", "blkid", "wipefs", "mkfs.ext4", "unsquashfs", "mksquashfs", "cmp", "umoci", "skopeo", "lz4", "bzip2", "rauc", "openssl"} {
		imagetest.Need(t, program)
	}
	files, err := filepath.Glob("testdata/script/*.txt")
	if err != nil || len(files) < 20 {
		t.Fatal(files, err)
	}
	if testing.Short() {
		files = slices.DeleteFunc(files, func(f string) bool { return slices.Contains(long, filepath.Base(f)) })
	}
	testscript.Run(t, testscript.Params{
		Files: files,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", env.Getenv("PATH")+":/usr/sbin:/sbin")
			env.Setenv("TMPDIR", env.WorkDir)
			env.Setenv(recordsVar, os.Getenv(recordsVar))
			env.Setenv("IMGTOOL_CACHE_DIR", filepath.Join(env.WorkDir, ".blocks"))
			program, err := exec.LookPath("imgtool")
			if err != nil {
				return err
			}
			env.Setenv("PROGRAM", filepath.Dir(program))
			boards, err := filepath.Abs("../../testdata/boards")
			env.Setenv("BOARDS", boards)
			return err
		},
		Condition: func(cond string) (bool, error) {
			if cond != "root" {
				return false, fmt.Errorf("there is no condition %s", cond)
			}
			return os.Geteuid() == 0, nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// registry VARIABLE [FAULT...] starts a registry and stores its host and port. See
			// newRegistry for the faults.
			"registry": func(ts *testscript.TestScript, neg bool, args []string) {
				host, close := newRegistry(args[1:]...)
				ts.Defer(close)
				ts.Setenv(args[0], host)
			},
			// status N PROGRAM ARG... runs a program that must end with N.
			"status": func(ts *testscript.TestScript, neg bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				got := 0
				if err := ts.Exec(args[1], args[2:]...); err != nil {
					var failed *exec.ExitError
					if !errors.As(err, &failed) {
						ts.Fatalf("%v", err)
					}
					got = failed.ExitCode()
				}
				if got != want {
					ts.Fatalf("exit status %d, want %d", got, want)
				}
			},
		},
	})
}

// cutPart copies a partition of a disk into a file and keeps its holes.
func cutPart(disk, number, to string) error {
	in, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer in.Close()
	size, err := in.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	table, err := gpt.Read(io.NewSectionReader(in, 0, size), 512)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(table.Parts, func(p gpt.Part) bool { return strconv.Itoa(p.Number) == number })
	if i < 0 {
		return fmt.Errorf("%s has no partition %s", disk, number)
	}
	part := table.Parts[i]
	os.Remove(to)
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Truncate(part.Len); err != nil {
		return err
	}
	return eachRun(disk, part.Off, part.Off+part.Len, func(at int64, r io.Reader) error {
		_, err := io.Copy(io.NewOffsetWriter(out, at-part.Off), r)
		return err
	})
}

// eachRun calls f for each run of data of a file between two offsets.
func eachRun(file string, at, end int64, do func(at int64, r io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		start, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && start >= end {
			return nil
		}
		if err == nil {
			at, err = f.Seek(start, unix.SEEK_HOLE)
		}
		if err == nil {
			at = min(at, end)
			err = do(start, io.NewSectionReader(f, start, at-start))
		}
		if err != nil {
			return err
		}
	}
}

// poke changes a byte of a file.
func poke(file, offset string) error {
	off, err := strconv.ParseInt(offset, 10, 64)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		return err
	}
	b[0] ^= 0x5a
	_, err = f.WriteAt(b, off)
	return err
}

// makeInputs makes a directory with small inputs for a Rock64, always the same.
func makeInputs(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	noise := func(magic string, at, size int) []byte {
		b := make([]byte, size)
		x := uint32(size)
		for i := range b {
			x = x*1664525 + 1013904223
			b[i] = byte(x >> 24)
		}
		copy(b[at:], magic)
		return b
	}
	var rootfs bytes.Buffer
	if err := writeRootfs(&rootfs); err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"idbloader.img":     noise("\x3b\x8c\xdc\xfc", 0, 137_301),
		"u-boot.itb":        noise("\xd0\x0d\xfe\xed", 0, 940_123),
		"Image":             noise("ARM\x64", 56, 7_000_001),
		"initrd":            noise("\x1f\x8b", 0, 500_000),
		"rk3328-rock64.dtb": noise("\xd0\x0d\xfe\xed", 0, 36_103),
		"rootfs.tar":        rootfs.Bytes(),
		"config.toml":       []byte(tinySeed),
		"tiny.toml":         []byte(tinyBoard),
		"tiny-layout.toml":  []byte(tinyLayout),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// tinySeed is the smallest configuration that AtomixOS accepts.
const tinySeed = seedtest.Minimal

// tinyBoard is a board with small images, for tests that write many of them.
const tinyBoard = `name = "tiny"
arch = "arm64"
[[medium]]
name = "sd"
layout = "tiny-layout.toml"
[[medium.blob]]
input = "idbloader.img"
sector = 64
[[boot]]
path = "Image"
input = "Image"
[seed]
path = "config.toml"
[script]
path = "boot.scr"
text = "echo @BUILD_ID@ @CMDLINE@"
`

const tinyLayout = `name = "tiny"
first-usable = "1MiB"
tail = "1MiB"
[[partition]]
number = 1
name = "boot-a"
type = "xbootldr"
size = "16MiB"
content = "boot"
label = "BOOT-A"
slot = "a"
[[partition]]
number = 2
name = "rootfs-a"
type = "root-arm64"
size = "16MiB"
content = "rootfs"
slot = "a"
[[partition]]
number = 3
name = "data"
type = "linux-generic"
min-size = "16MiB"
late = true
`

// writeRootfs writes a tar with a file of each type.
func writeRootfs(b *bytes.Buffer) error {
	w := tar.NewWriter(b)
	when := time.Unix(1_700_000_000, 0)
	for _, h := range []struct {
		tar.Header
		text string
	}{
		{tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, ""},
		{tar.Header{Name: "./boot/", Typeflag: tar.TypeDir, Mode: 0o700}, ""},
		{tar.Header{Name: "./boot/vmlinuz", Typeflag: tar.TypeReg, Mode: 0o600}, strings.Repeat("k", 56) + "ARM\x64 kernel"},
		{tar.Header{Name: "./etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, "root:x:0:0::/root:/bin/sh\n"},
		{tar.Header{Name: "./etc/shadow", Typeflag: tar.TypeReg, Mode: 0o640, Gid: 42}, "root:*:::::::\n"},
		{tar.Header{Name: "./bin", Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "usr/bin"}, ""},
		{tar.Header{Name: "./usr/bin/", Typeflag: tar.TypeDir, Mode: 0o755}, ""},
		{tar.Header{Name: "./usr/bin/su", Typeflag: tar.TypeReg, Mode: 0o4755}, strings.Repeat("su", 5000)},
		{tar.Header{Name: "./usr/bin/ping", Typeflag: tar.TypeReg, Mode: 0o755, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}, "ping"},
		{tar.Header{Name: "./usr/bin/pong", Typeflag: tar.TypeLink, Linkname: "./usr/bin/ping"}, ""},
		{tar.Header{Name: "./tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, ""},
		{tar.Header{Name: "./dev/console", Typeflag: tar.TypeChar, Mode: 0o600, Devmajor: 5, Devminor: 1}, ""},
		{tar.Header{Name: "./home/user/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 1000, Gid: 1000}, ""},
		{tar.Header{Name: "./home/user/note", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 1000, Gid: 1000}, "hello\n"},
		{tar.Header{Name: "./run/fifo", Typeflag: tar.TypeFifo, Mode: 0o600}, ""},
	} {
		h.ModTime, h.Size, h.Format = when, int64(len(h.text)), tar.FormatPAX
		if err := w.WriteHeader(&h.Header); err != nil {
			return err
		}
		if _, err := w.Write([]byte(h.text)); err != nil {
			return err
		}
	}
	return w.Close()
}
