// Package console is the provisioning service of a device: the routes of package
// api, and when they may be used. What a configuration does is the Device's.
//
// Jobs and nonces are in memory, as on the device: they are lost when it restarts.
// There are no routes for parts of a configuration.
package console

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"imgtool/image/seed/api"
)

// Device is what is provisioned. Its methods may be called at the same time, but
// Apply is only called when it does not run.
type Device interface {
	// Config is the active configuration, nil before there is one.
	Config() ([]byte, error)
	// Detail says why the device waits, or nothing.
	Detail() string
	// Verify checks who signed a message, by the active configuration.
	Verify(message, armour []byte) error
	// Validate judges a document or bundle without applying it.
	Validate(name string, body io.ReadSeeker) (warnings []string, err error)
	// Apply makes a document or bundle the active configuration, and says what it
	// does. With an error, the job failed; its rollback is then as in api.
	Apply(ctx context.Context, name string, body io.ReadSeeker, report func(api.Event)) (result api.Result, rollback string, err error)
}

// Console is an http.Handler.
type Console struct {
	device Device
	ctx    context.Context
	now    func() time.Time
	spool  string
	mux    *http.ServeMux
	token  string // of the page's form

	mu     sync.Mutex
	nonces []nonce // oldest first
	jobs   []*job  // oldest first
}

type nonce struct {
	text   string
	client string
	made   time.Time
}

type job struct {
	api.Job
	begun time.Time
}

// New is a console whose jobs end with the context. now is the clock that nonces
// expire by; spool is a folder for what is sent.
func New(ctx context.Context, device Device, now func() time.Time, spool string) *Console {
	c := &Console{device: device, ctx: ctx, now: now, spool: spool, mux: http.NewServeMux(), token: random()}
	c.mux.HandleFunc("GET "+api.PathPage+"{$}", c.page)
	c.mux.HandleFunc("POST "+pathApply, c.pasted)
	c.mux.HandleFunc("GET "+pathView+"{id}", c.view)
	c.mux.HandleFunc("GET "+pathView+"{id}/events", c.events)
	c.mux.HandleFunc("GET "+api.PathHealth, c.health)
	c.mux.HandleFunc("GET "+api.PathNonce, c.nonce)
	c.mux.HandleFunc("POST "+api.PathValidate, c.validate)
	c.mux.HandleFunc("POST "+api.PathConfig, c.config)
	c.mux.HandleFunc("GET "+api.PathExport, c.export)
	c.mux.HandleFunc("GET "+api.PathJobs+"{id}", c.job)
	c.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { refuse(w, http.StatusNotFound, "Not Found") })
	return c
}

func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.mux.ServeHTTP(w, r) }

// random is a text of 43 characters that nobody guesses.
func random() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// refuse answers as the framework does.
func refuse(w http.ResponseWriter, status int, format string, args ...any) {
	answer(w, status, api.Refusal{StatusCode: status, Detail: fmt.Sprintf(format, args...)})
}

func (c *Console) health(w http.ResponseWriter, r *http.Request) {
	answer(w, http.StatusOK, api.Health{Status: "ok", Detail: c.device.Detail()})
}

func (c *Console) nonce(w http.ResponseWriter, r *http.Request) {
	client, _, _ := net.SplitHostPort(r.RemoteAddr)
	n := nonce{random(), client, c.now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire()
	own := 0
	for _, open := range c.nonces {
		if open.client == client {
			own++
		}
	}
	if own >= api.MaxNonces {
		oldest := slices.IndexFunc(c.nonces, func(open nonce) bool { return open.client == client })
		c.nonces = slices.Delete(c.nonces, oldest, oldest+1)
	}
	if len(c.nonces) >= api.AllNonces {
		c.nonces = c.nonces[1:]
	}
	c.nonces = append(c.nonces, n)
	answer(w, http.StatusOK, api.Nonce{Nonce: n.text})
}

func (c *Console) expire() {
	c.nonces = slices.DeleteFunc(c.nonces, func(n nonce) bool { return c.now().Sub(n.made) > api.NonceLife })
}

// spend says whether a nonce was open; it is no more.
func (c *Console) spend(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire()
	i := slices.IndexFunc(c.nonces, func(n nonce) bool { return n.text == text })
	if i < 0 {
		return false
	}
	c.nonces = slices.Delete(c.nonces, i, i+1)
	return true
}

// signed says whether an admin signed the request, and answers if not.
func (c *Console) signed(w http.ResponseWriter, r *http.Request, body [sha256.Size]byte) bool {
	n, signature := r.Header.Get(api.HeaderNonce), r.Header.Get(api.HeaderSignature)
	unauthorized := func(format string, args ...any) bool {
		refuse(w, http.StatusUnauthorized, format, args...)
		return false
	}
	if n == "" || signature == "" {
		return unauthorized("Missing signature headers")
	}
	if !c.spend(n) {
		return unauthorized("Invalid or expired nonce")
	}
	armour, err := api.Armour(signature)
	if err != nil {
		return unauthorized("Invalid signature encoding")
	}
	if config, err := c.device.Config(); err != nil || config == nil {
		return unauthorized("The device is not provisioned")
	}
	if err := c.device.Verify(api.Message(n, r.URL.Path, body), armour); err != nil {
		return unauthorized("Signature verification failed")
	}
	return true
}

// upload is the body of a request, in a file without a name.
type upload struct {
	*os.File
	sum [sha256.Size]byte
}

// receive is the body of a request; it answers if there is none to have.
func (c *Console) receive(w http.ResponseWriter, r *http.Request) (*upload, bool) {
	return c.save(w, http.MaxBytesReader(w, r.Body, api.MaxBody))
}

func (c *Console) save(w http.ResponseWriter, r io.Reader) (*upload, bool) {
	f, err := os.CreateTemp(c.spool, "upload")
	if err != nil {
		refuse(w, http.StatusInternalServerError, "Internal Server Error")
		return nil, false
	}
	os.Remove(f.Name())
	u := &upload{File: f}
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, hash), r)
	hash.Sum(u.sum[:0])
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		return u, true
	}
	f.Close()
	if errors.As(err, new(*http.MaxBytesError)) {
		refuse(w, http.StatusRequestEntityTooLarge, "Request Entity Too Large")
	} else {
		refuse(w, http.StatusBadRequest, "%v", err)
	}
	return nil, false
}

var plainName = regexp.MustCompile(`^[\w.\- ]{1,255}$`)

// filename is what the body is called, which tells bundles from documents.
func filename(r *http.Request) string {
	if name := r.Header.Get(api.HeaderFilename); plainName.MatchString(name) {
		return name
	}
	return "config.toml"
}

func (c *Console) validate(w http.ResponseWriter, r *http.Request) {
	b, ok := c.receive(w, r)
	if !ok {
		return
	}
	defer b.Close()
	if !c.signed(w, r, b.sum) {
		return
	}
	warnings, err := c.device.Validate(filename(r), b)
	if err != nil {
		answer(w, http.StatusBadRequest, api.Verdict{Error: err.Error()})
		return
	}
	answer(w, http.StatusOK, api.Verdict{OK: true, Warnings: warnings})
}

func (c *Console) export(w http.ResponseWriter, r *http.Request) {
	if !c.signed(w, r, sha256.Sum256(nil)) {
		return
	}
	config, err := c.device.Config()
	if err != nil || config == nil {
		refuse(w, http.StatusInternalServerError, "Internal Server Error")
		return
	}
	w.Header().Set("Content-Type", "application/toml")
	w.Header().Set("Content-Disposition", `attachment; filename="config.toml"`)
	w.Write(config)
}

// bootstrap says whether a request may provision a device without a signature:
// it must not come from a page of somebody else. It answers if not.
func bootstrap(w http.ResponseWriter, r *http.Request) bool {
	host := (&url.URL{Host: r.Host}).Hostname()
	_, err := netip.ParseAddr(host)
	if err != nil && !slices.Contains([]string{"localhost", "gateway", "atomixos"}, host) && !strings.HasSuffix(host, ".local") {
		refuse(w, http.StatusUnauthorized, "Host is not allowed before provisioning")
		return false
	}
	for _, header := range []string{"Origin", "Referer"} {
		from := r.Header.Get(header)
		if u, err := url.Parse(from); from != "" && (err != nil || u.Scheme != "http" || u.Host != r.Host) {
			refuse(w, http.StatusUnauthorized, "%s is not allowed before provisioning", header)
			return false
		}
	}
	return true
}

func (c *Console) config(w http.ResponseWriter, r *http.Request) {
	b, ok := c.receive(w, r)
	if !ok {
		return
	}
	config, err := c.device.Config()
	if err != nil {
		refuse(w, http.StatusInternalServerError, "Internal Server Error")
	}
	if err != nil || config != nil && !c.signed(w, r, b.sum) || config == nil && !bootstrap(w, r) {
		b.Close()
		return
	}
	submitted, err := c.apply(filename(r), b, config != nil)
	if err != nil {
		b.Close()
		answer(w, http.StatusConflict, api.Problem{Error: err.Error()})
		return
	}
	w.Header().Set("Location", submitted.JobURL)
	answer(w, http.StatusAccepted, submitted)
}

// work is what a job does. Its rollback is as in api.
type work func(ctx context.Context, report func(api.Event)) (result api.Result, rollback string, err error)

// apply begins a job that applies a body, and closes it.
func (c *Console) apply(name string, body io.ReadSeekCloser, reapply bool) (api.Submitted, error) {
	return c.Start(func(ctx context.Context, report func(api.Event)) (api.Result, string, error) {
		defer body.Close()
		result, rollback, err := c.device.Apply(ctx, name, body, report)
		result.Reapply = reapply
		return result, rollback, err
	})
}

// Start begins a job if there is none: while it runs, no other begins.
func (c *Console) Start(w work) (api.Submitted, error) {
	j := &job{begun: time.Now()}
	j.ID, j.State, j.Events = random(), api.Waiting, []api.Event{}
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.ContainsFunc(c.jobs, func(j *job) bool { return j.State == api.Waiting || j.State == api.Running }) {
		return api.Submitted{}, errors.New("another provisioning job is running")
	}
	if len(c.jobs) >= api.MaxJobs {
		c.jobs = c.jobs[1:]
	}
	c.jobs = append(c.jobs, j)
	submitted := api.Submitted{JobID: j.ID, State: j.State, JobURL: api.PathJobs + j.ID}
	go c.run(j, w)
	return submitted, nil
}

func (c *Console) run(j *job, w work) {
	report := func(e api.Event) {
		c.mu.Lock()
		defer c.mu.Unlock()
		e.Elapsed = time.Since(j.begun).Seconds()
		j.State, j.Step, j.Events = api.Running, e.Step, append(j.Events, e)
	}
	report(api.Event{Step: "running"})
	result, rollback, err := w(c.ctx, report)
	if result.Warnings == nil {
		result.Warnings = []string{}
	}
	if err == nil {
		report(api.Event{Step: "completed"})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	j.Duration = time.Since(j.begun).Seconds()
	if err != nil {
		result.RolledBack = rollback == api.RollbackCompleted
		j.State, j.Error, j.Rollback, j.Result = api.Failed, err.Error(), rollback, &result
		return
	}
	j.State, j.Result = api.Succeeded, &result
}

// find is a job as it is now, or nil.
func (c *Console) find(id string) *api.Job {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.jobs, func(j *job) bool { return j.ID == id })
	if i < 0 {
		return nil
	}
	now := c.jobs[i].Job
	return &now
}

func (c *Console) job(w http.ResponseWriter, r *http.Request) {
	j := c.find(r.PathValue("id"))
	if j == nil {
		answer(w, http.StatusNotFound, api.Problem{Error: "job not found"})
		return
	}
	answer(w, http.StatusOK, j)
}
