//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"imgtool/image/seed"
	"imgtool/image/seed/api"
	"imgtool/image/seed/bundle"
	"imgtool/image/seed/console"
)

// serviceID is the user and group id of appsvc, which runs unprivileged containers.
const serviceID = 990

// limits bound the memory that a configuration takes. AtomixOS takes documents of 32 MiB and zstd
// windows of 128 MiB.
var limits = bundle.Limits{Document: 128 << 10, Window: 8 << 20, Depth: 16}

// maxSkipped is the maximum number of files that a job names as not carried over.
const maxSkipped = 20

// Validate ignores the file name, which is not signed. The first bytes of the body show its
// format.
func (d *device) Validate(_ string, body io.ReadSeeker) ([]seed.Fault, error) {
	// Only one check runs at a time, to bound memory.
	d.judging.Lock()
	defer d.judging.Unlock()
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	_, faults, err := limits.Check("", body)
	return faults, err
}

// Ready returns an error if the device cannot store a configuration.
func (d *device) Ready() error { return d.store.ready() }

// Apply makes a document or bundle the configuration of the device. It ignores the file name.
func (d *device) Apply(ctx context.Context, _ string, body io.ReadSeeker, report func(api.Event)) (api.Result, string, error) {
	report(api.Event{Step: "prepare"})
	return d.replace(ctx, source{body: body}, report)
}

// Change changes one place of the active configuration. Files of a bundle are kept.
func (d *device) Change(ctx context.Context, change api.Change, report func(api.Event)) (api.Result, string, error) {
	text, _ := d.now()
	changed, err := seed.Change(text, change.Place, change.Value)
	if err != nil {
		return api.Result{}, "", err
	}
	return d.replace(ctx, source{body: bytes.NewReader(changed), keepFiles: true}, report)
}

type source struct {
	body      io.ReadSeeker // a document or bundle
	keepFiles bool          // keep the files of the active configuration
}

// replace applies a configuration, and adds the new address of the device to the result.
func (d *device) replace(ctx context.Context, from source, report func(api.Event)) (api.Result, string, error) {
	first, _ := d.now()
	result, rollback, err := d.apply(ctx, from, report)
	if err != nil {
		say("the configuration is not taken: %v", err)
		return result, rollback, err
	}
	_, config := d.now()
	d.configured(first == nil)
	result.Forwarding = fmt.Sprintf("http://%s:%d", config.Gateway(), api.Port)
	return result, "", nil
}

func (d *device) apply(ctx context.Context, from source, report func(api.Event)) (result api.Result, rollback string, err error) {
	step := func(s string) { report(api.Event{Step: s}) }
	step("validate")
	if err := d.store.ready(); err != nil {
		return result, "", err
	}
	faults, err := d.Validate("", from.body)
	if err == nil {
		result.Warnings, err = console.Judge(faults)
	}
	if err != nil {
		return result, "", err
	}
	if _, err := from.body.Seek(0, io.SeekStart); err != nil {
		return result, "", err
	}
	config, skipped, err := d.store.prepare(from, step)
	if err != nil {
		return result, "", err
	}
	for _, path := range skipped[:min(len(skipped), maxSkipped)] {
		result.Warnings = append(result.Warnings, path+" is neither a file nor a directory; it is not carried over")
	}
	if n := len(skipped) - maxSkipped; n > 0 {
		result.Warnings = append(result.Warnings, fmt.Sprintf("and %d more below files are not carried over", n))
	}
	step(api.Promote)
	if err := d.store.promote(); err != nil {
		return result, "", err
	}
	d.load()
	err = d.activate(config, report)
	if err == nil {
		step("complete")
		if err = d.store.keep(); err == nil {
			return result, "", d.finish()
		}
	}
	step(api.Rollback)
	before, e := d.store.back()
	d.load()
	if e != nil {
		return result, api.RollbackFailed, errors.Join(err, e)
	}
	if !before {
		return result, api.RollbackDiscarded, errors.Join(err, d.stopServices())
	}
	if _, config := d.now(); config != nil {
		if e := d.activate(config, report); e != nil {
			return result, api.RollbackFailed, errors.Join(err, e)
		}
	}
	return result, api.RollbackCompleted, err
}

// activate applies a configuration to the running system. The root file system is in memory, so
// this is repeated at each boot.
func (d *device) activate(config *seed.Config, report func(api.Event)) error {
	files := map[string]string{}
	for _, f := range config.Render() {
		files[f.Path] = f.Text
	}
	report(api.Event{Step: "service-deploy"})
	if err := d.quadlets(files); err != nil {
		return fmt.Errorf("quadlets: %w", err)
	}
	if err := d.accounts(files); err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	report(api.Event{Step: "activate"})
	if err := d.network(config, files); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if err := d.firewall(files["firewall-inbound.json"]); err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	if err := d.startServices(report); err != nil {
		return err
	}
	report(api.Event{Step: "service-status"})
	units, err := runtimeUnits(files)
	if err != nil {
		return err
	}
	for _, u := range units {
		// The starter does not run containers.
		report(api.Event{Step: "service-status", Service: u.Service, Mode: u.Mode, Status: "unknown"})
	}
	return nil
}

// runtimeUnit is an entry of quadlet-runtime.json: a unit in a mode.
type runtimeUnit struct{ Filename, Service, Mode string }

func runtimeUnits(files map[string]string) ([]runtimeUnit, error) {
	var runtime struct{ Units []runtimeUnit }
	err := json.Unmarshal([]byte(files["quadlet-runtime.json"]), &runtime)
	return runtime.Units, err
}

// etc writes a file below /etc.
func (d *device) etc(path, text string, mode os.FileMode) error {
	file := filepath.Join(d.root, "etc", path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	// The umask does not count.
	return errors.Join(os.WriteFile(file, []byte(text), mode), os.Chmod(file, mode))
}

// quadlets writes the units of root and of appsvc to the directories of Podman.
func (d *device) quadlets(files map[string]string) error {
	const rootful = "containers/systemd"
	rootless := filepath.Join(rootful, "users", strconv.Itoa(serviceID))
	if err := os.RemoveAll(filepath.Join(d.root, "etc", rootful)); err != nil {
		return err
	}
	units, err := runtimeUnits(files)
	if err != nil {
		return err
	}
	for _, u := range units {
		dir, owner := rootful, 0
		if u.Mode == "rootless" {
			dir, owner = rootless, serviceID
		}
		// Environment= and others can contain secrets.
		file := filepath.Join(dir, u.Filename)
		if err := d.etc(file, files["quadlet/"+u.Filename], 0o600); err != nil {
			return err
		}
		if err := os.Lchown(filepath.Join(d.root, "etc", file), owner, owner); err != nil {
			return err
		}
	}
	return nil
}

// network sets the addresses of existing interfaces, and writes the configuration of the services
// on the LAN.
func (d *device) network(config *seed.Config, files map[string]string) error {
	var host struct {
		DNS        []string `json:"dns_servers"`
		Search     []string `json:"dns_search_domains"`
		Gateway    string   `json:"default_gateway"`
		Interfaces map[string]struct{ Mode, Address, Gateway string }
	}
	var lan struct {
		Gateway string `json:"gateway_cidr"`
		Start   string `json:"dhcp_start"`
		End     string `json:"dhcp_end"`
		Domain  string
		Aliases []string `json:"gateway_aliases"`
		NTP     []string `json:"ntp_servers"`
	}
	if err := errors.Join(json.Unmarshal([]byte(files["host-network.json"]), &host), json.Unmarshal([]byte(files["lan-settings.json"]), &lan)); err != nil {
		return err
	}
	if len(host.DNS)+len(host.Search) > 0 {
		var resolv strings.Builder
		if len(host.Search) > 0 {
			fmt.Fprintf(&resolv, "search %s\n", strings.Join(host.Search, " "))
		}
		for _, server := range host.DNS {
			fmt.Fprintf(&resolv, "nameserver %s\n", server)
		}
		if err := d.etc("resolv.conf", resolv.String(), 0o644); err != nil {
			return err
		}
	}
	dnsmasq := fmt.Sprintf("interface=eth1\nbind-dynamic\nno-hosts\nuser=dnsmasq\ngroup=dnsmasq\npid-file=/run/dnsmasq.pid\ndhcp-leasefile=/run/dnsmasq.leases\ndomain=%s\ndhcp-range=%s,%s\n", lan.Domain, lan.Start, lan.End)
	for _, alias := range lan.Aliases {
		dnsmasq += fmt.Sprintf("address=/%s/%s\n", alias, config.Gateway())
	}
	chrony := fmt.Sprintf("allow %s\nmakestep 1 3\n", lan.Gateway)
	for _, server := range lan.NTP {
		chrony += "server " + server + " iburst\n"
	}
	if err := errors.Join(d.etc("dnsmasq.d/lan.conf", dnsmasq, 0o644), d.etc("chrony.conf", chrony, 0o644)); err != nil {
		return err
	}
	if err := d.address4("eth1", lan.Gateway); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(host.Interfaces)) {
		eth := host.Interfaces[name]
		if name == "eth1" || eth.Mode != "static" {
			continue
		}
		if err := d.address4(name, eth.Address); err != nil {
			return err
		}
		if via := eth.Gateway; via != "" && d.root == "/" {
			if err := d.run("setting the default route through "+name, "ip", "route", "replace", "default", "via", via, "dev", name); err != nil {
				return err
			}
		}
	}
	return nil
}

// address4 makes an address the only IPv4 address of an interface, if the interface exists.
func (d *device) address4(name, address string) error {
	if _, err := os.Stat(filepath.Join(d.root, "sys/class/net", name)); err != nil || d.root != "/" {
		return nil
	}
	if out, err := exec.Command("ip", "-4", "address", "show", "dev", name).Output(); err == nil && bytes.Contains(out, []byte("inet "+address+" ")) {
		return nil
	}
	what := "setting the address of " + name
	return errors.Join(d.run(what, "ip", "-4", "address", "flush", "dev", name), d.run(what, "ip", "address", "add", address, "dev", name), d.run(what, "ip", "link", "set", name, "up"))
}

// run runs a program. The error contains neither its arguments nor its output, which can contain
// values of the configuration.
func (d *device) run(what, program string, args ...string) error {
	if err := exec.Command(program, args...).Run(); err != nil {
		return fmt.Errorf("%s: %s: %w", what, program, err)
	}
	return nil
}

// firewall writes the nftables rules for incoming traffic.
func (d *device) firewall(inbound string) error {
	var open map[string]map[string][]int
	if err := json.Unmarshal([]byte(inbound), &open); err != nil {
		return err
	}
	var b strings.Builder
	// The old table is deleted in the same transaction. ICMP and ICMPv6 are given by number, since
	// the starter has no /etc/protocols.
	b.WriteString("table inet atomixos\ndelete table inet atomixos\n" +
		"table inet atomixos {\n\tchain input {\n\t\ttype filter hook input priority 0; policy drop;\n" +
		"\t\tct state established,related accept\n\t\tiif lo accept\n\t\tmeta l4proto { 1, 58 } accept\n")
	rule := func(eth string, ports map[string][]int) {
		for _, protocol := range slices.Sorted(maps.Keys(ports)) {
			var list []string
			for _, port := range ports[protocol] {
				list = append(list, strconv.Itoa(port))
			}
			fmt.Fprintf(&b, "\t\tiifname %s %s dport { %s } accept\n", eth, protocol, strings.Join(list, ", "))
		}
	}
	if d.wide() {
		fmt.Fprintf(&b, "\t\tiifname eth0 tcp dport %d accept\n", api.Port)
	}
	rule("eth0", open["wan"])
	if lan := open["lan"]; lan == nil {
		b.WriteString("\t\tiifname eth1 accept\n")
	} else {
		// Ports that clients of the LAN always need.
		lan["tcp"] = append(lan["tcp"], 22, 53, api.Port)
		lan["udp"] = append(lan["udp"], 53, 67, 68, 123)
		rule("eth1", lan)
	}
	b.WriteString("\t}\n}\n")
	return d.etc("nftables.conf", b.String(), 0o644)
}
