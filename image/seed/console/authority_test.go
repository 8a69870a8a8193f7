package console_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"imgtool/image/seed"
	"imgtool/image/seed/api"
	"imgtool/image/seed/console"
	"imgtool/image/seed/console/consoletest"
)

// owned is a device with an admin, whose state the test sets.
type owned struct {
	mu      sync.Mutex
	config  []byte
	admin   string
	unready error
	applied []string      // the bodies of its jobs
	hold    chan struct{} // jobs wait for it
}

func (d *owned) Config() ([]byte, error) {
	d.mu.Lock()
	config := d.config
	d.mu.Unlock()
	// Other goroutines run before the result is used.
	time.Sleep(100 * time.Microsecond)
	return config, nil
}

func (d *owned) Ready() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.unready
}

func (d *owned) Detail() string { return "" }

func (d *owned) Known(armour []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !strings.HasPrefix(string(armour), d.admin+" signed ") {
		return errors.New("not an admin")
	}
	return nil
}

func (d *owned) Verify(message, armour []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if string(armour) != d.admin+" signed "+string(message) {
		return errors.New("not an admin")
	}
	return nil
}

func (d *owned) Validate(string, io.ReadSeeker) ([]seed.Fault, error) { return nil, nil }

func (d *owned) Apply(_ context.Context, _ string, body io.ReadSeeker, _ func(api.Event)) (api.Result, string, error) {
	text, _ := io.ReadAll(body)
	d.mu.Lock()
	d.applied = append(d.applied, string(text))
	hold := d.hold
	d.mu.Unlock()
	if hold != nil {
		<-hold
	}
	return api.Result{}, "", nil
}

func (d *owned) Change(_ context.Context, change api.Change, _ func(api.Event)) (api.Result, string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.applied = append(d.applied, fmt.Sprintf("the stranger's %q %s", change.Place, change.Value))
	return api.Result{}, "", nil
}

func (d *owned) set(config []byte, admin string, unready error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.config, d.admin, d.unready = config, admin, unready
}

// slow is a body whose last byte is sent when it is released.
type slow struct {
	text  []byte
	begun chan struct{} // is closed when it is read
	once  sync.Once
	end   chan struct{} // is closed when the last byte comes
}

func newSlow(text []byte) *slow {
	return &slow{text: text, begun: make(chan struct{}), end: make(chan struct{})}
}

func (s *slow) Read(p []byte) (int, error) {
	s.once.Do(func() { close(s.begun) })
	if len(s.text) <= 1 {
		<-s.end
	}
	if len(s.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.text[:max(1, len(s.text)-1)])
	s.text = s.text[n:]
	return n, nil
}

// rig is a console of an owned device.
type rig struct {
	t       *testing.T
	d       *owned
	c       *console.Console
	boot    chan struct{} // ends the boot job
	running chan struct{} // ends a job that the rig began
}

// become puts the device into a state.
func (r *rig) become(state string) {
	r.t.Helper()
	switch state {
	case "waiting":
		r.d.set(nil, "", nil)
	case "owned":
		r.d.set([]byte("the owner's"), "owner", nil)
	case "another owner's":
		r.d.set([]byte("another's"), "another", nil)
	case "without data":
		r.d.set(nil, "", errors.New("the data partition is not mounted"))
	case "starting":
		r.boot = make(chan struct{})
		boot := r.boot
		r.c.Boot(func(context.Context, func(api.Event)) (api.Result, string, error) {
			<-boot
			return api.Result{}, "", nil
		})
	case "started as owned":
		r.become("owned")
		close(r.boot)
		r.boot = nil
		r.idle()
	case "busy":
		// Its owner provisions it first.
		r.running = make(chan struct{})
		r.d.mu.Lock()
		r.d.hold = r.running
		config := r.d.config
		r.d.mu.Unlock()
		if config == nil {
			r.begin(r.request(api.PathConfig, nil, "", ""))
		} else {
			r.begin(r.request(api.PathConfig, nil, "owner", r.nonce()))
		}
	default:
		r.t.Fatalf("no state %q", state)
	}
}

func (r *rig) begin(q *http.Request) {
	r.t.Helper()
	w := httptest.NewRecorder()
	r.c.ServeHTTP(w, q)
	if w.Code != http.StatusAccepted {
		r.t.Fatalf("the owner's own request: %d %s", w.Code, w.Body)
	}
}

// idle waits until the console accepts requests.
func (r *rig) idle() {
	for range 100_000 {
		w := httptest.NewRecorder()
		r.c.ServeHTTP(w, r.request(api.PathValidate, nil, "", ""))
		if w.Code != http.StatusConflict {
			return
		}
		time.Sleep(time.Millisecond)
	}
	r.t.Fatal("the boot job does not end")
}

func (r *rig) nonce() string {
	w := httptest.NewRecorder()
	r.c.ServeHTTP(w, httptest.NewRequest("GET", api.PathNonce, nil))
	return regexp.MustCompile(`"nonce":"([^"]+)"`).FindStringSubmatch(w.Body.String())[1]
}

func (r *rig) token() string {
	w := httptest.NewRecorder()
	q := httptest.NewRequest("GET", "/", nil)
	q.Host = "172.20.30.1:8080"
	r.c.ServeHTTP(w, q)
	token := regexp.MustCompile(`name="bootstrap_token" value="([^"]+)"`).FindStringSubmatch(w.Body.String())
	if token == nil {
		return ""
	}
	return token[1]
}

// request returns a request with the body "stranger's", signed by a key if it is not nil.
func (r *rig) request(path string, body *slow, key, nonce string) *http.Request {
	method, text, kind := "POST", []byte("stranger's"), "application/octet-stream"
	if verb, rest, ok := strings.Cut(path, " "); ok {
		method, path, text, kind = verb, rest, []byte(`{"of": "the stranger's"}`), "application/json"
		if method == "DELETE" {
			text = nil
		}
	}
	switch path {
	case api.PathExport:
		method, text = "GET", nil
	case "/apply", "/check":
		var form bytes.Buffer
		w := multipart.NewWriter(&form)
		w.WriteField("bootstrap_token", r.token())
		w.WriteField("config", string(text))
		w.Close()
		text, kind = form.Bytes(), w.FormDataContentType()
	}
	var content io.Reader = bytes.NewReader(text)
	if body != nil {
		body.text = text
		content = body
	}
	q := httptest.NewRequest(method, path, content)
	q.ContentLength = int64(len(text))
	q.Host = "172.20.30.1:8080"
	q.Header.Set("Content-Type", kind)
	if key != "" {
		q.Header.Set(api.HeaderNonce, nonce)
		q.Header.Set(api.HeaderSignature, base64.StdEncoding.EncodeToString([]byte(key+" signed "+string(api.Message(nonce, path, sha256.Sum256(text))))))
	}
	return q
}

// changes are the routes for changes of one place.
var changes = []string{
	"PUT " + api.PathUsers + "ops", "DELETE " + api.PathUsers + "ops", "PATCH " + api.PathNetwork,
	"PUT " + api.PathContainers + "web", "DELETE " + api.PathContainers + "web",
	"PUT " + api.PathNetworks + "net", "DELETE " + api.PathNetworks + "net",
	"PUT " + api.PathVolumes + "data", "DELETE " + api.PathVolumes + "data",
}

// The answer of every route to every sender in every state of the device. The state can change
// while the body is sent: states are those before the request and at its last byte.
func TestAuthorization(t *testing.T) {
	const (
		ok       = http.StatusOK
		accepted = http.StatusAccepted
		seeOther = http.StatusSeeOther
		denied   = http.StatusUnauthorized
		none     = http.StatusNotFound
		conflict = http.StatusConflict
		noData   = http.StatusServiceUnavailable
	)
	type row struct {
		route, before, after string
		// by sender
		unsigned, wrongKey, rightKey, replayed int
	}
	rows := []row{
		{api.PathConfig, "waiting", "waiting", accepted, accepted, accepted, accepted},
		{api.PathConfig, "waiting", "owned", denied, denied, accepted, denied},
		{api.PathConfig, "waiting", "another owner's", denied, denied, denied, denied},
		{api.PathConfig, "waiting", "busy", conflict, conflict, conflict, conflict},
		{api.PathConfig, "waiting", "without data", noData, noData, noData, noData},
		{api.PathConfig, "without data", "without data", noData, noData, noData, noData},
		{api.PathConfig, "starting", "starting", conflict, conflict, conflict, conflict},
		{api.PathConfig, "starting", "started as owned", conflict, conflict, conflict, conflict},
		{api.PathConfig, "owned", "owned", denied, denied, accepted, denied},
		{api.PathConfig, "owned", "another owner's", denied, denied, denied, denied},
		{api.PathConfig, "owned", "busy", denied, denied, conflict, denied},
		{api.PathConfig, "owned", "waiting", denied, denied, accepted, denied},

		{"/apply", "waiting", "waiting", seeOther, seeOther, seeOther, seeOther},
		{"/apply", "waiting", "owned", none, none, none, none},
		{"/apply", "waiting", "another owner's", none, none, none, none},
		{"/apply", "waiting", "busy", conflict, conflict, conflict, conflict},
		{"/apply", "waiting", "without data", noData, noData, noData, noData},
		{"/apply", "without data", "without data", noData, noData, noData, noData},
		{"/apply", "starting", "starting", conflict, conflict, conflict, conflict},
		{"/apply", "starting", "started as owned", conflict, conflict, conflict, conflict},
		{"/apply", "owned", "owned", none, none, none, none},
		{"/apply", "owned", "waiting", none, none, none, none},

		{"/check", "waiting", "waiting", ok, ok, ok, ok},
		{"/check", "waiting", "owned", none, none, none, none},
		{"/check", "waiting", "busy", conflict, conflict, conflict, conflict},
		{"/check", "waiting", "without data", noData, noData, noData, noData},
		{"/check", "without data", "without data", noData, noData, noData, noData},
		{"/check", "starting", "starting", conflict, conflict, conflict, conflict},
		{"/check", "starting", "started as owned", conflict, conflict, conflict, conflict},
		{"/check", "owned", "owned", none, none, none, none},
		{"/check", "owned", "waiting", none, none, none, none},

		{api.PathValidate, "waiting", "waiting", denied, denied, denied, denied},
		{api.PathValidate, "waiting", "owned", denied, denied, denied, denied},
		{api.PathValidate, "without data", "without data", noData, noData, noData, noData},
		{api.PathValidate, "starting", "starting", conflict, conflict, conflict, conflict},
		{api.PathValidate, "starting", "started as owned", conflict, conflict, conflict, conflict},
		{api.PathValidate, "owned", "owned", denied, denied, ok, denied},
		{api.PathValidate, "owned", "another owner's", denied, denied, denied, denied},
		{api.PathValidate, "owned", "busy", denied, denied, ok, denied},
		{api.PathValidate, "owned", "waiting", denied, denied, denied, denied},

		{api.PathExport, "waiting", "waiting", denied, denied, denied, denied},
		{api.PathExport, "without data", "without data", noData, noData, noData, noData},
		{api.PathExport, "starting", "starting", conflict, conflict, conflict, conflict},
		{api.PathExport, "owned", "owned", denied, denied, ok, denied},
		{api.PathExport, "owned", "busy", denied, denied, ok, denied},
		{api.PathExport, "another owner's", "another owner's", denied, denied, denied, denied},
	}
	for _, route := range changes {
		rows = append(rows, []row{
			{route, "waiting", "waiting", denied, denied, denied, denied},
			{route, "waiting", "owned", denied, denied, denied, denied},
			{route, "waiting", "busy", denied, denied, denied, denied},
			{route, "busy", "busy", conflict, conflict, conflict, conflict},
			{route, "without data", "without data", noData, noData, noData, noData},
			{route, "starting", "starting", conflict, conflict, conflict, conflict},
			{route, "starting", "started as owned", conflict, conflict, conflict, conflict},
			{route, "owned", "owned", denied, denied, accepted, denied},
			{route, "owned", "another owner's", denied, denied, denied, denied},
			{route, "owned", "busy", denied, denied, conflict, denied},
			{route, "owned", "without data", denied, denied, noData, denied},
			{route, "owned", "waiting", denied, denied, denied, denied},
		}...)
	}
	for _, row := range rows {
		for sender, want := range map[string]int{"unsigned": row.unsigned, "wrong key": row.wrongKey, "right key": row.rightKey, "replayed": row.replayed} {
			t.Run(strings.Join([]string{row.route, row.before, row.after, sender}, ", "), func(t *testing.T) {
				d := &owned{}
				r := &rig{t: t, d: d, c: console.New(t.Context(), d, console.Options{ID: consoletest.ID, Spool: t.TempDir()})}
				defer func() {
					if r.boot != nil {
						close(r.boot)
					}
					if r.running != nil {
						close(r.running)
					}
				}()
				key, nonce := map[string]string{"wrong key": "stranger", "right key": "owner", "replayed": "owner"}[sender], r.nonce()
				if sender == "replayed" {
					r.become("owned")
					w := httptest.NewRecorder()
					if r.c.ServeHTTP(w, r.request(api.PathExport, nil, key, nonce)); w.Code != ok {
						t.Fatalf("the first use of the nonce: %d %s", w.Code, w.Body)
					}
					r.become("waiting")
				}
				if row.before != "waiting" {
					r.become(row.before)
				}
				body := newSlow(nil)
				if row.route == api.PathExport {
					body = nil
				}
				q := r.request(row.route, body, key, nonce)
				w := httptest.NewRecorder()
				done := make(chan struct{})
				if body == nil {
					if row.after != row.before {
						r.become(row.after)
					}
					r.c.ServeHTTP(w, q)
				} else {
					go func() { defer close(done); r.c.ServeHTTP(w, q) }()
					select {
					case <-body.begun:
					case <-done: // it is refused without its body
					}
					if row.after != row.before {
						r.become(row.after)
					}
					close(body.end)
					<-done
				}
				if w.Code != want {
					t.Errorf("%d, wanted %d: %s", w.Code, want, w.Body)
				}
				taken := want == accepted || want == seeOther
				for range 100_000 {
					if d.mu.Lock(); !taken || len(d.applied) > 0 {
						d.mu.Unlock()
						break
					}
					d.mu.Unlock()
					time.Sleep(time.Millisecond)
				}
				d.mu.Lock()
				defer d.mu.Unlock()
				strangers := 0
				for _, text := range d.applied {
					if strings.Contains(text, "stranger's") {
						strangers++
					}
				}
				if row.after == "busy" {
					strangers-- // what keeps it busy
				}
				if taken != (strangers == 1) {
					t.Errorf("%d such configurations were applied", strangers)
				}
			})
		}
	}
}

// Of many first configurations that are complete at the same time, one is accepted.
func TestOneFirstConfigurationIsAccepted(t *testing.T) {
	for range 20 {
		d := &owned{hold: make(chan struct{})}
		r := &rig{t: t, d: d, c: console.New(t.Context(), d, console.Options{ID: consoletest.ID, Spool: t.TempDir()})}
		var all sync.WaitGroup
		codes := make([]int, 8)
		end := make(chan struct{})
		for i := range codes {
			body := newSlow(nil)
			body.end = end
			q := r.request(api.PathConfig, body, "", "")
			all.Go(func() {
				w := httptest.NewRecorder()
				r.c.ServeHTTP(w, q)
				codes[i] = w.Code
			})
			<-body.begun
		}
		close(end)
		all.Wait()
		close(d.hold)
		accepted := 0
		for _, code := range codes {
			if code == http.StatusAccepted {
				accepted++
			} else if code != http.StatusConflict {
				t.Errorf("%v", codes)
			}
		}
		if accepted != 1 {
			t.Fatalf("%d of %d were taken: %v", accepted, len(codes), codes)
		}
	}
}

// Before the device has looked for its own configuration, its page has no form.
func TestPageWhileStarting(t *testing.T) {
	d := &owned{}
	r := &rig{t: t, d: d, c: console.New(t.Context(), d, console.Options{})}
	r.become("starting")
	if token := r.token(); token != "" {
		t.Errorf("the page has the token %q", token)
	}
	close(r.boot)
	r.idle()
	if r.token() == "" {
		t.Error("the page has no form afterwards")
	}
}

func TestResponseHeaders(t *testing.T) {
	d := &owned{}
	r := &rig{t: t, d: d, c: console.New(t.Context(), d, console.Options{})}
	for path, status := range map[string]int{"/": 200, api.PathHealth: 200, api.PathNonce: 200, "/nothing": 404, "/assets/page.css": 200, "/assets/page.js": 200, "/assets/page.html": 404, "/assets/example.toml": 404, api.PathExport: 401, api.PathJobs + "x": 404, api.PathConfig: 405} {
		w := httptest.NewRecorder()
		r.c.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != status {
			t.Errorf("%s: %d, wanted %d", path, w.Code, status)
		}
		policy := w.Header().Get("Content-Security-Policy")
		if w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Cache-Control") != "no-store" ||
			!strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") {
			t.Errorf("%s: %v", path, w.Header())
		}
		if path == "/" {
			for _, want := range []string{"script-src 'self';", "style-src 'self';", "connect-src 'self';", "form-action 'self';", "base-uri 'none';", "trusted-types 'none'"} {
				if !strings.Contains(policy, want) {
					t.Errorf("the page's policy has no %s: %s", want, policy)
				}
			}
		}
	}
}
