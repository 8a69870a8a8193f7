// Package consoletest simulates a device for tests of clients: a console over real HTTP that
// checks configurations but does not apply them, and can show faults of devices. Signatures are
// verified by OpenSSH.
package consoletest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"imgtool/image/imagetest"
	"imgtool/image/seed"
	"imgtool/image/seed/api"
	"imgtool/image/seed/bundle"
	"imgtool/image/seed/console"
)

// Device is a simulated device. Its fields must be set before Start.
type Device struct {
	// Fail is the step that fails, with the message Error.
	Fail, Error string
	// StuckRollback makes rollbacks fail.
	StuckRollback bool
	// Hold, if not nil, blocks each step until it is closed.
	Hold chan struct{}
	// OnStep is called at each step of a job.
	OnStep func(step string)
	// Stale is the number of signed requests whose nonces have expired.
	Stale int
	// Forwarding is the new address of the service in the result of a job.
	Forwarding string
	// Unit is what the page says about the device.
	Unit console.Unit
	// Reason is why the device waits.
	Reason string
	// Intercept can answer a request; it then returns true.
	Intercept func(w http.ResponseWriter, r *http.Request) bool

	t      testing.TB
	mu     sync.Mutex
	config []byte
	clock  time.Duration
	server *http.Server
	end    context.CancelFunc // of its jobs
	addr   string
	told   map[string]bool // jobs that were seen to succeed
	log    []string        // requests
}

// Start starts the device with a configuration, which may be nil, on a free port of 127.0.0.1.
func (d *Device) Start(t testing.TB, config []byte) {
	imagetest.Need(t, "ssh-keygen")
	d.t, d.config, d.told = t, config, map[string]bool{}
	d.addr = "127.0.0.1:0"
	d.Up()
	t.Cleanup(d.Down)
}

// Up starts the service at its previous address.
func (d *Device) Up() {
	l, err := net.Listen("tcp", d.addr)
	// Another connection may have taken the port in the meantime.
	for try := 0; err != nil && try < 1000; try++ {
		time.Sleep(100 * time.Millisecond)
		l, err = net.Listen("tcp", d.addr)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	d.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	c := console.New(ctx, d, console.Options{ID: ID, Now: d.now, Unit: func() console.Unit { return d.Unit }})
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { d.serve(c, w, r) })}
	d.mu.Lock()
	d.server, d.end = s, cancel
	d.mu.Unlock()
	go s.Serve(l)
}

// Down stops the service at once. Jobs and nonces are lost.
func (d *Device) Down() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.end()
	d.server.Close()
}

// Move moves the service to another address. Jobs continue.
func (d *Device) Move(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		d.t.Error(err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.server.Close()
	d.server = &http.Server{Handler: d.server.Handler}
	d.addr = l.Addr().String()
	go d.server.Serve(l)
}

// URL returns the address of the device.
func (d *Device) URL() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return "http://" + d.addr
}

// Requests returns the received requests in order, such as "GET /api/health".
func (d *Device) Requests() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.log)
}

func (d *Device) now() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Now().Add(d.clock)
}

func (d *Device) serve(c *console.Console, w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.log = append(d.log, r.Method+" "+r.URL.Path)
	if r.Header.Get(api.HeaderNonce) != "" && d.Stale > 0 {
		d.Stale--
		d.clock += api.NonceLife + time.Second
	}
	d.mu.Unlock()
	if d.Intercept != nil && d.Intercept(w, r) {
		return
	}
	if strings.HasSuffix(r.URL.Path, "/events") {
		c.ServeHTTP(w, r)
		return
	}
	rec := httptest.NewRecorder()
	c.ServeHTTP(rec, r)
	body := rec.Body.Bytes()
	// On real devices the result can follow the state of a job some time later.
	var j api.Job
	if json.Unmarshal(body, &j) == nil && j.State == api.Succeeded && d.first(j.ID) {
		j.Result = nil
		body, _ = json.Marshal(j)
	}
	for name, values := range rec.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(rec.Code)
	w.Write(body)
}

func (d *Device) first(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	told := d.told[id]
	d.told[id] = true
	return !told
}

// Config returns the device's configuration.
func (d *Device) Config() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.config, nil
}

// SetConfig sets the configuration without a request.
func (d *Device) SetConfig(config []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.config = config
}

// ID is the identifier of the device.
const ID = "Y29uc29sZXQ"

// Ready always returns nil.
func (d *Device) Ready() error { return nil }

// Detail returns the field Reason.
func (d *Device) Detail() string { return d.Reason }

// Known uses ssh-keygen.
func (d *Device) Known(armour []byte) error {
	return sshKeygen(nil, armour, d.signers(), "-Y", "find-principals")
}

// Verify uses ssh-keygen.
func (d *Device) Verify(message, armour []byte) error { return Verify(message, armour, d.signers()) }

func (d *Device) signers() string {
	config, _ := d.Config()
	c, _ := seed.Check(config)
	if c == nil {
		return ""
	}
	return c.Signers()
}

// Verify verifies a signature with ssh-keygen and admin-signers, as the device does.
func Verify(message, armour []byte, signers string) error {
	return sshKeygen(message, armour, signers, "-Y", "verify", "-I", api.Namespace, "-n", api.Namespace)
}

// sshKeygen runs ssh-keygen on a signature and the lines of admin-signers, each after the name of
// the signer.
func sshKeygen(message, armour []byte, signers string, args ...string) error {
	dir, err := os.MkdirTemp("", "console")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	allowed, sig := filepath.Join(dir, "admin-signers"), filepath.Join(dir, "sig")
	var named strings.Builder
	for line := range strings.Lines(signers) {
		named.WriteString(api.Namespace + " " + line)
	}
	if err := errors.Join(os.WriteFile(allowed, []byte(named.String()), 0o600), os.WriteFile(sig, armour, 0o600)); err != nil {
		return err
	}
	cmd := exec.Command("ssh-keygen", append(args, "-f", allowed, "-s", sig)...)
	cmd.Stdin = bytes.NewReader(message)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// Validate checks a document or bundle as the device does.
func (d *Device) Validate(name string, body io.ReadSeeker) ([]seed.Fault, error) {
	_, faults, err := bundle.Check(name, body)
	return faults, err
}

// pace is the minimum duration of a step, so that the answer to a request arrives before the
// first step of its job ends.
const pace = 30 * time.Millisecond

// Apply runs the steps of a device, but changes only the configuration.
func (d *Device) Apply(ctx context.Context, name string, body io.ReadSeeker, report func(api.Event)) (api.Result, string, error) {
	return d.apply(ctx, name, body, report)
}

// Change is Apply with a change of one place.
func (d *Device) Change(ctx context.Context, change api.Change, report func(api.Event)) (api.Result, string, error) {
	before, _ := d.Config()
	text, err := seed.Change(before, change.Place, change.Value)
	if err != nil {
		return api.Result{}, "", err
	}
	return d.apply(ctx, "config.toml", bytes.NewReader(text), report)
}

func (d *Device) apply(ctx context.Context, name string, body io.ReadSeeker, report func(api.Event)) (api.Result, string, error) {
	before, _ := d.Config()
	var result api.Result
	for _, step := range api.Steps()[1:] {
		switch step {
		case "recover", api.Rollback, "copy-files", "complete", "completed":
			continue
		}
		report(api.Event{Step: step})
		time.Sleep(pace)
		if d.OnStep != nil {
			d.OnStep(step)
		}
		if d.Hold != nil {
			select {
			case <-d.Hold:
			case <-ctx.Done():
			}
		}
		// The service was stopped.
		if ctx.Err() != nil {
			return result, "", ctx.Err()
		}
		var err error
		switch step {
		case "validate":
			var faults []seed.Fault
			if faults, err = d.Validate(name, body); err == nil {
				result.Warnings, err = console.Judge(faults)
			}
		case api.Promote:
			body.Seek(0, io.SeekStart)
			err = bundle.Limits{}.Unpack(name, body, func(path string, r io.Reader) error {
				text, err := io.ReadAll(r)
				if path == "config.toml" {
					d.SetConfig(text)
				}
				return err
			})
		case "service-status":
			report(api.Event{Step: step, Service: "web.service", Mode: "rootless", Status: "running"})
		}
		if step == d.Fail {
			err = errors.New(d.Error)
		}
		switch {
		case err == nil:
			continue
		case !api.Promoted(step):
			return result, "", err
		}
		report(api.Event{Step: api.Rollback})
		if d.StuckRollback {
			return result, api.RollbackFailed, err
		}
		d.SetConfig(before)
		if before == nil {
			return result, api.RollbackDiscarded, err
		}
		return result, api.RollbackCompleted, err
	}
	result.Forwarding = d.Forwarding
	return result, "", nil
}
