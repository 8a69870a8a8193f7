package provision

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"imgtool/image/fault"
	"imgtool/image/seed"
	"imgtool/image/seed/api"
)

// follow polls the job until it ends.
func (a *applier) follow(id string) (*Applied, error) {
	seen, ended, step := 0, 0, ""
	lost, promoted := false, false
	for {
		if time.Now().After(a.deadline) {
			return nil, fault.New(fault.Unknown, "%s: the job did not end within %s; its last step was %q", a.c.URL(), a.Timeout.Round(time.Second), api.StepWords(step))
		}
		job, err := a.job(id)
		var gone *GoneError
		var refused *RefusedError
		switch {
		case a.ctx.Err() != nil:
			return nil, context.Cause(a.ctx)
		case err != nil && a.c != a.first:
			// No device answers at this address, or another device that has it on its own LAN.
			a.nextAddress()
		case errors.As(err, &gone), errors.As(err, &refused) && refused.Status >= 500:
			if !lost {
				a.note("%s does not answer; it may be restarting or have a new address", a.c.URL())
			}
			lost = true
			a.nextAddress()
		case errors.Is(err, errNoJob):
			a.note("the device has restarted and lost the job; reading the configuration that it has now")
			return a.compareActive()
		case err != nil:
			return nil, fault.New(fault.Unknown, "%s: the job cannot be followed: %v", a.c.URL(), err)
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
				if e.Step != api.Rollback {
					step = e.Step
				}
				promoted = promoted || api.Promoted(e.Step)
			}
			seen = len(job.Events)
			if s := a.c.clean(job.Step); s != "" && s != step && s != api.Rollback {
				step = s
				a.Report(Event{Step: &api.Event{Step: s}})
			}
			promoted = promoted || api.Promoted(job.Step)
			switch job.State {
			case api.Succeeded:
				// The result can follow the state some time later.
				if ended++; job.Result != nil || ended > 6 {
					return a.succeeded(job), nil
				}
			case api.Failed:
				if ended++; job.Error != "" && job.Rollback != "" || ended > 2 {
					return nil, a.failed(job, step, promoted)
				}
			}
		}
		if err := sleep(a.ctx, pollInterval); err != nil {
			return nil, err
		}
	}
}

func (a *applier) nextAddress() {
	a.addresses = append(a.addresses[1:], a.addresses[0])
	a.c = a.addresses[0]
}

var errNoJob = errors.New("no such job")

func (a *applier) job(id string) (*api.Job, error) {
	status, _, body, err := a.c.do(a.ctx, request{method: http.MethodGet, path: api.PathJobs + url.PathEscape(id), timeout: connectTimeout})
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

func (a *applier) succeeded(job *api.Job) *Applied {
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

func (a *applier) failed(job *api.Job, step string, promoted bool) error {
	why := cmp.Or(a.c.clean(job.Error), "the job failed")
	at := ""
	if step != "" {
		at = fmt.Sprintf(" at the step %q", api.StepWords(step))
	}
	rolled := job.Rollback
	if rolled == "" && job.Result != nil && job.Result.RolledBack != nil && *job.Result.RolledBack {
		rolled = api.RollbackCompleted
	}
	switch {
	case rolled == api.RollbackCompleted:
		return fault.New(fault.RolledBack, "%s: it failed%s and the device went back to the previous configuration: %s", a.c.URL(), at, why)
	case rolled == api.RollbackDiscarded:
		return fault.New(fault.RolledBack, "%s: it failed%s and the device waits for a configuration again: %s", a.c.URL(), at, why)
	case rolled == api.RollbackFailed:
		return fault.New(fault.Unknown, "%s: it failed%s, and the rollback failed too: %s", a.c.URL(), at, why)
	case !promoted:
		return &RefusedError{a.c.URL(), 0, fmt.Sprintf("the device refused it%s and kept its configuration: %s", at, why)}
	}
	return fault.New(fault.Unknown, "%s: it failed%s, and the device did not report a rollback: %s", a.c.URL(), at, why)
}

// compareActive finds out which configuration a device has that has lost the job, which then
// does not run any more.
func (a *applier) compareActive() (*Applied, error) {
	for {
		done, err := a.compareOnce()
		if done != nil || err != nil {
			return done, err
		}
		if time.Now().After(a.deadline) {
			return nil, fault.New(fault.Unknown, "%s: the job was lost, and the device has not answered for %s", a.c.URL(), a.Timeout.Round(time.Second))
		}
		if err := sleep(a.ctx, 2*pollInterval); err != nil {
			return nil, err
		}
	}
}

// compareOnce returns nil and nil if the device does not answer.
func (a *applier) compareOnce() (*Applied, error) {
	unknown := func(why string) (*Applied, error) {
		return nil, fault.New(fault.Unknown, "%s: the job was lost, and %s", a.c.URL(), why)
	}
	fresh, err := a.c.Fresh(a.ctx)
	switch {
	case err != nil:
		return nil, nil
	case fresh && a.fresh:
		return nil, fault.New(fault.RolledBack, "%s: the job was lost, and the device still waits for its first configuration", a.c.URL())
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
	last := errors.New("no key of an admin was found")
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
			return nil, fault.New(fault.RolledBack, "%s: the job was lost, and the device has the previous configuration", a.c.URL())
		}
		return unknown("the device has a third configuration")
	}
	return unknown("the device does not show its configuration: " + last.Error())
}
