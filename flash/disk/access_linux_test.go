package disk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"imgtool/flash/disk"
	"imgtool/flash/disk/disktest"
	"imgtool/image/imagetest"
)

// service simulates UDisks2 on a real bus. The real one is in the tests that boot machines.
type service struct {
	mu sync.Mutex
	behavior
	calls []string
	given []int // descriptors of which the messages took duplicates
}

// release closes the descriptors that were given away.
func (s *service) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fd := range s.given {
		unix.Close(fd)
	}
	s.given = nil
}

// behavior is what the service does otherwise than asked.
type behavior struct {
	answer  string // name and text of an error instead of a descriptor
	instead string // another device to open
	extra   int    // flags that are left out
}

const devices = "/org/freedesktop/UDisks2/block_devices/"

func (s *service) ResolveDevice(spec, options map[string]dbus.Variant) ([]dbus.ObjectPath, *dbus.Error) {
	path, _ := spec["path"].Value().(string)
	return []dbus.ObjectPath{devices + dbus.ObjectPath(filepath.Base(path))}, nil
}

func (s *service) OpenDevice(m dbus.Message, mode string, options map[string]dbus.Variant) (dbus.UnixFD, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	flags, _ := options["flags"].Value().(int32)
	ask := options["auth.no_user_interaction"].Value() == false
	s.calls = append(s.calls, fmt.Sprintf("%s ask=%v excl=%v direct=%v", mode, ask, flags&unix.O_EXCL != 0, flags&unix.O_DIRECT != 0))
	if name, text, ok := strings.Cut(s.answer, ": "); ok {
		return 0, dbus.NewError(name, []any{text})
	}
	path, _ := m.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	device := "/dev/" + filepath.Base(string(path))
	if s.instead != "" {
		device = s.instead
	}
	access := map[string]int{"r": unix.O_RDONLY, "rw": unix.O_RDWR}[mode]
	fd, err := unix.Open(device, int(flags)&^s.extra|access|unix.O_CLOEXEC, 0)
	if err != nil {
		// As GLib formats it.
		text := err.Error()
		return 0, dbus.NewError("org.freedesktop.UDisks2.Error.Failed", []any{"Error opening device " + device + ": " + strings.ToUpper(text[:1]) + text[1:]})
	}
	s.given = append(s.given, fd)
	return dbus.UnixFD(fd), nil
}

// startService starts a bus with the service, and returns its address.
func startService(t *testing.T, s *service) string {
	t.Helper()
	address := fmt.Sprintf("unix:abstract=imgtool-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	config := filepath.Join(t.TempDir(), "bus.conf")
	err := os.WriteFile(config, []byte(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>`+address+`</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(imagetest.Need(t, "dbus-daemon"), "--config-file", config, "--nofork", "--nopidfile")
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Process.Kill(); daemon.Wait() })
	var bus *dbus.Conn
	for range 18_000 {
		if bus, err = dbus.Connect(address); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	if s == nil {
		return address
	}
	err = errors.Join(bus.Export(s, "/org/freedesktop/UDisks2/Manager", "org.freedesktop.UDisks2.Manager"),
		bus.ExportSubtree(s, dbus.ObjectPath(strings.TrimSuffix(devices, "/")), "org.freedesktop.UDisks2.Block"))
	if err == nil {
		_, err = bus.RequestName("org.freedesktop.UDisks2", 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// TestMain also is the program of asNobody: it opens disks as users other than root do.
func TestMain(m *testing.M) {
	path, write := os.Getenv("OPEN_DISK"), os.Getenv("WRITE") == "true"
	if path == "" {
		os.Exit(m.Run())
	}
	fmt.Println(openOne(path, write))
}

// openOne opens a disk and reads its first byte. To write it, it changes that byte.
func openOne(path string, write bool) string {
	d, err := disk.Find("/", path)
	if err != nil {
		return err.Error()
	}
	if err := d.Permit(context.Background(), write, false); err != nil {
		return "not permitted: " + err.Error()
	}
	open := disk.OpenRead
	if write {
		open = disk.Open
	}
	target, err := open(d)
	if err != nil {
		return fmt.Sprintf("%T: %v", err, err)
	}
	b := make([]byte, 1)
	if _, err = target.ReadAt(b, 0); err == nil && write {
		_, err = target.WriteAt(bytes.Repeat([]byte{'x'}, 4096), 0)
	}
	if err != nil {
		return err.Error()
	}
	if _, err := target.CloseReread(); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("read %q", b)
}

// asNobody opens a disk as the user nobody, and returns what openOne does.
func asNobody(t *testing.T, bus, path string, write bool) string {
	t.Helper()
	program := filepath.Join("/tmp", filepath.Base(t.TempDir())+fmt.Sprint(os.Getpid()))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "cp", self, program) // the test's directory is root's alone
	defer os.Remove(program)
	cmd := exec.Command(program)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "OPEN_DISK="+path, fmt.Sprintf("WRITE=%v", write), "DBUS_SYSTEM_BUS_ADDRESS="+bus)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// Users other than root open disks through UDisks2, with all that Open checks.
func TestOpenThroughUDisks2(t *testing.T) {
	imagetest.Long(t)
	file := disktest.Dirty(t, loopSize)
	path := imagetest.Loop(t, file)
	other := imagetest.Loop(t, disktest.Dirty(t, loopSize))
	s := &service{}
	bus := startService(t, s)
	for _, c := range []struct {
		name  string
		write bool
		set   behavior
		want  string
		hold  string
	}{
		{name: "read", want: `read "\xaa"`},
		{name: "write", write: true, want: `read "\xaa"`},
		{name: "another disk", write: true, set: behavior{instead: other}, want: "it is not the disk that was found (another disk has its name: it had the device number"},
		{name: "another disk to read", set: behavior{instead: other}, want: "another disk has its name: it had the device number"},
		{name: "no disk", write: true, set: behavior{instead: file}, want: "it is not a block device"},
		{name: "through the cache", write: true, set: behavior{extra: unix.O_DIRECT}, want: "UDisks2 opened it in another mode"},
		{name: "with a password", write: true, set: behavior{answer: "org.freedesktop.UDisks2.Error.NotAuthorizedCanObtain: no"},
			want: "not permitted: " + path + ": to write to it, an administrator's password is needed"},
		{name: "never", write: true, set: behavior{answer: "org.freedesktop.UDisks2.Error.NotAuthorized: no"},
			want: "not permitted: " + path + ": the system does not let this user write to it"},
		{name: "dismissed", set: behavior{answer: "org.freedesktop.UDisks2.Error.NotAuthorizedDismissed: no"},
			want: "not permitted: " + path + ": to read it, an administrator's password is needed, and none was given"},
		{name: "masked", set: behavior{answer: "org.freedesktop.systemd1.NoSuchUnit: no"}, want: "only root may read it, because UDisks2"},
		{name: "other errors", write: true, set: behavior{answer: "org.freedesktop.UDisks2.Error.Failed: es geht nicht"}, want: "*disk.RefusedError: " + path + ": UDisks2 does not open it"},
		{name: "claimed", write: true, hold: "import os,sys; f = os.open(sys.argv[1], os.O_RDONLY|os.O_EXCL)", want: "*disk.RefusedError: " + path + ": it is in use"},
		{name: "locked", write: true, hold: "import os,sys,fcntl; f = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(f, fcntl.LOCK_EX)", want: "another program has locked it"},
		{name: "locked in part", write: true, hold: "import os,sys,fcntl; f = os.open(sys.argv[1], os.O_RDONLY); fcntl.lockf(f, fcntl.LOCK_SH, 1, 100)", want: "has locked a part of it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.mu.Lock()
			s.behavior, s.calls = c.set, nil
			s.mu.Unlock()
			before := imagetest.Read(t, file)
			if c.hold != "" {
				_, stop := imagetest.Hold(t, c.hold, path)
				defer stop()
			}
			got := asNobody(t, bus, path, c.write)
			s.release()
			if !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q; UDisks2 was asked for %q", got, c.want, s.calls)
			}
			if written := imagetest.Read(t, file)[0] == 'x'; written != (c.name == "write") {
				t.Errorf("written: %v", written)
			}
			if err := os.WriteFile(file, before, 0o644); err != nil {
				t.Fatal(err)
			}
			if c.name == "write" && (len(s.calls) != 2 || s.calls[0] != "r ask=false excl=false direct=false" || s.calls[1] != "rw ask=true excl=true direct=true") {
				t.Errorf("UDisks2 was asked for %q", s.calls)
			}
		})
	}
	t.Run("without UDisks2", func(t *testing.T) {
		for _, bus := range []string{startService(t, nil), "unix:path=/nonexistent"} {
			if got := asNobody(t, bus, path, true); !strings.Contains(got, "not permitted: "+path+": only root may write to it, because UDisks2") {
				t.Error(got)
			}
		}
	})
}
