package vm

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/hostfile"
	"imgtool/image/partition"
)

// ParseForwards parses ports of a flag such as "8080" or "8081:8080", the port of this
// computer first, and checks that the ports of this computer are free.
func ParseForwards(flag string, list []string) (all []Forward, err error) {
	for _, text := range list {
		host, guest, two := strings.Cut(text, ":")
		if !two {
			guest = host
		}
		from, err1 := strconv.ParseUint(host, 10, 16)
		to, err2 := strconv.ParseUint(guest, 10, 16)
		if err1 != nil || err2 != nil || from == 0 || to == 0 {
			return nil, fault.New(fault.Usage, "%s is %q; it must be a port of 1 to 65535, or two as 8081:8080", flag, text)
		}
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", from))
		if err != nil {
			why := err.Error()
			if errors.Is(err, unix.EADDRINUSE) {
				why = "another program uses it"
			} else if errors.Is(err, fs.ErrPermission) {
				why = "only root may use it"
			}
			return nil, fault.WithHint(fault.New(fault.Usage, "%s: port %d of 127.0.0.1: %s", flag, from, why), "use another port of this computer, such as %s %d:%d", flag, from+1, to)
		}
		defer l.Close()
		all = append(all, Forward{Host: uint16(from), Guest: uint16(to)})
	}
	return all, nil
}

// CheckEnv checks the file of [Machine.Env] if it exists.
func CheckEnv(path string) error {
	f, err := hostfile.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.Size() != 0 && info.Size() != EnvSize {
		err = fmt.Errorf("%s has %d bytes, and the flash of U-Boot's environment has %d", path, info.Size(), EnvSize)
	}
	return err
}

// CreateEnv creates the file of [Machine.Env], or checks an existing file.
func CreateEnv(path string) error {
	if err := CheckEnv(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.Size() == 0 {
		err = f.Truncate(EnvSize)
	}
	return err
}

// BootSlot returns the replies to U-Boot that make it boot slot "a" or "b" of the first
// virtio disk. The boot partition of the slot is found by its name, boot-a or boot-b.
func BootSlot(disk io.ReaderAt, slot string) ([]Reply, error) {
	table, err := partition.Read(disk, 512)
	if err != nil {
		return nil, fmt.Errorf("the machine's disk: %w", err)
	}
	i := slices.IndexFunc(table.Parts, func(p gpt.Part) bool { return p.Name == "boot-"+slot })
	if i < 0 {
		return nil, fault.WithHint(fmt.Errorf("no slot %s: the disk has no partition boot-%s", slot, slot),
			"build an image with --slots ab, or boot it once with --keep and write the slot there")
	}
	n := table.Parts[i].Number
	command := fmt.Sprintf("virtio scan; setenv devtype virtio; setenv devnum 0; setenv distro_bootpart %x; setenv slot_chosen yes; load virtio 0:%x ${scriptaddr} boot.scr; source ${scriptaddr}", n, n)
	return []Reply{{Seen: "Hit any key", Type: "\n"}, {Seen: "=> ", Type: command + "\n"}}, nil
}
