package seed_test

import (
	"strings"
	"testing"

	"imgtool/image/seed"
)

// Public contains no value of a document, for any replacement of its values.
func TestPublicContainsNoValues(t *testing.T) {
	const all = minimal + `
[users.more]
isAdmin = false
shell = "bash"
[network]
dns_servers = ["9.9.9.9"]
dns_search_domains = ["example.org"]
default_gateway = "192.0.2.1"
[network.interfaces.eth0]
mode = "static"
address = "192.0.2.5/24"
gateway = "192.0.2.1"
[network.dnsmasq]
enable = true
interface = "eth1"
gateway_cidr = "172.20.30.1/24"
dhcp_start = "172.20.30.10"
dhcp_end = "172.20.30.20"
domain = "local"
hostname_pattern = "node-{mac}"
gateway_aliases = ["gate"]
[network.ntp]
servers = ["time.example.org"]
[network.firewall.inbound.wan]
tcp = [22]
udp = [53]
[os_upgrade]
server_url = "https://updates.example.org/"
[containers.container.more]
privileged = true
[containers.container.more.Container]
Image = "registry.example/more:1"
Network = "pasta"
Environment = ["A=1"]
[containers.volume.data.Volume]
VolumeName = "data"
`
	if c, faults := seed.Check([]byte(all)); c == nil {
		t.Fatal(faults)
	}
	const secret, number = "hunter2.TOKEN@x", "7391846205"
	values := []string{secret, `"` + secret + `"`, `["` + secret + `"]`, `'` + secret, `"` + secret, `"""` + secret, `["` + secret, `"` + secret + `\q"`, number, `[` + number + `]`,
		`0` + number, `"` + number + `"`, `"https://u:` + secret + `"`, `"https://` + secret + `:x/"`, `"HTTPS://example.org/` + number + `"`, `"10.` + number + `"`, `"172.20.30.99"`, `"1:2:` + number + `:4"`, `"ssh-rsa ` + secret + `"`,
		`"` + secret + ` AAAA"`, `{ a = "` + secret + `" }`, `"\u0007` + secret + `"`, `"@{` + secret + `}"`, `"` + secret + "\x01" + `"`, secret + ` = "` + secret + `"`}
	lines := strings.Split(all, "\n")
	tried, wrong := 0, 0
	for i, line := range lines {
		key, _, ok := strings.Cut(line, " = ")
		if !ok {
			continue
		}
		for _, value := range values {
			changed := append([]string{}, lines...)
			changed[i] = key + " = " + value
			_, faults := seed.Check([]byte(strings.Join(changed, "\n")))
			for _, f := range faults {
				wrong++
				text := f.Public()
				for _, quoted := range []string{"hunter2", "TOKEN", number, "172.20.30.99"} {
					if strings.Contains(text, quoted) {
						t.Errorf("%s: %q", changed[i], text)
					}
				}
				if !strings.Contains(text, ": ") || strings.Contains(text, "%!") {
					t.Errorf("%s: %q", changed[i], text)
				}
			}
			tried++
		}
	}
	if tried < 500 || wrong < tried/2 {
		t.Errorf("%d documents have %d faults", tried, wrong)
	}
}
