package console_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"imgtool/image/seed/api"
)

// ended returns the JSON of a finished job, with identifiers and seconds replaced by "…".
func (a *asker) ended(url string) string {
	a.t.Helper()
	for range 18_000 {
		body := a.ask("GET", url, "10.0.0.1", "").Body.String()
		if strings.Contains(body, `"succeeded"`) || strings.Contains(body, `"failed"`) {
			body = regexp.MustCompile(`"id":"[^"]+"`).ReplaceAllString(body, `"id":"…"`)
			return strings.TrimSpace(regexp.MustCompile(`(seconds":)[0-9.]+`).ReplaceAllString(body, "$1…"))
		}
		time.Sleep(10 * time.Millisecond)
	}
	a.t.Fatal("the job does not end")
	return ""
}

// Jobs have the keys that they have on AtomixOS, and no others.
func TestJobJSON(t *testing.T) {
	const (
		begin = `{"id":"…","state":"`
		first = `"events":[{"step":"running","elapsed_seconds":…}`
		last  = `,{"step":"completed","elapsed_seconds":…}],`
		time  = `,"duration_seconds":…}`
	)
	text, err := json.Marshal(api.Job{ID: "x", State: api.Waiting, Step: api.Waiting})
	if want := `{"id":"x","state":"submitted","current_step":"submitted"}`; err != nil || string(text) != want {
		t.Errorf("%s, wanted %s", text, want)
	}
	promoted := func(report func(api.Event)) { report(api.Event{Step: api.Promote, Message: "new"}) }
	for name, c := range map[string]struct {
		config string
		end    func(report func(api.Event)) (api.Result, string, error)
		want   string
	}{
		"the first": {"", func(func(api.Event)) (api.Result, string, error) {
			return api.Result{Forwarding: "http://172.20.30.1:8080"}, "", nil
		}, begin + `succeeded","current_step":"completed",` + first + last + `"result":{"warnings":[],"reapply":false,"forwarding_url":"http://172.20.30.1:8080"}` + time},
		"again": {"x", func(report func(api.Event)) (api.Result, string, error) {
			promoted(report)
			return api.Result{Warnings: []string{"w"}}, "", nil
		}, begin + `succeeded","current_step":"completed",` + first + `,{"step":"promote","elapsed_seconds":…,"message":"new"}` + last + `"result":{"warnings":["w"],"reapply":true,"rolled_back":false}` + time},
		"not valid": {"x", func(func(api.Event)) (api.Result, string, error) {
			return api.Result{Warnings: []string{"w"}}, "", errors.New("bad")
		}, begin + `failed","current_step":"running",` + first + `],"error":"bad"` + time},
		"failed": {"x", func(report func(api.Event)) (api.Result, string, error) {
			promoted(report)
			return api.Result{Warnings: []string{"w"}}, api.RollbackCompleted, errors.New("bad")
		}, begin + `failed","current_step":"promote",` + first + `,{"step":"promote","elapsed_seconds":…,"message":"new"}],"error":"bad","rollback_status":"completed"` + time},
	} {
		d := &stub{end: c.end}
		if c.config != "" {
			d.config = []byte(c.config)
		}
		a := newAsker(t, d)
		requests := [][2]string{{"POST", api.PathConfig}}
		if d.config != nil {
			requests = append(requests, [2]string{"PUT", api.PathUsers + "ops"}, [2]string{"DELETE", api.PathVolumes + "data"})
		}
		for _, r := range requests {
			body := "{}"
			if r[0] == "DELETE" {
				body = ""
			}
			w := a.signed(r[0], r[1], body)
			var s api.Submitted
			if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil || w.Code != http.StatusAccepted || w.Header().Get("Location") != api.PathJobs+s.JobID ||
				strings.TrimSpace(w.Body.String()) != `{"job_id":"`+s.JobID+`","state":"submitted","job_url":"`+api.PathJobs+s.JobID+`"}` {
				t.Fatalf("%s, %s: %d %s", name, r, w.Code, w.Body)
			}
			if got := a.ended(s.JobURL); got != c.want {
				t.Errorf("%s, %s:\n%s, wanted\n%s", name, r, got, c.want)
			}
		}
	}
}

func TestResponseJSON(t *testing.T) {
	d := &stub{config: []byte("x")}
	a := newAsker(t, d)
	if w := a.signed("POST", api.PathValidate, "x"); w.Code != http.StatusOK || w.Body.String() != `{"ok":true,"warnings":[]}`+"\n" {
		t.Errorf("validate: %d %s", w.Code, w.Body)
	}
	for _, r := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/nothing", "", 404, `{"status_code":404,"detail":"Not Found"}`},
		{"GET", api.PathUsers, "", 404, `{"status_code":404,"detail":"Not Found"}`},
		{"PUT", api.PathUsers + "a/b", "{}", 404, `{"status_code":404,"detail":"Not Found"}`},
		{"GET", api.PathConfig, "", 405, `{"status_code":405,"detail":"Method Not Allowed"}`},
		{"DELETE", api.PathExport, "", 405, `{"status_code":405,"detail":"Method Not Allowed"}`},
		{"POST", api.PathUsers + "ops", "{}", 405, `{"status_code":405,"detail":"Method Not Allowed"}`},
		{"PUT", api.PathNetwork, "{}", 405, `{"status_code":405,"detail":"Method Not Allowed"}`},
		{"PATCH", api.PathNetwork, "[]", 400, `{"status_code":400,"detail":"The body must be a JSON object"}`},
		{"PUT", api.PathUsers + "ops", "{", 400, `{"status_code":400,"detail":"The body must be a JSON object"}`},
		{"PUT", api.PathContainers + "web", "", 400, `{"status_code":400,"detail":"The body must be a JSON object"}`},
		{"PUT", api.PathVolumes + "data", strings.Repeat(" ", api.MaxChange) + "{}", 413, `{"status_code":413,"detail":"Request Entity Too Large"}`},
	} {
		if w := a.signed(r.method, r.path, r.body); w.Code != r.status || strings.TrimSpace(w.Body.String()) != r.want {
			t.Errorf("%s %s: %d %s, wanted %d %s", r.method, r.path, w.Code, w.Body, r.status, r.want)
		}
		// Only admins get the faults of a body.
		if w := a.ask(r.method, r.path, "10.0.0.1", r.body); (r.status == 400 || r.status == 413) && w.Code != http.StatusUnauthorized {
			t.Errorf("%s %s without a signature: %d %s", r.method, r.path, w.Code, w.Body)
		}
	}
}

// Long names are truncated, and invalid names are replaced by config.toml.
func TestFilename(t *testing.T) {
	long := strings.Repeat("n", 250) + ".tar.gz"
	for name, want := range map[string]string{"": "config.toml", "site.tar.gz": "site.tar.gz", "a b-c_d.toml": "a b-c_d.toml", "../x": "config.toml", "a\tb": "config.toml",
		long: long[:255], strings.Repeat("n", 300) + "/": strings.Repeat("n", 255)} {
		d := &stub{config: []byte("x")}
		newAsker(t, d).signed("POST", api.PathValidate, "x", api.HeaderFilename, name)
		if len(d.names) != 1 || d.names[0] != want {
			t.Errorf("%q: %q, wanted %q", name, d.names, want)
		}
	}
}

// The OpenAPI description has all routes, and no others.
func TestOpenAPI(t *testing.T) {
	a := newAsker(t, &stub{})
	w := a.ask("GET", api.PathSchema, "10.0.0.1", "")
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/vnd.oai.openapi+json" || doc.OpenAPI != "3.1.0" {
		t.Fatalf("%d %v: %s", w.Code, err, w.Header())
	}
	want := []string{"GET /api/config/export", "GET /api/health", "GET /api/jobs/{id}", "GET /api/nonce", "GET /schema/openapi.json", "POST /api/config", "POST /api/validate"}
	for _, route := range changes {
		method, path, _ := strings.Cut(route, " ")
		if path != api.PathNetwork {
			path = path[:strings.LastIndexByte(path, '/')+1] + "{name}"
		}
		want = append(want, method+" "+path)
	}
	var got []string
	for path, methods := range doc.Paths {
		for method := range methods {
			if method == "parameters" {
				continue
			}
			method = strings.ToUpper(method)
			got = append(got, method+" "+path)
			if w := a.ask(method, strings.NewReplacer("{name}", "x", "{id}", "x").Replace(path), "10.0.0.1", ""); w.Code == http.StatusMethodNotAllowed || strings.Contains(w.Body.String(), `"Not Found"`) {
				t.Errorf("%s %s is in the document, and the service says %d", method, path, w.Code)
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the document has\n%s, wanted\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
