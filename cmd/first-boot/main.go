//go:build linux

// Command first-boot configures a device as AtomixOS's provisioning service does. It uses the
// configuration on /data; else, after a fresh flash, the seed on the boot partition; else a seed
// on a USB stick; else it waits for a configuration on port 8080. It serves that port in all
// cases. It runs on the starter system.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"imgtool/image/sanitize"
	"imgtool/image/seed"
	"imgtool/image/seed/api"
	"imgtool/image/seed/console"
)

func main() {
	root := flag.String("root", "/", "root of the device's file system")
	listen := flag.String("listen", fmt.Sprintf(":%d", api.Port), "address of the console")
	mounted := flag.Bool("mounted", false, "accept no configuration unless data below root is a mounted file system; always on with the root /")
	narrow := flag.Duration("narrow", time.Minute, "how long the console stays open to all after the first configuration, so that its sender can see the result")
	flag.Parse()
	debug.SetMemoryLimit(24 << 20)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *root, *listen, *narrow, *mounted || *root == "/"); err != nil {
		fmt.Fprintln(os.Stderr, "first-boot:", err)
		os.Exit(1)
	}
}

// say logs a line. Its arguments are sanitized: they can come from a volume or the network.
func say(format string, args ...any) {
	fmt.Print(sanitize.Sprintf("first-boot: "+format+"\n", args...))
}

func run(ctx context.Context, root, listen string, narrow time.Duration, mounted bool) error {
	d := &device{root: root, store: store{dir: filepath.Join(root, "data"), service: serviceID, mounted: mounted}}
	if root == "/" {
		d.store.device = dataDevice
	}
	uploads := filepath.Join(root, "data", ".uploads")
	// Without the data file system nothing can be read or written, and the console shows the
	// reason.
	unready := d.store.ready()
	if unready == nil {
		if err := d.store.recover(); err != nil {
			return err
		}
		if err := errors.Join(os.RemoveAll(uploads), os.MkdirAll(uploads, 0o700)); err != nil {
			return err
		}
		d.load()
	}
	id, err := d.id()
	if err != nil {
		return err
	}
	handler := console.New(ctx, d, console.Options{ID: id, Spool: uploads, Unit: d.unit})
	s := &server{handler: handler}
	d.configured = func(first bool) {
		wait := narrow
		if !first {
			wait = time.Second // the address on the LAN may have changed
		}
		time.AfterFunc(wait, func() {
			if err := errors.Join(s.listen(ctx, d.address(listen)), d.narrow()); err != nil {
				say("%v", err)
			}
		})
	}
	where := listen
	if d.text != nil && !d.store.onTrial() {
		where = d.address(listen)
		d.lan = true
	}
	// Requests are refused until the device has looked for its own configuration.
	handler.Boot(func(ctx context.Context, report func(api.Event)) (api.Result, string, error) {
		if unready != nil {
			d.note(unready.Error() + "; the device takes no configuration until it is")
			return api.Result{}, "", unready
		}
		return api.Result{}, "", d.boot(ctx, report)
	})
	if err := s.listen(ctx, where); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// device implements console.Device.
type device struct {
	root       string
	store      store
	configured func(first bool) // called after a configuration was applied

	judging sync.Mutex
	running services

	mu     sync.Mutex
	lan    bool   // the console is open to the LAN only
	text   []byte // config.toml; nil before the first configuration
	config *seed.Config
	detail string
}

func (d *device) load() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.text, d.config = document(d.store.config())
}

func (d *device) now() ([]byte, *seed.Config) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text, d.config
}

func (d *device) Config() ([]byte, error) {
	text, _ := d.now()
	return text, nil
}

func (d *device) Detail() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.detail
}

// note logs a reason why the device has no configuration yet, and adds it to its health.
func (d *device) note(why string) {
	say("%s", why)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.detail != "" {
		why = d.detail + "; " + why
	}
	if len(why) > maxDetail {
		why = strings.ToValidUTF8(why[:maxDetail], "") + "…"
	}
	d.detail = why
}

// maxDetail is the maximum length of the reasons in bytes.
const maxDetail = 4 << 10

func (d *device) signers() ([]byte, error) {
	return os.ReadFile(filepath.Join(d.store.config(), "admin-signers"))
}

func (d *device) Known(armour []byte) error {
	signers, err := d.signers()
	if err != nil {
		return err
	}
	return api.Known(armour, signers)
}

func (d *device) Verify(message, armour []byte) error {
	signers, err := d.signers()
	if err != nil {
		return err
	}
	return api.Verify(message, armour, signers)
}

// address returns the address of the console. With a configuration it is on the LAN only.
func (d *device) address(listen string) string {
	_, config := d.now()
	_, port, err := net.SplitHostPort(listen)
	if err != nil || config == nil {
		return listen
	}
	return net.JoinHostPort(config.Gateway().String(), port)
}

// wide reports whether the console is open to the WAN, too.
func (d *device) wide() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.lan
}

// narrow closes the console's port to the WAN in the firewall.
func (d *device) narrow() error {
	d.mu.Lock()
	narrowed := d.lan || d.config == nil
	d.lan = d.lan || d.config != nil
	d.mu.Unlock()
	if narrowed {
		return nil
	}
	_, config := d.now()
	for _, f := range config.Render() {
		if f.Path == "firewall-inbound.json" {
			if err := d.firewall(f.Text); err != nil {
				return fmt.Errorf("firewall: %w", err)
			}
		}
	}
	return d.loadFirewall(func(api.Event) {})
}

// boot activates the configuration on /data, or looks for a seed.
func (d *device) boot(ctx context.Context, report func(api.Event)) error {
	if text, config := d.now(); text != nil {
		say("the configuration of /data is taken")
		switch renewed, err := d.store.renew(config); {
		case err != nil:
			// All other files are derived from config.toml, which is intact.
			say("rewriting the files of the configuration: %v", err)
		case len(renewed) > 0:
			say("rewritten in %s, because they differ from what this version makes of config.toml: %s", d.store.config(), strings.Join(renewed, ", "))
		}
		err := d.activate(config, report)
		switch {
		case err == nil && d.store.onTrial():
			err = d.store.keep()
		case err != nil && d.store.onTrial():
			// The first configuration was interrupted while it was on trial.
			if _, e := d.store.back(); e != nil {
				return e
			}
			d.load()
			d.note("the first configuration was interrupted, and failed then: " + err.Error())
			return d.seek(ctx, report)
		}
		if err != nil {
			d.note("the configuration of /data: " + err.Error())
			return err
		}
		d.configured(true)
		return d.finish()
	}
	return d.seek(ctx, report)
}

// errWaiting is the result of a device without a configuration and a seed.
var errWaiting = errors.New("no seed was found; waiting for a configuration on port 8080")

func (d *device) seek(ctx context.Context, report func(api.Event)) error {
	all := volumes(d.root)
	disk := ""
	for _, v := range all {
		if v.partlabel == "boot-a" {
			disk = v.disk
		}
	}
	try := func(v volume, what string) bool {
		text, err := v.read("config.toml")
		if text == nil && err == nil {
			return false
		}
		if err == nil {
			say("%s has a config.toml (%s)", what, v.device)
			_, _, err = d.apply(ctx, source{body: bytes.NewReader(text)}, report)
		}
		if err != nil {
			d.note(fmt.Sprintf("the seed of %s is not taken: %v", what, err))
			return false
		}
		d.configured(true)
		return true
	}
	if _, err := os.Stat(filepath.Join(d.root, "etc/atomixos/fresh-flash")); err == nil {
		for _, v := range all {
			if v.partlabel == "boot-a" && try(v, "the boot partition") {
				return nil
			}
		}
	}
	for _, v := range sticks(all, disk) {
		if try(v, "the stick "+strings.TrimSpace(v.label+" "+v.partlabel)) {
			return nil
		}
	}
	d.keepTries()
	say("%v", errWaiting)
	return errWaiting
}

// keepTries resets the boot tries of the slot on a device that never had a configuration, so
// that power cycles while it waits do not use them up. The slot is not marked good. If the device
// had a configuration, the slot may be an update that cannot read it, and must run out of tries.
func (d *device) keepTries() {
	for _, file := range []string{d.store.done(), filepath.Join(d.store.config(), "config.toml")} {
		if _, err := os.Lstat(file); !errors.Is(err, os.ErrNotExist) {
			return
		}
	}
	if _, err := d.markGood("waiting"); err != nil {
		d.note(fmt.Sprintf("the slot could not be given its tries back: %v", err))
	}
}

// markGood runs mark-good, and reports whether the device has it.
func (d *device) markGood(args ...string) (bool, error) {
	good := filepath.Join(d.root, "sbin/mark-good")
	if _, err := os.Stat(good); err != nil {
		return false, nil
	}
	if out, err := exec.Command(good, args...).CombinedOutput(); err != nil {
		return true, fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return true, nil
}

// finish marks the device as provisioned. It is called only after a configuration was applied.
func (d *device) finish() error {
	if err := d.store.ready(); err != nil {
		return err
	}
	d.mu.Lock()
	d.detail = ""
	d.mu.Unlock()
	if marked, err := d.markGood(); err != nil {
		d.note(fmt.Sprintf("the slot could not be marked good: %v", err))
	} else if marked {
		say("the slot is marked good")
	}
	if _, err := os.Stat(d.store.done()); err != nil {
		part := d.store.done() + ".new" // so that a power cut leaves no empty file
		if err := os.WriteFile(part, []byte(time.Now().UTC().Format(time.RFC3339)+"\n"), 0o644); err != nil {
			return err
		}
		if err := os.Rename(part, d.store.done()); err != nil {
			return err
		}
	}
	if err := d.store.sync(); err != nil {
		return err
	}
	say("provisioned")
	return nil
}
