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

	"imgtool/image/seed"
	"imgtool/image/seed/api"
)

// RolledBackError is a configuration that was tried and is not there any more.
type RolledBackError struct{ Address, Why string }

func (e *RolledBackError) Error() string { return e.Address + ": " + e.Why }

// UnknownError is a configuration that may be there or not.
type UnknownError struct{ Address, Why string }

func (e *UnknownError) Error() string { return e.Address + ": " + e.Why }

// BusyError is a device with another job.
type BusyError struct{ Address, Why string }

func (e *BusyError) Error() string { return e.Address + ": the device is busy: " + e.Why }

// Request is a configuration for a device.
type Request struct {
	Name   string // that the device tells bundles by
	Body   []byte
	Config *seed.Config // of the body

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
			if had, _ := seed.Check(a.old); had != nil && had.UsesFiles() && a.Name == "config.toml" {
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

// follow watches the job until its end.
func (a *applying) follow(id string) (*Applied, error) {
	seen := 0
	step := ""
	promoted := false
	ended := 0
	lost := false
	for {
		if time.Now().After(a.deadline) {
			return nil, &UnknownError{a.c.URL(), fmt.Sprintf("the job did not end within %s; its last step was %q", a.Timeout.Round(time.Second), step)}
		}
		job, err := a.job(id)
		var gone *GoneError
		var refused *RefusedError
		switch {
		case a.ctx.Err() != nil:
			return nil, context.Cause(a.ctx)
		case err != nil && a.c != a.first:
			// Nobody, or somebody else who has this address on a LAN of its own.
			a.turn()
		case errors.As(err, &gone), errors.As(err, &refused) && refused.Status >= 500:
			if !lost {
				a.note("%s does not answer; it may restart or move", a.c.URL())
			}
			lost = true
			a.turn()
		case errors.Is(err, errNoJob):
			a.note("the service of the device has restarted and forgot the job; looking which configuration it has")
			return a.lookUp()
		case err != nil:
			return nil, &UnknownError{a.c.URL(), "the job cannot be followed: " + err.Error()}
		default:
			if lost {
				a.note("%s answers again", a.c.URL())
			}
			lost = false
			if len(job.Events) < seen {
				seen = 0
			}
			for _, e := range job.Events[seen:] {
				e.Step, e.Message, e.Service, e.Mode, e.Status = a.c.clean(e.Step), a.c.clean(e.Message), a.c.clean(e.Service), a.c.clean(e.Mode), a.c.clean(e.Status)
				a.Report(Event{Step: &e})
				step = e.Step
				promoted = promoted || api.Promoted(e.Step)
			}
			seen = len(job.Events)
			if s := a.c.clean(job.Step); s != "" && s != step {
				step = s
				a.Report(Event{Step: &api.Event{Step: s}})
			}
			promoted = promoted || api.Promoted(job.Step)
			switch job.State {
			case api.Succeeded:
				// The state turns a moment before the result is there.
				if ended++; job.Result != nil || ended > 6 {
					return a.succeeded(job), nil
				}
			case api.Failed:
				if ended++; job.Error != "" && job.Rollback != "" || ended > 2 {
					return nil, a.failed(job, step, promoted)
				}
			}
		}
		if err := sleep(a.ctx, every); err != nil {
			return nil, err
		}
	}
}

// turn asks at the next address where the device may be.
func (a *applying) turn() {
	a.at = append(a.at[1:], a.at[0])
	a.c = a.at[0]
}

var errNoJob = errors.New("no such job")

func (a *applying) job(id string) (*api.Job, error) {
	status, _, body, err := a.c.do(a.ctx, request{method: http.MethodGet, path: api.PathJobs + url.PathEscape(id), timeout: connecting})
	if err != nil {
		return nil, err
	}
	var j api.Job
	switch {
	case status == http.StatusOK && json.Unmarshal(body, &j) == nil:
		return &j, nil
	case status == http.StatusNotFound:
		return nil, errNoJob
	}
	return nil, a.c.refused(status, body)
}

func (a *applying) succeeded(job *api.Job) *Applied {
	done := &Applied{Reapply: !a.fresh, Key: a.key, Duration: time.Duration(job.Duration * float64(time.Second))}
	if job.Result == nil {
		return done
	}
	done.Reapply = job.Result.Reapply
	for _, w := range job.Result.Warnings {
		a.Report(Event{Warning: a.c.clean(w)})
	}
	if u, err := url.Parse(job.Result.Forwarding); err == nil && u.Host != "" && u.Host != a.first.base.Host {
		done.Forwarding = a.c.clean(job.Result.Forwarding)
	}
	return done
}

func (a *applying) failed(job *api.Job, step string, promoted bool) error {
	why := a.c.clean(job.Error)
	if why == "" {
		why = "the job failed"
	}
	at := ""
	if step != "" {
		at = " at the step " + step
	}
	rolled := job.Rollback
	if rolled == "" && job.Result != nil && job.Result.RolledBack != nil && *job.Result.RolledBack {
		rolled = api.RollbackCompleted
	}
	switch {
	case rolled == api.RollbackCompleted:
		return &RolledBackError{a.c.URL(), fmt.Sprintf("it failed%s and the device went back to the configuration before: %s", at, why)}
	case rolled == api.RollbackDiscarded:
		return &RolledBackError{a.c.URL(), fmt.Sprintf("it failed%s and the device waits for a configuration again: %s", at, why)}
	case rolled == api.RollbackFailed:
		return &UnknownError{a.c.URL(), fmt.Sprintf("it failed%s, and going back failed too: %s", at, why)}
	case !promoted:
		return &RefusedError{a.c.URL(), 0, fmt.Sprintf("the device refused it%s and is as before: %s", at, why)}
	}
	return &UnknownError{a.c.URL(), fmt.Sprintf("it failed%s, and the device does not say that it went back: %s", at, why)}
}

// lookUp finds out which configuration the device has, when it forgot the job: then
// none is running.
func (a *applying) lookUp() (*Applied, error) {
	for {
		done, err := a.look()
		if done != nil || err != nil {
			return done, err
		}
		if time.Now().After(a.deadline) {
			return nil, &UnknownError{a.c.URL(), fmt.Sprintf("the job was lost, and the device does not answer any more, for %s now", a.Timeout.Round(time.Second))}
		}
		if err := sleep(a.ctx, 2*every); err != nil {
			return nil, err
		}
	}
}

// look is one look: nil and nil if it must be done again.
func (a *applying) look() (*Applied, error) {
	unknown := func(why string) (*Applied, error) {
		return nil, &UnknownError{a.c.URL(), "the job was lost, and " + why}
	}
	fresh, err := a.c.Fresh(a.ctx)
	switch {
	case err != nil:
		return nil, nil
	case fresh && a.fresh:
		return nil, &RolledBackError{a.c.URL(), "the job was lost, and the device waits for its first configuration as before"}
	case fresh:
		return unknown("the device has no configuration any more")
	}
	if err := a.findKeys(); err != nil {
		return unknown("without a key the device does not show its configuration: " + err.Error())
	}
	keys := a.keys
	if a.key != nil {
		keys = []*Key{a.key}
	}
	last := errors.New("there is no key of an admin")
	for _, key := range keys {
		var now []byte
		now, last = a.c.Export(a.ctx, key)
		var gone *GoneError
		if errors.As(last, &gone) {
			return nil, nil
		}
		if last != nil {
			continue
		}
		has, _ := seed.Check(now)
		had, _ := seed.Check(a.old)
		switch {
		case has != nil && has.Same(a.Config):
			return &Applied{Reapply: !a.fresh, Key: key}, nil
		case has != nil && had != nil && has.Same(had):
			return nil, &RolledBackError{a.c.URL(), "the job was lost, and the device has the configuration of before"}
		}
		return unknown("the device has yet another configuration")
	}
	return unknown("the device does not show its configuration: " + last.Error())
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
