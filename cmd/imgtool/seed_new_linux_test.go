package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/cmd/imgtool/exit"
)

// An answer that the device would refuse is asked for again, and the others are kept.
func TestSeedNewAsksAgain(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "config.toml")
	p := newPerson(t)
	cmd := p.starts("seed", "new", "-o", out)
	for _, c := range [][2]string{
		{"Name of the admin [ops]: ", "Ops Team"},
		{`"Ops Team" is not a valid user name`, "alice"},
		{"Admin's SSH public key: ", filepath.Join(dir, "none.pub")},
		{"none.pub does not exist", "ssh-ed25519 AAAA"},
		{"which is too short", strings.Fields(tinySeed)[9] + " " + strings.Trim(strings.Fields(tinySeed)[10], `"`)},
		{"Name of the container [app]: ", "a/b"},
		{`"a/b" is not a valid name`, ""},
		{"Reference of the container's image: ", ""},
		{"is required", "registry.example/web:1"},
	} {
		p.sees(c[0])
		p.types(strings.TrimPrefix(c[1], `"`) + "\n")
	}
	p.sees("config.toml: admin alice, container app with registry.example/web:1")
	if status := p.ends(cmd); status != exit.OK {
		t.Errorf("exit status %d:\n%s", status, p.text())
	}
	text, err := os.ReadFile(out)
	if err != nil || !strings.Contains(string(text), "[users.alice]") {
		t.Errorf("%v: %s", err, text)
	}
}

// Someone who gives no valid answer is not asked for ever.
func TestSeedNewGivesUp(t *testing.T) {
	out := filepath.Join(t.TempDir(), "config.toml")
	p := newPerson(t)
	cmd := p.starts("seed", "new", "-o", out)
	for range 5 {
		p.sees("Name of the admin")
		p.types("A B\n")
	}
	p.sees("no valid answer after 5")
	if status := p.ends(cmd); status != exit.Usage {
		t.Errorf("exit status %d:\n%s", status, p.text())
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a file was written")
	}
}
