package configs

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/pending"
	"imgtool/image/seed"
	"imgtool/image/seed/provision"
)

type provisionOptions struct {
	address string
	args    []string // after the address
	seed    option.Seed
	key     string
	yes     bool
	wait    time.Duration
	timeout time.Duration
	device  string
	output  string
	meant   string // a question about a mistyped command, or empty
}

// command completes a command whose first argument is the address of a device. seed is the usage
// of its flag --seed, or empty.
func (opt *provisionOptions) command(cmd *cobra.Command, args []string, seed string, run func(context.Context) error) *cobra.Command {
	cmd.Args = usage.Operands(args...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		opt.address, opt.args, opt.meant = args[0], args[1:], usage.Meant(cmd, args[0])
		return run(cmd.Context())
	}
	f := cmd.Flags()
	if seed != "" {
		f.StringVar(&opt.seed.File, "seed", "", "`FILE`, a "+seed)
		opt.seed.AddFlags(cmd)
	}
	f.StringVar(&opt.key, "key", "", "`KEY` of an admin: a private key file, or the public key file, fingerprint or comment of a key in ssh-agent (default: keys of ssh-agent and ~/.ssh)")
	f.DurationVar(&opt.wait, "wait", 0, "how long to wait for a device that does not answer yet, or runs another job")
	f.StringVar(&opt.device, "device", "", "required identifier `ID` of the device, as provision status and the device's page show it")
	f.BoolVarP(&opt.yes, "yes", "y", false, "skip the confirmation for an address that is not local")
	return cmd
}

// applying is command for a command that applies a configuration.
func (opt *provisionOptions) applying(cmd *cobra.Command, args []string, seed string, run func(context.Context) error) *cobra.Command {
	cmd.Flags().DurationVar(&opt.timeout, "timeout", 0, "time limit for applying the configuration (default: twice its activation timeout, and 5m)")
	return opt.command(cmd, args, seed, run)
}

// addressOnly are the arguments of commands about a device.
var addressOnly = []string{"device, by its address"}

func newProvisionCommand(u *ui) *cobra.Command {
	opt := &provisionOptions{}
	cmd := opt.applying(&cobra.Command{
		Use:        "provision ADDRESS --seed FILE",
		SuggestFor: []string{"deploy", "apply", "push", "send", "setup"},
		Short:      "Send a running device its configuration",
		Long: `Send a running AtomixOS device its configuration, a config.toml or a bundle, and wait until
it is applied. ADDRESS is a host, HOST:PORT or a URL; the default port is 8080. A device that
has a configuration takes another only with the signature of one of its admins.

Exit status 0: applied. 3: the seed has faults, nothing was sent. 4: the device refused it and
kept its configuration. 9: the device does not answer. 11: it failed, and the device went back
to its previous configuration. 12: unknown; check with imgtool provision status --seed.

The device speaks plain HTTP and does not authenticate itself. An admin's signature covers the
identifier of the device, if it has one, so that no device can use a signature made for another:
pass the identifier with --device.`,
		Example: `  imgtool provision 172.20.30.1 --seed config.toml
  imgtool provision 172.20.30.1 --seed config.tar.zst --key ~/.ssh/key --wait 5m
  imgtool provision 172.20.30.1 --seed seed.toml --values units.csv --unit W123
  imgtool provision status 172.20.30.1`,
	}, addressOnly, "config.toml or bundle to apply", func(ctx context.Context) error { return runProvision(ctx, opt, u) })
	cmd.AddCommand(newProvisionValidateCommand(u), newProvisionExportCommand(u), newProvisionStatusCommand(u),
		newProvisionSetCommand(u), newProvisionUnsetCommand(u))
	return cmd
}

func runProvision(ctx context.Context, opt *provisionOptions, u *ui) error {
	p, c, err := opt.begin(ctx, u)
	if err != nil {
		return err
	}
	return opt.apply(ctx, c, provision.Request{Payload: p, Keys: opt.keys(ctx, p.Config, u)}, u)
}

// begin reads the configuration and connects to the device that it is for.
func (opt *provisionOptions) begin(ctx context.Context, u *ui) (*provision.Payload, *provision.Client, error) {
	p, err := opt.payload(u)
	if err != nil {
		return nil, nil, err
	}
	c, err := opt.connectConfidential(ctx, p, u)
	return p, c, err
}

func (opt *provisionOptions) payload(u *ui) (*provision.Payload, error) {
	if !opt.seed.Given() {
		return nil, fault.New(fault.Usage, "name the configuration: --seed config.toml%s", opt.meant)
	}
	v, err := opt.seed.Valid(u)
	if err != nil {
		return nil, err
	}
	if v.Format == "toml" && v.Config.UsesFiles() {
		u.Warn(opt.seed.File + " is not a bundle, but its containers use files of a bundle")
	}
	return provision.NewPayload(v), nil
}

// connect connects to the device. p is the payload for it, or nil.
func (opt *provisionOptions) connect(ctx context.Context, p *provision.Payload, u *ui) (*provision.Client, error) {
	if opt.key != "" {
		if err := option.Keys(opt.key, u).Check(ctx); err != nil {
			return nil, err
		}
	}
	c, err := provision.Connect(ctx, provision.Target{Address: opt.address, Device: opt.device, Wait: opt.wait,
		Waiting: func(err error) { u.Infof("%v; waiting up to %s", err, opt.wait) }})
	if err != nil {
		return nil, opt.hint(err)
	}
	if p != nil {
		c.Secrets = p.Secrets
	}
	return c, nil
}

// connectConfidential connects to a device that a configuration is sent to or received from. It
// warns if others can read it, and asks for confirmation if the address is not local.
func (opt *provisionOptions) connectConfidential(ctx context.Context, p *provision.Payload, u *ui) (*provision.Client, error) {
	c, err := opt.connect(ctx, p, u)
	if err != nil || c.Encrypted() {
		return c, err
	}
	u.Warn(c.URL() + " is plain HTTP: others in the network can read what is sent, and the device is not authenticated")
	if c.Local() || opt.yes {
		return c, nil
	}
	reason := c.URL() + " is not a local address, and the configuration may contain secrets"
	line, err := u.Answer(ctx, reason+".\nType yes to go on: ", reason+"; pass --yes to go on")
	if err == nil && line != "yes" {
		err = &provision.RefusedError{Address: c.URL(), Reason: "nothing was sent: the answer was not yes"}
	}
	return c, err
}

// keys finds the keys to sign with. config may be nil.
func (opt *provisionOptions) keys(ctx context.Context, config *seed.Config, u *ui) provision.KeyFunc {
	return func() ([]*provision.Key, error) {
		return provision.FindKeys(ctx, option.Keys(opt.key, u), config)
	}
}

func (opt *provisionOptions) apply(ctx context.Context, c *provision.Client, r provision.Request, u *ui) error {
	r.Wait, r.Timeout = opt.wait, opt.timeout
	r.Report = func(e provision.Event) { showProvisioning(e, u) }
	begin := time.Now()
	done, err := c.Apply(ctx, r)
	state := map[string]string{fault.Refused: "refused", fault.RolledBack: "rolled-back", fault.Unknown: "unknown"}[fault.Kind(err)]
	switch {
	case err != nil && u.JSON && state != "":
		return errors.Join(u.Print(map[string]any{"state": state, "address": c.URL(), "why": err.Error()}), opt.hint(err))
	case err != nil:
		return opt.hint(err)
	case u.JSON:
		result := map[string]any{"state": "applied", "address": c.URL(), "reapply": done.Reapply, "seconds": time.Since(begin).Seconds()}
		if done.Forwarding != "" {
			result["forwarding_url"] = done.Forwarding
		}
		if done.Key != nil {
			result["key"] = done.Key.Name
		}
		return u.Print(result)
	}
	u.Infof("applied in %.1f s", time.Since(begin).Seconds())
	if done.Forwarding != "" {
		u.Infof("the new address of the device is %s", done.Forwarding)
	}
	return nil
}

func (opt *provisionOptions) hint(err error) error {
	var refused *provision.RefusedError
	switch {
	case errors.As(err, new(*provision.GoneError)) && opt.wait == 0:
		return fault.WithHint(err, "is it on, and in this network? pass --wait 5m if it is still booting")
	case errors.As(err, &refused) && refused.Status == 401 && opt.key == "":
		return fault.WithHint(err, "name the key of an admin with --key, or add it to ssh-agent")
	case errors.As(err, new(*provision.BusyError)):
		return fault.WithHint(err, "wait until it ends with --wait 10m")
	case fault.Kind(err) == fault.Unknown && opt.seed.File == "":
		return fault.WithHint(err, "check later: imgtool provision export %s", opt.address)
	case fault.Kind(err) == fault.Unknown:
		return fault.WithHint(err, "check later: imgtool provision status %s --seed %s", opt.address, opt.seed.File)
	}
	return err
}

func showProvisioning(e provision.Event, u *ui) {
	switch {
	case e.Sent:
		u.Leaves("the device has the configuration and continues with it")
	case e.Warning != "":
		u.Warn(e.Warning)
	case e.Note != "":
		u.Infof("%s", e.Note)
	case u.JSON:
		event := map[string]any{"event": "step", "step": e.Step.Step, "elapsed_s": e.Step.Elapsed}
		for name, value := range map[string]string{"message": e.Step.Message, "service": e.Step.Service, "mode": e.Step.Mode, "status": e.Step.Status} {
			if value != "" {
				event[name] = value
			}
		}
		u.Event(event)
	default:
		u.Infof("%7.1f s  %s", e.Step.Elapsed, e.Step.Words())
	}
}

func newProvisionSetCommand(u *ui) *cobra.Command {
	opt := &provisionOptions{}
	return opt.applying(&cobra.Command{
		Use:   "set ADDRESS KEY FILE",
		Short: "Change one part of the configuration of a device",
		Long: `Change one part of the configuration of a device. Everything else stays, including the files
of a bundle. KEY is a place in config.toml: users.NAME; containers.container.NAME,
containers.network.NAME or containers.volume.NAME; network, or a key in it, such as
network.dnsmasq.domain.

FILE contains the new value, as JSON, or as TOML without the header of the table; - is standard
input. It replaces the old value, except for the network, where it is merged: tables key by key,
and in JSON null deletes a key.

The device's configuration is read first, which requires an admin's key, and the change is
checked: a change that seed check would refuse is not sent. The device rewrites its config.toml,
so comments and the layout are lost. Exit statuses: as of imgtool provision.`,
		Example: `  imgtool provision set 172.20.30.1 users.ops ops.json
  imgtool provision set 172.20.30.1 containers.container.web web.toml
  echo '{"dns_servers": ["9.9.9.9"], "default_gateway": null}' |
      imgtool provision set 172.20.30.1 network -
  echo '[22, 443]' |
      imgtool provision set 172.20.30.1 network.firewall.inbound.wan.tcp -`,
	}, []string{"device, by its address", "part of the configuration", "file has its new value"}, "", func(ctx context.Context) error { return runProvisionSet(ctx, opt, u) })
}

func newProvisionUnsetCommand(u *ui) *cobra.Command {
	opt := &provisionOptions{}
	return opt.applying(&cobra.Command{
		Use:   "unset ADDRESS KEY",
		Short: "Delete one part of the configuration of a device",
		Long: `Delete one part of the configuration of a device. Everything else stays, including the files
of a bundle. KEY is a place as in imgtool provision set, but the network as a whole cannot be
deleted. As there, a change that seed check would refuse is not sent, and comments are lost.`,
		Example: `  imgtool provision unset 172.20.30.1 users.ops
  imgtool provision unset 172.20.30.1 network.default_gateway
  imgtool provision unset 172.20.30.1 containers.volume.data --key ~/.ssh/key`,
	}, []string{"device, by its address", "part of the configuration"}, "", func(ctx context.Context) error { return runProvisionSet(ctx, opt, u) })
}

// runProvisionSet sets a place to the value in a file, or deletes it if no file is given.
func runProvisionSet(ctx context.Context, opt *provisionOptions, u *ui) (err error) {
	var value []byte
	if len(opt.args) == 2 {
		if value, err = provision.ReadValue(opt.args[1], u.In); err != nil {
			return err
		}
	}
	change, err := provision.ParseChange(opt.args[0], value)
	if err != nil {
		return err
	}
	c, err := opt.connectConfidential(ctx, nil, u)
	if err != nil {
		return err
	}
	e, err := c.Edit(ctx, change, opt.keys(ctx, nil, u))
	if err != nil {
		return opt.hint(err)
	}
	if e.Unchanged {
		u.Infof("the device has this value already; nothing was sent")
		if u.JSON {
			return u.Print(map[string]any{"state": "same", "address": c.URL()})
		}
		return nil
	}
	if e.LosesLayout {
		u.Warn("the device rewrites its config.toml: comments and the layout are lost")
	}
	return opt.apply(ctx, c, e.Request, u)
}

func newProvisionStatusCommand(u *ui) *cobra.Command {
	opt := &provisionOptions{}
	cmd := opt.command(&cobra.Command{
		Use:   "status ADDRESS",
		Short: "Show whether a device is up and has a configuration",
		Long: `Show whether a device is up and has a configuration, and with --seed whether it is that
configuration, for which the device requires the signature of an admin. Exit status 0: it is up
and has the configuration; 8: the configuration differs; 9: the device does not answer.`,
		Example: `  imgtool provision status 172.20.30.1 --wait 5m
  imgtool provision status 172.20.30.1 --seed config.toml`,
	}, addressOnly, "config.toml or bundle that it should have", func(ctx context.Context) error { return runProvisionStatus(ctx, opt, u) })
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := usage.CheckUseless(cmd, usage.Useless{If: !opt.seed.Given(), Why: "without --seed", Flags: []string{"key", "yes"}}); err != nil {
			return err
		}
		return run(cmd, args)
	}
	return cmd
}

func runProvisionStatus(ctx context.Context, opt *provisionOptions, u *ui) error {
	var p *provision.Payload
	var want *seed.Config
	connect := opt.connect
	if opt.seed.Given() {
		var err error
		if p, err = opt.payload(u); err != nil {
			return err
		}
		want, connect = p.Config, opt.connectConfidential
	}
	c, err := connect(ctx, p, u)
	if err != nil {
		return err
	}
	s, err := c.Status(ctx, want, opt.keys(ctx, want, u))
	if err != nil {
		return opt.hint(err)
	}
	state, words := "provisioned", "up, and has a configuration"
	switch {
	case s.Fresh:
		state, words = "fresh", "up, and waits for its first configuration"
	case s.Same:
		words = "up, and has the configuration of " + opt.seed.File
	case want != nil:
		words = "up, and has another configuration than " + opt.seed.File
	}
	if want == nil && c.Device != "" {
		words += " (device " + c.Device + ")"
	}
	if u.JSON {
		result := map[string]any{"address": c.URL(), "state": state}
		if c.Device != "" {
			result["device"] = c.Device
		}
		if want != nil {
			result["same"] = s.Same
		}
		err = u.Print(result)
	} else {
		err = u.Printf("%s: %s\n", c.URL(), words)
	}
	if err == nil && want != nil && !s.Same {
		err = fault.New(fault.Mismatch, "%s: %s", c.URL(), words)
	}
	return err
}

func newProvisionValidateCommand(u *ui) *cobra.Command {
	opt := &provisionOptions{}
	return opt.command(&cobra.Command{
		Use:   "validate ADDRESS --seed FILE",
		Short: "Make a device check a configuration without applying it",
		Long: `Make a device check a config.toml or a bundle without applying it. The device does so for its
admins only, so that a device without a configuration refuses; imgtool seed check needs no
device. Exit status 4 if the device refuses it.`,
		Example: `  imgtool provision validate 172.20.30.1 --seed config.toml`,
	}, addressOnly, "config.toml or bundle to check", func(ctx context.Context) error { return runProvisionValidate(ctx, opt, u) })
}

func runProvisionValidate(ctx context.Context, opt *provisionOptions, u *ui) error {
	p, c, err := opt.begin(ctx, u)
	if err != nil {
		return err
	}
	return opt.hint(c.WithKey(ctx, opt.keys(ctx, p.Config, u), func(key *provision.Key) error {
		warnings, err := c.Validate(ctx, p.Name, p.Body, key)
		if err != nil {
			return err
		}
		if u.JSON {
			return u.Print(map[string]any{"ok": true, "address": c.URL(), "warnings": append([]string{}, warnings...)})
		}
		for _, w := range warnings {
			u.Warn(w)
		}
		u.Infof("%s would take %s", c.URL(), opt.seed.File)
		return nil
	}))
}

func newProvisionExportCommand(u *ui) *cobra.Command {
	opt := &provisionOptions{}
	cmd := &cobra.Command{
		Use:     "export ADDRESS",
		Short:   "Print the configuration of a device",
		Long:    `Print the config.toml of a device. The device requires the signature of an admin. Files of a bundle are not included.`,
		Example: `  imgtool provision export 172.20.30.1 -o config.toml`,
	}
	cmd.Flags().StringVarP(&opt.output, "output", "o", "", "`FILE` to write (default: standard output)")
	return opt.command(cmd, addressOnly, "", func(ctx context.Context) error { return runProvisionExport(ctx, opt, u) })
}

func runProvisionExport(ctx context.Context, opt *provisionOptions, u *ui) error {
	toFile := opt.output != "" && opt.output != "-"
	if toFile {
		if err := hostfile.CheckOutput(opt.output); err != nil {
			return err
		}
	}
	c, err := opt.connectConfidential(ctx, nil, u)
	if err != nil {
		return err
	}
	return opt.hint(c.WithKey(ctx, opt.keys(ctx, nil, u), func(key *provision.Key) error {
		config, err := c.Export(ctx, key)
		if err != nil {
			return err
		}
		if !toFile {
			return u.Write(config)
		}
		if err := pending.WritePrivate(opt.output, config); err != nil {
			return err
		}
		if u.JSON {
			return u.Print(map[string]any{"address": c.URL(), "path": opt.output, "size": len(config)})
		}
		u.Infof("%s: %s", opt.output, image.FormatSize(int64(len(config))))
		return nil
	}))
}
