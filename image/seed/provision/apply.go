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

// Request is a configuration for a device.
type Request struct {
	*Payload
	// Change, if not nil, is sent instead of Body. Body is then the document that the device
	// makes of it.
	Change *api.Change

	// Keys is called once, and only if a signature is needed.
	Keys KeyFunc
	// Wait is how long to wait while the device runs another job.
	Wait time.Duration
	// Timeout is the time limit of the job; 0 derives it from the configuration.
	Timeout time.Duration
	// Report is called with each event.
	Report func(Event)
}

// Event is a step of Apply. A single field is set.
type Event struct {
	Sent    bool       // the device has received the configuration and applies it
	Step    *api.Event // a step of the job
	Warning string     // a warning of the device
	Note    string
}

// Applied describes a configuration that was applied.
type Applied struct {
	Reapply    bool          // it replaced another configuration
	Forwarding string        // the new address of the device, if it changed
	Duration   time.Duration // of the job; 0 if unknown
	Key        *Key          // that signed it; nil if none was needed
}

type applier struct {
	Request
	ctx       context.Context
	first     *Client
	c         *Client
	addresses []*Client // where the device may be, c first
	fresh     bool      // the device has no configuration
	keys      []*Key
	asked     bool  // Keys was called
	key       *Key  // accepted by the device
	keyErr    error // why the device accepted no key
	old       []byte
	deadline  time.Time
}

// pollInterval is the time between two requests for the state of a job.
const pollInterval = 500 * time.Millisecond

// Apply sends the device a configuration and waits until it is applied. The error is a
// *GoneError or *OtherError if nothing was sent; a *RefusedError, a *BusyError or an
// error of the kind [fault.RolledBack] if the device has the configuration that it had
// before; or an error of the kind [fault.Unknown].
func (c *Client) Apply(ctx context.Context, r Request) (*Applied, error) {
	a := &applier{Request: r, ctx: ctx, first: c, c: c, addresses: []*Client{c}}
	if a.Timeout == 0 {
		// A rollback activates containers a second time; pulling images is not limited.
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
			a.addresses = append(a.addresses, moved)
		}
	}
	var err error
	if a.fresh, err = c.Fresh(ctx); err != nil {
		return nil, err
	}
	if a.fresh {
		a.note("%s waits for its first configuration", c.URL())
	}
	id, err := a.send(a.Wait)
	a.deadline = time.Now().Add(a.Timeout)
	if err == nil {
		a.Report(Event{Sent: true})
	}
	// If the answer was lost, the request is sent again: the device is busy while the first
	// job runs, and applying the same configuration twice changes nothing.
	for first := true; err == nil && id == ""; first = false {
		if first {
			a.note("the answer was lost; sending it again")
		}
		if err := sleep(a.ctx, 2*pollInterval); err != nil {
			return nil, err
		}
		left := time.Until(a.deadline)
		again := error(errLost)
		if id, err = a.send(left); err != nil {
			again = err
		}
		if id == "" && (err != nil || left <= 0) {
			return nil, fault.New(fault.Unknown, "%s: the answer of the device was lost, and it gave no other within %s: %v", c.URL(), a.Timeout.Round(time.Second), again)
		}
	}
	if err != nil {
		return nil, err
	}
	return a.follow(id)
}

var errLost = errors.New("its answers were lost, too")

// send submits the job, signed if the device requires it.
func (a *applier) send(wait time.Duration) (id string, err error) {
	if a.fresh {
		id, err = a.submit(wait)
		if !isUnauthorized(err) {
			return id, err
		}
		// The device got a configuration in the meantime, or an answer was lost.
	}
	if a.key == nil {
		if err := a.validate(); err != nil {
			return "", err
		}
	}
	return a.submit(wait)
}

func (a *applier) note(format string, args ...any) {
	a.Report(Event{Note: fmt.Sprintf(format, args...)})
}

// validate finds a key that the device accepts, and makes it check the configuration. If it
// accepts no key, the request is sent without a signature, so that the device refuses it.
func (a *applier) validate() error {
	if err := a.findKeys(); err != nil {
		return err
	}
	for _, key := range a.keys {
		warnings, err := a.c.Validate(a.ctx, a.Name, a.Body, key)
		if isUnauthorized(err) {
			a.keyErr = err
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
		// The previous configuration is only used for messages, so errors are ignored.
		if a.old, err = a.c.Export(a.ctx, key); err == nil {
			if old, _ := seed.Check(a.old); old != nil && old.UsesFiles() && a.Name == "config.toml" && a.Change == nil {
				a.Report(Event{Warning: "the previous configuration has files of a bundle; the device deletes them, since this one is not a bundle"})
			}
		}
		return a.ctx.Err()
	}
	return nil
}

func (a *applier) findKeys() (err error) {
	if !a.asked {
		a.asked = true
		a.keys, err = a.Keys()
	}
	return err
}

// submit starts the job and returns its id. The id is empty if the device may have received
// the configuration, but its answer was lost.
func (a *applier) submit(wait time.Duration) (id string, err error) {
	r := request{method: http.MethodPost, path: api.PathConfig, body: a.Body, header: map[string]string{api.HeaderFilename: a.Name}, timeout: uploadFactor * cmp.Or(a.c.Timeout, answerTimeout)}
	if a.Change != nil {
		r.body, r.header = a.Change.Value, nil
		r.method, r.path = a.Change.Request()
	}
	deadline := time.Now().Add(wait)
	for first := true; ; first = false {
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
			if time.Now().After(deadline) {
				return "", &BusyError{a.c.URL(), a.c.errorText(status, body)}
			}
			if first {
				a.note("%s is busy with another job; waiting until it ends", a.c.URL())
			}
			if err := sleep(a.ctx, 4*pollInterval); err != nil {
				return "", err
			}
			continue
		case http.StatusUnauthorized:
			return "", a.unauthorized(status, body)
		case http.StatusNotFound, http.StatusMethodNotAllowed:
			if a.Change != nil {
				return "", &RefusedError{a.c.URL(), status, fmt.Sprintf("the device cannot change %s alone; send a whole configuration", strings.Join(a.Change.Place, "."))}
			}
		}
		return "", a.c.refused(status, body)
	}
}

// unauthorized returns the error of a configuration without a signature that was refused.
func (a *applier) unauthorized(status int, body []byte) error {
	switch {
	case len(a.keys) == 1 && a.keyErr != nil:
		return a.keyErr
	case a.keyErr != nil:
		var names []string
		for _, key := range a.keys {
			names = append(names, key.Name)
		}
		return &RefusedError{a.c.URL(), status, "the device does not take the signature of any of these keys: " + strings.Join(names, ", ")}
	}
	return &RefusedError{a.c.URL(), status, fmt.Sprintf("the device already has a configuration, and takes another only with the signature of one of its admins (%q)", a.c.errorText(status, body))}
}
