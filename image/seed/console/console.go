// Package console is the provisioning service of a device. It serves the routes of package api
// and the page for browsers, and decides which requests are permitted. A [Device] applies the
// configurations.
//
// One function, authorize, decides whether a request is permitted, after its body is complete and
// under the lock that starts jobs; see authority.go.
//
// Jobs and nonces are kept in memory only, as in AtomixOS's own service: a restart loses them.
package console

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"

	"imgtool/image/seed"
	"imgtool/image/seed/api"
)

// Device is a device that is provisioned. Its methods may be called concurrently, except that
// only one call of Apply or Change runs at a time.
type Device interface {
	// Config returns the active configuration, or nil before the first.
	Config() ([]byte, error)
	// Ready returns an error if the device cannot take a configuration now.
	Ready() error
	// Detail returns the reason why the device waits, or "".
	Detail() string
	// Known returns an error if the key in a signature does not belong to an admin of the active
	// configuration. It does not verify the signature.
	Known(armour []byte) error
	// Verify verifies that an admin of the active configuration signed a message.
	Verify(message, armour []byte) error
	// Validate checks a document or bundle without applying it. The error is returned if it cannot
	// be read.
	Validate(name string, body io.ReadSeeker) ([]seed.Fault, error)
	// Apply makes a document or bundle the active configuration, and reports its steps. If it
	// returns an error, the job failed, and rollback is a rollback state of package api.
	Apply(ctx context.Context, name string, body io.ReadSeeker, report func(api.Event)) (result api.Result, rollback string, err error)
	// Change is Apply for a change of the active configuration. Files of a bundle are kept.
	Change(ctx context.Context, change api.Change, report func(api.Event)) (result api.Result, rollback string, err error)
}

// Options are the options of a Console.
type Options struct {
	ID    string           // of the device, as in api.Health
	Spool string           // directory for large bodies; empty: os.TempDir
	Now   func() time.Time // clock for the expiry of nonces; nil: time.Now
	Unit  func() Unit      // what the page says about the device; nil: nothing
}

// Console is an http.Handler.
type Console struct {
	device Device
	ctx    context.Context
	id     string
	unit   func() Unit
	spool  string
	mux    *http.ServeMux
	token  string // of the page's form
	nonces *nonces
	small  *places // for bodies in memory
	large  *places // for bodies in the spool directory
	views  chan struct{}

	mu      sync.Mutex
	booting bool
	jobs    []*job // oldest first
}

// New returns a console. Its jobs end when ctx ends.
func New(ctx context.Context, device Device, o Options) *Console {
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Console{device: device, ctx: ctx, id: o.ID, unit: o.Unit, spool: o.Spool, mux: http.NewServeMux(), token: random(), nonces: newNonces(o.ID, o.Now),
		small: &places{limit: smallPlaces}, large: &places{limit: 1}, views: make(chan struct{}, maxViews)}
	for pattern, handler := range map[string]http.HandlerFunc{
		"GET " + api.PathPage + "{$}":     c.page,
		"POST " + pathApply:               c.submitted(true),
		"POST " + pathCheck:               c.submitted(false),
		"GET " + pathAssets + "{name}":    asset,
		"GET " + pathView + "{id}":        c.view,
		"GET " + pathView + "{id}/events": c.events,
		"GET " + api.PathHealth:           c.health,
		"GET " + api.PathNonce:            c.nonce,
		"POST " + api.PathValidate:        c.validate,
		"POST " + api.PathConfig:          c.config,
		"GET " + api.PathExport:           c.export,
		"GET " + api.PathJobs + "{id}":    c.job,
		"GET " + api.PathSchema:           schema,
		"PATCH " + api.PathNetwork:        c.change("network"),
	} {
		c.mux.HandleFunc(pattern, handler)
	}
	for path, place := range map[string][]string{
		api.PathUsers: {"users"}, api.PathContainers: {"containers", "container"}, api.PathNetworks: {"containers", "network"}, api.PathVolumes: {"containers", "volume"},
	} {
		c.mux.HandleFunc("PUT "+path+"{name}", c.change(place...))
		c.mux.HandleFunc("DELETE "+path+"{name}", c.change(place...))
	}
	return c
}

func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	if handler, pattern := c.mux.Handler(r); pattern == "" {
		// Only the mux knows whether the status is 404 or 405.
		quiet := &discarded{ResponseWriter: w}
		handler.ServeHTTP(quiet, r)
		refused := &refusal{quiet.status, http.StatusText(quiet.status)}
		if r.Method == http.MethodGet {
			c.problem(w, r, refused, "")
		} else {
			refused.answer(w)
		}
		return
	}
	c.mux.ServeHTTP(w, r)
}

// discarded is a ResponseWriter that discards the body and records the status.
type discarded struct {
	http.ResponseWriter
	status int
}

func (d *discarded) WriteHeader(status int)      { d.status = status }
func (d *discarded) Write(p []byte) (int, error) { return len(p), nil }

// random returns 32 random bytes in base64url: 43 characters.
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

func (c *Console) health(w http.ResponseWriter, r *http.Request) {
	answer(w, http.StatusOK, api.Health{Status: "ok", Detail: c.device.Detail(), Device: c.id})
}

func (c *Console) nonce(w http.ResponseWriter, r *http.Request) {
	answer(w, http.StatusOK, api.Nonce{Nonce: c.nonces.make()})
}

var plainName = regexp.MustCompile(`^[\w.\- ]{1,255}$`)

// filename returns the file name of a body, which distinguishes bundles from documents.
func filename(r *http.Request) string {
	name := r.Header.Get(api.HeaderFilename)
	if name = name[:min(len(name), 255)]; plainName.MatchString(name) {
		return name
	}
	return "config.toml"
}

func (c *Console) validate(w http.ResponseWriter, r *http.Request) {
	b, err := c.receive(w, r, signedOnly, api.MaxBody)
	if err != nil {
		refuse(w, err)
		return
	}
	defer b.Close()
	c.mu.Lock()
	_, err = c.authorize(b.claim)
	c.mu.Unlock()
	if err != nil {
		refuse(w, err)
		return
	}
	faults, err := c.device.Validate(filename(r), b)
	var warnings []string
	if err == nil {
		warnings, err = Judge(faults)
	}
	if err != nil {
		answer(w, http.StatusBadRequest, api.Verdict{Error: err.Error()})
		return
	}
	answer(w, http.StatusOK, api.Verdict{OK: true, Warnings: append([]string{}, warnings...)})
}

func (c *Console) export(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	config, err := c.authorize(newClaim(r, signedOnly))
	c.mu.Unlock()
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/toml")
	w.Header().Set("Content-Disposition", `attachment; filename="config.toml"`)
	w.Write(config)
}

func (c *Console) config(w http.ResponseWriter, r *http.Request) {
	var submitted api.Submitted
	b, err := c.receive(w, r, signedOrFirst, api.MaxBody)
	if err == nil {
		if submitted, err = c.apply(filename(r), b); err != nil {
			b.Close()
		}
	}
	begun(w, submitted, err)
}

// begun answers a request to start a job.
func begun(w http.ResponseWriter, s api.Submitted, err error) {
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Location", s.JobURL)
	answer(w, http.StatusAccepted, s)
}

// change returns the handler for changes of a place, or of the entry of a table that the path
// names.
func (c *Console) change(table ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b, err := c.receive(w, r, signedJob, api.MaxChange)
		if err != nil {
			refuse(w, err)
			return
		}
		defer b.Close()
		change := api.Change{Place: slices.Clone(table)}
		if name := r.PathValue("name"); name != "" {
			change.Place = append(change.Place, name)
		}
		body, err := io.ReadAll(b)
		if err != nil {
			refuse(w, err)
			return
		}
		// The method is not signed, so that the body must distinguish PUT from DELETE.
		switch object := json.Valid(body) && bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")); {
		case r.Method != http.MethodDelete && !object:
			b.claim.unusable = &refusal{http.StatusBadRequest, "The body must be a JSON object"}
		case r.Method != http.MethodDelete:
			change.Value = body
		case len(body) > 0:
			b.claim.unusable = &refusal{http.StatusBadRequest, "A DELETE must not have a body"}
		}
		submitted, err := c.submit(b.claim, func(ctx context.Context, report func(api.Event)) (api.Result, string, error) {
			return c.device.Change(ctx, change, report)
		})
		begun(w, submitted, err)
	}
}

//go:embed openapi.json
var openAPI []byte

// schema serves the OpenAPI description of the routes.
func schema(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/vnd.oai.openapi+json")
	w.Write(openAPI)
}
