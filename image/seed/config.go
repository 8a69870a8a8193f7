package seed

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Gateway is the device's address on the LAN.
func (c *Config) Gateway() netip.Addr { return c.lan.gateway.Addr() }

// Activation is how long the device gives its containers to run, and how long
// they must stay up then.
func (c *Config) Activation() (timeout, settle time.Duration) {
	timeout, settle = 300*time.Second, 0
	act := c.root.at("activation")
	if v := act.at("timeout_seconds"); v != nil {
		timeout = time.Duration(v.integer.Int64()) * time.Second
	}
	if v := act.at("settle_seconds"); v != nil {
		settle = time.Duration(v.integer.Int64()) * time.Second
	}
	return timeout, settle
}

// Admins are the public keys of the admins: who may sign for the device.
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

// Signers are the lines of the device's admin-signers.
func (c *Config) Signers() string {
	var b strings.Builder
	for _, key := range c.Admins() {
		b.WriteString("atomixos-reapply " + key + "\n")
	}
	return b.String()
}

// UsesFiles says whether a unit needs files of a bundle.
func (c *Config) UsesFiles() bool {
	return slices.ContainsFunc(c.units, func(u unit) bool { return strings.Contains(string(u.text), "/data/config/files") })
}

// Secrets are values that should not be shown: those of the environments of
// containers, longest first.
func (c *Config) Secrets() []string {
	var secrets []string
	for _, u := range c.units {
		for line := range strings.Lines(string(u.text)) {
			assignments, ok := strings.CutPrefix(strings.TrimSpace(line), "Environment=")
			if !ok {
				continue
			}
			for _, a := range append(strings.Fields(assignments), assignments) {
				_, value, _ := strings.Cut(a, "=")
				if value = strings.Trim(value, `"'`); len(value) >= 4 {
					secrets = append(secrets, value)
				}
			}
		}
	}
	slices.SortStableFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	return slices.Compact(secrets)
}

// Same says whether the device makes the same of both: comments and the order of
// tables may differ.
func (c *Config) Same(other *Config) bool {
	made := func(c *Config) []File {
		return slices.DeleteFunc(c.Render(), func(f File) bool { return f.Path == "config.toml" })
	}
	return slices.Equal(made(c), made(other))
}
