package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"imgtool/cmd/imgtool/exit"

	"github.com/spf13/pflag"
)

// wrongInputs are command lines that are wrong, each with its exit status and a pattern of the
// sentence that says so. In a command line, ' ' separates arguments, and an argument "" is empty.
var wrongInputs = []struct {
	line   string
	status int
	want   string
}{
	// Commands
	{"buid", 2, `unknown command "buid"; did you mean build\?`},
	{"flsh /dev/sdX", 2, `unknown command "flsh"; did you mean flash\?`},
	{"burn", 2, `did you mean flash\?`},
	{"write x", 2, `did you mean flash\?`},
	{"list", 2, `did you mean boards, disks or ls\?`},
	{"devices", 2, `did you mean disks\?`},
	{"man", 2, `did you mean help\?`},
	{"run x.img", 2, `did you mean vm\?`},
	{"bundle", 2, `give an image, or a board to build one for`},
	{"seed chek", 2, `unknown command "chek" of imgtool seed; did you mean check\?`},
	{"cache clean", 2, `did you mean clear\?`},
	{"--json=false buid", 2, `did you mean build\?`},
	{"provision statu 10.0.0.1", 2, `did you mean imgtool provision status\?`},
	{"provision statu", 2, `name the configuration: --seed config.toml; did you mean imgtool provision status\?$`},
	{"help flsh", 2, `did you mean flash\?`},
	{"completion foo", 2, `the shell is "foo"; it must be bash, zsh, fish or powershell$`},
	{"xyzzy", 2, `unknown command "xyzzy"$`},

	// Arguments
	{"inspect", 2, `say which image: imgtool inspect FILE\|DISK$`},
	{"ls", 2, `say which image: imgtool ls IMAGE`},
	{"cat", 2, `say which file: imgtool cat IMAGE:PARTITION`},
	{"diff x.img.zst", 2, `say which other image: imgtool diff A`},
	{"catalog", 2, `say which image: imgtool catalog IMAGE`},
	{"catalog x.img.zst", 2, `say where the images will be published: --url https://`},
	{"seed put x.img.zst", 2, `say which seed: imgtool seed put IMAGE\|DISK SEED$`},
	{"seed check", 2, `say which seed: imgtool seed check FILE$`},
	{"seed stick", 2, `say which disk: imgtool seed stick DISK SEED$`},
	{"provision", 2, `say which device, by its address: imgtool provision ADDRESS`},
	{"provision set 10.0.0.1", 2, `say which part of the configuration: imgtool provision set`},
	{"cache trim", 2, `say which size: imgtool cache trim SIZE$`},
	{"completion", 2, `say which shell: imgtool completion SHELL$`},
	{"build --board rock64 extra", 2, `unexpected argument "extra": imgtool build takes none; -o names the output`},
	{"build board rock64", 2, `unexpected argument "board"; did you mean --board\?$`},
	{"disks /dev/vda", 2, `unexpected argument "/dev/vda": imgtool disks takes none`},
	{"version x", 2, `unexpected argument "x": imgtool version takes none$`},
	{"inspect x.img.zst y", 2, `unexpected argument "y": write imgtool inspect FILE\|DISK$`},
	{`""`, 2, `an argument is empty: write imgtool COMMAND$`},
	{`seed ""`, 2, `an argument is empty: write imgtool seed COMMAND$`},
	{`inspect ""`, 2, `argument 1 is empty: write imgtool inspect FILE\|DISK$`},
	{`flash ""`, 2, `argument 1 is empty: write imgtool flash`},
	{"vm a b", 2, `unexpected argument "b": write imgtool vm \[IMAGE\]$`},

	// Flags
	{"build --bord rock64", 2, `imgtool build has no flag --bord; did you mean --board\?$`},
	{"flash --jsn", 2, `imgtool flash has no flag --jsn; did you mean --json\?$`},
	{"build --colour", 2, `imgtool build has no flag --colour$`},
	{"vm -i x.img.zst", 2, `imgtool vm has no flag -i; it has -h$`},
	{"build -board rock64", 2, `-board has one dash: write --board$`},
	{"flash -image x.img.zst", 2, `-image has one dash: write -i or --image$`},
	{"flash --timeout 5", 2, `--timeout is "5"; write 5s or 5m$`},
	{"flash --timeout soon", 2, `--timeout is "soon"; it must be a duration such as 5s or 5m$`},
	{"provision 10.0.0.1 --wait 5", 2, `--wait is "5"; write 5s or 5m$`},
	{"build --jobs many", 2, `--jobs is "many"; it must be a whole number$`},
	{"flash --yes=maybe", 2, `--yes is "maybe"; it must be true or false`},
	{"build --board --rootfs x", 2, `--board needs a value: a board's NAME`},
	{"flash -i --yes disk", 2, `-i or --image needs a value: image FILE`},
	{"build --board", 2, `--board needs a value: a board's NAME`},
	{"flash -i", 2, `-i or --image needs a value: image FILE`},
	{`flash --image ""`, 2, `--image is empty, but needs a value: image FILE`},
	{`build --board rock64 --input ""`, 2, `--input is empty`},
	{"disks --max-unpacked 5x", 2, `--max-unpacked is "5x"; it must be a size such as 500MiB or 4GiB$`},
	{"factory --board photon-nx --disk foo", 2, `--disk is "foo"; it must be NAME=DISK$`},

	// Values that are one of several
	{"build --board rok64", 2, `unknown board "rok64"; did you mean rock64\? \(known: photon-nx, photon-nx-agent, rock64; or the path`},
	{"boards rok64", 2, `unknown board "rok64"; did you mean rock64\?`},
	{"flash -i x.img.zst --board rok64 disk", 2, `unknown board "rok64"; did you mean rock64\?`},
	{"build --board photon-nx --layout ab-squash", 2, `photon-nx has no layout "ab-squash"; did you mean ab-squashfs\?`},
	{"build --board rock64 --layout x", 2, `rock64 has no other layout than its own: leave out --layout$`},
	{"build --board photon-nx --medium emc", 2, `photon-nx has no medium "emc"; did you mean emmc\? \(it has emmc, sd, nvme\)$`},
	{"build --board rock64 --medium sd", 2, `rock64 has no medium "sd" \(it has emmc\)$`},
	{"build --board rock64 --slots b", 2, `--slots is "b"; it must be a or ab`},
	{"build --board photon-nx --slots ab", 2, `photon-nx has no second slot: leave out --slots ab, or choose a layout with two by --layout ab-squashfs$`},
	{"build --board rock64 --profile develop", 2, `--profile is "develop"; it must be production or development; did you mean development\?$`},
	{"build --board rock64 --profile development", 2, `rock64 is the same in all profiles: leave out --profile development$`},
	{"build --board rock64 --compression brotli", 2, `compression "brotli" is unknown: it must be zstd, gzip, xz or lz4$`},
	{"build --board rock64 --compression zstd:99", 2, `compression "zstd:99": zstd .* has the levels 1 to 22$`},
	{"build --board rock64 --block-size 3000", 2, `--block-size is "3000"; it must be a power of two from 4KiB to 1MiB$`},
	{"build --board rock64 --build-id a/b", 2, `build id "a/b": it must be 1 to 64 letters`},
	{"build --board rock64 --jobs 1000", 2, `--jobs 1000: it must be 1 to 256`},
	{"build --board rock64 --cache-size x", 2, `--cache-size "x": it must be a size such as 500MiB`},
	{"build --board photon-nx --size sd=5", 2, `--size sd=5: it must be whole sectors`},
	{"build --board photon-nx --size sd", 2, `--size "sd": it must be NAME=VALUE$`},
	{"build --board photon-nx --size sd=1MiB", 2, `a disk of 1048576 bytes is too small`},
	{"flash -i x.img.zst --verify ful disk", 2, `--verify is "ful"; it must be full, sampled or none; did you mean full\?$`},
	{"flash -i x.img.zst --delta maybe disk", 2, `--delta is "maybe"; it must be yes, no or auto$`},
	{"flash --board rock64 --port foo", 2, `--port is "foo"; it must be a USB port such as 1-2.3`},
	{"vm --slot c x.img.zst", 2, `--slot is "c"; it must be a or b$`},
	{"vm --forward 99999 x.img.zst", 2, `--forward is "99999"; it must be a port of 1 to 65535`},
	{"vm --disk 5 x.img.zst", 2, `--disk is 5 bytes; write a size such as 16GiB$`},
	{"cache trim 5x", 2, `SIZE "5x": it must be a size such as 500MiB or 4GiB$`},
	{"build --board rock64 -o x.tar", 2, `x.tar: the name must end in .img, .img.zst`},
	{"seed bundle d -o x.zip", 2, `x.zip: a bundle is called NAME.tar.zst or NAME.tar.gz$`},
	{"provision 10.0.0.1:99999 --seed in/config.toml", 2, `its port is 99999; it must be 1 to 65535$`},
	{"provision set 10.0.0.1 foo in/config.toml", 2, `"foo" is not a place that can be changed alone`},
	{"seed new --user Ops", 2, `--user: "Ops" is not a valid user name`},
	{"seed new --publish 80800:80", 2, `--publish: "80800:80" has the port 80800; ports are 1 to 65535$`},

	// Names in images and inputs
	{"build --board rock64 --input Imgae=in/Image", 2, `rock64 has no input "Imgae"; did you mean Image\? \(it has idbloader.img`},
	{"build --board rock64 --input Image", 2, `--input Image: write it as NAME=REF$`},
	{"build --board in/tiny.toml --inputs in --input Image=in/Image --input Image=in/initrd", 2, `--input Image is given twice$`},
	{"build --board in/tiny.toml --inputs in --partition root=x", 2, `tiny has no partition "root"; did you mean rootfs-a\?$`},
	{"build --board in/tiny.toml --inputs in --var FOO=1", 2, `variable FOO: nothing in the build of tiny uses @FOO@$`},
	{"ls x.img.zst:root-a", 3, `x.img.zst has no partition "root-a"; did you mean rootfs-a\? \(it has 1 boot-a, 2 rootfs-a\)$`},
	{"ls x.img.zst:9", 3, `x.img.zst has no partition "9" \(it has 1 boot-a, 2 rootfs-a\)$`},
	{"cat x.img.zst:boot-a/Imag", 3, `x.img.zst:boot-a/Imag does not exist; did you mean Image\?$`},
	{"ls x.img.zst:rootfs-a/ect/passwd", 3, `x.img.zst:rootfs-a/ect/passwd: ect does not exist; did you mean etc\?$`},
	{"cat x.img.zst", 2, `name a partition or file to print: IMAGE:PARTITION/PATH$`},
	{"cat x.img.zst:boot-a/", 3, `it is a directory: list it with imgtool ls$`},

	// Flags that would be ignored
	{"flash -i x.img.zst --port 1-2 disk", 2, `--port has no effect without --board`},
	{"flash -i x.img.zst --board rock64 --timeout 5s disk", 2, `--timeout has no effect with a named disk: leave out the disk`},
	{"verify --stall-timeout 5s x.img.zst", 2, `--stall-timeout has no effect without a disk to compare$`},
	{"verify -i x.img.zst --keep-registration-keys disk", 2, `--keep-registration-keys has no effect without --unit$`},
	{"verify --unit W1 x.img.zst", 2, `--unit are for comparing a disk: say which`},
	{"ls -R x.img.zst", 2, `--recursive has no effect on a list of partitions: name one, as in x.img.zst:boot-a$`},
	{"vm --until x x.img.zst", 2, `--until and --timeout need --headless$`},
	{"build --board in/tiny.toml --inputs in --keep-owners", 2, `--keep-owners has no effect unless the root file system is a directory$`},
	{"build --board in/tiny.toml --inputs in --no-cache --cache-dir d", 2, `--cache-dir has no effect with --no-cache$`},
	{"build --board photon-nx --compression xz", 2, `--compression has no effect for photon-nx, which has no squashfs$`},
	{"build --board rock64 --keep-registration-keys", 2, `rock64 has no option keep-registration-keys$`},
	{"build --board in/tiny.toml --inputs in --unit W1", 2, `--values and --unit fill in a template: pass it with --seed$`},
	{"flash -i x.img.zst --seed in/config.toml --unit W1 disk", 2, `--unit is a row of a table: pass the table with --values$`},
	{"provision status --key k 127.0.0.1:1", 2, `--key has no effect without --seed$`},
	{"seed new --force", 2, `--force has no effect on standard output`},
	{"factory --board photon-nx --conf x --sd disk", 2, `--conf, --root and --reboot are for --live$`},

	// Missing files and disks
	{"inspect nope", 3, `^imgtool: nope does not exist$`},
	{"inspect x.img.zts", 3, `^imgtool: x.img.zts does not exist; did you mean x.img.zst\?$`},
	{"ls nope:boot-a", 3, `^imgtool: nope does not exist$`},
	{"diff x.img.zst nope", 3, `^imgtool: nope does not exist$`},
	{"verify nope", 9, `nope: there is no such disk or file$`},
	{"flash nope", 9, `nope: there is no such disk or file$`},
	{"flash -i x.img.zst /dev/nope", 9, `/dev/nope: there is no such disk or file$`},
	{"flash dsk", 9, `dsk: there is no such disk or file; did you mean disk\?$`},
	{"flash null", 9, `null: there is no such disk or file; did you mean /dev/null\?$`},
	{"flash -i nope disk", 3, `^imgtool: nope does not exist$`},
	{"flash -i x.img.zst --seed nope disk", 3, `seed: nope does not exist$`},
	{"vm nope", 3, `^imgtool: nope does not exist$`},
	{"vm --usb nope x.img.zst", 3, `^imgtool: nope does not exist$`},
	{"seed check nope", 3, `^imgtool: nope does not exist$`},
	{"seed check --values nope in/config.toml", 3, `values: nope does not exist$`},
	{"seed put nope in/config.toml", 9, `nope: there is no such disk or file$`},
	{"provision 127.0.0.1:1 --seed in/config.toml --key nope", 3, `--key nope: there is no such file, and ssh-agent has no key with that fingerprint or comment$`},
	{"provision status 127.0.0.1:1 --seed in/config.toml --key u.csv", 3, `u.csv is not a usable private key: `},
	{"provision export 127.0.0.1:1 --key d", 3, `d is not a regular file, but a directory$`},
	{"provision 127.0.0.1:1 --seed nope", 3, `nope does not exist$`},
	{"build --board ./nope.toml", 3, `board definition: ./nope.toml does not exist$`},
	{"build --board rock64 --inputs nope", 3, `inputs: nope does not exist$`},
	{"build --board in/tiny.toml --inputs in --rootfs nope", 3, `rootfs: nope does not exist$`},
	{"build --board in/tiny.toml --inputs in --input Image=nope", 3, `Image: nope does not exist$`},
	{"build --board in/tiny.toml --inputs in --edits nope", 3, `edits: nope does not exist$`},
	{"build --board in/tiny.toml --inputs in --seed nope", 3, `seed: nope does not exist$`},
	{"build --board in/tiny.toml --inputs in --provision-conf nope", 3, `nope does not exist$`},
	{"build --board in/tiny.toml --inputs in --cache-key nope", 3, `nope does not exist$`},
	{"factory --live -c nope", 3, `nope does not exist$`},
	{"factory --board photon-nx -i p.img --sd disk", 3, `p-sd.img does not exist$`},
	{"factory --board photon-nx -i p-sd.img --sd disk", 2, `p-sd.img is the image of the sd: give the part of the name that all have, --image p.img$`},

	// Wrong files and disks
	{"flash x.img.zst", 2, `x.img.zst is an image and not a disk: name it with -i x.img.zst, and then the disk$`},
	{"flash --yes -i x.img.zst y.img.zst", 2, `y.img.zst is an image and not a disk`},
	{"verify -i x.img.zst y.img.zst", 2, `y.img.zst is an image and not a disk`},
	{"flash --yes -i x.img.zst disk disk", 2, `disk and disk are one disk: name it once$`},
	{"flash --yes -i x.img.zst small", 4, `small: 1 MiB is too small: tiny needs 50 MiB: use a larger disk$`},
	{"flash --yes -i x.img.zst d", 4, `d: a directory is not a disk`},
	{"flash --yes -i x.img.zst --board rock64 disk", 10, `x.img.zst is an image for tiny, and the board is rock64$`},
	{"flash --yes -i d disk", 3, `d is not a regular file or a disk, but a directory$`},
	{"flash --yes -i cut.img.zst disk", 6, `cut.img.zst: the image is cut short at byte \d+$`},
	{"flash -i x.img.zst disk", 2, `standard input is not a terminal: pass --yes`},
	{"inspect u.csv", 3, `u.csv: it is text that begins with "unit,a\\nW1,x", not a disk image: give an image$`},
	{"inspect in/rootfs.tar", 3, `in/rootfs.tar: it is a tar archive, not a disk image`},
	{"inspect d", 3, `d is not a regular file or a disk, but a directory$`},
	{"seed check d", 3, `d is a directory; pack it with imgtool seed bundle$`},
	{"seed get x.img.zst", 3, `x.img.zst: it has no seed$`},
	{"build --board bad.toml", 3, `bad.toml:1: invalid character`},
	{"build --board in/tiny.toml --inputs u.csv", 3, `inputs: u.csv is not a directory$`},
	{"build --board in/tiny.toml --inputs in --rootfs u.csv", 3, `rootfs: u.csv: not a directory, tar, squashfs, erofs or container image$`},
	{"build --board in/tiny.toml --inputs in --seed bad.toml", 3, `bad.toml:1: `},
	{"seed render bad.toml", 3, `bad.toml:1: `},

	// Outputs
	{"build --board in/tiny.toml --inputs in -o nope/x.img", 3, `nope/x.img: the directory nope does not exist$`},
	{"build --board in/tiny.toml --inputs in -o /proc/x.img", 7, `/proc/x.img: no file can be made in the directory /proc$`},
	{"build --board in/tiny.toml --inputs in -o in/Image", 2, `in/Image: the name must end in`},
	{"seed new -o in/config.toml", 2, `in/config.toml exists: choose another name, or replace it with --force$`},
	{"seed new -o nope/x.toml", 3, `nope/x.toml: the directory nope does not exist$`},
	{"seed new -o d", 3, `d is not a regular file, but a directory$`},
	{"seed new", 2, `give the name of the admin with --user`},
	{"seed bundle d", 2, `name the bundle to write: -o config.tar.zst$`},
	{"flash --yes -i x.img.zst --receipt nope/r.jsonl disk", 7, `nope/r.jsonl: writing the receipt: the directory nope does not exist$`},
	{"provision export 127.0.0.1:1 -o nope/x", 3, `nope/x: the directory nope does not exist$`},

	// Links, pipes and other files in place of the expected ones
	{"inspect dangling", 3, `^imgtool: dangling does not exist; it is a symbolic link to nowhere$`},
	{"inspect circle", 3, `^imgtool: circle is a symbolic link that leads back to itself$`},
	{"flash --yes -i x.img.zst dangling", 9, `dangling: there is no such disk or file; it is a symbolic link to nowhere$`},
	{"flash --yes -i x.img.zst circle", 3, `circle is a symbolic link that leads back to itself$`},
	{"verify d", 4, `d: a directory is not a disk`},
	{"verify -i x.img.zst small", 8, `small is too small to have x.img.zst on it: the partitions end at byte 34603008 and a disk of 1048576 bytes`},
	{"seed bundle fifo -o b.tar.zst", 3, `fifo is not a directory, but a pipe$`},
	{"seed bundle u.csv -o b.tar.zst", 3, `u.csv is not a directory, but a regular file$`},
	{"seed check x.img.zst", 6, `x.img.zst: the archive is corrupt: what it holds is not a tar`},
	{"diff x.img.zst u.csv", 6, `u.csv: it starts with no partition table \(no MBR: the disk has 12 bytes\)$`},
	{"diff x.img.zst x.img.zst:bot-a", 3, `x.img.zst has no partition "bot-a"; did you mean boot-a\?`},
	{"cat in/rootfs.tar:etc/passwd", 6, `in/rootfs.tar: it starts with no partition table`},
	{"build --board in/tiny.toml", 3, `tiny needs the inputs idbloader.img, Image, rootfs, which are missing$`},
	{"build --board in/tiny.toml --inputs in --rootfs fifo", 3, `rootfs: fifo is not a regular file, but a pipe$`},
	{"build --board in/tiny.toml --inputs in --rootfs docker://", 3, `rootfs: docker:// is not the name of an image in a registry`},
	{"build --board in/tiny.toml --inputs in --rootfs docker:os", 3, `rootfs: docker:os: write an image in a registry as docker://HOST`},
	{"build --board in/tiny.toml --inputs in --rootfs https://host/os.tar", 3, `URLs are not read: download the file and give its path$`},
	{"build --board in/tiny.toml --inputs in --cache-dir u.csv", 3, `u.csv is not a directory$`},
	{"build --board in/tiny.toml --inputs in --slots a --partition data=u.csv", 2, `partition data: the device makes it on its first boot, so the image cannot have its content$`},

	// Receipts are not appended to other files
	{"flash --yes -i x.img.zst --receipt y.img.zst disk", 7, `y.img.zst: writing the receipt: the file is not one of receipts`},
	{"flash --yes -i x.img.zst --receipt x.img.zst disk", 7, `x.img.zst: writing the receipt: the file is not one of receipts`},
	{"flash --yes -i x.img.zst --receipt in/config.toml disk", 7, `in/config.toml: writing the receipt: the file is not one of receipts`},
	{"flash --yes -i x.img.zst --receipt disk disk", 7, `disk: writing the receipt: the file is not one of receipts`},
	{"flash --yes -i x.img.zst --receipt d disk", 7, `d: writing the receipt: it is a directory$`},
	{"seed stick --yes --receipt in/Image disk in/config.toml", 7, `in/Image: writing the receipt: the file is not one of receipts`},

	// Values
	{"provision 127.0.0.1:1 --seed in/config.toml --wait -1s", 2, `--wait is -1s; it must not be negative$`},
	{"provision 127.0.0.1:1 --seed in/config.toml --timeout -5m", 2, `--timeout is -5m0s; it must not be negative$`},
	{"verify --stall-timeout -1s -i x.img.zst disk", 2, `--stall-timeout is -1s; it must not be negative$`},
	{"vm --headless --env k --keep k x.img.zst", 2, `--env and --keep are one file, k: name two$`},
	{"vm --headless --env in/config.toml x.img.zst", 3, `--env: in/config.toml has 280 bytes`},
	{"vm --headless --env d x.img.zst", 3, `--env: d is not a regular file, but a directory$`},
	{"vm --headless --until ( x.img.zst", 2, `--until "\(" is not a regular expression: missing closing \)`},
	{"seed new --lan 300.1.1.1/24", 2, `--lan: "300.1.1.1/24" is not an IPv4 address with a prefix`},
	{"seed new --lan 10.0.0.1", 2, `--lan has the prefix /32; the LAN's must be /16 to /30$`},
	{"seed new --lan 10.0.0.1/24", 2, `--lan is in 10.0.0.0/24, .*; give --dhcp-start and --dhcp-end$`},
	{"seed new --dhcp-start 10.0.0.5", 2, `--dhcp-start is 10.0.0.5, which is not in the LAN 172.20.30.0/24$`},
}

// makeWrongInputs makes what the command lines of wrongInputs are about, in a new working directory.
func makeWrongInputs(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	t.Chdir(dir)
	t.Setenv("IMGTOOL_CACHE_DIR", filepath.Join(dir, "blocks"))
	if err := makeInputs("in"); err != nil {
		t.Fatal(err)
	}
	imgtool(t, "build", "--board", "in/tiny.toml", "--inputs", "in", "-o", "x.img.zst")
	image, err := os.ReadFile("x.img.zst")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"y.img.zst": string(image), "cut.img.zst": string(image[:300000]), "u.csv": "unit,a\nW1,x\n", "bad.toml": "[[\n"} {
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir("d", 0o755); err != nil {
		t.Fatal(err)
	}
	sparseFile(t, "disk", 64<<20)
	sparseFile(t, "small", 1<<20)
	for name, to := range map[string]string{"dangling": "nowhere", "circle": "circle"} {
		if err := os.Symlink(to, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo("fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Each wrong input gets one sentence with its remedy, at most one hint, and its exit status, and
// changes nothing.
func TestWrongInputs(t *testing.T) {
	dir := makeWrongInputs(t)
	before := contents(t, dir)
	seen := map[string]bool{}
	for _, c := range wrongInputs {
		if seen[c.line] {
			t.Errorf("%s is there twice", c.line)
		}
		seen[c.line] = true
		args := strings.Split(c.line, " ")
		for i, arg := range args {
			args[i] = strings.ReplaceAll(arg, `""`, "")
		}
		var out, errs bytes.Buffer
		status := run(args, strings.NewReader(""), &out, &errs)
		lines := strings.Split(strings.TrimSuffix(errs.String(), "\n"), "\n")
		if status != c.status || !regexp.MustCompile(c.want).MatchString(lines[0]) {
			t.Errorf("%s: exit status %d, want %d and %s:\n%s", c.line, status, c.status, c.want, errs.String())
		}
		if len(lines) > 2 || !strings.HasPrefix(lines[0], "imgtool: ") || !strings.HasPrefix(lines[len(lines)-1], "imgtool: ") || out.Len() > 0 {
			t.Errorf("%s: it is not a sentence and a hint:\n%s%s", c.line, out.String(), errs.String())
		}
		if len(lines) == 1 && status == exit.Usage {
			t.Errorf("%s: no hint", c.line)
		}
		if after := contents(t, dir); after != before {
			t.Fatalf("%s changed the directory from\n%s\nto\n%s", c.line, before, after)
		}
	}
	if len(seen) < 150 {
		t.Errorf("only %d inputs", len(seen))
	}
}

// Mistakes that the parser of the flags finds are JSON, too, also before --json.
func TestWrongInputsAreJSON(t *testing.T) {
	for _, line := range []string{"buid --json", "build --bord x --json", "--json disks --foo", "flash --timeout 5 --json", "seed chek --json=true"} {
		var out, errs bytes.Buffer
		status := run(strings.Split(line, " "), strings.NewReader(""), &out, &errs)
		s, err := schemas()
		must(err)
		if err := (record{Args: strings.Split(line, " "), Status: status, Stdout: out.Bytes(), Stderr: errs.Bytes()}).check(s); err != nil {
			t.Error(err)
		}
		var e struct{ Event, Error, Hint string }
		if err := json.Unmarshal(errs.Bytes(), &e); err != nil || status != exit.Usage || e.Event != "error" || e.Hint == "" {
			t.Errorf("%s: exit status %d, %v: %s", line, status, err, errs.String())
		}
	}
}

// contents returns the names, sizes and times of all files below a directory.
func contents(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && !d.IsDir() {
			b.WriteString(strings.Join([]string{path, info.Mode().String(), info.ModTime().String(), strconv.FormatInt(info.Size(), 10)}, " ") + "\n")
		} else {
			b.WriteString(path + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A typo in any command or subcommand suggests it.
func TestTyposSuggestTheCommand(t *testing.T) {
	for path := range commands() {
		words := strings.Fields(path)[1:]
		if len(words) == 0 || words[0] == "gen" {
			continue
		}
		last := words[len(words)-1]
		for _, typo := range []string{last[:len(last)-2] + last[len(last)-1:], last + last[len(last)-1:], last[:1] + last} {
			if typo == "l" || typo == "s" || len(last) < 3 {
				typo = last + "s"
			}
			var errs bytes.Buffer
			args := append(append([]string{}, words[:len(words)-1]...), typo)
			status := run(args, strings.NewReader(""), &errs, &errs)
			if status != exit.Usage || !strings.Contains(errs.String(), "did you mean") || !strings.Contains(errs.String(), last+"?") && !strings.Contains(errs.String(), last+" or ") {
				t.Errorf("%q: exit status %d: %s", args, status, errs.String())
			}
		}
	}
}

// A typo in any flag suggests it, and the hint is the help of its command.
func TestTyposSuggestTheFlag(t *testing.T) {
	n := 0
	for path, cmd := range commands() {
		words := strings.Fields(path)[1:]
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if len(f.Name) < 4 {
				return
			}
			n++
			typo := f.Name[:2] + f.Name[3:]
			var errs bytes.Buffer
			status := run(append(words[:len(words):len(words)], "--"+typo), strings.NewReader(""), &errs, &errs)
			if want := "did you mean --" + f.Name + "?"; status != exit.Usage || !strings.Contains(errs.String(), want) || !strings.HasSuffix(errs.String(), "see "+path+" --help\n") {
				t.Errorf("%s --%s: exit status %d, want %s: %s", path, typo, status, want, errs.String())
			}
		})
	}
	if n < 150 {
		t.Errorf("only %d flags", n)
	}
}
