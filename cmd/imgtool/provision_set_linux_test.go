package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/seed"
	"imgtool/image/seed/api"
	"imgtool/image/seed/console/consoletest"
)

// now returns the configuration of a device, which must be valid.
func (s *site) now(d *consoletest.Device) string {
	s.t.Helper()
	text, _ := d.Config()
	if c, faults := seed.Check(text); c == nil {
		s.t.Fatalf("%v\n%s", faults, text)
	}
	return string(text)
}

func TestProvisionSetAndUnset(t *testing.T) {
	imagetest.Long(t)
	t.Parallel()
	s := newSite(t)
	d := s.device(&consoletest.Device{})
	key := []string{"--key", s.path("admin")}
	file := s.path("value")
	for _, c := range []struct {
		key, value, want string // value is in a file; none is unset
		gone             string
		route            string
	}{
		{"users.more", `{"isAdmin": false, "shell": "sh"}`, "[users.more]\nisAdmin = false\nshell = \"sh\"\n", "", "PUT /api/config/users/more"},
		{"users.more", "isAdmin = true\nssh_key = ''\n", "[users.more]\nisAdmin = true\nssh_key = \"\"\n", "shell", "PUT /api/config/users/more"},
		{"users.more", "", "", "users.more", "DELETE /api/config/users/more"},
		{"network", `{"dns_servers": ["9.9.9.9"], "default_gateway": "192.0.2.1"}`, "[network]\ndns_servers = [\"9.9.9.9\"]\ndefault_gateway = \"192.0.2.1\"\n", "", "PATCH /api/config/network"},
		{"network", "[firewall.inbound.wan]\ntcp = [22]\n", "[network.firewall.inbound.wan]\ntcp = [22]\n", "", "PATCH /api/config/network"},
		{"network.firewall.inbound.wan.tcp", "[443]", "tcp = [443]\n", "tcp = [22]", "PATCH /api/config/network"},
		{"network.dnsmasq", `domain = "farm"`, "domain = \"farm\"\n", "", "PATCH /api/config/network"},
		{"network.default_gateway", "", "dns_servers", "default_gateway", "PATCH /api/config/network"},
		{"containers.container.db", "privileged = false\n[Container]\nImage = 'db'\n", "[containers.container.db.Container]\nImage = \"db\"\n", "", "PUT /api/config/containers/db"},
		{"containers.container.db", "", "", "container.db", "DELETE /api/config/containers/db"},
		{"containers.network.net", `{"Network": {"Internal": true}}`, "[containers.network.net.Network]\nInternal = true\n", "", "PUT /api/config/container-networks/net"},
		{"containers.network.net", "", "", "Internal", "DELETE /api/config/container-networks/net"},
		{"containers.volume.data", "[Volume]\nCopy = true", "[containers.volume.data.Volume]\nCopy = true\n", "", "PUT /api/config/container-volumes/data"},
	} {
		args := []string{"provision", "unset", d.URL(), c.key}
		if c.value != "" {
			s.write(file, c.value)
			args = []string{"provision", "set", d.URL(), c.key, file}
		}
		s.wants(0, "applied in", append(args, key...)...)
		if text := s.now(d); !strings.Contains(text, c.want) || c.gone != "" && strings.Contains(text, c.gone) {
			t.Errorf("%s = %s:\n%s", c.key, c.value, text)
		}
		if all := d.Requests(); !slices.Contains(all, c.route) || slices.Contains(all, "POST "+api.PathConfig) {
			t.Errorf("%s = %s: %q", c.key, c.value, all)
		}
	}

	// From standard input, with --json.
	cmd := tool(t, append([]string{"provision", "set", "--json", d.URL(), "network", "-"}, key...)...)
	cmd.Stdin = strings.NewReader(`{"dns_servers": null}`)
	status, stdout, stderr := s.runs(cmd)
	var result struct{ State string }
	if err := json.Unmarshal([]byte(stdout), &result); status != 0 || err != nil || result.State != "applied" {
		t.Errorf("%d %v:\n%s%s", status, err, stdout, stderr)
	}
	// The same change again is not sent.
	before := len(d.Requests())
	s.write(file, `{"Volume": {"Copy": true}}`)
	s.wants(0, "the device has this value already; nothing was sent", append([]string{"provision", "set", d.URL(), "containers.volume.data", file}, key...)...)
	for _, request := range d.Requests()[before:] {
		if !strings.HasPrefix(request, "GET ") {
			t.Errorf("it sends %s", request)
		}
	}
}

// Invalid changes are not sent.
func TestProvisionSetInvalid(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	d := s.device(&consoletest.Device{})
	before := s.now(d)
	key := []string{"--key", s.path("admin")}
	file := s.path("value")
	for _, c := range []struct {
		status           int
		key, value, want string
	}{
		{3, "users.ops0", "", "users: is empty; it must have at least 1 entry"},
		{3, "containers.container.web", "", "containers.container: is empty; it must have at least 1 entry"},
		{3, "users.ops0", `{"isAdmin": false}`, "users: has no admin who can log in"},
		{3, "users.root", `{"isAdmin": true}`, `"root" is a system account`},
		{3, "users.more", `{"ssh_key": ""}`, "users.more.isAdmin is missing"},
		{3, "users.more", `{"isAdmin": true, "password": "x"}`, "users.more.password is unknown"},
		{3, "network", `{"dns_servers": ["nine"]}`, `network.dns_servers[0]: "nine" is not an IP address`},
		{3, "network.dnsmasq.domain", `{"x": null}`, "network.dnsmasq.domain"},
		{3, "containers.volume.data", `[1, 2]`, "the change must be a JSON object"},
		{3, "containers.volume.data", "[Volume", "is neither JSON nor TOML: 1: "},
		{3, "containers.volume.data", "[Volume]\nCopy = 1.5", "Copy: is a float"},
		{2, "activation.required", `["web"]`, `"activation.required" is not a place that can be changed alone`},
		{2, "network", "", `"network" is not a place that can be changed alone`},
		{2, "users", `{}`, "is not a place"},
		{2, "containers.build.b", `{}`, "is not a place"},
		{2, "network..x", `{}`, "is not a place"},
	} {
		args := []string{"provision", "unset", d.URL(), c.key}
		if c.value != "" {
			s.write(file, c.value)
			args = []string{"provision", "set", d.URL(), c.key, file}
		}
		s.wants(c.status, c.want, append(args, key...)...)
	}
	for _, request := range d.Requests() {
		if !strings.HasPrefix(request, "GET ") {
			t.Errorf("it sends %s", request)
		}
	}
	if s.now(d) != before {
		t.Error("the device has another configuration")
	}

	s.write(file, `{"isAdmin": false}`)
	set := []string{"provision", "set", d.URL(), "users.more", file}
	s.key("other", "", "-t", "ed25519")
	s.wants(4, "does not take the signature", append(set, "--key", s.path("other"))...)
	s.wants(10, "it must be AAAAAAAAAAA", append(append(set, key...), "--device", "AAAAAAAAAAA")...)
	s.wants(4, "waits for its first configuration", append([]string{"provision", "set", s.fresh(&consoletest.Device{}).URL(), "users.more", file}, key...)...)
	// Older devices do not have these routes.
	old := s.device(&consoletest.Device{Intercept: func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, api.PathUsers) {
			http.NotFound(w, r)
			return true
		}
		return false
	}})
	s.wants(4, "the device cannot change users.more alone", append([]string{"provision", "set", old.URL(), "users.more", file}, key...)...)
	failing := s.device(&consoletest.Device{Fail: "health-check", Error: "web does not run"})
	s.wants(11, "went back to the previous configuration: web does not run", append([]string{"provision", "set", failing.URL(), "users.more", file}, key...)...)
}

// The loss of comments is reported once.
func TestProvisionSetLosesComments(t *testing.T) {
	imagetest.Long(t)
	t.Parallel()
	s := newSite(t)
	text := "# ours\n" + s.config("old", s.key("more", "", "-t", "ed25519"))
	d := &consoletest.Device{}
	d.Start(t, []byte(text))
	file := s.path("value")
	const lost = "comments and the layout are lost"
	s.write(file, `{"isAdmin": false}`)
	s.wants(0, lost, "provision", "set", d.URL(), "users.a", file, "--key", s.path("more"))
	if now, _ := d.Config(); bytes.Contains(now, []byte("#")) {
		t.Errorf("there is a comment:\n%s", now)
	}
	if said := s.wants(0, "applied in", "provision", "set", d.URL(), "users.b", file, "--key", s.path("more")); strings.Contains(said, lost) {
		t.Errorf("the warning is repeated:\n%s", said)
	}
}
