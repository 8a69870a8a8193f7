//go:build linux

package udisks

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// A bus that does not answer ends the wait.
func TestSilentBus(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus")
	bus, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
	defer func(before time.Duration) { startTime = before }(startTime)
	startTime = 100 * time.Millisecond
	begin := time.Now()
	if _, err := Open(t.Context(), "/dev/null", "r", 0, true); !errors.Is(err, ErrSilent) || time.Since(begin) > time.Minute {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
}
