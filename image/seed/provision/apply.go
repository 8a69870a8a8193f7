package provision

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"imgtool/image/fault"
	"imgtool/image/seed"
	"imgtool/image/seed/api"
)

// RolledBackError is a configuration that was tried and is not there any more.
type RolledBackError struct{ Address, Why string }

func (e *RolledBackError) Error() string { return e.Address + ": " + e.Why }
func (e *RolledBackError) Kind() string  { return fault.RolledBack }

// UnknownError is a configuration that may be there or not.
type UnknownError struct{ Address, Why string }

func (e *UnknownError) Error() string { return e.Address + ": " + e.Why }
func (e *UnknownError) Kind() string  { return fault.Unknown }

// BusyError is a device with another job.
type BusyError struct{ Address, Why string }

func (e *BusyError) Error() string { return e.Address + ": the device is busy: " + e.Why }
func (e *BusyError) Kind() string  { return fault.Refused }

// Request is a configuration for a device.
type Request struct {
	Name   string // that the device tells bundles by
	Body   []byte
	Config *seed.Config // of the body
	// Change, if not nil, is sent in place of Body, which is then what the device is to
	// make of it: a plain document.
	Change *api.Change

	// Keys returns those to sign with, most likely first. It is called once, and
	// only when a signature is needed.
	Keys func() ([]*Key, error)
	// Patience is how long the device may be busy with another job.
	Patience time.Duration
	// Timeout is how long the job may take; 0 derives it from the configuration.
	Timeout time.Duration
	// Report is told of all that happens.
	Report func(Event)
}

// Event is something that happens. Of its fields one is set.
type Event struct {
	Sent    bool       // from now on the device has what it needs
	Step    *api.Event // of the job
	Warning string     // of the device
	Note    string
}

// Applied is a configuration that the device has.
type Applied struct {
	Reapply    bool
	Forwarding string        // where the device is from now on, if that is another address
	Duration   time.Duration // of the job, 0 if that is not known
	Key        *Key          // nil if none was needed
}

// applying is a request under way.
type applying struct {
	Request
	ctx      context.Context
	first    *Client
	c        *Client
	at       []*Client // where the device may be, c first
	fresh    bool      // it has no configuration
	keys     []*Key
	asked    bool  // for keys
	key      *Key  // that the device takes
	why      error // it took none
	old      []byte
	deadline time.Time
}

// every is how often a job is asked for.
const every = 500 * time.Millisecond

// Apply gives the device a configuration and waits until it is applied. Its errors
// are a *GoneError or *OtherError before anything was sent; *RefusedError,
// *BusyError and *RolledBackError, after which the device is as before; and
// *UnknownError.
func (c *Client) Apply(ctx context.Context, r Request) (*Applied, error) {
	a := &applying{Request: r, ctx: ctx, first: c, c: c, at: []*Client{c}}
	if a.Timeout == 0 {
		// A rollback runs the sequence again; images are pulled before.
		timeout, settle := r.Config.Activation()
		a.Timeout = 2*(timeout+settle) + 5*time.Minute
	}
	if err := c.Health(ctx); err != nil {
		return nil, err
	}
	if gateway := r.Config.Gateway(); c.base.Scheme == "http" && gateway.IsValid() {
		moved := newClient(&url.URL{Scheme: "http", Host: netip.AddrPortFrom(gateway, api.Port).String()})
		moved.Secrets, moved.Device, moved.Timeout = c.Secrets, c.Device, c.Timeout
		if moved.base.Host != c.base.Host {
			a.at = append(a.at, moved)
		}
	}
	var err error
	if a.fresh, err = c.Fresh(ctx); err != nil {
		return nil, err
	}
	if a.fresh {
		a.note("%s waits for its first configuration", c.URL())
	}
	id, err := a.send(a.Patience)
	a.deadline = time.Now().Add(a.Timeout)
	if err == nil {
		a.Report(Event{Sent: true})
	}
	// An answer that was lost is asked for by sending it again: while the first job
	// runs the device is busy, and another one does the same once more.
	for told := false; err == nil && id == ""; told = true {
		if !told {
			a.note("the answer was lost; sending it again")
		}
		if err := sleep(a.ctx, 2*every); err != nil {
			return nil, err
		}
		left := time.Until(a.deadline)
		var again error
		if id, again = a.send(left); again != nil || left <= 0 {
			return nil, &UnknownError{c.URL(), fmt.Sprintf("the answer was lost, and within %s there was no other: %v", a.Timeout.Round(time.Second), again)}
		}
	}
	if err != nil {
		return nil, err
	}
	return a.follow(id)
}

// send submits the job, signed if the device wants that.
func (a *applying) send(patience time.Duration) (id string, err error) {
	if a.fresh {
		id, err = a.submit(patience)
		if !unsigned(err) {
			return id, err
		}
		// Somebody was faster, or an answer was lost.
	}
	if a.key == nil {
		if err := a.judge(); err != nil {
			return "", err
		}
	}
	return a.submit(patience)
}

func (a *applying) note(format string, args ...any) {
	a.Report(Event{Note: fmt.Sprintf(format, args...)})
}

// judge finds the key that the device takes, and lets it judge the configuration.
// If it takes none, the configuration is for the device to refuse.
func (a *applying) judge() error {
	if err := a.findKeys(); err != nil {
		return err
	}
	for _, key := range a.keys {
		warnings, err := a.c.Validate(a.ctx, a.Name, a.Body, key)
		if unsigned(err) {
			a.why = err
			continue
		}
		if err != nil {
			return err
		}
		a.key = key
		for _, w := range warnings {
			a.Report(Event{Warning: w})
		}
		a.note("%s takes the signature of %s, and the configuration is valid", a.c.URL(), key.Name)
		// The configuration of before is good to know, and no more.
		if a.old, err = a.c.Export(a.ctx, key); err == nil {
			if had, _ := seed.Check(a.old); had != nil && had.UsesFiles() && a.Name == "config.toml" && a.Change == nil {
				a.Report(Event{Warning: "the configuration of before has files of a bundle; they go, since this one is no bundle"})
			}
		}
		return a.ctx.Err()
	}
	return nil
}

func (a *applying) findKeys() (err error) {
	if !a.asked {
		a.asked = true
		a.keys, err = a.Keys()
	}
	return err
}

// submit begins the job. The id is empty if the device may have got the
// configuration, but its answer did not come.
func (a *applying) submit(patience time.Duration) (id string, err error) {
	r := request{method: http.MethodPost, path: api.PathConfig, body: a.Body, header: map[string]string{api.HeaderFilename: a.Name}, timeout: judging * cmp.Or(a.c.Timeout, answering)}
	if a.Change != nil {
		r.body, r.header = a.Change.Value, nil
		r.method, r.path = a.Change.Request()
	}
	until := time.Now().Add(patience)
	for told := false; ; told = true {
		var status int
		var header http.Header
		var body []byte
		if a.key != nil {
			status, header, body, err = a.c.signed(a.ctx, r, a.key)
		} else {
			status, header, body, err = a.c.do(a.ctx, r)
		}
		var gone *GoneError
		if errors.As(err, &gone) && gone.sent {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		switch status {
		case http.StatusAccepted:
			var s api.Submitted
			json.Unmarshal(body, &s)
			for _, path := range []string{s.JobURL, header.Get("Location")} {
				if u, err := url.Parse(path); err == nil && s.JobID == "" {
					s.JobID, _ = strings.CutPrefix(u.Path, api.PathJobs)
				}
			}
			return s.JobID, nil
		case http.StatusConflict:
			if time.Now().After(until) {
				return "", &BusyError{a.c.URL(), a.c.said(status, body)}
			}
			if !told {
				a.note("%s is busy with another job; waiting for its end", a.c.URL())
			}
			if err := sleep(a.ctx, 4*every); err != nil {
				return "", err
			}
			continue
		case http.StatusUnauthorized:
			return "", a.unauthorized(status, body)
		case http.StatusNotFound, http.StatusMethodNotAllowed:
			if a.Change != nil {
				return "", &RefusedError{a.c.URL(), status, fmt.Sprintf("the device cannot change %s alone; give it a whole configuration", strings.Join(a.Change.Place, "."))}
			}
		}
		return "", a.c.refused(status, body)
	}
}

// unauthorized says why a configuration without signature was not taken.
func (a *applying) unauthorized(status int, body []byte) error {
	switch {
	case len(a.keys) == 1 && a.why != nil:
		return a.why
	case a.why != nil:
		var names []string
		for _, key := range a.keys {
			names = append(names, key.Name)
		}
		return &RefusedError{a.c.URL(), status, "the device takes the signature of none of " + strings.Join(names, ", ")}
	}
	return &RefusedError{a.c.URL(), status, fmt.Sprintf("the device has a configuration already, and takes another only with the signature of one of its admins (%q)", a.c.said(status, body))}
}

// sleep is an error if the context ends first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// Wait waits until a device answers at the address.
func Wait(ctx context.Context, address *url.URL, patience time.Duration, waiting func(error)) (*Client, error) {
	until := time.Now().Add(patience)
	for told := false; ; told = true {
		c, err := Dial(ctx, address)
		if err == nil {
			err = c.Health(ctx)
		}
		var other *OtherError
		if err == nil || ctx.Err() != nil || errors.As(err, &other) || time.Now().After(until) {
			return c, err
		}
		if !told {
			waiting(err)
		}
		if err := sleep(ctx, 2*every); err != nil {
			return nil, err
		}
	}
}
