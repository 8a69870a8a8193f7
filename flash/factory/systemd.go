package factory

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// stopTimeout is how long a systemd unit may take to stop.
const stopTimeout = 2 * time.Minute

// stop stops systemd units of the running system, and reports whether one was running. They
// are not started again: the system reboots, or is provisioned again.
func stop(ctx context.Context, units []string, log func(format string, args ...any)) (stopped bool, err error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil || len(units) == 0 {
		return false, nil
	}
	bus, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return false, fmt.Errorf("stopping %s: %w", strings.Join(units, ", "), err)
	}
	defer bus.Close()
	for _, name := range units {
		ran, err := stopUnit(ctx, bus, name)
		if stopped = stopped || ran; err != nil {
			return stopped, fmt.Errorf("stopping %s: %w", name, err)
		}
		if ran {
			log("%s is stopped", name)
		}
	}
	return stopped, nil
}

func stopUnit(ctx context.Context, bus *dbus.Conn, name string) (ran bool, err error) {
	state, err := bus.GetUnitPropertyContext(ctx, name, "ActiveState")
	if err != nil {
		return false, err
	}
	if now, _ := state.Value.Value().(string); now == "inactive" || now == "failed" {
		return false, nil
	}
	ended := make(chan string, 1)
	if _, err := bus.StopUnitContext(ctx, name, "replace", ended); err != nil {
		return false, err
	}
	select {
	case result := <-ended:
		if result != "done" && result != "skipped" {
			return false, fmt.Errorf("it ended as %s", result)
		}
	case <-time.After(stopTimeout):
		return false, fmt.Errorf("it still runs after %s", stopTimeout)
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	return true, nil
}

func reboot(ctx context.Context) error {
	bus, err := dbus.NewSystemConnectionContext(ctx)
	if err == nil {
		defer bus.Close()
		_, err = bus.StartUnitContext(ctx, "reboot.target", "replace-irreversibly", nil)
	}
	if err != nil {
		return fmt.Errorf("rebooting: %w: reboot by hand", err)
	}
	return nil
}
