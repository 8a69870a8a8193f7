package console_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"imgtool/image/seed"
	"imgtool/image/seed/api"
	"imgtool/image/seed/console"
	"imgtool/image/seed/console/consoletest"
)

// paged is a stub that checks configurations.
type paged struct {
	stub
	detail string
}

func (d *paged) Detail() string { return d.detail }
func (d *paged) Validate(_ string, body io.ReadSeeker) ([]seed.Fault, error) {
	text, _ := io.ReadAll(body)
	if bytes.HasPrefix(text, []byte("\x1f\x8b")) {
		return nil, errors.New("the archive is <corrupt>")
	}
	_, faults := seed.Check(text)
	return faults, nil
}

// visitor is a browser without scripts.
type visitor struct {
	t       *testing.T
	handler http.Handler
	host    string
	token   string // of the last page
}

func visit(t *testing.T, d console.Device, unit console.Unit) *visitor {
	return &visitor{t: t, host: "172.20.30.1:8080", handler: console.New(t.Context(), d, console.Options{ID: consoletest.ID, Spool: t.TempDir(), Unit: func() console.Unit { return unit }})}
}

var (
	tokenField = regexp.MustCompile(`name="bootstrap_token" value="([^"]{43})"`)
	// inline matches content that the policy of the page would not allow.
	inline = regexp.MustCompile(`(?i)<style|<script(?:>| [^>]*[^r]>)[^<]|\son[a-z]+=|\sstyle=|javascript:|https?://[^1<]|http-equiv`)
)

// ask returns the status and the page that answers a request.
func (v *visitor) ask(q *http.Request) (int, string, http.Header) {
	v.t.Helper()
	q.Host = v.host
	q.Header.Set("Accept", "text/html,application/xhtml+xml")
	w := httptest.NewRecorder()
	v.handler.ServeHTTP(w, q)
	page := w.Body.String()
	if w.Code != http.StatusSeeOther {
		if kind := w.Header().Get("Content-Type"); kind != "text/html; charset=utf-8" || !strings.HasPrefix(page, "<!doctype html>") || !strings.HasSuffix(strings.TrimSpace(page), "</html>") {
			v.t.Errorf("%s %s: %s %s", q.Method, q.URL, kind, page)
		}
		if found := inline.FindString(page); found != "" {
			v.t.Errorf("%s %s: the page has %q", q.Method, q.URL, found)
		}
	}
	v.token = ""
	if m := tokenField.FindStringSubmatch(page); m != nil {
		v.token = m[1]
	}
	return w.Code, page, w.Header()
}

func (v *visitor) get(path string) (int, string) {
	v.t.Helper()
	status, page, _ := v.ask(httptest.NewRequest("GET", path, nil))
	return status, page
}

// send submits the form with a file, which can be "", and a text.
func (v *visitor) send(path, name, file, text string) (int, string, http.Header) {
	v.t.Helper()
	return v.ask(v.form(path, name, file, text))
}

// form returns the request of the form.
func (v *visitor) form(path, name, file, text string) *http.Request {
	v.t.Helper()
	token := v.token
	if token == "" {
		v.get("/")
		token = v.token
	}
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	w.WriteField("bootstrap_token", token)
	part, _ := w.CreateFormFile("config_file", name)
	io.WriteString(part, file)
	w.WriteField("config", strings.ReplaceAll(text, "\n", "\r\n"))
	w.Close()
	q := httptest.NewRequest("POST", path, &form)
	q.Header.Set("Content-Type", w.FormDataContentType())
	return q
}

// A client that is not a browser gets a job for a configuration with faults, as from AtomixOS.
func TestFormOfOtherClients(t *testing.T) {
	for _, path := range []string{"/apply", "/check"} {
		v := visit(t, &paged{}, console.Unit{})
		q := v.form(path, "", "", "[users.ops]\nisAdmin = 1\n")
		q.Host = v.host
		w := httptest.NewRecorder()
		v.handler.ServeHTTP(w, q)
		want := map[string]int{"/apply": http.StatusSeeOther, "/check": http.StatusBadRequest}[path]
		if job := strings.HasPrefix(w.Header().Get("Location"), "/ui/jobs/"); w.Code != want || job != (path == "/apply") {
			t.Errorf("%s: status %d, wanted %d; location %q", path, w.Code, want, w.Header().Get("Location"))
		}
	}
}

func wantsPage(t *testing.T, what string, status, want int, page string, parts ...string) {
	t.Helper()
	if status != want {
		t.Errorf("%s: status %d, wanted %d", what, status, want)
	}
	for _, part := range parts {
		if absent, ok := strings.CutPrefix(part, "!"); ok == strings.Contains(page, absent) {
			t.Errorf("%s: %q:\n%s", what, part, page)
		}
	}
}

const hostile = `</textarea><script>alert(1)</script>`

// The page for each state of a device.
func TestPageStates(t *testing.T) {
	unit := console.Unit{Name: "rock<64>", Board: "Pine64 Rock64", MAC: "02:ba:91:4c:11:07"}
	d := &paged{detail: "the seed of the stick <A> is not taken"}
	v := visit(t, d, unit)
	status, page := v.get("/")
	wantsPage(t, "waiting", status, 200, page, "<title>Set up this device – rock&lt;64&gt;</title>", "Pine64 Rock64", "02:ba:91:4c:11:07", consoletest.ID, "the stick &lt;A&gt;",
		`formaction="/check"`, `formaction="/apply"`, `<label for="config">`, `<label for="config_file">`, "PUT-YOUR-PUBLIC-KEY-HERE")
	status, page = v.get("/?example")
	wantsPage(t, "with the example", status, 200, page, "autocapitalize=\"off\">\nversion = 1\n")

	// A name that a foreign page can have gets no token.
	v.host = "rock64.example:8080"
	status, page = v.get("/")
	wantsPage(t, "under a foreign name", status, 200, page, "under the name rock64.example", "!bootstrap_token")
	v.host = "172.20.30.1:8080"

	status, page = v.get("/nothing")
	wantsPage(t, "no such page", status, 404, page, "There is no such page", "!<form")
	status, page = v.get("/ui/jobs/x")
	wantsPage(t, "no such job", status, 404, page, "There is no such page", `href="/"`)
	d.unready = errors.New("the data partition is not <mounted>")
	status, page = v.get("/")
	wantsPage(t, "unready", status, 200, page, "cannot be set up now", "not &lt;mounted&gt;", "!<form")
	d.unready = nil
	d.config = []byte("secret")
	status, page = v.get("/")
	wantsPage(t, "configured", status, 404, page, "This device is set up", "imgtool provision status 172.20.30.1<", "!<form", "!secret")

	// Other clients get the answers of AtomixOS.
	q := httptest.NewRequest("GET", "/", nil)
	w := httptest.NewRecorder()
	if v.handler.ServeHTTP(w, q); w.Code != 404 || w.Body.String() != `{"status_code":404,"detail":"Not Found"}`+"\n" {
		t.Errorf("configured, for other clients: %d %s", w.Code, w.Body)
	}

	hold := make(chan struct{})
	booting := console.New(t.Context(), &stub{}, console.Options{})
	booting.Boot(func(context.Context, func(api.Event)) (api.Result, string, error) {
		<-hold
		return api.Result{}, "", nil
	})
	v.handler = booting
	status, page = v.get("/")
	wantsPage(t, "starting", status, 200, page, "This device is starting", "!<form")
	close(hold)
}

// The verdict of a check quotes the text, which stays in the form, and nothing is applied.
func TestPageVerdicts(t *testing.T) {
	d := &paged{}
	v := visit(t, d, console.Unit{})
	valid := sample(t)
	bad := strings.Replace(valid, "isAdmin = true", `isAdmin = "`+hostile+`"`, 1)
	for _, path := range []string{"/check", "/apply"} {
		status, page, _ := v.send(path, "", "", bad)
		wantsPage(t, "faults", status, 400, page, "<title>1 fault: Set up", "Nothing was changed", `data-line="3">Line 3</a>`, "<code>users.ops.isAdmin</code> is a string", `role="alert" tabindex="-1" autofocus`,
			`aria-invalid="true"`, "isAdmin = &#34;&lt;/textarea&gt;&lt;script&gt;", "\r\n[activation]", "!<script>alert")
		status, page, _ = v.send(path, "site.toml", bad, "another text")
		wantsPage(t, "faults in a file", status, 400, page, "1 fault in site.toml", "\n[activation]", "!another text")
		status, page, _ = v.send(path, "", "", strings.Replace(valid, "[activation]", strings.Repeat("x = 1\n", 50)+"[activation]", 1))
		wantsPage(t, "many faults", status, 400, page, "<title>50 faults: Set up", "And 30 more.")
		status, page, _ = v.send(path, "site.tar.gz", "\x1f\x8bxxx", "")
		wantsPage(t, "a bundle that cannot be read", status, 400, page, "site.tar.gz cannot be read", "the archive is &lt;corrupt&gt;")
		status, page, _ = v.send(path, "", "", "")
		wantsPage(t, "nothing", status, 400, page, "No file was chosen and nothing was pasted.", "<form")
		status, page, _ = v.send(path, "", "", "[users.ops]\nssh_key = \"\xff\"")
		wantsPage(t, "not UTF-8", status, 400, page, "!\xff")
		v.token = strings.Repeat("x", 43)
		status, page, _ = v.send(path, "", "", valid)
		wantsPage(t, "an old form", status, 403, page, "The form was out of date", "<form")
	}
	status, page, _ := v.send("/check", "", "", valid+"PublishPort = [\"0.0.0.0:1:2\"]\n")
	wantsPage(t, "valid with a warning", status, 200, page, "The configuration is valid", `role="status"`, "Line 11", "0.0.0.0:1:2", "!aria-invalid")
	if len(d.names) > 0 || d.config != nil {
		t.Errorf("the device has %q", d.config)
	}
	// The example lacks only the key.
	_, page = v.get("/")
	example := strings.NewReplacer("&#34;", `"`, "&lt;", "<", "&gt;", ">").Replace(regexp.MustCompile(`(?s)id="example">(.*?)</code>`).FindStringSubmatch(page)[1])
	if _, faults := seed.Check([]byte(example)); len(faults) != 1 || faults[0].Key != "users.ops.ssh_key" {
		t.Errorf("the example has the faults %v", faults)
	}
	key := regexp.MustCompile(`ssh_key = .*`)
	if _, faults := seed.Check(key.ReplaceAll([]byte(example), []byte(key.FindString(valid)))); len(faults) != 0 {
		t.Errorf("the example with a key has the faults %v", faults)
	}
}

// The pages of a job.
func TestPageOfJob(t *testing.T) {
	valid := sample(t)
	step := make(chan struct{})
	for _, c := range []struct {
		name string
		end  func(d *paged) (api.Result, string, error)
		want []string
	}{
		{"done", func(d *paged) (api.Result, string, error) {
			d.config = []byte(valid)
			return api.Result{Forwarding: "http://172.20.30.1:8080", Warnings: []string{"7: <warning>"}}, "", nil
		}, []string{"This device is set up", "<dd>ops (admin)</dd>", "<dd>dnsmasq: running</dd>", "ssh ops@172.20.30.1<", "7: &lt;warning&gt;", "What next", "!<form", "!ssh-ed25519"}},
		{"failed", func(*paged) (api.Result, string, error) {
			return api.Result{}, api.RollbackDiscarded, errors.New("firewall: <b>")
		}, []string{"The configuration was not applied", "firewall: &lt;b&gt;", "at the step “Preparing users”", "waits for a configuration again", "<form", "!ssh-ed25519 AAAA"}},
		{"stuck", func(*paged) (api.Result, string, error) { return api.Result{}, api.RollbackFailed, errors.New("x") }, []string{"Restart the device"}},
	} {
		d := &paged{}
		d.end = func(report func(api.Event)) (api.Result, string, error) {
			report(api.Event{Step: "activate", Service: "dnsmasq", Status: "starting"})
			report(api.Event{Step: "activate", Service: "dnsmasq", Status: "running"})
			report(api.Event{Step: "write-users"})
			<-step
			result, rollback, err := c.end(d)
			if err != nil {
				report(api.Event{Step: api.Rollback})
			}
			return result, rollback, err
		}
		v := visit(t, d, console.Unit{Name: "rock64"})
		status, _, header := v.send("/apply", "", "", valid)
		job := header.Get("Location")
		if status != http.StatusSeeOther || !strings.HasPrefix(job, "/ui/jobs/") {
			t.Fatalf("%s: %d %s", c.name, status, job)
		}
		var page string
		until := func(text string) {
			t.Helper()
			for range 18_000 {
				if status, page = v.get(job); strings.Contains(page, text) {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Fatalf("%s: the page never has %q:\n%s", c.name, text, page)
		}
		until("Preparing users")
		wantsPage(t, c.name+", running", status, 200, page, "<title>Setting up the device – rock64</title>", `<p id="now" role="status">Preparing users</p>`, `value="8" aria-label="Progress"`,
			"<li>Setting up the network and the firewall: dnsmasq: running</li>", "Show the current state", "!<form", "!write-users")
		status, other, _ := v.ask(httptest.NewRequest("POST", "/check", strings.NewReader("x")))
		wantsPage(t, c.name+", another one", status, 409, other, "The device is busy with a configuration")
		step <- struct{}{}
		until("autofocus>" + map[bool]string{true: "This device is set up", false: "The configuration was not applied"}[c.name == "done"])
		wantsPage(t, c.name, status, 200, page, c.want...)
	}
}
