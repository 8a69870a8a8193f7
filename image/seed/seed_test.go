package seed_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"imgtool/image/seed"
)

// vector is a document with the verdict of the device's own validator.
type vector struct {
	ID, TOML, Verdict, Why string
}

func vectors(t testing.TB) []vector {
	t.Helper()
	f, err := os.Open("testdata/vectors.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []vector
	for s := bufio.NewScanner(f); s.Scan(); {
		var v vector
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	if len(all) < 210 {
		t.Fatalf("%d vectors", len(all))
	}
	return all
}

func wrong(faults []seed.Fault) []string {
	var all []string
	for _, f := range faults {
		if !f.Warning {
			all = append(all, f.String())
		}
	}
	return all
}

// Rules that the vectors do not cover, and the texts of faults.
func TestRules(t *testing.T) {
	const key = `ssh_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"`
	more := func(s string) string { return minimal + s + "\n" }
	instead := func(old, new string) string {
		if !strings.Contains(minimal, old) {
			t.Fatalf("no %q", old)
		}
		return strings.Replace(minimal, old, new, 1)
	}
	for name, row := range map[string]struct {
		doc  string
		want string // faults and, with a !, warnings, a line each
	}{
		"a huge version":                          {instead("version = 1", "version = 99999999999999999999999"), `1: version: is 99999999999999999999999; it must be 1`},
		"a byte order mark":                       {"\ufeff" + minimal, `1: the file begins with a byte order mark, which the device does not take`},
		"invalid UTF-8":                           {more("\xff"), `11: byte 0xff is not UTF-8; the file must be UTF-8 text`},
		"an escape of TOML 1.1":                   {instead(`"web"]`, `"\x77eb"]`), `6: unknown escape; the escapes are \b \t \n \f \r \" \\ \uXXXX \UXXXXXXXX`},
		"an escape of TOML 1.0":                   {instead(`"web"]`, `"\u0077eb"]`), ``},
		"a name that needs quotes":                {more(`[users."a b"]`), `11: users."a b": "a b" is not a valid user name, which is a lower-case letter or _, then up to 31 of a-z, 0-9, _ and -`},
		"an admin without a key":                  {instead(key, ""), `2: users: has no admin who can log in; at least one user must have isAdmin = true and an ssh_key`},
		"a key with a tab":                        {instead(key, strings.Replace(key, " AAAA", `\tAAAA`, 1)), `4: users.ops.ssh_key: the key contains the control character '\t'; it must be one line without tabs`},
		"a key of another kind inside":            {instead(key, strings.Replace(key, "ssh-ed25519", "ssh-rsa", 1)), `4: users.ops.ssh_key: the key says ssh-rsa, but its base64 contains another type`},
		"a static interface alone":                {more("[network.interfaces.eth0]\nmode = 'static'"), `11: network.interfaces.eth0.address: is missing; a static interface must have one, such as 192.0.2.5/24`},
		"an address for DHCP":                     {more("[network.interfaces.eth0]\nmode = 'dhcp'\naddress = '192.0.2.5/24'"), `13: network.interfaces.eth0.address: is given, but the mode is dhcp; only a static interface has an address`},
		"a disabled LAN":                          {more("[network.dnsmasq]\nenable = false"), `12: network.dnsmasq.enable: is false; it must be true`},
		"a LAN on another interface":              {more("[network.dnsmasq]\ninterface = 'eth0'"), `12: network.dnsmasq.interface: is "eth0"; it must be eth1`},
		"a reversed pool":                         {more("[network.dnsmasq]\ndhcp_start = '172.20.30.99'\ndhcp_end = '172.20.30.9'"), `12: network.dnsmasq.dhcp_start: is 172.20.30.99, after dhcp_end, which is 172.20.30.9; the first address must not be after the last`},
		"half a pool":                             {more("[network.dnsmasq]\ngateway_cidr = '10.0.0.1/24'\ndhcp_start = '10.0.0.9'"), `11: network.dnsmasq.dhcp_end: is missing, and its default 172.20.30.254 is not in the LAN 10.0.0.0/24`},
		"a gateway in two notations":              {more("[network.dnsmasq]\ngateway_cidr = '172.20.30.1/255.255.255.0'\n[network.interfaces.eth1]\nmode = 'static'\naddress = '172.20.30.1/24'"), ``},
		"a pattern that is too long":              {more("[network.dnsmasq]\nhostname_pattern = '" + strings.Repeat("n", 52) + "{mac}'"), `12: network.dnsmasq.hostname_pattern: "` + strings.Repeat("n", 52) + `{mac}" is not a DNS name when {mac} is replaced by twelve digits; a name has up to 253 characters, in labels of up to 63 letters, digits and inner hyphens`},
		"no aliases":                              {more("[network.dnsmasq]\ngateway_aliases = []"), ``},
		"no time servers":                         {more("[network.ntp]\nservers = []"), `12: network.ntp.servers: is empty; it must have at least 1 item`},
		"the management port open to the WAN":     {more("[network.firewall.inbound.wan]\ntcp = [443,\n8080]\nudp = []"), `13: network.firewall.inbound.wan.tcp[1]: is 8080, the port of the device's own interface, which cannot be opened to the WAN`},
		"two interfaces of a firewall":            {more("[network.firewall.outbound]"), `11: network.firewall.outbound: is unknown; the keys here are inbound`},
		"nothing required":                        {instead(`["web"]`, `[]`), `6: activation.required: is empty; it must have at least 1 item`},
		"an unknown container":                    {instead(`["web"]`, `["web", "db"]`), `6: activation.required[1]: is "db", which is not a container; the containers are web`},
		"degraded and required":                   {instead(`["web"]`, `["web"]`+"\nallow_degraded = ['web']"), `7: activation.allow_degraded[0]: is "web", which line 6 requires; a container cannot be both`},
		"a long timeout":                          {instead(`["web"]`, `["web"]`+"\ntimeout_seconds = 3601\nsettle_seconds = 301"), "7: activation.timeout_seconds: is 3601; it must be 1 to 3600\n8: activation.settle_seconds: is 301; it must be 0 to 300"},
		"settling longer than the timeout":        {instead(`["web"]`, `["web"]`+"\ntimeout_seconds = 9\nsettle_seconds = 10"), `!8: activation.settle_seconds: is 10, more than the 9 of timeout_seconds, so activation would always fail`},
		"another strategy":                        {instead(`["web"]`, `["web"]`+"\nstrategy = 'none'"), `7: activation.strategy: is "none"; it must be rollback`},
		"https in upper case":                     {more("[os_upgrade]\nserver_url = 'HTTPS://h'"), `!12: os_upgrade.server_url: is "HTTPS://h": the device looks for updates only if https is in lower case`},
		"a port that is too large":                {more("[os_upgrade]\nserver_url = 'https://h:65536'"), `12: os_upgrade.server_url: "https://h:65536" has no valid port; it must be https://HOST[:PORT][/PATH]`},
		"a control character in a URL":            {more("[os_upgrade]\nserver_url = \"https://h/\\u007f\""), `12: os_upgrade.server_url: "https://h/\x7f" contains white space or a control character; it must be https://HOST[:PORT][/PATH]`},
		"a letter with two lower-case characters": {more("[network.dnsmasq]\ndomain = 'İ.x'"), `12: network.dnsmasq.domain: "İ.x" is not a DNS name; a name has up to 253 characters, in labels of up to 63 letters, digits and inner hyphens`},
		"a letter with an ASCII lower case":       {more("[network.dnsmasq]\ndomain = 'K.x'"), ``},
		"a blank pattern":                         {more("[network.dnsmasq]\nhostname_pattern = '  '"), `12: network.dnsmasq.hostname_pattern: is blank; it must not be`},
		"no pattern":                              {more("[network.dnsmasq]\nhostname_pattern = ''"), ``},
		"a query":                                 {more("[os_upgrade]\nserver_url = 'https://h/?a=b'"), `12: os_upgrade.server_url: "https://h/?a=b" has a query or a fragment; it must be https://HOST[:PORT][/PATH]`},
		"a name that begins with a hyphen":        {more("[containers.volume.-a.Volume]"), `11: containers.volume.-a: "-a" is not a valid name, which is a letter, digit or _, then letters, digits, _ and -`},
		"a name that begins with _":               {more("[containers.volume._a.Volume]"), ``},
		"a NUL in a value":                        {more(`Exec = "\u0000"`), `11: containers.container.web.Container.Exec: contains the character '\x00'; a value must be one line`},
		"a table in a section":                    {more(`Exec = {}`), `11: containers.container.web.Container.Exec: is a table; it must be a string, an integer, a boolean or a list of these`},
		"a blank image":                           {instead(`"registry.example/web:1"`, `" "`), `10: containers.container.web.Container.Image: must be one string that is not blank, such as registry.example/web:1`},
		"no image":                                {instead(`Image = "registry.example/web:1"`, ``), `9: containers.container.web.Container.Image: is missing; it must be a string`},
		"an integer that is too long":             {more("PidsLimit = " + strings.Repeat("9", 4301)), `11: the integer has 4301 digits; the device takes up to 4300`},
		"a network of a rootless container":       {more(`Network = "pasta"`), `!11: containers.container.web.Container.Network: is pasta; the device makes it pasta, as for any container that is rootless`},
		"the host's network":                      {strings.Replace(more(`Network = "host"`), "privileged = false", "privileged = true", 1), ``},
		"another network for root":                {strings.Replace(more(`Network = ["host", "x"]`), "privileged = false", "privileged = true", 1), `!11: containers.container.web.Container.Network: is host, x; the device makes it host, as for any container that is rootful`},
		"a build in use":                          {more("[containers.build.x.Build]\nImageTag = 'registry.example/web:1'\n[containers.container.x-build]\nprivileged = false\nContainer = { Image = 'i' }"), `11: containers.build.x: creates the rootless x-build.service, as does the container x-build; rename one of them`},
	} {
		t.Run(name, func(t *testing.T) {
			_, faults := seed.Check([]byte(row.doc))
			var got []string
			for _, f := range faults {
				mark := ""
				if f.Warning {
					mark = "!"
				}
				got = append(got, mark+f.String())
			}
			if diff := cmp.Diff(row.want, strings.Join(got, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPublishPort(t *testing.T) {
	for port, want := range map[string]string{ // a ! is a warning; nothing is a fault
		"8080:80": "127.0.0.1:8080:80", "8080:80/tcp": "127.0.0.1:8080:80/tcp", "127.0.0.1:1:2": "127.0.0.1:1:2", "127.0.1.1:1:2": "127.0.1.1:1:2",
		"localhost:1:2": "127.0.0.1:1:2", "::1:1:2": "!127.0.0.1::1:1:2", "[::1]:1:2": "127.0.0.1:1:2", "0.0.0.0:1:2": "!127.0.0.1:1:2",
		"[::]:1:2": "!127.0.0.1:1:2", ":1:2": "!127.0.0.1:1:2", "127.0.0.1:1-2:3-4": "127.0.0.1:1-2:3-4", "[::1:1:2": "[::1:1:2", "[::1]1:2": "[::1]1:2",
		"²:80": "127.0.0.1:²:80", "80": "", "": "", ":80": "", "a:80": "", "1-2:3-4": "", "10.0.0.1:80": "", " 80:80\u00a0": "127.0.0.1:80:80", " ": "", "1:2:3:4": "!127.0.0.1:2:3:4", "[::1]:1:2:3": "127.0.0.1:1:2:3", "80/tcp": "",
	} {
		c, faults := seed.Check([]byte(minimal + "PublishPort = \"" + port + "\"\n"))
		got := ""
		if c != nil {
			for _, f := range c.Render() {
				if f.Path == "quadlet/web.container" {
					_, got, _ = strings.Cut(f.Text, "PublishPort=")
					got = strings.TrimSuffix(got, "\nNetwork=pasta\n")
				}
			}
			if len(faults) > 0 {
				got = "!" + got
			}
		}
		if got != want {
			t.Errorf("%q: %q, want %q: %v", port, got, want, faults)
		}
	}
}

func FuzzCheck(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.TOML)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		c, faults := seed.Check([]byte(doc))
		if (c == nil) != (len(wrong(faults)) > 0) {
			t.Errorf("%v", faults)
		}
		lines := 1 + strings.Count(doc, "\n") + strings.Count(doc, "\r")
		for _, fault := range faults {
			if fault.Line < 1 || fault.Line > lines || fault.Text == "" {
				t.Errorf("%+v in %d lines", fault, lines)
			}
		}
		if c != nil && len(c.Render()) < 10 {
			t.Error("too few files")
		}
	})
}

// The schema accepts all documents that the device takes.
func TestSchemaAcceptsValidDocuments(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal(seed.Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, v := range vectors(t) {
		var doc map[string]any
		if v.Verdict != "accept" || toml.Unmarshal([]byte(v.TOML), &doc) != nil {
			continue // a lone CR and integers of any size are no TOML to others
		}
		n++
		if what := against("", doc, schema); what != "" {
			t.Errorf("%s: %s", v.ID, what)
		}
	}
	if n < 75 {
		t.Errorf("%d documents", n)
	}
}

// against validates a value with the part of JSON Schema that Schema uses, and returns an error
// text.
func against(at string, v any, s map[string]any) string {
	if all, ok := s["oneOf"].([]any); ok {
		good := 0
		for _, one := range all {
			if against(at, v, one.(map[string]any)) == "" {
				good++
			}
		}
		if good != 1 {
			return fmt.Sprintf("%s: %d of oneOf", at, good)
		}
		return ""
	}
	is := ""
	switch v := v.(type) {
	case map[string]any:
		is = "object"
		properties, _ := s["properties"].(map[string]any)
		patterns, _ := s["patternProperties"].(map[string]any)
		for key, w := range v {
			sub, ok := properties[key].(map[string]any)
			for pattern, p := range patterns {
				if regexp.MustCompile(pattern).MatchString(key) {
					if what := against(at+"."+key, w, p.(map[string]any)); what != "" {
						return what
					}
					ok = true
				}
			}
			if !ok {
				return at + ": unknown " + key
			}
			if sub == nil {
				continue
			}
			if what := against(at+"."+key, w, sub); what != "" {
				return what
			}
		}
		required, _ := s["required"].([]any)
		for _, key := range required {
			if v[key.(string)] == nil {
				return at + ": no " + key.(string)
			}
		}
	case []any:
		is = "array"
		if least, ok := s["minItems"].(float64); ok && float64(len(v)) < least {
			return at + ": too few"
		}
		for _, w := range v {
			items, _ := s["items"].(map[string]any)
			if what := against(at+"[]", w, items); what != "" {
				return what
			}
		}
	case string:
		is = "string"
		if pattern, ok := s["pattern"].(string); ok && !regexp.MustCompile(pattern).MatchString(v) {
			return fmt.Sprintf("%s: %q is not %s", at, v, pattern)
		}
		if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, any(v)) {
			return at + ": not in the list"
		}
	case int64:
		is = "integer"
		if least, ok := s["minimum"].(float64); ok && (float64(v) < least || float64(v) > s["maximum"].(float64)) {
			return at + ": out of range"
		}
	case bool:
		is = "boolean"
	}
	switch want := s["type"].(type) {
	case string:
		if is != want {
			return at + ": is " + is
		}
	case []any:
		if !slices.Contains(want, any(is)) {
			return at + ": is " + is
		}
	}
	return ""
}

func TestCheckAgreesWithDevice(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.ID, func(t *testing.T) {
			c, faults := seed.Check([]byte(v.TOML))
			if (c != nil) != (v.Verdict == "accept") {
				t.Errorf("want %s: %s\ngot %v", v.Verdict, v.Why, wrong(faults))
			}
			// All other vectors have one fault.
			if v.Verdict == "reject" && v.ID != "doc-empty" && v.ID != "lan-gateway-v6" && len(wrong(faults)) != 1 {
				t.Errorf("%s: %d faults:\n%s", v.Why, len(wrong(faults)), strings.Join(wrong(faults), "\n"))
			}
			if c != nil {
				c.Render()
			}
			t.Log(v.Why, faults)
		})
	}
}

func BenchmarkCheck(b *testing.B) {
	for _, v := range vectors(b) {
		b.Run(v.ID, func(b *testing.B) {
			for b.Loop() {
				if c, _ := seed.Check([]byte(v.TOML)); c != nil {
					c.Render()
				}
			}
		})
	}
}
