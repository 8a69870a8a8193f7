package seed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// mode is who runs a unit: root, or the user appsvc.
type mode string

const (
	rootful  mode = "rootful"
	rootless mode = "rootless"
)

// unit is a Quadlet file.
type unit struct {
	kind, name string // such as container and web
	modes      []mode
	text       []byte
}

func (u *unit) service() string {
	if u.kind == "container" {
		return u.name + ".service"
	}
	return u.name + "-" + u.kind + ".service"
}

// tokens are filled in in any string of any unit.
var tokens = strings.NewReplacer("${CONFIG_DIR}", "/data/config", "${FILES_DIR}", "/data/config/files")

// directive are the values of one, as texts.
func directive(v *value) []string {
	switch {
	case v == nil:
		return nil
	case v.kind == text:
		return []string{tokens.Replace(v.text)}
	case v.kind == boolean:
		return []string{fmt.Sprint(v.boolean)}
	case v.kind == integer:
		return []string{v.integer.String()}
	}
	var all []string
	for _, item := range v.items {
		all = append(all, directive(item)...)
	}
	return all
}

// eachShown is directive as messages have it.
func (v *value) eachShown() []string {
	items := []*value{v}
	if v.kind == list {
		items = v.items
	}
	var all []string
	for _, item := range items {
		for _, s := range directive(item) {
			all = append(all, string(item.or(s)))
		}
	}
	return all
}

// pair is a line of a unit.
type pair struct{ key, value string }

// lines are the lines of a section.
func lines(section *value) []pair {
	var all []pair
	if section == nil {
		return nil
	}
	for _, key := range section.keys {
		for _, s := range directive(section.table[key]) {
			all = append(all, pair{key, s})
		}
	}
	return all
}

func writeSection(b *bytes.Buffer, name string, all []pair) {
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	fmt.Fprintf(b, "[%s]\n", name)
	for _, p := range all {
		fmt.Fprintf(b, "%s=%s\n", p.key, p.value)
	}
}

// containers renders the units, and says what cannot be.
func (c *checker) containers() []unit {
	all := c.root.at("containers")
	if all == nil || all.kind != table {
		return nil
	}
	var units []unit
	each := func(kind string, f func(at, name string, v *value)) {
		v := all.at(kind)
		if v == nil || v.kind != table {
			return
		}
		for _, name := range v.keys {
			f("containers."+kind+"."+dotted(name), name, v.table[name])
		}
	}
	volumes, images := map[string][]mode{}, map[string][]mode{}
	use := func(m map[string][]mode, name string, by mode) {
		if !slices.Contains(m[name], by) {
			m[name] = append(m[name], by)
		}
	}
	each("container", func(at, name string, v *value) {
		u := c.container(at, name, v)
		if u == nil {
			return
		}
		for _, s := range directive(v.at("Container", "Volume")) {
			source, _, _ := strings.Cut(s, ":")
			use(volumes, strings.TrimSuffix(source, ".volume"), u.modes[0])
		}
		for _, s := range directive(v.at("Container", "Image")) {
			use(images, strip(s), u.modes[0])
		}
		units = append(units, *u)
	})
	// plain renders a unit of one section. It is for those who use it by one of
	// the names.
	plain := func(kind, section string, users func(name string, v *value) []mode) {
		each(kind, func(at, name string, v *value) {
			if v.kind != table || v.at(section) == nil || v.at(section).kind != table {
				return
			}
			u := unit{kind: kind, name: name, modes: users(name, v.at(section))}
			if len(u.modes) == 0 {
				u.modes = []mode{rootful}
			}
			var b bytes.Buffer
			writeSection(&b, section, lines(v.at(section)))
			u.text = b.Bytes()
			units = append(units, u)
		})
	}
	usedBy := func(m map[string][]mode, names []string) []mode {
		var modes []mode
		for _, by := range []mode{rootful, rootless} {
			if slices.ContainsFunc(names, func(n string) bool { return slices.Contains(m[n], by) }) {
				modes = append(modes, by)
			}
		}
		return modes
	}
	plain("network", "Network", func(string, *value) []mode { return nil })
	plain("volume", "Volume", func(name string, v *value) []mode {
		return usedBy(volumes, append(directive(v.at("VolumeName")), name))
	})
	plain("build", "Build", func(name string, v *value) []mode {
		return usedBy(images, append(directive(v.at("ImageTag")), name+".build"))
	})

	// Two units of one service in the same mode cannot be.
	first := map[string]unit{}
	for _, u := range units {
		for _, by := range u.modes {
			id := string(by) + " " + u.service()
			other, taken := first[id]
			if !taken {
				first[id] = u
				continue
			}
			c.fault(all.at(u.kind, u.name).line, "containers."+u.kind+"."+dotted(u.name), "makes the %s %s, as does the %s %s; rename one of them",
				by, u.service(), other.kind, other.name)
		}
	}
	return units
}

// container renders a container, or returns nil if it is not good enough.
func (c *checker) container(at, name string, v *value) *unit {
	section, privileged := v.at("Container"), v.at("privileged")
	if section == nil || section.kind != table {
		return nil
	}
	if image := section.at("Image"); image != nil && image.kind != broken {
		good := image
		if image.kind == list && len(image.items) == 1 {
			good = image.items[0]
		}
		if good.kind != broken && (good.kind != text || strip(good.text) == "") {
			c.fault(image.line, at+".Container.Image", "must be one string that is not blank, such as registry.example/web:1")
		}
	}
	if privileged == nil || privileged.kind != boolean {
		return nil
	}
	u := &unit{kind: "container", name: name, modes: []mode{rootful}}
	network := "host"
	if !privileged.boolean {
		u.modes[0], network = rootless, "pasta"
	}
	if given := section.at("Network"); given != nil && given.kind != broken {
		if names := directive(given); !privileged.boolean || len(names) != 1 || names[0] != network {
			c.warn(given.line, at+".Container.Network", "is %s; the device makes it %s, as for any container that is %s", shown(clip(strings.Join(given.eachShown(), ", "))), network, u.modes[0])
		}
	}
	var inner []pair
	done := false
	for _, key := range section.keys {
		w := section.table[key]
		switch {
		case key == "Network":
			inner, done = append(inner, pair{key, network}), true
		case key == "PublishPort" && u.modes[0] == rootless:
			inner = append(inner, c.publish(at+".Container.PublishPort", w)...)
		default:
			for _, s := range directive(w) {
				inner = append(inner, pair{key, s})
			}
		}
	}
	if !done {
		inner = append(inner, pair{"Network", network})
	}
	var b bytes.Buffer
	if w := v.at("Unit"); w != nil {
		writeSection(&b, "Unit", lines(w))
	}
	writeSection(&b, "Container", inner)
	if w := v.at("Install"); w != nil {
		writeSection(&b, "Install", lines(w))
	}
	u.text = b.Bytes()
	return u
}

// publish renders the ports of a rootless container: all of them on 127.0.0.1.
func (c *checker) publish(at string, v *value) []pair {
	items, keys := []*value{v}, []string{at}
	if v.kind == list {
		items, keys = v.items, nil
		for i := range items {
			keys = append(keys, index(at, i))
		}
	}
	var all []pair
	for i, item := range items {
		if item.kind == broken {
			continue
		}
		if item.kind != text {
			c.fault(item.line, keys[i], "is %v; it must be a string, such as \"8080:80\"", item.kind)
			continue
		}
		s, host, ok := loopback(tokens.Replace(item.text))
		switch {
		case !ok:
			c.fault(item.line, keys[i], "is %s; a rootless container publishes HOSTPORT:PORT, or 127.0.0.1:HOSTPORT:PORT for a range", item.quoted(item.text))
			continue
		case host != nil:
			bound := strconv.Quote(s)
			if item.shown != "" {
				bound = "one of 127.0.0.1"
			}
			c.warn(item.line, keys[i], "is %s; the device makes it %s, as a rootless container is reached from the device alone", item.quoted(item.text), shown(bound))
		}
		all = append(all, pair{"PublishPort", s})
	}
	return all
}

// loopback is a published port bound to loopback, and the host that is not
// honoured, if there is one. The device leaves what it cannot take apart, such as
// an open bracket, as it is.
func loopback(s string) (bound string, host *string, ok bool) {
	var name, rest string
	if inner, found := strings.CutPrefix(s, "["); found {
		var after string
		if name, after, found = strings.Cut(inner, "]"); !found || !strings.HasPrefix(after, ":") {
			return s, nil, true
		}
		rest = after[1:]
	} else {
		last := strings.LastIndexByte(s, ':')
		if last < 0 {
			return "", nil, false
		}
		before := strings.LastIndexByte(s[:last], ':')
		if before < 0 {
			return "127.0.0.1:" + s, nil, allDigits(s[:last])
		}
		name, rest = s[:before], s[before+1:]
	}
	switch name {
	case "127.0.0.1", "127.0.1.1":
		return s, nil, true
	case "localhost", "::1":
		return "127.0.0.1:" + rest, nil, true
	}
	return "127.0.0.1:" + rest, &name, true
}

// File is a file the device writes.
type File struct {
	Path string `json:"path"` // below /data/config
	Text string `json:"text"`
	// Shape is whether only what the file says is known, and not how: the text is
	// then an account of it in the words of the document.
	Shape bool `json:"shape_unknown,omitempty"`
}

// Render is what the device writes under /data/config.
func (c *Config) Render() []File {
	files := []File{{Path: "config.toml", Text: string(c.text)}}
	account := func(path string, v any) {
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			panic("seed: internal error: " + err.Error())
		}
		files = append(files, File{Path: path, Text: string(b) + "\n", Shape: true})
	}
	users := c.root.at("users")
	accounts := map[string]any{}
	for _, name := range users.keys {
		u := users.table[name]
		admin := u.at("isAdmin") != nil && u.at("isAdmin").boolean
		shell := u.textAt("shell")
		if shell == "" {
			shell = map[bool]string{true: "zsh", false: "bash"}[admin]
		}
		key := u.textAt("ssh_key")
		accounts[name] = map[string]any{"isAdmin": admin, "shell": shell, "ssh_key": key}
		if key == "" {
			continue
		}
		files = append(files, File{Path: "ssh-authorized-keys/" + name, Text: key + "\n"})
	}
	account("users.json", accounts)
	files = append(files, File{Path: "admin-signers", Text: c.Signers(), Shape: true})

	network := c.root.at("network")
	filled := func(r *rule, v *value) any {
		if v == nil {
			v = newTable(0)
		}
		return withDefaults(v, r)
	}
	rules := document.at("network")
	inbound := map[string]any{}
	for _, scope := range []string{"wan", "lan"} {
		open := map[string]any{}
		for _, protocol := range []string{"tcp", "udp"} {
			if v := network.at("firewall", "inbound", scope, protocol); v != nil && len(v.items) > 0 {
				open[protocol] = plain(v)
			}
		}
		if len(open) > 0 {
			inbound[scope] = open
		}
	}
	account("firewall-inbound.json", inbound)
	served := filled(rules.at("dnsmasq"), network.at("dnsmasq")).(map[string]any)
	served["gateway_cidr"] = c.lan.gateway.String()
	served["domain"] = dnsName(served["domain"].(string))
	served["gateway_aliases"] = lowered(served["gateway_aliases"], true)
	served["ntp"] = filled(rules.at("ntp"), network.at("ntp"))
	account("lan-settings.json", served)
	host := map[string]any{}
	for _, key := range []string{"dns_servers", "dns_search_domains", "default_gateway", "interfaces"} {
		if v := network.at(key); v != nil {
			host[key] = plain(v)
		}
	}
	if d, ok := host["dns_search_domains"]; ok {
		host["dns_search_domains"] = lowered(d, false)
	}
	account("host-network.json", host)
	if url := c.root.textAt("os_upgrade", "server_url"); url != "" {
		account("os-upgrade.json", map[string]any{"server_url": strings.TrimRight(url, "/")})
	}
	act := c.root.at("activation")
	account("health-required.json", plain(act.at("required")))
	account("activation-policy.json", withDefaults(act, document.at("activation")))
	modes := map[string]any{}
	for _, u := range c.units {
		files = append(files, File{Path: "quadlet/" + u.name + "." + u.kind, Text: string(u.text)})
		modes[u.name+"."+u.kind] = map[string]any{"service": u.service(), "modes": u.modes}
	}
	account("quadlet-runtime.json", modes)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files
}

// at is the rule of a key at a path of tables.
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

// plain is a value as JSON has it.
func plain(v *value) any {
	switch v.kind {
	case text:
		return v.text
	case boolean:
		return v.boolean
	case integer:
		return v.integer
	case list:
		items := []any{}
		for _, item := range v.items {
			items = append(items, plain(item))
		}
		return items
	}
	all := map[string]any{}
	for _, key := range v.keys {
		all[key] = plain(v.table[key])
	}
	return all
}

// withDefaults is a table with what the device takes for missing keys.
func withDefaults(v *value, r *rule) map[string]any {
	all := map[string]any{}
	for _, k := range r.keys {
		if w := v.at(k.name); w != nil {
			all[k.name] = plain(w)
		} else if k.rule.fallback != nil {
			all[k.name] = k.rule.fallback
		}
	}
	return all
}

// lowered are DNS names as the device keeps them.
func lowered(list any, once bool) []string {
	names := []string{}
	add := func(s string) {
		if s = dnsName(s); !once || !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	switch list := list.(type) {
	case []string:
		for _, s := range list {
			add(s)
		}
	case []any:
		for _, s := range list {
			add(s.(string))
		}
	}
	return names
}
