package seed

import (
	"imgtool/image/seed/check"

	"math/big"
	"slices"
	"strconv"
	"strings"
)

// rule describes the values that a place of the document takes. Check and Schema both use the
// rules. Rules between places are in cross.go.
type rule struct {
	kind  kind // required type
	about string

	// A table has fixed keys, or entries whose names the author chooses.
	keys  []key
	name  func(string) string // checks the name of an entry; see package check
	names string              // a regular expression for names
	not   []string            // reserved names
	each  *rule               // an entry, or an item of a list

	least int // minimum of entries or items

	min, max int64    // an integer
	only     []string // allowed strings
	stripped bool     // white space around an allowed string is ignored
	on       bool     // a boolean must be true

	// check checks a string without white space at its ends, which is not blank; see package
	// check. If it is nil, all strings are valid.
	check   func(s string, show func(string) string) string
	blank   bool   // a blank string is valid
	none    bool   // the empty string is valid
	pattern string // a regular expression that accepts all valid strings

	scalar bool // a string, an integer, a boolean, or a list of these

	fallback any // default
}

type key struct {
	name string
	need bool
	rule *rule
}

func may(name string, r *rule) key  { return key{name, false, r} }
func must(name string, r *rule) key { return key{name, true, r} }

func tableOf(about string, keys ...key) *rule { return &rule{kind: table, about: about, keys: keys} }

func entries(about string, least int, name func(string) string, names string, each *rule) *rule {
	return &rule{kind: table, about: about, least: least, name: name, names: names, each: each}
}

func listOf(about string, least int, each *rule) *rule {
	return &rule{kind: list, about: about, least: least, each: each}
}

func textOf(about string, check func(string, func(string) string) string) *rule {
	return &rule{kind: text, about: about, check: check}
}

func oneOf(about string, only ...string) *rule { return &rule{kind: text, about: about, only: only} }

func number(about string, min, max int64) *rule {
	return &rule{kind: integer, about: about, min: min, max: max}
}

func (r *rule) or(fallback any) *rule {
	r.fallback = fallback
	return r
}

func (r *rule) like(pattern string) *rule {
	r.pattern = pattern
	return r
}

const (
	defaultLAN   = "172.20.30.1/24"
	defaultStart = "172.20.30.10"
	defaultEnd   = "172.20.30.254"
	managePort   = 8080 // of the device's own interface
	maxTimeout   = 3600
	maxSettle    = 300
)

// section returns the rule of a section with some fixed keys.
func section(about string, keys ...key) *rule {
	return &rule{kind: table, about: about, keys: keys, name: check.Directive, names: check.DirectivePattern, each: &rule{scalar: true}}
}

func dns(about string) *rule {
	return listOf(about, 1, &rule{kind: text, check: check.IP})
}

func search(about string) *rule {
	return listOf(about, 1, textOf("", check.DNS).like(check.DNSPattern))
}

func ports(about string) *rule { return listOf(about, 0, number("", 1, 65535)) }

func names(about string, least int) *rule { return listOf(about, least, textOf("", nil)) }

func scope(about string) *rule {
	return tableOf(about, may("tcp", ports("TCP ports that are open.")), may("udp", ports("UDP ports that are open.")))
}

func ipv4(about string) *rule { return textOf(about, check.IPv4).like(`^\s*[0-9]+(\.[0-9]+){3}\s*$`) }

func cidr(about string) *rule {
	return textOf(about, check.CIDR).like(`^\s*[0-9]+(\.[0-9]+){3}(/[0-9.]+)?\s*$`)
}

// document is config.toml of version 1.
var document = tableOf("config.toml of an AtomixOS device.",
	must("version", number("Version of this format.", 1, 1)),
	must("users", &rule{kind: table, about: "Users, who log in by SSH key only. At least one is an admin with a key.", least: 1, name: check.User, names: check.UserPattern,
		not: check.Reserved, each: tableOf("",
			may("isAdmin", &rule{kind: boolean, about: "Whether the user administers the device.", fallback: false}),
			may("ssh_key", &rule{kind: text, about: "Public key as a line: TYPE BASE64 [COMMENT].", check: check.Key, blank: true}),
			may("shell", oneOf("Login shell. The default is zsh for admins and bash for others.", "bash", "sh", "zsh")),
		)}),
	may("network", tableOf("Addresses, names, time and firewall.",
		may("dns_servers", dns("Addresses of name servers.")),
		may("dns_search_domains", search("Domains to search for names without dots.")),
		may("default_gateway", ipv4("Gateway of eth0.")),
		may("interfaces", entries("By name. eth0 is the WAN, eth1 the LAN.", 0, check.Interface, check.InterfacePattern,
			tableOf("",
				must("mode", oneOf("eth1 must be static.", "dhcp", "static")),
				may("address", cidr("IPv4 address with prefix; for static only.")),
				may("gateway", ipv4("IPv4 address of the gateway.")),
				may("dns_servers", dns("Addresses of name servers.")),
				may("dns_search_domains", search("Domains to search for names without dots.")),
			))),
		may("dnsmasq", tableOf("DHCP and names on the LAN.",
			may("enable", &rule{kind: boolean, on: true, about: "The LAN is always served.", fallback: true}),
			may("interface", &rule{kind: text, about: "The LAN.", only: []string{"eth1"}, stripped: true, fallback: "eth1"}),
			may("gateway_cidr", cidr("The device's address on the LAN, with a prefix of /16 to /30.").or(defaultLAN)),
			may("dhcp_start", ipv4("First address given to clients.").or(defaultStart)),
			may("dhcp_end", ipv4("Last address given to clients.").or(defaultEnd)),
			may("domain", textOf("Domain of the LAN.", check.DNS).like(check.DNSPattern).or("local")),
			may("hostname_pattern", &rule{kind: text, about: "Host name of the device, such as node-{mac}; may be empty.", check: check.HostPattern, none: true,
				pattern: `^$|\{mac\}`, fallback: ""}),
			may("gateway_aliases", listOf("Names of the device on the LAN.", 0, textOf("", check.DNS).like(check.DNSPattern)).or([]string{"atomixos"})),
		)),
		may("ntp", tableOf("Time.",
			may("servers", listOf("Names or addresses of time servers.", 1, textOf("", check.Server).like(`^\s*\S+\s*$`)).or([]string{"time.cloudflare.com"})),
		)),
		may("firewall", tableOf("Firewall.",
			may("inbound", tableOf("Open ports.",
				may("wan", scope("From the WAN. By default no ports are open. TCP port 8080 cannot be opened.")),
				may("lan", scope("From the LAN. By default all ports are open; otherwise these and the ports of the device's own services.")),
			)),
		)),
	)),
	must("activation", tableOf("Conditions for a successful activation.",
		must("required", names("Containers that must run.", 1)),
		may("timeout_seconds", number("How long they may take.", 1, maxTimeout).or(300)),
		may("settle_seconds", number("How long they must stay up.", 0, maxSettle).or(0)),
		may("restart", names("Containers to restart.", 0)),
		may("allow_degraded", names("Containers that may fail. If this key is present, the failure of any other container is fatal.", 0)),
		may("strategy", oneOf("Action if the activation fails.", "rollback").or("rollback")),
	)),
	may("os_upgrade", tableOf("Updates of the system.",
		must("server_url", textOf("https://HOST[:PORT][/PATH] of the server.", check.URL).like(`^\s*[Hh][Tt][Tt][Pp][Ss]://[^\s]+\s*$`)),
	)),
	must("containers", tableOf("Podman Quadlet units.",
		must("container", entries("Containers, by name.", 1, check.Resource, check.ResourcePattern,
			tableOf("",
				must("privileged", &rule{kind: boolean, about: "true: run as root on the host's network; false: run as the user appsvc behind pasta."}),
				must("Container", section("The [Container] section.", must("Image", &rule{scalar: true, about: "Reference of the image; exactly one."}))),
				may("Unit", section("The [Unit] section.")),
				may("Install", section("The [Install] section.")),
			))),
		may("network", entries("Networks, by name.", 0, check.Resource, check.ResourcePattern, tableOf("", must("Network", section("The [Network] section."))))),
		may("volume", entries("Volumes, by name.", 0, check.Resource, check.ResourcePattern, tableOf("", must("Volume", section("The [Volume] section."))))),
		may("build", entries("Image builds, by name.", 0, check.Resource, check.ResourcePattern, tableOf("", must("Build", section("The [Build] section."))))),
	)),
)

type checker struct {
	root   *value
	lost   bool
	faults []Fault
	wrong  int // number of faults
	warned int
}

const maxFaults = 1000 // and the same number of warnings

func (c *checker) fault(line int, key, format string, args ...any) {
	c.add(newFault(line, key, false, format, args...))
}

func (c *checker) add(f Fault) {
	if c.wrong++; c.wrong <= maxFaults {
		c.faults = append(c.faults, f)
	}
}

func (c *checker) warn(line int, key, format string, args ...any) {
	if c.warned++; c.warned <= maxFaults {
		c.faults = append(c.faults, newFault(line, key, true, format, args...))
	}
}

func join(at, key string) string {
	if at == "" {
		return dotted(key)
	}
	return at + "." + dotted(key)
}

func index(at string, i int) string { return at + "[" + strconv.Itoa(i) + "]" }

// walk checks a value and all values in it. Values that violate their rule get the kind broken,
// so that later checks skip them.
func (c *checker) walk(at string, v *value, r *rule) {
	bad := func(format string, args ...any) {
		c.fault(v.line, at, format, args...)
		v.kind = broken
	}
	if v.kind == broken {
		return
	}
	if r.scalar {
		c.scalar(at, v, true)
		return
	}
	if v.kind != r.kind {
		bad("is %v; it must be %v", v.kind, r.kind)
		return
	}
	switch r.kind {
	case table:
		c.table(at, v, r)
	case list:
		if len(v.items) < r.least {
			bad("is empty; it must have at least %d item", r.least)
		}
		for i, item := range v.items {
			c.walk(index(at, i), item, r.each)
		}
	case integer:
		if v.integer.Cmp(big.NewInt(r.min)) >= 0 && v.integer.Cmp(big.NewInt(r.max)) <= 0 {
			break
		}
		if r.min == r.max {
			bad("is %s; it must be %d", v.or(clip(v.integer.String())), r.min)
		} else {
			bad("is %s; it must be %d to %d", v.or(clip(v.integer.String())), r.min, r.max)
		}
	case boolean:
		if r.on && !v.boolean {
			bad("is false; it must be true")
		}
	case text:
		if r.stripped {
			v.text = check.Strip(v.text)
		}
		if r.only != nil {
			if !slices.Contains(r.only, v.text) {
				bad("is %s; it must be %s", v.quoted(v.text), strings.Join(r.only, ", or "))
			}
			break
		}
		given := v.text
		v.text = check.Strip(v.text)
		switch {
		case v.text == "" && !r.blank && (given != "" || !r.none):
			bad("is blank; it must not be")
		case v.text != "" && r.check != nil:
			if what := r.check(v.text, v.show); what != "" {
				f := newFault(v.line, at, false, "%s", what)
				f.public = r.check(v.text, func(string) string { return hidden })
				c.add(f)
				v.kind = broken
			}
		}
	}
}

func (c *checker) table(at string, v *value, r *rule) {
	known := make([]string, 0, 8)
	for _, k := range r.keys {
		known = append(known, k.name)
	}
	for _, name := range v.keys {
		w := v.table[name]
		i := slices.Index(known, name)
		if i >= 0 {
			c.walk(join(at, name), w, r.keys[i].rule)
			continue
		}
		if r.each == nil {
			slices.Sort(known)
			c.fault(w.line, join(at, name), "is unknown; the keys here are %s", strings.Join(known, ", "))
			continue
		}
		if what := r.name(name); what != "" {
			c.fault(w.line, join(at, name), "%q %s", clip(name), what)
		}
		c.walk(join(at, name), w, r.each)
	}
	if c.lost {
		return
	}
	for _, k := range r.keys {
		if k.need && v.table[k.name] == nil {
			c.fault(v.line, join(at, k.name), "is missing; it must be %s", k.rule.want())
		}
	}
	if len(v.keys) < r.least {
		c.fault(v.line, at, "is empty; it must have at least %d entry", r.least)
		v.kind = broken
	}
}

func (r *rule) want() string {
	switch {
	case r.only != nil:
		return strings.Join(r.only, " or ")
	case r.scalar:
		return "a string"
	case r.kind == integer && r.min == r.max:
		return strconv.FormatInt(r.min, 10)
	}
	return r.kind.String()
}

func (c *checker) scalar(at string, v *value, mayList bool) {
	switch v.kind {
	case broken, integer, boolean:
	case text:
		if i := strings.IndexAny(v.text, "\x00\r\n"); i >= 0 {
			c.fault(v.line, at, "contains the character %q; a value must be one line", v.text[i])
			v.kind = broken
		}
	case list:
		if !mayList {
			c.fault(v.line, at, "is a list in a list; an item must be a string, an integer or a boolean")
			v.kind = broken
			return
		}
		if len(v.items) == 0 {
			c.fault(v.line, at, "is empty; leave the key out or give it a value")
			v.kind = broken
		}
		for i, item := range v.items {
			c.scalar(index(at, i), item, false)
		}
	default:
		c.fault(v.line, at, "is %v; it must be a string, an integer, a boolean or a list of these", v.kind)
		v.kind = broken
	}
}
