package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/image/fault"
	"imgtool/image/seed"
	"imgtool/image/seed/api"
	"imgtool/image/seed/provision"
)

// places says which parts of a configuration can be changed alone.
const places = `KEY is the place in config.toml:

  users.NAME
  network, or a key in it, such as network.dnsmasq.domain
  containers.container.NAME
  containers.network.NAME
  containers.volume.NAME`

func newProvisionSetCommand(u *ui) *cobra.Command {
	var opt provisionOptions
	cmd := &cobra.Command{
		Use:   "set ADDRESS KEY FILE",
		Short: "Change one part of the configuration a device has",
		Long: `Change one part of the configuration that a device has. The rest stays, and so do the files
of a bundle. ` + places + `

FILE has what is to be there, as JSON, or as TOML without the header of the table; - is
standard input. It takes the place of what is there, but for the network, where it is merged
into it: tables key by key, and in JSON null deletes a key.

The device's configuration is read first, which wants an admin's key, and the change is tried
on it: what seed check would refuse is not sent. The device writes its config.toml anew, so
comments and the layout are lost. The exit statuses are those of imgtool provision.`,
		Example: `  imgtool provision set 172.20.30.1 users.ops ops.json
  imgtool provision set 172.20.30.1 containers.container.web web.toml --key ~/.ssh/id_ed25519
  echo '{"dns_servers": ["9.9.9.9"], "default_gateway": null}' | imgtool provision set 172.20.30.1 network -
  echo '[22, 443]' | imgtool provision set 172.20.30.1 network.firewall.inbound.wan.tcp -`,
		Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := readValue(args[2], u)
			if err != nil {
				return err
			}
			return runProvisionChange(cmd.Context(), args[0], args[1], value, opt, u)
		},
	}
	opt.flags(cmd, "")
	opt.timeoutFlag(cmd)
	return cmd
}

func newProvisionUnsetCommand(u *ui) *cobra.Command {
	var opt provisionOptions
	cmd := &cobra.Command{
		Use:   "unset ADDRESS KEY",
		Short: "Delete one part of the configuration a device has",
		Long: `Delete one part of the configuration that a device has. The rest stays, and so do the files
of a bundle. ` + places + `

The network as a whole cannot be deleted. As with imgtool provision set, what seed check would
refuse is not sent, and comments are lost.`,
		Example: `  imgtool provision unset 172.20.30.1 users.ops
  imgtool provision unset 172.20.30.1 network.default_gateway
  imgtool provision unset 172.20.30.1 containers.volume.data --key ~/.ssh/id_ed25519`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runProvisionChange(cmd.Context(), args[0], args[1], nil, opt, u)
		},
	}
	opt.flags(cmd, "")
	opt.timeoutFlag(cmd)
	return cmd
}

// readValue reads a JSON value, or a table in TOML as one.
func readValue(file string, u *ui) ([]byte, error) {
	in, name := u.in, "standard input"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in, name = f, file
	}
	text, err := io.ReadAll(io.LimitReader(in, api.MaxChange+1))
	if err != nil {
		return nil, err
	}
	if len(text) > api.MaxChange {
		return nil, fmt.Errorf("%s: a change has up to %d KiB", name, api.MaxChange>>10)
	}
	if json.Valid(text) {
		return text, nil
	}
	if strings.HasSuffix(file, ".json") {
		return nil, fmt.Errorf("%s is not JSON", name)
	}
	if text, err = seed.JSON(text); err != nil {
		return nil, fmt.Errorf("%s is neither JSON nor TOML: %w", name, err)
	}
	return text, nil
}

// changeOf is the change of what a person calls a key. A value of nil deletes it.
func changeOf(key string, value []byte) (api.Change, error) {
	c := api.Change{Place: strings.Split(key, "."), Value: value}
	unnamed := slices.Contains(c.Place, "")
	if c.Place[0] == "network" && len(c.Place) > 1 {
		if value == nil {
			c.Value = []byte("null")
		}
		for _, name := range slices.Backward(c.Place[1:]) {
			quoted, err := json.Marshal(name)
			if err != nil {
				return c, err
			}
			c.Value = fmt.Appendf(nil, "{%s: %s}", quoted, c.Value)
		}
		c.Place = c.Place[:1]
	}
	if method, _ := c.Request(); method == "" || unnamed {
		return c, fault.New(fault.Usage, "%q is not a place that can be changed alone; these are users.NAME, network and keys in it, and containers.container.NAME, .network.NAME and .volume.NAME", key)
	}
	return c, nil
}

func runProvisionChange(ctx context.Context, address, key string, value []byte, opt provisionOptions, u *ui) error {
	change, err := changeOf(key, value)
	if err != nil {
		return err
	}
	c, err := reach(ctx, address, opt, true, u)
	if err != nil {
		return err
	}
	var with *provision.Key
	var old []byte
	err = withKey(ctx, c, opt, nil, u, func(key *provision.Key) error {
		with = key
		old, err = c.Export(ctx, key)
		return err
	})
	if err != nil {
		return err
	}
	text, err := seed.Change(old, change.Place, change.Value)
	if err != nil {
		return err
	}
	config, faults := seed.Check(text)
	if config == nil {
		return fmt.Errorf("with this change the device would refuse its configuration:\n%w", allFaults("config.toml", faults))
	}
	before, err := seed.Canonical(old)
	if err != nil {
		return err
	}
	if bytes.Equal(text, before) {
		u.say("the device has it so already; nothing was sent")
		if u.json {
			return u.print(map[string]any{"state": "same", "address": c.URL()})
		}
		return nil
	}
	if !bytes.Equal(before, old) {
		u.warn("the device writes its config.toml anew: comments and the layout are lost")
	}
	c.Secrets = config.Secrets()
	if had, _ := seed.Check(old); had != nil {
		c.Secrets = append(c.Secrets, had.Secrets()...)
	}
	// The longest first: one may be part of another.
	slices.SortFunc(c.Secrets, func(a, b string) int { return len(b) - len(a) })
	return apply(ctx, c, provision.Request{
		Name: "config.toml", Body: text, Config: config, Change: &change,
		Keys: func() ([]*provision.Key, error) { return []*provision.Key{with}, nil },
	}, address, opt, u)
}
