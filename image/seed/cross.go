package seed

import (
	"imgtool/image/seed/check"

	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Rules between values of the document. Values with a fault are skipped, as are rules that
// depend on them.

// textAt returns a valid string, or "".
func (v *value) textAt(path ...string) string {
	if w := v.at(path...); w != nil && w.kind == text {
		return w.text
	}
	return ""
}

func (c *checker) users() {
	users := c.root.at("users")
	if c.lost || users == nil || users.kind != table {
		return
	}
	for _, name := range users.keys {
		u := users.table[name]
		admin, key := u.at("isAdmin"), u.at("ssh_key")
		// A user with a fault in these keys may be meant as the admin.
		maybe := u.kind == broken || admin != nil && (admin.kind == broken || admin.boolean)
		if maybe && (u.kind == broken || key != nil && (key.kind == broken || key.text != "")) {
			return
		}
	}
	c.fault(users.line, "users", "has no admin who can log in; at least one user must have isAdmin = true and an ssh_key")
}

// lan is the network on eth1.
type lan struct {
	gateway    netip.Prefix
	start, end netip.Addr
}

func (c *checker) network() lan {
	eths := c.root.at("network", "interfaces")
	if eths != nil && eths.kind == table {
		for _, name := range eths.keys {
			c.iface(name, eths.table[name])
		}
	}
	c.firewall()
	return c.checkLAN()
}

func (c *checker) iface(name string, eth *value) {
	at := "network.interfaces." + dotted(name)
	address := eth.at("address")
	switch mode := eth.textAt("mode"); {
	case mode == "dhcp" && name == "eth1":
		c.fault(eth.at("mode").line, at+".mode", "is dhcp; the LAN must be static, with an address")
	case mode == "dhcp" && address != nil:
		c.fault(address.line, at+".address", "is given, but the mode is dhcp; only a static interface has an address")
	case mode == "static" && address == nil && !c.lost:
		c.fault(eth.line, at+".address", "is missing; a static interface must have one, such as 192.0.2.5/24")
	}
}

func (c *checker) firewall() {
	tcp := c.root.at("network", "firewall", "inbound", "wan", "tcp")
	if tcp == nil || tcp.kind != list {
		return
	}
	for i, port := range tcp.items {
		if port.kind == integer && port.integer.Int64() == managePort {
			c.fault(port.line, index("network.firewall.inbound.wan.tcp", i), "is %s, the port of the device's own interface, which cannot be opened to the WAN", port.or(managePort))
		}
	}
}

func (c *checker) checkLAN() (l lan) {
	const at = "network.dnsmasq."
	served := c.root.at("network", "dnsmasq")
	// given returns a key of dnsmasq or its default; good is false if the key has a fault.
	given := func(key, fallback string) (s string, v *value, good bool) {
		if v = served.at(key); v == nil {
			return fallback, nil, true
		}
		return v.text, v, v.kind == text
	}
	cidr, where, good := given("gateway_cidr", defaultLAN)
	key := at + "gateway_cidr"
	if !good {
		return l
	}
	l.gateway, _ = check.ParseCIDR(cidr)
	eth1 := c.root.at("network", "interfaces", "eth1")
	if address := eth1.at("address"); eth1.textAt("mode") == "static" && address != nil {
		if address.kind != text {
			return l
		}
		own, _ := check.ParseCIDR(address.text)
		if where != nil && own != l.gateway {
			c.fault(where.line, key, "is %s, but the address of eth1 in line %d is %s; both must be the same, or one left out", where.or(l.gateway), address.line, address.or(own))
			return l
		}
		l.gateway, where, key = own, address, "network.interfaces.eth1.address"
	}
	if bits := l.gateway.Bits(); bits < 16 || bits > 30 {
		c.fault(where.line, key, "has the prefix %s; the LAN's must be /16 to /30", where.or(fmt.Sprintf("/%d", bits)))
		return l
	}
	start, startAt, good1 := given("dhcp_start", defaultStart)
	end, endAt, good2 := given("dhcp_end", defaultEnd)
	if !good1 || !good2 {
		return l
	}
	l.start, _ = check.ParseIPv4(start)
	l.end, _ = check.ParseIPv4(end)
	network := l.gateway.Masked()
	if network.Contains(l.start) && network.Contains(l.end) {
		line := 1
		for _, v := range []*value{where, endAt, startAt} {
			if v != nil {
				line = v.line
			}
		}
		if l.end.Less(l.start) {
			c.fault(line, at+"dhcp_start", "is %s, after dhcp_end, which is %s; the first address must not be after the last", startAt.or(l.start), endAt.or(l.end))
		} else if a := l.gateway.Addr(); !a.Less(l.start) && !l.end.Less(a) {
			c.fault(line, at+"dhcp_start", "to dhcp_end is %s to %s, which contains the device's own address %s", startAt.or(l.start), endAt.or(l.end), where.or(a))
		}
		return l
	}
	if startAt == nil && endAt == nil {
		c.fault(where.line, key, "is in %s, but the default addresses for clients are %s to %s; set dhcp_start and dhcp_end in [network.dnsmasq]", where.or(network), l.start, l.end)
		return l
	}
	for _, e := range []struct {
		key  string
		v    *value
		addr netip.Addr
	}{{"dhcp_start", startAt, l.start}, {"dhcp_end", endAt, l.end}} {
		if network.Contains(e.addr) {
			continue
		}
		if e.v == nil {
			c.fault(served.line, at+e.key, "is missing, and its default %s is not in the LAN %s", e.addr, where.or(network))
		} else {
			c.fault(e.v.line, at+e.key, "is %s, which is not in the LAN %s", e.v.or(e.addr), where.or(network))
		}
	}
	return l
}

func (c *checker) activation() {
	act := c.root.at("activation")
	if act == nil || act.kind != table {
		return
	}
	all := c.root.at("containers", "container")
	required := map[string]int{}
	for _, key := range []string{"required", "restart", "allow_degraded"} {
		names := act.at(key)
		if names == nil || names.kind != list {
			continue
		}
		for i, name := range names.items {
			if name.kind != text {
				continue
			}
			at := index("activation."+key, i)
			if all.at(name.text) == nil {
				if c.lost || all == nil || all.kind != table {
					continue
				}
				c.fault(name.line, at, "is %s, which is not a container; %s", name.quoted(name.text), choice(name.text, all))
				continue
			}
			if key == "required" {
				required[name.text] = name.line
			} else if line := required[name.text]; key == "allow_degraded" && line > 0 {
				c.fault(name.line, at, "is %s, which line %d requires; a container cannot be both", name.quoted(name.text), line)
			}
		}
	}
	settle, timeout := act.at("settle_seconds"), act.at("timeout_seconds")
	if settle != nil && settle.kind == integer {
		most := int64(300)
		if timeout != nil {
			if timeout.kind != integer {
				return
			}
			most = timeout.integer.Int64()
		}
		if n := settle.integer.Int64(); n > most {
			c.warn(settle.line, "activation.settle_seconds", "is %s, more than the %s of timeout_seconds, so activation would always fail", settle.or(n), timeout.or(most))
		}
	}
}

// choice lists the containers, or suggests the name without .service.
func choice(name string, all *value) string {
	if plain, ok := strings.CutSuffix(name, ".service"); ok && all.at(plain) != nil {
		return fmt.Sprintf("write %q, the container's name without .service", plain)
	}
	list := slices.Clone(all.keys)
	more := ""
	if len(list) > 10 {
		list, more = list[:10], ", …"
	}
	return "the containers are " + strings.Join(list, ", ") + more
}

func (c *checker) upgrade() {
	url := c.root.at("os_upgrade", "server_url")
	if url == nil || url.kind != text {
		return
	}
	if !strings.HasPrefix(url.text, "https://") {
		c.warn(url.line, "os_upgrade.server_url", "is %s: the device looks for updates only if https is in lower case", url.quoted(url.text))
	}
	if strings.ContainsAny(url.text, "?#") {
		c.warn(url.line, "os_upgrade.server_url", "has an empty query or fragment: the server does not get the path that the device adds")
	}
}
