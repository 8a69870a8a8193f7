package seed

import (
	"fmt"
	"strings"
)

// Answers are the values of a new document.
type Answers struct {
	User       string   // name of an admin
	Key        string   // the admin's SSH public key
	Container  string   // a name
	Image      string   // of the container
	Privileged bool     // run as root
	Publish    []string // ports of the container
	LAN        string   // the device's address on the LAN, with prefix; empty: the default
	Start, End string   // addresses for clients on the LAN
	Update     string   // URL of the update server; may be empty
}

// New returns a document with the answers, and the faults of [Check].
func New(a Answers) ([]byte, []Fault) {
	var b strings.Builder
	put := func(key, value string) { fmt.Fprintf(&b, "%s = %s\n", key, quote(value)) }
	b.WriteString("version = 1\n\n")
	fmt.Fprintf(&b, "[users.%s]\nisAdmin = true\n", joined(quote, a.User))
	put("ssh_key", a.Key)
	if a.LAN != "" || a.Start != "" || a.End != "" {
		b.WriteString("\n[network.dnsmasq]\n")
		for _, k := range [][2]string{{"gateway_cidr", a.LAN}, {"dhcp_start", a.Start}, {"dhcp_end", a.End}} {
			if k[1] != "" {
				put(k[0], k[1])
			}
		}
	}
	fmt.Fprintf(&b, "\n[activation]\nrequired = [%s]\n", quote(a.Container))
	if a.Update != "" {
		b.WriteString("\n[os_upgrade]\n")
		put("server_url", a.Update)
	}
	name := joined(quote, a.Container)
	fmt.Fprintf(&b, "\n[containers.container.%s]\nprivileged = %v\n\n[containers.container.%s.Container]\n", name, a.Privileged, name)
	put("Image", a.Image)
	if len(a.Publish) > 0 {
		var ports []string
		for _, p := range a.Publish {
			ports = append(ports, quote(p))
		}
		fmt.Fprintf(&b, "PublishPort = [%s]\n", strings.Join(ports, ", "))
	}
	fmt.Fprintf(&b, "\n[containers.container.%s.Install]\nWantedBy = [\"multi-user.target\"]\n", name)
	_, faults := Check([]byte(b.String()))
	return []byte(b.String()), faults
}

// quote returns a basic string of TOML.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range strings.ToValidUTF8(s, "\ufffd") {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
