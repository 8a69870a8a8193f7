package flash

import (
	"errors"
	"fmt"
	"os"

	"github.com/godbus/dbus/v5"
)

// Awake keeps this machine from going to sleep until release is called. Where
// nothing puts machines to sleep, on a server or in a container, the error is
// errors.ErrUnsupported.
//
// systemd.io/INHIBITOR_LOCKS: the lock is held as long as a descriptor is open,
// so it ends with the program, however that ends.
func Awake(why string) (release func(), err error) {
	bus, err := dbus.ConnectSystemBus()
	if err != nil {
		return nil, fmt.Errorf("%w: no system bus: %v", errors.ErrUnsupported, err)
	}
	defer bus.Close()
	const login = "org.freedesktop.login1"
	var lock dbus.UnixFD
	err = bus.Object(login, "/org/freedesktop/login1").Call(login+".Manager.Inhibit", 0, "sleep:idle", "imgtool", why, "block").Store(&lock)
	if e, ok := errors.AsType[dbus.Error](err); ok && (e.Name == "org.freedesktop.DBus.Error.ServiceUnknown" || e.Name == "org.freedesktop.DBus.Error.NameHasNoOwner") {
		return nil, fmt.Errorf("%w: nothing puts this machine to sleep: %v", errors.ErrUnsupported, err)
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(lock), "inhibitor")
	return func() { f.Close() }, nil
}
