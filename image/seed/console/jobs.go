package console

import (
	"context"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"imgtool/image/seed"
	"imgtool/image/seed/api"
)

const (
	maxEvents = 1000    // of a job; later events are dropped
	maxError  = 8 << 10 // bytes of a job's error text
)

type job struct {
	api.Job
	begun time.Time
	users []string // of a first configuration, after its success
}

// work is the function of a job. rollback is a rollback state of package api, or "" if nothing
// had to be rolled back.
type work func(ctx context.Context, report func(api.Event)) (result api.Result, rollback string, err error)

// submit starts the job of a request if authorize permits it.
func (c *Console) submit(k *claim, w work) (api.Submitted, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	config, err := c.authorize(k)
	if err == nil {
		err = k.unusable
	}
	if err != nil {
		return api.Submitted{}, err
	}
	return c.begin(func(ctx context.Context, report func(api.Event)) (api.Result, string, error) {
		result, rollback, err := w(ctx, report)
		result.Reapply = config != nil
		return result, rollback, err
	}), nil
}

func (c *Console) apply(name string, body *upload) (api.Submitted, error) {
	return c.submit(body.claim, func(ctx context.Context, report func(api.Event)) (api.Result, string, error) {
		defer body.Close()
		return c.device.Apply(ctx, name, body, report)
	})
}

// Boot starts the job of a device that boots. While it runs, no requests are accepted from the
// network. Boot must be called before requests are served.
func (c *Console) Boot(w work) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.booting = true
	c.begin(func(ctx context.Context, report func(api.Event)) (api.Result, string, error) {
		result, rollback, err := w(ctx, report)
		c.mu.Lock()
		c.booting = false
		c.mu.Unlock()
		return result, rollback, err
	})
}

// begin starts a job. The caller holds c.mu and has checked that no job runs.
func (c *Console) begin(w work) api.Submitted {
	j := &job{begun: time.Now()}
	j.ID, j.State, j.Step = random(), api.Waiting, api.Waiting
	if len(c.jobs) >= api.MaxJobs {
		c.jobs = c.jobs[1:]
	}
	c.jobs = append(c.jobs, j)
	go c.run(j, w)
	return api.Submitted{JobID: j.ID, State: j.State, JobURL: api.PathJobs + j.ID}
}

// running reports whether a job runs. The caller holds c.mu.
func (c *Console) running() bool {
	return slices.ContainsFunc(c.jobs, func(j *job) bool { return j.State == api.Waiting || j.State == api.Running })
}

func (c *Console) run(j *job, w work) {
	report := func(e api.Event) {
		c.mu.Lock()
		defer c.mu.Unlock()
		e.Elapsed = j.age()
		j.State, j.Step = api.Running, e.Step
		if len(j.Events) < maxEvents {
			j.Events = append(j.Events, e)
		}
	}
	report(api.Event{Step: "running"})
	result, rollback, err := w(c.ctx, report)
	result.Warnings = append([]string{}, result.Warnings...) // not nil
	if err == nil {
		report(api.Event{Step: "completed"})
	}
	var users []string
	if err == nil && !result.Reapply {
		users = c.users()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	age := j.age()
	j.Duration = &age
	if err != nil {
		j.State, j.Error, j.Rollback = api.Failed, cut(err.Error()), rollback
		return
	}
	if result.Reapply {
		result.RolledBack = new(bool)
	}
	j.State, j.Result, j.users = api.Succeeded, &result, users
}

const admin = " (admin)"

// users returns the users of the active configuration. The names of admins are followed by admin.
func (c *Console) users() []string {
	text, _ := c.device.Config()
	config, _ := seed.Check(text)
	if config == nil {
		return nil
	}
	var names []string
	for _, u := range config.Users() {
		if u.Admin {
			u.Name += admin
		}
		names = append(names, u.Name)
	}
	return names
}

// age returns the seconds since the job was submitted, rounded to hundredths.
func (j *job) age() float64 { return math.Round(time.Since(j.begun).Seconds()*100) / 100 }

// cut shortens an error text to maxError.
func cut(s string) string {
	if len(s) <= maxError {
		return s
	}
	return strings.ToValidUTF8(s[:maxError], "") + "…"
}

// find returns the current state of a job, or nil.
func (c *Console) find(id string) *job {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.jobs, func(j *job) bool { return j.ID == id })
	if i < 0 {
		return nil
	}
	now := *c.jobs[i]
	return &now
}

func (c *Console) job(w http.ResponseWriter, r *http.Request) {
	j := c.find(r.PathValue("id"))
	if j == nil {
		answer(w, http.StatusNotFound, api.Problem{Error: "job not found"})
		return
	}
	answer(w, http.StatusOK, j.Job)
}
