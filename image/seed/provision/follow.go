package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"imgtool/image/seed"
	"imgtool/image/seed/api"
)

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
			// No device answers, or another one that has this address on its own LAN.
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
	done := &Applied{Reapply: !a.fresh, Key: a.key}
	if job.Duration != nil {
		done.Duration = time.Duration(*job.Duration * float64(time.Second))
	}
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
