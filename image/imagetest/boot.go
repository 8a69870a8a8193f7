package imagetest

import (
	"bytes"
	"context"
	"regexp"
	"testing"
	"time"

	"imgtool/image/vm"
)

// Boot runs a machine until, after all replies were typed, a line of its console matches
// ready. It returns the console's text. With -short the test is skipped.
func Boot(t testing.TB, m vm.Machine, ready string, replies ...vm.Reply) string {
	t.Helper()
	Long(t)
	if err := vm.Check(); err != nil {
		Skip(t, "%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	m.Once = true
	begin := time.Now()
	running, err := m.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer running.Kill()
	var log bytes.Buffer
	if _, err := running.Watch(&log, regexp.MustCompile(ready).MatchString, replies...); err != nil {
		t.Fatalf("%v before %q was seen:\n%s", err, ready, log.String())
	}
	t.Logf("ready after %s", time.Since(begin).Round(100*time.Millisecond))
	return log.String()
}
