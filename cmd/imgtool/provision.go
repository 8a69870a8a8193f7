package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/seed"
	"imgtool/image/seed/provision"
)

type provisionOptions struct {
	seed    seedOptions
	key     string
	output  string
	yes     bool
	wait    time.Duration
	timeout time.Duration
	device  string
}

func (opt *provisionOptions) flags(cmd *cobra.Command, seed string) {
	f := cmd.Flags()
	if seed != "" {
		f.StringVar(&opt.seed.file, "seed", "", seed)
		opt.seed.addFlags(cmd)
	}
	f.StringVar(&opt.key, "key", "", "key of an admin: a private key file, or the public key file, fingerprint or comment of one that ssh-agent has (default: those of ssh-agent and ~/.ssh)")
	f.DurationVar(&opt.wait, "wait", 0, "how long to wait for a device that does not answer yet, or has another job")
	f.StringVar(&opt.device, "device", "", "identifier of the device it must be, as provision status and the device's page show it")
	f.BoolVarP(&opt.yes, "yes", "y", false, "send to an address that is not local, too, without a question")
}

func (opt *provisionOptions) timeoutFlag(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&opt.timeout, "timeout", 0, "how long applying may take (default: twice what the configuration's activation says, and 5m)")
}

func newProvisionCommand(u *ui) *cobra.Command {
	var opt provisionOptions
	cmd := &cobra.Command{
		Use:   "provision ADDRESS --seed FILE",
		Short: "Give a device that is up its configuration",
		Long: `Give an AtomixOS device that is up its configuration, a config.toml or a bundle, and wait
until it is applied. ADDRESS is a host, HOST:PORT or a URL; the port is 8080 if none is
named. A device that has a configuration takes another only with the signature of one of
its admins.

Exit status 0: applied. 3: the seed is bad, nothing was sent. 4: the device refused it and
is as before. 9: the device does not answer. 11: it failed, and the device went back to
what it had. 12: not known; imgtool provision status --seed tells.

The device speaks plain HTTP and cannot prove which one it is. What an admin signs names the
device, where it has an identifier, so that one device cannot use what was signed for another:
pass its identifier with --device.`,
		Example: `  imgtool provision 172.20.30.1 --seed config.toml
  imgtool provision 172.20.30.1 --seed config.tar.zst --key ~/.ssh/id_ed25519 --wait 5m
  imgtool provision 172.20.30.1 --seed seed.toml --values units.csv --unit W123
  imgtool provision status 172.20.30.1`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runProvision(cmd.Context(), args[0], opt, u) },
	}
	opt.flags(cmd, "config.toml or bundle to apply")
	opt.timeoutFlag(cmd)
	cmd.AddCommand(newProvisionValidateCommand(u), newProvisionExportCommand(u), newProvisionStatusCommand(u),
		newProvisionSetCommand(u), newProvisionUnsetCommand(u))
	return cmd
}

func newProvisionValidateCommand(u *ui) *cobra.Command {
	var opt provisionOptions
	cmd := &cobra.Command{
		Use:   "validate ADDRESS --seed FILE",
		Short: "Let a device judge a configuration without taking it",
		Long: `Let a device judge a config.toml or a bundle without taking it. It does so for its admins
only, so not before it has a configuration; imgtool seed check needs no device. Exit status
4 if it refuses.`,
		Example: `  imgtool provision validate 172.20.30.1 --seed config.toml`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runProvisionValidate(cmd.Context(), args[0], opt, u)
		},
	}
	opt.flags(cmd, "config.toml or bundle to judge")
	return cmd
}

func newProvisionExportCommand(u *ui) *cobra.Command {
	var opt provisionOptions
	cmd := &cobra.Command{
		Use:   "export ADDRESS",
		Short: "Print the configuration a device has",
		Long: `Print the config.toml of a device. It shows it to its admins only. Files of a bundle are not
part of it.`,
		Example: `  imgtool provision export 172.20.30.1 -o config.toml`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runProvisionExport(cmd.Context(), args[0], opt, u)
		},
	}
	opt.flags(cmd, "")
	cmd.Flags().StringVarP(&opt.output, "output", "o", "", "file to write (default: standard output)")
	return cmd
}

func newProvisionStatusCommand(u *ui) *cobra.Command {
	var opt provisionOptions
	cmd := &cobra.Command{
		Use:   "status ADDRESS",
		Short: "Say whether a device is up and has a configuration",
		Long: `Say whether a device is up and has a configuration, and with --seed whether it is that one;
it shows it to its admins only. Exit status 0: as asked; 8: the configuration differs; 9: the
device does not answer.`,
		Example: `  imgtool provision status 172.20.30.1 --wait 5m
  imgtool provision status 172.20.30.1 --seed config.toml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runProvisionStatus(cmd.Context(), args[0], opt, u)
		},
	}
	opt.flags(cmd, "config.toml or bundle it should have")
	return cmd
}

// sending is a seed as it is sent.
type sending struct {
	name    string // to tell bundles by; that of the file is nobody's business
	body    []byte
	config  *seed.Config
	secrets []string
}

func (opt *provisionOptions) read(u *ui) (*sending, error) {
	if !opt.seed.given() {
		return nil, fault.New(fault.Usage, "say which configuration: --seed config.toml")
	}
	s, err := opt.seed.sending(u)
	if err != nil {
		return nil, err
	}
	if s.name == "config.toml" && s.config.UsesFiles() {
		u.warn(opt.seed.file + ": its units use files of a bundle, and it is none")
	}
	s.secrets = append(s.secrets, s.config.Secrets()...)
	// The longest first: one may be part of another.
	slices.SortFunc(s.secrets, func(a, b string) int { return len(b) - len(a) })
	return s, nil
}

func (o seedOptions) sending(u *ui) (*sending, error) {
	if o.values != "" || o.unit != "" {
		filled, err := o.read()
		if err != nil {
			return nil, err
		}
		text, err := filled.Check("atomixos", u.warn)
		if err != nil {
			return nil, err
		}
		s := &sending{name: "config.toml", body: text}
		s.config, _ = seed.Check(text)
		for _, value := range filled.Columns {
			if len(value) >= 4 {
				s.secrets = append(s.secrets, value)
			}
		}
		return s, nil
	}
	in, name := u.in, "standard input"
	if o.file != "-" {
		f, err := hostfile.OpenStream(o.file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in, name = f, o.file
	}
	body, err := io.ReadAll(io.LimitReader(in, seed.MaxUpload+1))
	if err != nil {
		return nil, err
	}
	b, faults, err := seed.CheckBundle(filepath.Base(o.file), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if b.Format != "toml" {
		name += ":config.toml"
	}
	if b.Config == nil {
		return nil, allFaults(name, faults)
	}
	seedWarnings(name, faults, u)
	return &sending{name: "config." + b.Format, body: body, config: b.Config}, nil
}

// reach finds the device, and asks where what is sent could be read on its way.
func reach(ctx context.Context, address string, opt provisionOptions, secret bool, u *ui) (*provision.Client, error) {
	at, err := provision.Address(address)
	if err != nil {
		return nil, fault.New(fault.Usage, "%v", err)
	}
	c, err := provision.Wait(ctx, at, opt.wait, func(err error) {
		if opt.wait > 0 {
			u.say("%v; waiting up to %s", err, opt.wait)
		}
	})
	if err != nil {
		var gone *provision.GoneError
		if errors.As(err, &gone) && opt.wait == 0 {
			err = fault.WithHint(err, "is it on, and on this network? pass --wait 5m if it is still booting")
		}
		return nil, err
	}
	if opt.device != "" && c.Device != opt.device {
		return nil, &provision.DeviceError{Address: c.URL(), Has: c.Device, Wants: opt.device}
	}
	if !secret || c.Encrypted() {
		return c, nil
	}
	u.warn(c.URL() + " is plain HTTP: others on the way can read what is sent, and nothing proves which device answers")
	if c.Local() || opt.yes {
		return c, nil
	}
	line, err := u.answer(ctx, c.URL()+" is not a local address, and the configuration may hold secrets.\nType yes to go on: ",
		c.URL()+" is not a local address, and the configuration may hold secrets; pass --yes to go on all the same")
	if err == nil && line != "yes" {
		err = &provision.RefusedError{Address: c.URL(), Why: "nothing was sent: the answer was not yes"}
	}
	return c, err
}

// bring reads a seed and finds the device that it is for.
func bring(ctx context.Context, address string, opt provisionOptions, u *ui) (*provision.Client, *sending, error) {
	s, err := opt.read(u)
	if err != nil {
		return nil, nil, err
	}
	c, err := reach(ctx, address, opt, true, u)
	if err != nil {
		return nil, nil, err
	}
	c.Secrets = s.secrets
	return c, s, nil
}

func runProvision(ctx context.Context, address string, opt provisionOptions, u *ui) error {
	c, s, err := bring(ctx, address, opt, u)
	if err != nil {
		return err
	}
	return apply(ctx, c, provision.Request{
		Name: s.name, Body: s.body, Config: s.config,
		Keys: func() ([]*provision.Key, error) { return findKeys(ctx, opt.key, s.config, u) },
	}, address, opt, u)
}

// apply gives a device a configuration and says how that ended.
func apply(ctx context.Context, c *provision.Client, r provision.Request, address string, opt provisionOptions, u *ui) error {
	r.Patience, r.Timeout = opt.wait, opt.timeout
	r.Report = func(e provision.Event) { showProvisioning(e, u) }
	begin := time.Now()
	done, err := c.Apply(ctx, r)
	if err != nil {
		return errors.Join(u.outcome(c, err), provisionHint(err, address, opt))
	}
	if u.json {
		result := map[string]any{"state": "applied", "address": c.URL(), "reapply": done.Reapply, "seconds": time.Since(begin).Seconds()}
		if done.Forwarding != "" {
			result["forwarding_url"] = done.Forwarding
		}
		if done.Key != nil {
			result["key"] = done.Key.Name
		}
		return u.print(result)
	}
	u.say("applied in %.1f s", time.Since(begin).Seconds())
	if done.Forwarding != "" {
		u.say("the device is at %s from now on", done.Forwarding)
	}
	return nil
}

// outcome prints for machines what became of a configuration that was not applied.
func (u *ui) outcome(c *provision.Client, err error) error {
	state := ""
	switch exitStatus(err) {
	case exitRefused:
		state = "refused"
	case exitRolledBack:
		state = "rolled-back"
	case exitUnknown:
		state = "unknown"
	}
	if !u.json || state == "" {
		return nil
	}
	return u.print(map[string]any{"state": state, "address": c.URL(), "why": err.Error()})
}

func provisionHint(err error, address string, opt provisionOptions) error {
	var refused *provision.RefusedError
	var busy *provision.BusyError
	var unknown *provision.UnknownError
	switch {
	case errors.As(err, &refused) && refused.Status == 401 && opt.key == "":
		return fault.WithHint(err, "name the key of an admin with --key, or add it to ssh-agent")
	case errors.As(err, &busy):
		return fault.WithHint(err, "wait for its end with --wait 10m")
	case errors.As(err, &unknown) && opt.seed.file == "":
		return fault.WithHint(err, "look later: imgtool provision export %s", address)
	case errors.As(err, &unknown):
		return fault.WithHint(err, "look later: imgtool provision status %s --seed %s", address, opt.seed.file)
	}
	return err
}

// showProvisioning says what a device does.
func showProvisioning(e provision.Event, u *ui) {
	switch {
	case e.Sent:
		u.leaves("the device has the configuration and goes on with it")
	case e.Warning != "":
		u.warn(e.Warning)
	case e.Note != "":
		u.say("%s", e.Note)
	case u.json:
		u.event(map[string]any{"event": "step", "step": e.Step.Step, "elapsed_s": e.Step.Elapsed, "message": e.Step.Message,
			"service": e.Step.Service, "mode": e.Step.Mode, "status": e.Step.Status})
	default:
		line := fmt.Sprintf("%7.1f s  %s", e.Step.Elapsed, e.Step.Step)
		if e.Step.Service != "" {
			line += fmt.Sprintf(": %s (%s): %s", e.Step.Service, e.Step.Mode, e.Step.Status)
		}
		if e.Step.Message != "" {
			line += ": " + e.Step.Message
		}
		u.say("%s", line)
	}
}

// withKey does work with the first key that the device takes.
func withKey(ctx context.Context, c *provision.Client, opt provisionOptions, config *seed.Config, u *ui, work func(*provision.Key) error) error {
	fresh, err := c.Fresh(ctx)
	if err != nil {
		return err
	}
	if fresh {
		return &provision.RefusedError{Address: c.URL(), Why: "the device waits for its first configuration, and has no admin yet to do this for"}
	}
	keys, err := findKeys(ctx, opt.key, config, u)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return fault.WithHint(&provision.RefusedError{Address: c.URL(), Why: "the device wants the signature of one of its admins, and there is no key"}, "name one with --key, or add it to ssh-agent")
	}
	for _, key := range keys {
		var refused *provision.RefusedError
		if err = work(key); !errors.As(err, &refused) || refused.Status != 401 {
			return err
		}
	}
	return provisionHint(err, "", opt)
}

func runProvisionValidate(ctx context.Context, address string, opt provisionOptions, u *ui) error {
	c, s, err := bring(ctx, address, opt, u)
	if err != nil {
		return err
	}
	return withKey(ctx, c, opt, s.config, u, func(key *provision.Key) error {
		warnings, err := c.Validate(ctx, s.name, s.body, key)
		if err != nil {
			return err
		}
		if u.json {
			return u.print(map[string]any{"ok": true, "address": c.URL(), "warnings": append([]string{}, warnings...)})
		}
		for _, w := range warnings {
			u.warn(w)
		}
		u.say("%s would take %s", c.URL(), opt.seed.file)
		return nil
	})
}

func runProvisionExport(ctx context.Context, address string, opt provisionOptions, u *ui) error {
	toFile := opt.output != "" && opt.output != "-"
	if toFile {
		if err := hostfile.CheckOutput(opt.output); err != nil {
			return err
		}
	}
	c, err := reach(ctx, address, opt, true, u)
	if err != nil {
		return err
	}
	return withKey(ctx, c, opt, nil, u, func(key *provision.Key) error {
		config, err := c.Export(ctx, key)
		if err != nil {
			return err
		}
		if !toFile {
			return u.write(config)
		}
		if err := writeNew(opt.output, config, 0o600); err != nil {
			return err
		}
		u.say("%s: %s", opt.output, human(int64(len(config))))
		return nil
	})
}

func runProvisionStatus(ctx context.Context, address string, opt provisionOptions, u *ui) error {
	var s *sending
	if opt.seed.given() {
		var err error
		if s, err = opt.read(u); err != nil {
			return err
		}
	}
	c, err := reach(ctx, address, opt, s != nil, u)
	if err != nil {
		return err
	}
	fresh, err := c.Fresh(ctx)
	if err != nil {
		return err
	}
	state, words := "provisioned", "up, and has a configuration"
	if fresh {
		state, words = "fresh", "up, and waits for its first configuration"
	}
	result := map[string]any{"address": c.URL(), "state": state}
	if c.Device != "" {
		result["device"] = c.Device
	}
	if s == nil {
		if u.json {
			return u.print(result)
		}
		if c.Device != "" {
			words += " (device " + c.Device + ")"
		}
		return u.printf("%s: %s\n", c.URL(), words)
	}
	same := false
	if !fresh {
		c.Secrets = s.secrets
		err := withKey(ctx, c, opt, s.config, u, func(key *provision.Key) error {
			now, err := c.Export(ctx, key)
			if err == nil {
				has, _ := seed.Check(now)
				same = has != nil && has.Same(s.config)
			}
			return err
		})
		if err != nil {
			return err
		}
		words = "up, and has another configuration than " + opt.seed.file
		if same {
			words = "up, and has the configuration of " + opt.seed.file
		}
	}
	result["same"] = same
	if u.json {
		err = u.print(result)
	} else {
		err = u.printf("%s: %s\n", c.URL(), words)
	}
	if err == nil && !same {
		err = fault.New(fault.Mismatch, "%s: %s", c.URL(), words)
	}
	return err
}
