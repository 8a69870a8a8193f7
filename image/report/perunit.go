// Package report finds per-unit data in a root file system: files that must differ from unit
// to unit, such as SSH host keys.
package report

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"imgtool/image"
	"imgtool/image/tree"
)

// Finding is a list of per-unit files of one kind. From an image all units get the same ones.
type Finding struct {
	Kind  string
	Paths []string // absolute, in the order of the tree

	// The device works without them, or makes them again. Others, such as the private
	// key of a program, may be needed.
	Removable bool
}

// String describes the finding, with the first of its paths.
func (f Finding) String() string {
	if n := len(f.Paths); n > 1 {
		return fmt.Sprintf("%s (%s and %d more)", f.Kind, f.Paths[0], n-1)
	}
	return fmt.Sprintf("%s (%s)", f.Kind, f.Paths[0])
}

// Kinds of findings.
const (
	HostKeys    = "SSH host keys"
	MachineID   = "machine IDs"
	RandomSeeds = "random seeds"
	Identities  = "identities of services"
	UnitFiles   = "files of one unit"
	PrivateKeys = "private keys"
)

// perUnit are patterns of path.Match by kind. All but the private keys are removable.
var perUnit = []struct {
	kind     string
	patterns []string
}{
	{HostKeys, []string{"etc/ssh/ssh_host_*_key", "etc/ssh/ssh_host_*_key.pub", "etc/ssh/ssh_host_*_key-cert.pub", "etc/dropbear/dropbear_*_host_key"}},
	// machine-id(5), and D-Bus before systemd.
	{MachineID, []string{"etc/machine-id", "var/lib/dbus/machine-id", "etc/hostid"}},
	// systemd-random-seed(8), Debian's urandom script, BusyBox's seedrng, systemd-boot.
	{RandomSeeds, []string{"var/lib/systemd/random-seed", "var/lib/urandom/random-seed", "var/lib/random-seed", "var/lib/misc/random-seed", "var/lib/seedrng/*",
		"boot/loader/random-seed", "boot/efi/loader/random-seed", "efi/loader/random-seed"}},
	{Identities, []string{"var/lib/systemd/credential.secret", "var/lib/NetworkManager/secret_key", "var/lib/NetworkManager/*.lease", "var/lib/dhcp/*.leases",
		"var/lib/dhclient/*.leases", "var/lib/dhcpcd/duid", "var/lib/dhcpcd/secret", "etc/dhcpcd.duid", "etc/dhcpcd.secret",
		"etc/docker/key.json", "var/lib/docker/engine-id", "etc/rancher/node/password", "var/lib/tailscale/tailscaled.state", "var/lib/zerotier-one/identity.secret"}},
}

// keyDirs are directories in which all small files are searched for private keys. keyNames are
// patterns of file names that are searched elsewhere.
var (
	keyDirs  = []string{"etc/", "root/", "home/"}
	keyNames = []string{"*.key", "*.pem", "id_*"}
)

// maxKey bounds the size of a key file.
const maxKey = 64 << 10

// PerUnit finds per-unit data. own are the paths of the board's per-unit files.
func PerUnit(t *tree.Tree, own []string) ([]Finding, error) {
	found := map[string][]string{}
	for p, n := range t.All() {
		if n.Type() != tree.Regular || n.Size() == 0 {
			continue
		}
		kind, err := kindOf(p, n, own)
		if err != nil {
			return nil, fmt.Errorf("/%s: %w", p, err)
		}
		if kind != "" {
			found[kind] = append(found[kind], "/"+p)
		}
	}
	var all []Finding
	for _, kind := range []string{HostKeys, MachineID, RandomSeeds, Identities, UnitFiles, PrivateKeys} {
		if paths := found[kind]; paths != nil {
			all = append(all, Finding{kind, paths, kind != PrivateKeys})
		}
	}
	return all, nil
}

func kindOf(p string, n *tree.Inode, own []string) (string, error) {
	if slices.Contains(own, "/"+p) {
		return UnitFiles, nil
	}
	for _, k := range perUnit {
		if !matches(k.patterns, p) {
			continue
		}
		if k.kind != MachineID {
			return k.kind, nil
		}
		// An image may have this text instead of an ID.
		text, err := read(n)
		if id := string(bytes.TrimSpace(text)); err != nil || id == "" || id == "uninitialized" {
			return "", err
		}
		return k.kind, nil
	}
	if n.Size() > maxKey || !matches(keyNames, path.Base(p)) && !slices.ContainsFunc(keyDirs, func(dir string) bool { return strings.HasPrefix(p, dir) }) {
		return "", nil
	}
	text, err := read(n)
	if err == nil && isPrivateKey(text) {
		return PrivateKeys, nil
	}
	return "", err
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { ok, _ := path.Match(pattern, name); return ok })
}

// isPrivateKey searches for the first line of a key in PEM (RFC 7468), or for the key of a
// WireGuard configuration.
func isPrivateKey(text []byte) bool {
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if bytes.HasPrefix(line, []byte("-----BEGIN ")) && bytes.HasSuffix(line, []byte("PRIVATE KEY-----")) {
			return true
		}
		if key, value, ok := bytes.Cut(line, []byte("=")); ok && string(bytes.TrimSpace(key)) == "PrivateKey" && len(bytes.TrimSpace(value)) == 44 {
			return true
		}
	}
	return false
}

func read(n *tree.Inode) ([]byte, error) {
	text := make([]byte, min(n.Size(), maxKey))
	_, err := image.ReadFull(n.Content, text, 0)
	return text, err
}
