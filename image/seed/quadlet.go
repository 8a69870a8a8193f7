package seed

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"imgtool/image/seed/check"
	"imgtool/image/suggest"
)

// mode is the user of a unit: root, or the user appsvc.
type mode string

const (
	rootful  mode = "rootful"
	rootless mode = "rootless"
)

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

// tokens are replaced in all strings of units.
var tokens = strings.NewReplacer("${CONFIG_DIR}", "/data/config", "${FILES_DIR}", "/data/config/files")

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

// values returns the items of a list, or another value alone. v may be nil.
func (v *value) values() []*value {
	switch {
	case v == nil:
		return nil
	case v.kind == list:
		return v.items
	}
	return []*value{v}
}

// eachShown is directive for messages.
func (v *value) eachShown() []string {
	var all []string
	for _, item := range v.values() {
		for _, s := range directive(item) {
			all = append(all, string(item.or(s)))
		}
	}
	return all
}

// lines returns the lines of a section, which may be nil.
func lines(section *value) []string {
	var all []string
	if section == nil {
		return nil
	}
	for _, key := range section.keys {
		for _, s := range directive(section.table[key]) {
			all = append(all, key+"="+s)
		}
	}
	return all
}

func writeSection(b *bytes.Buffer, name string, all []string) {
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	fmt.Fprintf(b, "[%s]\n", name)
	for _, line := range all {
		b.WriteString(line + "\n")
	}
}

// containers renders the units and reports faults in them.
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
	each("container", func(at, name string, v *value) {
		u := c.container(at, name, v)
		if u == nil {
			return
		}
		for _, w := range v.at("Container", "Volume").values() {
			if source, _, named := strings.Cut(w.text, ":"); named {
				volumes[source] = append(volumes[source], u.modes[0])
			}
		}
		if image := v.at("Container", "Image").values(); len(image) > 0 {
			name := check.Strip(image[0].text)
			images[name] = append(images[name], u.modes[0])
		}
		units = append(units, *u)
	})
	// plain renders a unit of one section. It has the modes of the containers that use it, or
	// rootful if no container does.
	plain := func(kind, section string, users func(name string, v *value) []mode) {
		each(kind, func(at, name string, v *value) {
			if v.kind != table || v.at(section) == nil || v.at(section).kind != table {
				return
			}
			u := unit{kind: kind, name: name}
			used := users(name, v.at(section))
			for _, by := range []mode{rootful, rootless} {
				if slices.Contains(used, by) {
					u.modes = append(u.modes, by)
				}
			}
			if len(u.modes) == 0 {
				u.modes = []mode{rootful}
			}
			var b bytes.Buffer
			writeSection(&b, section, lines(v.at(section)))
			u.text = ended(&b)
			units = append(units, u)
		})
	}
	plain("network", "Network", func(string, *value) []mode { return nil })
	plain("volume", "Volume", func(name string, v *value) []mode { return volumes[name] })
	plain("build", "Build", func(name string, v *value) []mode {
		if tags := v.at("ImageTag").values(); len(tags) > 0 && tags[0].kind == text {
			return images[check.Strip(tags[0].text)]
		}
		return nil
	})

	// Two units of the same mode must not have the same service.
	first := map[string]unit{}
	for _, u := range units {
		for _, by := range u.modes {
			id := string(by) + " " + u.service()
			other, taken := first[id]
			if !taken {
				first[id] = u
				continue
			}
			c.fault(all.at(u.kind, u.name).line, "containers."+u.kind+"."+dotted(u.name), "creates the %s %s, as does the %s %s; rename one of them",
				by, u.service(), other.kind, other.name)
		}
	}
	return units
}

// container renders a container. It returns nil if required values have faults.
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
		if good.kind != broken && (good.kind != text || check.Strip(good.text) == "") {
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
	var inner []string
	done := false
	for _, key := range section.keys {
		w := section.table[key]
		if like := suggest.Closest(key, containerKeys); like != "" && !slices.Contains(containerKeys, key) {
			c.warn(w.line, at+".Container."+key, "is not a key that Podman knows; did you mean %s?", like)
		}
		switch {
		case key == "Network":
			inner, done = append(inner, key+"="+network), true
		case key == "PublishPort" && u.modes[0] == rootless:
			inner = append(inner, c.publish(at+".Container.PublishPort", w)...)
		default:
			for _, s := range directive(w) {
				inner = append(inner, key+"="+s)
			}
		}
	}
	if !done {
		inner = append(inner, "Network="+network)
	}
	var b bytes.Buffer
	if w := v.at("Unit"); w != nil {
		writeSection(&b, "Unit", lines(w))
	}
	writeSection(&b, "Container", inner)
	if w := v.at("Install"); w != nil {
		writeSection(&b, "Install", lines(w))
	}
	u.text = ended(&b)
	return u
}

// ended returns a unit with one newline at its end. The last value can end with white space.
func ended(b *bytes.Buffer) []byte {
	return append(bytes.TrimRightFunc(b.Bytes(), check.IsSpace), '\n')
}

// publish renders the ports of a rootless container: all of them on 127.0.0.1.
func (c *checker) publish(at string, v *value) []string {
	var all []string
	for i, item := range v.values() {
		key := at
		if v.kind == list {
			key = index(at, i)
		}
		if item.kind == broken {
			continue
		}
		if item.kind != text {
			c.fault(item.line, key, "is %v; it must be a string, such as \"8080:80\"", item.kind)
			continue
		}
		s, foreign, ok := loopback(check.Strip(item.text))
		switch {
		case !ok:
			c.fault(item.line, key, "is %s; a rootless container publishes HOSTPORT:PORT, or 127.0.0.1:HOSTPORT:PORT for a range", item.quoted(item.text))
			continue
		case foreign:
			bound := strconv.Quote(tokens.Replace(s))
			if item.shown != "" {
				bound = "an address on 127.0.0.1"
			}
			c.warn(item.line, key, "is %s; the device makes it %s, as a rootless container is reached from the device alone", item.quoted(item.text), shown(bound))
		}
		if port := impossiblePort(s); port != "" {
			c.warn(item.line, key, "is %s, but there is no port %s: ports are 1 to 65535, and the container will not start", item.quoted(item.text), item.or(port))
		}
		all = append(all, "PublishPort="+tokens.Replace(s))
	}
	return all
}

// impossiblePort returns a number in a published port that cannot be one, or "".
func impossiblePort(s string) string {
	s, _, _ = strings.Cut(s[strings.LastIndexByte(s, ']')+1:], "/")
	for part := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ':' || r == '-' }) {
		if n, err := strconv.ParseUint(part, 10, 64); errors.Is(err, strconv.ErrRange) || err == nil && (n == 0 || n > 65535) {
			return part
		}
	}
	return ""
}

// loopback binds a published port to 127.0.0.1. foreign reports whether it named another host,
// which ends at its bracket or else at the first colon. The device does not change a text that
// begins with a bracket and has no host.
func loopback(s string) (bound string, foreign, ok bool) {
	host, rest, found := strings.Cut(s, ":")
	if strings.HasPrefix(s, "[") {
		if host, rest, found = strings.Cut(s, "]"); !found || !strings.HasPrefix(rest, ":") {
			return s, false, true
		}
		host, rest = host+"]", rest[1:]
	} else if !strings.Contains(rest, ":") {
		return "127.0.0.1:" + s, false, found && check.AllDigits(host)
	}
	switch host {
	case "127.0.0.1", "127.0.1.1":
		return s, false, true
	case "localhost", "[::1]":
		return "127.0.0.1:" + rest, false, true
	}
	return "127.0.0.1:" + rest, true, true
}
