package provision

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/seed"
	"imgtool/image/seed/api"
	"imgtool/image/seed/seedfile"
)

// Payload is a configuration as it is sent.
type Payload struct {
	Name    string // config.toml, config.tar.gz or config.tar.zst; the local file name is not sent
	Body    []byte
	Config  *seed.Config
	Secrets []string // values that must not appear in messages, longest first
}

// NewPayload returns the payload of a seed that the device takes.
func NewPayload(v *seedfile.Verdict) *Payload {
	p := &Payload{Name: "config." + v.Format, Body: v.Body, Config: v.Config}
	secrets := v.Config.Secrets()
	for _, value := range v.Columns {
		if len(value) >= 4 {
			secrets = append(secrets, value)
		}
	}
	p.Secrets = longestFirst(secrets)
	return p
}

// longestFirst sorts secrets, since a secret can be a part of another.
func longestFirst(secrets []string) []string {
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	return secrets
}

// KeyFunc returns the keys to sign with, the most likely first.
type KeyFunc func() ([]*Key, error)

// WithKey calls f with one key after another until the device accepts its signature. A
// device without a configuration has no admins, and refuses.
func (c *Client) WithKey(ctx context.Context, keys KeyFunc, f func(*Key) error) error {
	fresh, err := c.Fresh(ctx)
	if err != nil {
		return err
	}
	if fresh {
		return &RefusedError{Address: c.URL(), Reason: "the device waits for its first configuration, so it has no admin who could do this"}
	}
	all, err := keys()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return &RefusedError{c.URL(), http.StatusUnauthorized, "the device requires the signature of one of its admins, and no key was found"}
	}
	for _, key := range all {
		if err = f(key); !isUnauthorized(err) {
			return err
		}
	}
	return err
}

// Status is the state of a device.
type Status struct {
	Fresh bool // it waits for its first configuration
	Same  bool // it has the configuration asked about
}

// Status returns the state of the device. If config is nil, no key is needed.
func (c *Client) Status(ctx context.Context, config *seed.Config, keys KeyFunc) (s Status, err error) {
	if s.Fresh, err = c.Fresh(ctx); err != nil || s.Fresh || config == nil {
		return s, err
	}
	err = c.WithKey(ctx, keys, func(key *Key) error {
		text, err := c.Export(ctx, key)
		if err == nil {
			active, _ := seed.Check(text)
			s.Same = active != nil && active.Same(config)
		}
		return err
	})
	return s, err
}

// Edit is a change of one place in the configuration of a device.
type Edit struct {
	Request
	Unchanged   bool // the device has the value already
	LosesLayout bool // config.toml has comments or a layout, which the device does not keep
}

// Edit reads the configuration of the device and checks a change of it. Nothing is sent.
// It sets c.Secrets.
func (c *Client) Edit(ctx context.Context, change api.Change, keys KeyFunc) (*Edit, error) {
	var signer *Key
	var old []byte
	err := c.WithKey(ctx, keys, func(key *Key) (err error) {
		signer = key
		old, err = c.Export(ctx, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	text, err := seed.Change(old, change.Place, change.Value)
	if err != nil {
		return nil, err
	}
	config, faults := seed.Check(text)
	if config == nil {
		return nil, fmt.Errorf("with this change the device would refuse its configuration: %w", seedfile.Faulty("config.toml", faults, func(string) {}))
	}
	before, err := seed.Canonical(old)
	if err != nil {
		return nil, err
	}
	secrets := config.Secrets()
	if c, _ := seed.Check(old); c != nil {
		secrets = append(secrets, c.Secrets()...)
	}
	c.Secrets = longestFirst(secrets)
	return &Edit{
		Request: Request{Payload: &Payload{Name: "config.toml", Body: text, Config: config}, Change: &change,
			Keys: func() ([]*Key, error) { return []*Key{signer}, nil }},
		Unchanged:   bytes.Equal(text, before),
		LosesLayout: !bytes.Equal(before, old),
	}, nil
}

// ParseChange returns the change of a place of config.toml, such as users.ops or
// network.dnsmasq.domain, to a JSON value. A nil value deletes it. It is a usage error if the
// place cannot be changed alone.
func ParseChange(place string, value []byte) (api.Change, error) {
	c := api.Change{Place: strings.Split(place, "."), Value: value}
	unnamed := slices.Contains(c.Place, "")
	if c.Place[0] == "network" && len(c.Place) > 1 {
		// The network is changed by merging, so that a key in it is an object with this key.
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
		return c, fault.New(fault.Usage, "%q is not a place that can be changed alone; these are users.NAME, network and keys in it, and containers.container.NAME, .network.NAME and .volume.NAME", place)
	}
	return c, nil
}

// ReadValue reads a JSON value, or a TOML table as JSON, from a file. The file - is stdin.
func ReadValue(file string, stdin io.Reader) ([]byte, error) {
	in, name := stdin, "standard input"
	if file != "-" {
		f, err := hostfile.OpenStream(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in, name = f, file
	}
	text, err := io.ReadAll(io.LimitReader(in, api.MaxChange+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > api.MaxChange:
		return nil, fmt.Errorf("%s has more than %d KiB; a change has up to %d KiB", name, api.MaxChange>>10, api.MaxChange>>10)
	case json.Valid(text):
		return text, nil
	case strings.HasSuffix(file, ".json"):
		return nil, fmt.Errorf("%s is not JSON", name)
	}
	if text, err = seed.JSON(text); err != nil {
		return nil, fmt.Errorf("%s is neither JSON nor TOML: %w", name, err)
	}
	return text, nil
}
