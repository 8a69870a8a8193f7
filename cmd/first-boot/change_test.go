//go:build linux

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/image/imagetest"
	"imgtool/image/seed"
	"imgtool/image/seed/api"
	"imgtool/image/seed/bundle"
	"imgtool/image/seed/provision"
)

// change changes one place, and returns the warnings of the device.
func (b *box) change(c *provision.Client, place, value string) (warnings []string, err error) {
	b.t.Helper()
	change := api.Change{Place: strings.Split(place, ".")}
	if value != "" {
		change.Value = []byte(value)
	}
	text, err := seed.Change([]byte(b.read("data/config/config.toml")), change.Place, change.Value)
	if err != nil {
		b.t.Fatal(err)
	}
	config, _ := seed.Check([]byte(b.seed("first")))
	_, err = c.Apply(b.t.Context(), provision.Request{Payload: &provision.Payload{Name: "config.toml", Body: text, Config: config}, Change: &change, Timeout: 5 * time.Minute,
		Keys: func() ([]*provision.Key, error) { return []*provision.Key{{Name: "key", Signer: b.key}}, nil },
		Report: func(e provision.Event) {
			if e.Warning != "" {
				warnings = append(warnings, e.Warning)
			}
		}})
	return warnings, err
}

// A change of one place keeps everything else, and the files of the bundle with the changes that
// containers made, except for links and pipes.
func TestChangeOfOnePlace(t *testing.T) {
	imagetest.Long(t)
	b := newBox(t)
	b.start()
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "config.toml"), []byte("# a comment\n"+b.seed("first")), 0o644)
	os.MkdirAll(filepath.Join(dir, "files/site/deep"), 0o755)
	os.WriteFile(filepath.Join(dir, "files/site/deep/index.html"), []byte("hello"), 0o755)
	var archive bytes.Buffer
	if _, err := bundle.Write(&archive, "config.tar.gz", os.DirFS(dir), time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.apply(b.client(b.wan), "config.tar.gz", archive.Bytes()); err != nil {
		t.Fatal(err)
	}
	b.has("first")
	b.says("the console is at http://" + b.gateway)
	c := b.client(b.gateway)

	// As a container can do: a file, and links to other directories.
	files := filepath.Join(b.root, "data/config/files")
	b.write("data/config/files/site/state", "written since")
	for name, target := range map[string]string{"passwd": "/etc/passwd", "site/up": "../../users.json", "site/config": "../.."} {
		if err := os.Symlink(target, filepath.Join(files, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(files, "site/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}

	warnings, err := b.change(c, "users.more", `{"isAdmin": false, "shell": "sh"}`)
	if err != nil {
		t.Fatalf("%v\n%s", err, b.said())
	}
	slices.Sort(warnings)
	want := "files/passwd is neither a file nor a directory; it is not carried over, files/site/config is neither a file nor a directory; it is not carried over, " +
		"files/site/pipe is neither a file nor a directory; it is not carried over, files/site/up is neither a file nor a directory; it is not carried over"
	if got := strings.Join(warnings, ", "); got != want {
		t.Errorf("the device warns of %s", got)
	}
	b.has("first")
	lines := strings.Split(strings.TrimSpace(imagetest.Run(t, "find", files, "-printf", "/%P %y %m %U:%G\n")), "\n")
	slices.Sort(lines)
	if got := strings.Join(lines, "; "); got != "/ d 700 990:990; /site d 700 990:990; /site/deep d 700 990:990; /site/deep/index.html f 600 990:990; /site/state f 600 990:990" {
		t.Errorf("the files are %s", got)
	}
	text := b.read("data/config/config.toml")
	if strings.Contains(text, "#") || !strings.Contains(text, "\n[users.more]\nisAdmin = false\nshell = \"sh\"\n") {
		t.Errorf("config.toml is\n%s", text)
	}
	if !strings.Contains(b.read("etc/passwd"), "more:x:1001:1001::/home/more:/bin/sh") {
		t.Errorf("the user is not there:\n%s", b.read("etc/passwd"))
	}

	if _, err := b.change(c, "network", `{"firewall": {"inbound": {"wan": {"tcp": [443]}}}, "dns_servers": ["9.9.9.9"]}`); err != nil {
		t.Fatal(err)
	}
	if got := b.read("etc/nftables.conf"); !strings.Contains(got, "iifname eth0 tcp dport { 443 } accept") {
		t.Errorf("the firewall is\n%s", got)
	}
	if got := b.read("etc/resolv.conf"); got != "nameserver 9.9.9.9\n" {
		t.Errorf("resolv.conf is %q", got)
	}
	if _, err := b.change(c, "containers.volume.data", `{"Volume": {"Copy": true}}`); err != nil {
		t.Fatal(err)
	}
	if got := b.read("etc/containers/systemd/data.volume"); got != "[Volume]\nCopy=true\n" {
		t.Errorf("the volume is %q", got)
	}
	if _, err := b.change(c, "users.more", ""); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.read("etc/passwd"), "more:") {
		t.Error("the user is still there")
	}
	if b.read("data/config/files/site/state") != "written since" {
		t.Error("the bundle's files are gone")
	}

	// By default, admins get zsh and others bash, if it exists.
	b.write("bin/zsh", "")
	b.write("bin/bash", "")
	if _, err := b.change(c, "users.more", `{"isAdmin": false}`); err != nil {
		t.Fatal(err)
	}
	if got := b.read("etc/passwd"); !strings.Contains(got, "/home/ops:/bin/zsh\n") || !strings.Contains(got, "/home/more:/bin/bash\n") {
		t.Errorf("the shells are\n%s", got)
	}

	// An invalid change has no effect.
	before := b.read("data/config/config.toml")
	if _, err := b.change(c, "users.ops", ""); err == nil {
		t.Error("the last admin can be deleted")
	}
	if b.read("data/config/config.toml") != before {
		t.Error("a change that was refused is there")
	}
	b.madeOf(before)
}

// Changes take as little memory as configurations.
func TestMemoryOfChanges(t *testing.T) {
	imagetest.Long(t)
	b := newBox(t)
	b.start()
	const most = api.MaxChange - 200
	repeat := func(s string) string {
		var out strings.Builder
		for i := 0; out.Len() < most-len(s)-10; i++ {
			out.WriteString(strings.ReplaceAll(s, "#", strconv.Itoa(i)))
		}
		return strings.TrimSuffix(out.String(), ",")
	}
	large := strings.Replace(b.seed("first"), "PublishPort", "Environment = ["+repeat(`"a#=b",`)[:100<<10]+"\"]\nPublishPort", 1)
	if _, err := b.apply(b.client(b.wan), "config.toml", []byte(large)); err != nil {
		t.Fatal(err)
	}
	b.has("first")
	b.says("the console is at http://" + b.gateway)
	c := b.client(b.gateway)
	valid := []byte(b.seed("first"))
	config, _ := seed.Check(valid)
	for name, value := range map[string]string{
		"a list":  `{"privileged": true, "Container": {"Image": "x", "A": [` + repeat("1,") + `]}}`,
		"strings": `{"privileged": true, "Container": {"Image": "x", "A": [` + repeat(`"",`) + `]}}`,
		"tables":  `{"privileged": true, "Container": {"Image": "x", "A": [` + repeat("{},") + `]}}`,
		"keys":    `{"privileged": true, "Container": {"Image": "x", ` + repeat(`"a#":1,`) + `}}`,
		"lists":   `{"privileged": true, "Container": {"Image": "x", "A": [` + repeat("[],") + `]}}`,
	} {
		_, err := c.Apply(t.Context(), provision.Request{Payload: &provision.Payload{Name: "config.toml", Body: valid, Config: config}, Timeout: time.Minute,
			Change: &api.Change{Place: []string{"containers", "container", "more"}, Value: []byte(value)},
			Keys:   func() ([]*provision.Key, error) { return []*provision.Key{{Name: "key", Signer: b.key}}, nil },
			Report: func(provision.Event) {}})
		took := b.memory()
		t.Logf("%s: %d KiB, %.150v", name, took, err)
		if took > mostMemory {
			t.Errorf("%s: it took %d KiB", name, took)
		}
		if err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

// Files of an older version below /data/config are rewritten from config.toml at the next boot, and
// others removed. The signature of an admin is accepted before and after.
func TestFilesOfAnOlderVersion(t *testing.T) {
	imagetest.Long(t)
	b := newBox(t)
	b.start()
	if _, err := b.apply(b.client(b.wan), "config.toml", []byte(b.seed("first"))); err != nil {
		t.Fatal(err)
	}
	b.has("first")
	b.kill()
	b.write("data/config/admin-signers", api.Namespace+" "+b.read("data/config/admin-signers"))
	b.write("data/config/lan-settings.json", `{"gateway_cidr": "10.9.9.9/24"}`)
	b.write("data/config/quadlet-runtime.json", `{"web.container": {"modes": ["rootless"], "service": "web.service"}}`)
	b.write("data/config/quadlet/gone.container", "[Container]\n")
	b.write("data/config/ssh-authorized-keys/gone", "ssh-ed25519 AAAA\n")
	b.write("data/config/files/kept", "kept")
	if err := os.Remove(filepath.Join(b.root, "data/config/activation-policy.json")); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.has("first")
	b.says("rewritten in .*/data/config, because they differ from what this version makes of config.toml: activation-policy.json, admin-signers, lan-settings.json, " +
		"quadlet-runtime.json, quadlet/gone.container, ssh-authorized-keys/gone\n")
	for _, gone := range []string{"quadlet/gone.container", "ssh-authorized-keys/gone"} {
		if _, err := os.Stat(filepath.Join(b.root, "data/config", gone)); err == nil {
			t.Errorf("%s is still there", gone)
		}
	}
	if b.read("data/config/files/kept") != "kept" {
		t.Error("files of the bundle are gone")
	}
	if _, err := b.change(b.client(b.gateway), "users.more", `{"isAdmin": false}`); err != nil {
		t.Error(err)
	}
	// Up-to-date files are not reported.
	b.kill()
	b.start()
	b.has("first")
	if strings.Contains(b.said(), "rewritten") {
		t.Errorf("again:\n%s", b.said())
	}
}
