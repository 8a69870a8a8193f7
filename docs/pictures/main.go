// Command pictures makes the pictures of terminals in this directory from real runs of imgtool
// on a loop device: make pictures. It needs root, and for the emulated machine QEMU.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A picture is a run of a command in a terminal of 80 columns.
type picture struct {
	name    string
	rows    int
	command []string // as it is shown; imgtool is the program under test
	answers []answer
	end     string // stop when the screen has this text, or "" for the end of the command
}

// An answer is typed when the screen shows a text.
type answer struct{ after, text string }

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: pictures IMGTOOL DIRECTORY")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "pictures:", err)
		os.Exit(1)
	}
}

func run(program, out string) (err error) {
	program, err = filepath.Abs(program)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "imgtool-pictures-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	disk, free, err := prepare(program, dir)
	if err != nil {
		return err
	}
	defer free()
	pictures := []picture{
		{name: "build", rows: 15, command: []string{"imgtool", "build", "--board", "rock64", "-o", "rock64.img.zst"}},
		{name: "flash", rows: 12, command: []string{"imgtool", "flash", "--image", "large.img.zst", disk},
			answers: []answer{{"[y/N]", "y\n"}}},
		{name: "vm", rows: 16, command: []string{"imgtool", "vm", "rock64.img.zst"}, end: "imgtool starter ready"},
	}
	for _, p := range pictures {
		frames, err := record(program, dir, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if p.end != "" {
			frames = frames[len(frames)-1:]
		}
		svg := render(frames, p.rows, "Terminal: "+strings.Join(p.command, " "))
		if err := os.WriteFile(filepath.Join(out, p.name+".svg"), svg, 0o644); err != nil {
			return err
		}
		fmt.Printf("%s.svg: %d frames, %d bytes\n", p.name, len(frames), len(svg))
	}
	return nil
}

// prepare makes an image with much content, and a loop device.
func prepare(program, dir string) (disk string, free func(), err error) {
	root := filepath.Join(dir, "root")
	noise, err := os.Create(filepath.Join(dir, "noise"))
	if err != nil {
		return "", nil, err
	}
	defer noise.Close()
	if _, err := io.CopyN(noise, rand.NewChaCha8([32]byte{}), 700<<20); err != nil {
		return "", nil, err
	}
	card := filepath.Join(os.TempDir(), "sd-card.img")
	script := fmt.Sprintf(`set -e
mkdir -p %[1]s/sbin %[1]s/usr/share
mv %[2]s/noise %[1]s/usr/share/data
touch %[1]s/sbin/init
cd %[2]s
%[3]s build --board rock64 --rootfs root --input idbloader.img=starter --input u-boot.itb=starter \
	--input Image=starter --input initrd=starter --input rk3328-rock64.dtb=starter -o large.img.zst
rm -f %[4]s
truncate -s 32010928128 %[4]s
losetup --find --show %[4]s`, root, dir, program, card)
	cmd := exec.Command("sh", "-c", script)
	cmd.Stderr = new(bytes.Buffer)
	b, err := cmd.Output()
	if err != nil {
		return "", nil, fmt.Errorf("%w: %s", err, cmd.Stderr)
	}
	lines := strings.Fields(string(b))
	disk = lines[len(lines)-1]
	return disk, func() {
		exec.CommandContext(context.Background(), "losetup", "-d", disk).Run()
		os.Remove(card)
	}, nil
}
