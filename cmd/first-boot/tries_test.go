//go:build linux

package main

import "testing"

const notFound = "no seed was found; waiting"

// While a device waits that never had a configuration, the tries of its slot are reset. The slot is
// marked good after a configuration was applied.
func TestWaitingResetsTries(t *testing.T) {
	b := newBox(t)
	b.write("sbin/mark-good", "#!/bin/sh\necho good $* >>"+b.root+"/marks\n")
	marks := func(want string) {
		t.Helper()
		if got := b.read("marks"); got != want {
			t.Errorf("mark-good was called with %q, not %q:\n%s", got, want, b.said())
		}
		b.write("marks", "")
	}
	b.start()
	b.says(notFound)
	marks("good waiting\n")
	b.kill()
	b.volume("mmcblk1", "p1", "BOOT-A", "boot-a", map[string]string{"config.toml": "version = 2\n"})
	b.fresh()
	b.start()
	b.says(notFound)
	marks("good waiting\n")
	if _, err := b.apply(b.client(b.wan), "config.toml", []byte(b.seed("web"))); err != nil {
		t.Fatal(err)
	}
	b.has("web")
	marks("good\n")
	b.kill()
	b.start()
	b.has("web")
	marks("good\n")
}

// A device that had a configuration may run an update that cannot read it, which must run out of
// tries.
func TestUnreadableConfigurationDoesNotResetTries(t *testing.T) {
	for _, file := range []string{"data/config/config.toml", "data/.completed_first_boot"} {
		b := newBox(t)
		b.write("sbin/mark-good", "#!/bin/sh\necho good $* >>"+b.root+"/marks\n")
		b.write(file, "version = 99\n")
		b.start()
		b.says(notFound)
		if marks := b.read("marks"); marks != "" {
			t.Errorf("with %s mark-good was called with %q", file, marks)
		}
		b.kill()
	}
}
