package main

import (
	"context"

	"github.com/spf13/cobra"

	"imgtool/image/seed/provision"
)

// places lists the parts of a configuration that can be changed alone.
const places = `KEY is a place in config.toml:

  users.NAME
  network, or a key in it, such as network.dnsmasq.domain
  containers.container.NAME
  containers.network.NAME
  containers.volume.NAME`

func newProvisionSetCommand(u *ui) *cobra.Command {
	opt := &provisionOptions{}
	return opt.applying(&cobra.Command{
		Use:   "set ADDRESS KEY FILE",
		Short: "Change one part of the configuration of a device",
		Long: `Change one part of the configuration of a device. Everything else stays, including the files
of a bundle. ` + places + `

FILE contains the new value, as JSON, or as TOML without the header of the table; - is standard
input. It replaces the old value, except for the network, where it is merged: tables key by key,
and in JSON null deletes a key.

The device's configuration is read first, which requires an admin's key, and the change is
checked: a change that seed check would refuse is not sent. The device rewrites its config.toml,
so comments and the layout are lost. Exit statuses: as of imgtool provision.`,
		Example: `  imgtool provision set 172.20.30.1 users.ops ops.json
  imgtool provision set 172.20.30.1 containers.container.web web.toml --key ~/.ssh/id_ed25519
  echo '{"dns_servers": ["9.9.9.9"], "default_gateway": null}' | imgtool provision set 172.20.30.1 network -
  echo '[22, 443]' | imgtool provision set 172.20.30.1 network.firewall.inbound.wan.tcp -`,
	}, 3, "", func(ctx context.Context) error { return runProvisionSet(ctx, opt, u) })
}

func newProvisionUnsetCommand(u *ui) *cobra.Command {
	opt := &provisionOptions{}
	return opt.applying(&cobra.Command{
		Use:   "unset ADDRESS KEY",
		Short: "Delete one part of the configuration of a device",
		Long: `Delete one part of the configuration of a device. Everything else stays, including the files
of a bundle. ` + places + `

The network as a whole cannot be deleted. As with imgtool provision set, a change that seed check
would refuse is not sent, and comments are lost.`,
		Example: `  imgtool provision unset 172.20.30.1 users.ops
  imgtool provision unset 172.20.30.1 network.default_gateway
  imgtool provision unset 172.20.30.1 containers.volume.data --key ~/.ssh/id_ed25519`,
	}, 2, "", func(ctx context.Context) error { return runProvisionSet(ctx, opt, u) })
}

// runProvisionSet sets a place to the value in a file, or deletes it if no file is given.
func runProvisionSet(ctx context.Context, opt *provisionOptions, u *ui) (err error) {
	var value []byte
	if len(opt.args) == 2 {
		if value, err = provision.ReadValue(opt.args[1], u.in); err != nil {
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
		if u.json {
			return u.print(map[string]any{"state": "same", "address": c.URL()})
		}
		return nil
	}
	if e.LosesLayout {
		u.warn("the device rewrites its config.toml: comments and the layout are lost")
	}
	return opt.apply(ctx, c, e.Request, u)
}
