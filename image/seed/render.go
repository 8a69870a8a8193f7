package seed

import (
	"imgtool/image/seed/check"

	"fmt"
	"net"
	"slices"
	"strings"
)

// File is a file that the device writes.
type File struct {
	Path string `json:"path"` // below /data/config
	Text string `json:"text"`
}

// Render returns the files that an AtomixOS device writes below /data/config, byte for byte,
// sorted by path. Files of a bundle are not included.
func (c *Config) Render() []File {
	files := []File{{"config.toml", string(c.text)}, {"admin-signers", c.Signers()}}
	add := func(path string, v any) { files = append(files, File{path, dump(v)}) }
	users := c.root.at("users")
	accounts := object{}
	for _, name := range users.keys {
		u := users.table[name]
		key := u.textAt("ssh_key")
		account := object{{"isAdmin", u.at("isAdmin") != nil && u.at("isAdmin").boolean}, {"ssh_key", key}}
		if shell := u.textAt("shell"); shell != "" {
			account = append(account, entry{"shell", shell})
		}
		accounts = append(accounts, entry{name, account})
		if key != "" {
			files = append(files, File{"ssh-authorized-keys/" + name, key + "\n"})
		}
	}
	add("users.json", accounts)
	add("firewall-inbound.json", c.inbound())
	add("lan-settings.json", c.lanSettings())
	add("host-network.json", c.hostNetwork())
	if url := c.root.textAt("os_upgrade", "server_url"); url != "" {
		add("os-upgrade.json", object{{"server_url", strings.TrimRight(url, "/")}})
	}
	act, rules := c.root.at("activation"), document.at("activation")
	required := plain(act.at("required"))
	add("health-required.json", required)
	add("activation-policy.json", object{
		{"required", required},
		{"timeout_seconds", act.orFallback(rules, "timeout_seconds")},
		{"settle_seconds", act.orFallback(rules, "settle_seconds")},
		{"restart", act.listAt("restart", plain)},
		{"allow_degraded", act.listAt("allow_degraded", plain)},
		{"allow_degraded_configured", act.at("allow_degraded") != nil},
		{"strategy", act.orFallback(rules, "strategy")},
	})
	units := []any{}
	for _, u := range c.units {
		file := u.name + "." + u.kind
		files = append(files, File{"quadlet/" + file, string(u.text)})
		for _, by := range u.modes {
			units = append(units, object{{"name", u.name}, {"filename", file}, {"service", u.service()}, {"mode", string(by)}})
		}
	}
	add("quadlet-runtime.json", object{{"app_user", "appsvc"}, {"rootless_network", "pasta"}, {"units", units}})
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files
}

// inbound returns the open ports. Scopes and protocols without ports are left out.
func (c *Config) inbound() object {
	inbound := object{}
	for _, scope := range []string{"wan", "lan"} {
		open := object{}
		for _, protocol := range []string{"tcp", "udp"} {
			if v := c.root.at("network", "firewall", "inbound", scope, protocol); v != nil && len(v.items) > 0 {
				open = append(open, entry{protocol, plain(v)})
			}
		}
		if len(open) > 0 {
			inbound = append(inbound, entry{scope, open})
		}
	}
	return inbound
}

func (c *Config) lanSettings() object {
	rules, served := document.at("network"), c.root.at("network", "dnsmasq")
	unique := []any{}
	for _, name := range served.listAt("gateway_aliases", dnsNameOf) {
		if !slices.Contains(unique, name) {
			unique = append(unique, name)
		}
	}
	var names any = unique
	// The default replaces an empty list, too.
	if len(unique) == 0 {
		names = rules.at("dnsmasq", "gateway_aliases").fallback
	}
	gateway := c.lan.gateway
	return object{
		{"gateway_cidr", gateway.String()},
		{"gateway_ip", gateway.Addr().String()},
		{"subnet_cidr", gateway.Masked().String()},
		{"netmask", net.IP(net.CIDRMask(gateway.Bits(), 32)).String()},
		{"dhcp_start", c.lan.start.String()},
		{"dhcp_end", c.lan.end.String()},
		{"domain", check.DNSName(served.orFallback(rules.at("dnsmasq"), "domain").(string))},
		{"hostname_pattern", served.orFallback(rules.at("dnsmasq"), "hostname_pattern")},
		{"gateway_aliases", names},
		{"ntp_servers", c.root.at("network", "ntp").orFallback(rules.at("ntp"), "servers")},
	}
}

// hostNetwork returns the resolver, routes and interfaces of the device itself.
func (c *Config) hostNetwork() object {
	network := c.root.at("network")
	interfaces := object{}
	if eths := network.at("interfaces"); eths != nil {
		for _, name := range eths.keys {
			interfaces = append(interfaces, entry{name, interfaceSettings(eths.table[name])})
		}
	}
	host := object{
		{"dns_servers", network.listAt("dns_servers", addressOf)},
		{"dns_search_domains", network.listAt("dns_search_domains", dnsNameOf)},
		{"interfaces", interfaces},
	}
	if v := network.at("default_gateway"); v != nil {
		host = append(host, entry{"default_gateway", addressOf(v)})
	}
	return host
}

func interfaceSettings(eth *value) object {
	settings := object{{"mode", eth.textAt("mode")}}
	if v := eth.at("address"); v != nil {
		address, _ := check.ParseCIDR(v.text)
		settings = append(settings, entry{"address", address.String()})
	}
	if v := eth.at("gateway"); v != nil {
		settings = append(settings, entry{"gateway", addressOf(v)})
	}
	if eth.at("dns_servers") != nil {
		settings = append(settings, entry{"dns_servers", eth.listAt("dns_servers", addressOf)})
	}
	if eth.at("dns_search_domains") != nil {
		settings = append(settings, entry{"dns_search_domains", eth.listAt("dns_search_domains", dnsNameOf)})
	}
	return settings
}

func (r *rule) at(path ...string) *rule {
	for _, name := range path {
		i := slices.IndexFunc(r.keys, func(k key) bool { return k.name == name })
		if i < 0 {
			panic("seed: internal error: no rule for " + name)
		}
		r = r.keys[i].rule
	}
	return r
}

// orFallback returns a value of a table for JSON, or its default if it is missing.
func (v *value) orFallback(r *rule, key string) any {
	if w := v.at(key); w != nil {
		return plain(w)
	}
	return r.at(key).fallback
}

// listAt returns the items of a list in a table; none if it is missing.
func (v *value) listAt(key string, each func(*value) any) []any {
	all := []any{}
	for _, item := range v.at(key).values() {
		all = append(all, each(item))
	}
	return all
}

// dnsNameOf returns a DNS name as the device stores it.
func dnsNameOf(v *value) any { return check.DNSName(v.text) }

// addressOf returns an address as the device stores it. Python writes IPv4-mapped IPv6 addresses
// in hexadecimal digits.
func addressOf(v *value) any {
	a, _ := check.ParseIP(v.text)
	if a.Is4In6() {
		b := a.As16()
		return fmt.Sprintf("::ffff:%x:%x", uint16(b[12])<<8|uint16(b[13]), uint16(b[14])<<8|uint16(b[15]))
	}
	return a.String()
}

// plain returns a text, boolean, integer, list or table for JSON.
func plain(v *value) any {
	switch v.kind {
	case text:
		return v.text
	case boolean:
		return v.boolean
	case integer:
		return v.integer
	case table:
		o := object{}
		for _, key := range v.keys {
			o = append(o, entry{key, plain(v.table[key])})
		}
		return o
	}
	all := []any{}
	for _, item := range v.items {
		all = append(all, plain(item))
	}
	return all
}
