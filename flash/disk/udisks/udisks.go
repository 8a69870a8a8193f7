// Package udisks opens block devices through UDisks2, a system service, for users who may not
// open them themselves. UDisks2 asks polkit, which allows it, refuses it, or lets the user's
// desktop ask for a password. See org.freedesktop.UDisks2.Block in the UDisks2 reference.
package udisks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

const service = "org.freedesktop.UDisks2"

// ErrUnavailable is the error if there is no system bus, or no UDisks2 on it.
var ErrUnavailable = errors.New("UDisks2 is not available")

// ErrSilent is the error if the bus, UDisks2 or the user does not answer in time.
var ErrSilent = errors.New("UDisks2 does not answer in time")

// startTime is how long UDisks2 may take to start.
var startTime = 30 * time.Second

// DeniedError is an operation that polkit does not allow. It is an [fs.ErrPermission].
type DeniedError struct {
	Device string
	// Password is whether it would be allowed with an administrator's password, which was not
	// asked for: either it was not to be, or no program of the session can.
	Password  bool
	Dismissed bool // the user closed the question for the password
}

func (e *DeniedError) Error() string {
	switch {
	case e.Dismissed:
		return e.Device + ": the question for a password was closed without an answer"
	case e.Password:
		return e.Device + ": it takes an administrator's password"
	}
	return e.Device + ": the system does not allow this user to use it, or the password was wrong"
}

func (e *DeniedError) Is(target error) bool { return target == fs.ErrPermission }

// Error is an operation that failed in UDisks2.
type Error struct {
	Device string
	Op     string // such as "opening"
	Text   string // from UDisks2, possibly translated
	Err    error  // what the text says, as an error number, or nil
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s through UDisks2: %s", e.Device, e.Op, e.Text)
}
func (e *Error) Unwrap() error { return e.Err }

// Open opens a block device. mode is "r" or "rw", flags are those of open(2) without an access
// mode. If ask is set, a password may be asked for, which lasts until the user has answered.
//
// UDisks2 finds the device by its path, so the caller must check that the file is the device
// it means.
func Open(ctx context.Context, device, mode string, flags int, ask bool) (*os.File, error) {
	var fd dbus.UnixFD
	err := call(ctx, device, "opening", func(bus *dbus.Conn, block dbus.BusObject) error {
		options := options(ask)
		options["flags"] = dbus.MakeVariant(int32(flags))
		return block.CallWithContext(ctx, service+".Block.OpenDevice", interactive(ask), mode, options).Store(&fd)
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), device), nil
}

// Unmount unmounts the file system on a block device, at all its mount points.
func Unmount(ctx context.Context, device string, ask bool) error {
	for range 100 {
		err := call(ctx, device, "unmounting", func(bus *dbus.Conn, block dbus.BusObject) error {
			return block.CallWithContext(ctx, service+".Filesystem.Unmount", interactive(ask), options(ask)).Err
		})
		if e, ok := errors.AsType[*Error](err); ok && e.Err == errNotMounted {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return &Error{Device: device, Op: "unmounting", Text: "it is mounted again and again"}
}

// Rescan makes the kernel read the partition table of a disk that is not open for exclusive
// use.
func Rescan(ctx context.Context, device string) error {
	return call(ctx, device, "rescanning", func(bus *dbus.Conn, block dbus.BusObject) error {
		return block.CallWithContext(ctx, service+".Block.Rescan", 0, options(false)).Err
	})
}

// PowerOff removes a USB disk that is not in use from the bus.
func PowerOff(ctx context.Context, device string) error {
	return call(ctx, device, "removing", func(bus *dbus.Conn, block dbus.BusObject) error {
		var drive dbus.ObjectPath
		if err := block.StoreProperty(service+".Block.Drive", &drive); err != nil {
			return err
		}
		return bus.Object(service, drive).CallWithContext(ctx, service+".Drive.PowerOff", 0, options(false)).Err
	})
}

func options(ask bool) map[string]dbus.Variant {
	return map[string]dbus.Variant{"auth.no_user_interaction": dbus.MakeVariant(!ask)}
}

func interactive(ask bool) dbus.Flags {
	if ask {
		return dbus.FlagAllowInteractiveAuthorization
	}
	return 0
}

// call calls UDisks2's object of a block device.
func call(ctx context.Context, device, op string, do func(bus *dbus.Conn, block dbus.BusObject) error) error {
	starting, cancel := context.WithCancel(ctx)
	defer cancel()
	late := time.AfterFunc(startTime, cancel)
	err := callBefore(starting, device, op, func(bus *dbus.Conn, block dbus.BusObject) error {
		late.Stop()
		return do(bus, block)
	})
	switch {
	case err == nil || starting.Err() == nil:
		return err
	case context.Cause(ctx) == nil || ctx.Err() == context.DeadlineExceeded:
		return ErrSilent
	}
	return context.Cause(ctx)
}

// callBefore is like call, and closes the connection to the bus when ctx ends.
func callBefore(ctx context.Context, device, op string, do func(bus *dbus.Conn, block dbus.BusObject) error) error {
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("%w: no system bus: %v", ErrUnavailable, err)
	}
	defer bus.Close()
	var found []dbus.ObjectPath
	manager := bus.Object(service, "/org/freedesktop/UDisks2/Manager")
	spec := map[string]dbus.Variant{"path": dbus.MakeVariant(device)}
	if err := manager.CallWithContext(ctx, service+".Manager.ResolveDevice", 0, spec, options(false)).Store(&found); err != nil {
		return translate(device, op, err)
	}
	if len(found) == 0 {
		return &Error{Device: device, Op: op, Text: "UDisks2 does not know this device"}
	}
	return translate(device, op, do(bus, bus.Object(service, found[0])))
}

var errNotMounted = errors.New("not mounted")

// missing are the errors of a bus without a service. The last two are of systemd.
var missing = []string{"org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner",
	"org.freedesktop.DBus.Error.Spawn.", "org.freedesktop.DBus.Error.TimedOut", "org.freedesktop.systemd1."}

// numbers are the errors of open(2) and umount(2) that callers distinguish. UDisks2 only
// passes their text.
var numbers = []syscall.Errno{syscall.EBUSY, syscall.EROFS, syscall.ENXIO, syscall.ENODEV, syscall.ENOENT, syscall.EACCES}

func translate(device, op string, err error) error {
	e, ok := errors.AsType[dbus.Error](err)
	if !ok {
		return err // nil, the end of ctx, or a connection that was closed
	}
	if slices.ContainsFunc(missing, func(prefix string) bool { return strings.HasPrefix(e.Name, prefix) }) {
		return fmt.Errorf("%w: %v", ErrUnavailable, e)
	}
	kind, _ := strings.CutPrefix(e.Name, service+".Error.")
	switch kind {
	case "NotAuthorized":
		return &DeniedError{Device: device}
	case "NotAuthorizedCanObtain":
		return &DeniedError{Device: device, Password: true}
	case "NotAuthorizedDismissed":
		return &DeniedError{Device: device, Dismissed: true}
	}
	failed := &Error{Device: device, Op: op, Text: e.Error()}
	switch kind {
	case "NotMounted":
		failed.Err = errNotMounted
	case "DeviceBusy":
		failed.Err = syscall.EBUSY
	default:
		for _, n := range append(numbers, noMedium...) {
			if strings.HasSuffix(strings.ToLower(e.Error()), n.Error()) {
				failed.Err = n
			}
		}
	}
	return failed
}
