package console_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"imgtool/image/seed"
	"imgtool/image/seed/api"
	"imgtool/image/seed/console"
	"imgtool/image/seed/console/consoletest"
)

// stub is a device that accepts any configuration, with the signature "good".
type stub struct {
	config  []byte
	end     func(report func(api.Event)) (api.Result, string, error) // of jobs
	names   []string                                                 // of what was sent
	hold    chan struct{}
	unready error
}

func (d *stub) Config() ([]byte, error) { return d.config, nil }
func (d *stub) Detail() string          { return "" }
func (d *stub) Verify(message, armour []byte) error {
	if string(armour) != "signed: "+string(message) {
		return errors.New("another key")
	}
	return nil
}
func (d *stub) Ready() error { return d.unready }
func (d *stub) Known(a []byte) error {
	if !strings.HasPrefix(string(a), "signed: ") {
		return errors.New("another key")
	}
	return nil
}
func (d *stub) Validate(name string, _ io.ReadSeeker) ([]seed.Fault, error) {
	d.names = append(d.names, name)
	return nil, nil
}
func (d *stub) Apply(_ context.Context, _ string, _ io.ReadSeeker, report func(api.Event)) (api.Result, string, error) {
	if d.hold != nil {
		<-d.hold
	}
	if d.end != nil {
		return d.end(report)
	}
	return api.Result{}, "", nil
}
func (d *stub) Change(ctx context.Context, _ api.Change, report func(api.Event)) (api.Result, string, error) {
	return d.Apply(ctx, "", nil, report)
}

// asker sends requests to a console.
type asker struct {
	t       *testing.T
	handler http.Handler
	now     time.Time
}

func newAsker(t *testing.T, d *stub) *asker {
	a := &asker{t: t, now: time.Unix(1e9, 0)}
	a.handler = console.New(t.Context(), d, console.Options{ID: consoletest.ID, Now: func() time.Time { return a.now }, Spool: t.TempDir()})
	return a
}

func (a *asker) ask(method, path, from, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.RemoteAddr, r.Host = from+":1234", "172.20.30.1:8080"
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		} else {
			r.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	return w
}

func (a *asker) nonce(from string) string {
	a.t.Helper()
	var n api.Nonce
	if err := json.Unmarshal(a.ask("GET", api.PathNonce, from, "").Body.Bytes(), &n); err != nil || len(n.Nonce) != 43 {
		a.t.Fatalf("%v: %q", err, n.Nonce)
	}
	return n.Nonce
}

// signed sends a request with a signature.
func (a *asker) signed(method, path, body string, header ...string) *httptest.ResponseRecorder {
	nonce := a.nonce("10.0.0.1")
	message := api.Message(nonce, path, sha256.Sum256([]byte(body)))
	signature := base64.StdEncoding.EncodeToString([]byte("signed: " + string(message)))
	return a.ask(method, path, "10.0.0.1", body, append(header, api.HeaderNonce, nonce, api.HeaderSignature, signature)...)
}

// A signature for one method is not valid for another of the same path.
func TestSignatureIsBoundToMethod(t *testing.T) {
	for _, c := range []struct{ signed, sent, body string }{{"PUT", "DELETE", "{}"}, {"DELETE", "PUT", ""}} {
		d := &stub{config: []byte("x")}
		a := newAsker(t, d)
		if w := a.signed(c.signed, api.PathUsers+"ops", c.body); w.Code != http.StatusAccepted {
			t.Errorf("%s: %d %s", c.signed, w.Code, w.Body)
		}
		a = newAsker(t, d)
		if w := a.signed(c.sent, api.PathUsers+"ops", c.body); w.Code != http.StatusBadRequest {
			t.Errorf("%s signed as %s: %d %s", c.signed, c.sent, w.Code, w.Body)
		}
	}
}

// export returns the status of a signed request for the configuration.
func (a *asker) export(nonce string) int {
	// The SHA-256 of an empty body, from sha256sum.
	message := "atomixos-reapply-v1\nnonce:" + nonce + "\npath:/api/config/export\nsha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
	signature := base64.StdEncoding.EncodeToString([]byte("signed: " + message))
	return a.ask("GET", api.PathExport, "10.0.0.1", "", api.HeaderNonce, nonce, api.HeaderSignature, signature).Code
}

func TestNonces(t *testing.T) {
	a := newAsker(t, &stub{config: []byte("x")})
	n := a.nonce("10.0.0.1")
	if code := a.export(n); code != http.StatusOK {
		t.Fatalf("a good one: %d", code)
	}
	if code := a.export(n); code != http.StatusUnauthorized {
		t.Errorf("a second time: %d", code)
	}
	// A bad signature uses it up, too.
	n = a.nonce("10.0.0.1")
	if w := a.ask("GET", api.PathExport, "10.0.0.1", "", api.HeaderNonce, n, api.HeaderSignature, "YmFk"); w.Code != http.StatusUnauthorized {
		t.Errorf("a bad signature: %d", w.Code)
	}
	if code := a.export(n); code != http.StatusUnauthorized {
		t.Errorf("after a bad signature: %d", code)
	}
	n = a.nonce("10.0.0.1")
	a.now = a.now.Add(300 * time.Second)
	if code := a.export(n); code != http.StatusOK {
		t.Errorf("after 300 s: %d", code)
	}
	n = a.nonce("10.0.0.1")
	a.now = a.now.Add(301 * time.Second)
	if code := a.export(n); code != http.StatusUnauthorized {
		t.Errorf("after 301 s: %d", code)
	}
	// Issuing many nonces does not invalidate the first.
	first := a.nonce("10.1.0.0")
	for i := range 5000 {
		a.nonce(fmt.Sprintf("10.2.%d.%d", i/200, i%200))
	}
	if code := a.export(first); code != http.StatusOK {
		t.Errorf("after 5000 others: %d", code)
	}
	// A used nonce stays used.
	used := a.nonce("10.0.0.1")
	if code := a.export(used); code != http.StatusOK {
		t.Fatalf("a good one: %d", code)
	}
	for range 5000 {
		a.ask("GET", api.PathExport, "10.0.0.9", "", api.HeaderNonce, a.nonce("10.0.0.9"), api.HeaderSignature, base64.StdEncoding.EncodeToString([]byte("signed: nothing")))
	}
	if code := a.export(used); code != http.StatusUnauthorized {
		t.Errorf("a used one, after 5000 others with bad signatures: %d", code)
	}
	// A nonce begins with the device's identifier, and another service does not accept it.
	id, _ := base64.RawURLEncoding.DecodeString(consoletest.ID)
	raw, _ := base64.RawURLEncoding.DecodeString(first)
	if len(id) != api.DeviceIDSize || string(raw[:len(id)]) != string(id) {
		t.Errorf("the nonce %x does not begin with the device's %x", raw, id)
	}
	other := newAsker(t, &stub{config: []byte("x")})
	if code := other.export(a.nonce("10.0.0.1")); code != http.StatusUnauthorized {
		t.Errorf("a nonce of another service: %d", code)
	}
	for i := range raw {
		spoiled := bytes.Clone(raw)
		spoiled[i] ^= 1
		if code := a.export(base64.RawURLEncoding.EncodeToString(spoiled)); code != http.StatusUnauthorized {
			t.Errorf("with byte %d changed: %d", i, code)
		}
	}
}

func TestFirstConfigurationByOrigin(t *testing.T) {
	for _, c := range []struct {
		header []string
		want   int
	}{
		{nil, http.StatusAccepted},
		{[]string{"Host", "localhost:8080"}, http.StatusAccepted},
		{[]string{"Host", "atomixos"}, http.StatusAccepted},
		{[]string{"Host", "rock64.local"}, http.StatusAccepted},
		{[]string{"Host", "[fe80::1]:8080"}, http.StatusAccepted},
		{[]string{"Host", "ATOMIXOS:8080", "Origin", "HTTP://Atomixos:8080"}, http.StatusAccepted},
		{[]string{"Host", "Rock64.LOCAL", "Referer", "http://rock64.local:80/page"}, http.StatusAccepted},
		{[]string{"Host", "rock64.local:80", "Origin", "http://rock64.local"}, http.StatusAccepted},
		{[]string{"Host", "rock64.local:443", "Origin", "https://rock64.local"}, http.StatusUnauthorized},
		{[]string{"Host", "rock64.local.evil.example"}, http.StatusUnauthorized},
		{[]string{"Host", "evil.example"}, http.StatusUnauthorized},
		{[]string{"Host", "evil.example@atomixos"}, http.StatusUnauthorized},
		{[]string{"Host", "atomixos:x"}, http.StatusUnauthorized},
		{[]string{"Host", ""}, http.StatusUnauthorized},
		{[]string{"Origin", "http://172.20.30.1:8080"}, http.StatusAccepted},
		{[]string{"Origin", "http://172.20.30.1"}, http.StatusUnauthorized},
		{[]string{"Origin", "https://172.20.30.1:8080"}, http.StatusUnauthorized},
		{[]string{"Origin", "null"}, http.StatusUnauthorized},
		{[]string{"Referer", "http://evil.example/page"}, http.StatusUnauthorized},
	} {
		if got := newAsker(t, &stub{}).ask("POST", api.PathConfig, "10.0.0.1", "x", c.header...).Code; got != c.want {
			t.Errorf("%q: %d, wanted %d", c.header, got, c.want)
		}
	}
	// Later a signature is required. Validate and export always require it.
	for _, d := range []*stub{{}, {config: []byte("x")}} {
		a := newAsker(t, d)
		for _, request := range [][2]string{{"POST", api.PathValidate}, {"GET", api.PathExport}} {
			if got := a.ask(request[0], request[1], "10.0.0.1", ""); got.Code != http.StatusUnauthorized || !strings.HasPrefix(got.Body.String(), `{"status_code":401,"detail":"`) {
				t.Errorf("%s without a signature: %d %s", request[1], got.Code, got.Body)
			}
		}
	}
	if got := newAsker(t, &stub{config: []byte("x")}).ask("POST", api.PathConfig, "10.0.0.1", "x").Code; got != http.StatusUnauthorized {
		t.Errorf("again, without a signature: %d", got)
	}
}

func TestJobLimits(t *testing.T) {
	d := &stub{hold: make(chan struct{})}
	a := newAsker(t, d)
	first := a.ask("POST", api.PathConfig, "10.0.0.1", "x")
	var s api.Submitted
	if err := json.Unmarshal(first.Body.Bytes(), &s); err != nil || first.Code != http.StatusAccepted || first.Header().Get("Location") != s.JobURL || s.JobURL != "/api/jobs/"+s.JobID || s.State != "submitted" {
		t.Fatalf("%d %v %+v", first.Code, err, s)
	}
	if w := a.ask("POST", api.PathConfig, "10.0.0.1", "x"); w.Code != http.StatusConflict || !strings.HasPrefix(w.Body.String(), `{"error":"`) {
		t.Errorf("a second one: %d %s", w.Code, w.Body)
	}
	close(d.hold)
	for range 18_000 {
		if strings.Contains(a.ask("GET", s.JobURL, "10.0.0.1", "").Body.String(), `"state":"succeeded"`) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	// The first of 65 jobs is forgotten.
	for i := range api.MaxJobs {
		if w := a.ask("GET", s.JobURL, "10.0.0.1", ""); w.Code != http.StatusOK {
			t.Fatalf("the job after %d others: %d %s", i, w.Code, w.Body)
		}
		for a.ask("POST", api.PathConfig, "10.0.0.1", "x").Code == http.StatusConflict {
			time.Sleep(time.Millisecond)
		}
	}
	if w := a.ask("GET", s.JobURL, "10.0.0.1", ""); w.Code != http.StatusNotFound || w.Body.String() != `{"error":"job not found"}`+"\n" {
		t.Errorf("the job after 64 others: %d %s", w.Code, w.Body)
	}
	for time.Sleep(10 * time.Millisecond); a.ask("POST", api.PathConfig, "10.0.0.1", strings.Repeat("x", api.MaxBody)).Code != http.StatusAccepted; {
		time.Sleep(time.Millisecond)
	}
	got := http.StatusConflict
	for got == http.StatusConflict { // the job before may not have ended
		got = a.ask("POST", api.PathConfig, "10.0.0.1", strings.Repeat("x", api.MaxBody+1)).Code
	}
	if got != http.StatusRequestEntityTooLarge {
		t.Errorf("one byte more than 32 MiB: %d", got)
	}
}
