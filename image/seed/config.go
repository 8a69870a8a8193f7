package seed

import (
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Gateway returns the device's address on the LAN.
func (c *Config) Gateway() netip.Addr { return c.lan.gateway.Addr() }

// Activation returns the time limit for starting the containers, and how long they must stay up
// afterwards.
func (c *Config) Activation() (timeout, settle time.Duration) {
	seconds := func(key string, fallback int64) time.Duration {
		if v := c.root.at("activation", key); v != nil {
			fallback = v.integer.Int64()
		}
		return time.Duration(fallback) * time.Second
	}
	return seconds("timeout_seconds", 300), seconds("settle_seconds", 0)
}

// Admins returns the public keys of the admins, who can sign requests to the device.
func (c *Config) Admins() []string {
	var keys []string
	users := c.root.at("users")
	for _, name := range users.keys {
		u := users.table[name]
		if admin := u.at("isAdmin"); admin == nil || !admin.boolean {
			continue
		}
		if key := u.textAt("ssh_key"); key != "" {
			keys = append(keys, key)
		}
	}
	return keys
}

// User is a user of a device.
type User struct {
	Name  string
	Admin bool
}

// Users returns the users in the order of the document.
func (c *Config) Users() []User {
	var all []User
	users := c.root.at("users")
	for _, name := range users.keys {
		admin := users.table[name].at("isAdmin")
		all = append(all, User{name, admin != nil && admin.boolean})
	}
	return all
}

// Signers returns the device's file admin-signers, with a public key in each line.
func (c *Config) Signers() string { return strings.Join(c.Admins(), "\n") + "\n" }

// UsesFiles reports whether a Quadlet unit uses files of a bundle.
func (c *Config) UsesFiles() bool {
	return slices.ContainsFunc(c.units, func(u unit) bool { return strings.Contains(string(u.text), "/data/config/files") })
}

// secretDirectives are the directives of Quadlet units that can contain secrets.
var secretDirectives = strings.Fields("Environment Secret Exec Entrypoint PodmanArgs GlobalArgs HealthCmd HealthStartupCmd Label Annotation Options BuildArg" +
	" ExecStartPre ExecStartPost ExecReload")

// Secrets returns values that must not be shown, such as parts of the environments and commands
// of containers, longest first.
func (c *Config) Secrets() []string {
	var secrets []string
	for _, u := range c.units {
		for line := range strings.Lines(string(u.text)) {
			key, words, _ := strings.Cut(strings.TrimSpace(line), "=")
			if !slices.Contains(secretDirectives, key) {
				continue
			}
			for _, word := range append(strings.Fields(words), words) {
				value := word
				if _, after, ok := strings.Cut(word, "="); ok {
					value = after
				}
				if value = strings.Trim(value, `"'`); len(value) >= 4 {
					secrets = append(secrets, value)
				}
			}
		}
	}
	slices.SortStableFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	return slices.Compact(secrets)
}

// Same reports whether the device renders the same files from both documents. Comments and the
// order of tables can differ.
func (c *Config) Same(other *Config) bool {
	made := func(c *Config) []File {
		return slices.DeleteFunc(c.Render(), func(f File) bool { return f.Path == "config.toml" })
	}
	return slices.Equal(made(c), made(other))
}

var fileToken = regexp.MustCompile(`\$\{FILES_DIR\}/([^\s:,;"']+)`)

// MissingFiles returns a warning for each use of a file below ${FILES_DIR} for which exists,
// which gets paths such as files/site.conf, returns false.
func (c *Config) MissingFiles(exists func(path string) bool) []Fault {
	var faults []Fault
	for _, container := range c.root.at("containers", "container").entries() {
		for _, v := range container.strings() {
			for _, use := range fileToken.FindAllStringSubmatch(v.text, -1) {
				if !exists(path.Clean("files/" + use[1])) {
					faults = append(faults, newFault(v.line, "", true, "files/%s is used here, but is not in the bundle", shown(use[1])))
				}
			}
		}
	}
	return faults
}

func (v *value) entries() []*value {
	if v == nil || v.kind != table {
		return nil
	}
	var all []*value
	for _, key := range v.keys {
		all = append(all, v.table[key])
	}
	return all
}

// strings returns the strings in a value and in all values below it.
func (v *value) strings() []*value {
	if v.kind == text {
		return []*value{v}
	}
	var all []*value
	for _, w := range slices.Concat(v.items, v.entries()) {
		all = append(all, w.strings()...)
	}
	return all
}
