package flash

import (
	"errors"
	"fmt"
	"os"

	"github.com/godbus/dbus/v5"
)

// Awake keeps the computer from going to sleep until release is called. why is shown by
// systemd-inhibit --list. Without a login manager, as on a server or in a container, the
// error is [errors.ErrUnsupported].
//
// systemd holds the lock while a descriptor of it is open, so it ends with this program:
// https://systemd.io/INHIBITOR_LOCKS
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
		return nil, fmt.Errorf("%w: no login manager: %v", errors.ErrUnsupported, err)
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(lock), "inhibitor")
	return func() { f.Close() }, nil
}
