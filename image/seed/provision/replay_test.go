package provision_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"imgtool/image/fault"
	"imgtool/image/seed"
	"imgtool/image/seed/api"
	"imgtool/image/seed/provision"
	"imgtool/image/seed/seedtest"
)

// recorded returns answers of AtomixOS's own service to GET of jobs, in order: before a job runs,
// while it runs, and at its end. Messages were replaced and some steps left out.
func recorded(t *testing.T) map[string][]json.RawMessage {
	t.Helper()
	text, err := os.ReadFile("testdata/jobs.json")
	if err != nil {
		t.Fatal(err)
	}
	var jobs map[string][]json.RawMessage
	if err := json.Unmarshal(text, &jobs); err != nil {
		t.Fatal(err)
	}
	return jobs
}

// reply is an answer to a request.
type reply struct {
	status int
	body   string
	header string // Location, if not empty
}

// player answers each route with its replies in order, and repeats the last one.
type player struct {
	t       *testing.T
	replies map[string][]reply

	mu   sync.Mutex
	log  []string
	sent map[string]string // the last body of each route
}

const (
	jobID   = "3f2b8c1e-0d5a-4a57-9f0e-5a1f0c2d7e11"
	jobPath = api.PathJobs + jobID
	getJob  = "GET " + jobPath
)

var (
	notFound   = reply{404, `{"status_code":404,"detail":"Not Found"}`, ""}
	submitted  = reply{202, `{"job_id":"` + jobID + `","state":"submitted","job_url":"` + jobPath + `"}`, jobPath}
	noJob      = reply{404, `{"error":"job not found"}`, ""}
	busy       = reply{409, `{"error":"a job runs"}`, ""}
	badNonce   = reply{401, `{"status_code":401,"detail":"the nonce is invalid or expired"}`, ""}
	badKey     = reply{401, `{"status_code":401,"detail":"the signature is not good"}`, ""}
	valid      = reply{200, `{"ok":true,"warnings":[]}`, ""}
	invalid    = reply{400, `{"ok":false,"error":"the reason"}`, ""}
	onlySigned = reply{401, `{"status_code":401,"detail":"send a nonce and a signature"}`, ""}
)

func (p *player) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	route := r.Method + " " + r.URL.Path
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = append(p.log, route)
	p.sent[route] = string(body)
	all := p.replies[route]
	if len(all) == 0 {
		p.t.Errorf("the client asks for %s", route)
		all = []reply{notFound}
	}
	if len(all) > 1 {
		p.replies[route] = all[1:]
	}
	if all[0].header != "" {
		w.Header().Set("Location", all[0].header)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(all[0].status)
	io.WriteString(w, all[0].body)
}

// document returns the shortest document with another image.
func document(image string) string {
	return strings.Replace(seedtest.Minimal, "/web:1", "/"+image+":1", 1)
}

// play applies a configuration to a device with default replies and the given ones.
func play(t *testing.T, replies map[string][]reply, change *api.Change) (*player, *provision.Applied, []provision.Event, error) {
	t.Helper()
	p := &player{t: t, sent: map[string]string{}, replies: map[string][]reply{
		"GET " + api.PathHealth:    {{200, `{"status":"ok"}`, ""}},
		"GET " + api.PathNonce:     {{200, `{"nonce":"b1Jx3cN0mVq8sT5uYw7zA2dE4fG6hI8jK0lM2nO4pQ6"}`, ""}},
		"GET " + api.PathPage:      {notFound},
		"POST " + api.PathValidate: {valid},
		"GET " + api.PathExport:    {{200, document("old"), ""}},
		"POST " + api.PathConfig:   {onlySigned, submitted},
	}}
	for route, all := range replies {
		p.replies[route] = all
	}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := provision.Dial(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	_, signer, _ := newKey(t)
	text := []byte(document("new"))
	config, faults := seed.Check(text)
	if config == nil {
		t.Fatal(faults)
	}
	var events []provision.Event
	done, err := c.Apply(t.Context(), provision.Request{Payload: &provision.Payload{Name: "config.toml", Body: text, Config: config}, Change: change, Timeout: 30 * time.Second, Wait: 10 * time.Second,
		Keys:   func() ([]*provision.Key, error) { return []*provision.Key{{Name: "key", Signer: signer}}, nil },
		Report: func(e provision.Event) { events = append(events, e) }})
	return p, done, events, err
}

func polls(all []json.RawMessage) []reply {
	var replies []reply
	for _, body := range all {
		replies = append(replies, reply{200, string(body), ""})
	}
	return replies
}

// said joins the steps and warnings of events.
func said(events []provision.Event) string {
	var words []string
	for _, e := range events {
		switch {
		case e.Step != nil && e.Step.Service != "":
			words = append(words, e.Step.Service+"="+e.Step.Status)
		case e.Step != nil:
			words = append(words, e.Step.Step)
		case e.Warning != "":
			words = append(words, "!"+e.Warning)
		}
	}
	return strings.Join(words, " ")
}

func TestAgainstRecordedAnswers(t *testing.T) {
	jobs := recorded(t)
	fresh := []reply{{200, "<html>", ""}}
	const steps = "prepare validate render-containers render-container-volumes promote activate web.service=starting web.service=running health-check"
	for name, c := range map[string]struct {
		replies map[string][]reply
		want    string // steps and warnings, or "*", the kind of the error, ": " and a part of it
		reapply bool
	}{
		"a first one": {map[string][]reply{"GET /": fresh, "POST " + api.PathConfig: {submitted}, getJob: polls(jobs["first"])},
			"submitted running " + steps + " complete completed !a warning", false},
		"another": {map[string][]reply{"POST " + api.PathConfig: {submitted}, getJob: polls(jobs["again"])},
			"submitted running " + steps + " cleanup completed", true},
		"only its address in the answer": {map[string][]reply{"POST " + api.PathConfig: {{202, `{}`, jobPath}}, getJob: polls(jobs["again"])},
			"submitted running " + steps + " cleanup completed", true},
		"a busy device": {map[string][]reply{"POST " + api.PathConfig: {busy, submitted}, getJob: polls(jobs["again"])},
			"submitted running " + steps + " cleanup completed", true},
		"an expired nonce": {map[string][]reply{"POST " + api.PathConfig: {badNonce, submitted}, getJob: polls(jobs["again"])},
			"submitted running " + steps + " cleanup completed", true},
		"a device provisioned in the meantime": {map[string][]reply{"GET /": fresh, "POST " + api.PathConfig: {onlySigned, submitted}, getJob: polls(jobs["again"])},
			"submitted running " + steps + " cleanup completed", true},
		"the key of another device": {map[string][]reply{"POST " + api.PathValidate: {badKey}, "POST " + api.PathConfig: {onlySigned}}, "*refused: does not take the signature of key", false},
		"not valid":                 {map[string][]reply{"POST " + api.PathValidate: {invalid}}, "*refused: is not valid: the reason", false},
		"a first one, not valid":    {map[string][]reply{"GET /": fresh, "POST " + api.PathConfig: {submitted}, getJob: polls(jobs["invalid"])}, "*refused: refused it at the step \"Checking the configuration\" and kept its configuration: the reason", false},
		"rolled back":               {map[string][]reply{"POST " + api.PathConfig: {submitted}, getJob: polls(jobs["failed"])}, "*rolled back: went back to the previous configuration: the reason", false},
		"discarded":                 {map[string][]reply{"GET /": fresh, "POST " + api.PathConfig: {submitted}, getJob: polls(jobs["discarded"])}, "*rolled back: waits for a configuration again: the reason", false},
		"not rolled back":           {map[string][]reply{"POST " + api.PathConfig: {submitted}, getJob: polls(jobs["stuck"])}, "*unknown: did not report a rollback: the reason", false},
		"a restart that loses the job": {map[string][]reply{"POST " + api.PathConfig: {submitted}, getJob: append(polls(jobs["again"][:2]), noJob),
			"GET " + api.PathExport: {{200, document("old"), ""}, {200, document("new"), ""}}}, "submitted running", true},
		"a restart with the previous configuration": {map[string][]reply{"POST " + api.PathConfig: {submitted}, getJob: append(polls(jobs["again"][:2]), noJob)},
			"*rolled back: has the previous configuration", false},
		"a large body": {map[string][]reply{"POST " + api.PathConfig: {{413, `{"status_code":413,"detail":"Request Entity Too Large"}`, ""}}},
			"*refused: larger than the 32 MiB", false},
		"an export that fails": {map[string][]reply{"POST " + api.PathConfig: {submitted}, getJob: polls(jobs["again"]),
			"GET " + api.PathExport: {{500, `{"status_code":500,"detail":"Internal Server Error"}`, ""}}}, "submitted running " + steps + " cleanup completed", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, done, events, err := play(t, c.replies, nil)
			sameEnd(t, c.want, c.reapply, done, events, err)
		})
	}
}

func sameEnd(t *testing.T, want string, reapply bool, done *provision.Applied, events []provision.Event, err error) {
	t.Helper()
	if kind, words, ok := strings.Cut(want, ": "); ok && strings.HasPrefix(kind, "*") {
		if err == nil || "*"+fault.Kind(err) != kind || !strings.Contains(err.Error(), words) {
			t.Errorf("%T %v, want %s", err, err, want)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := said(events); got != want {
		t.Errorf("events\n%s, want\n%s", got, want)
	}
	if done.Reapply != reapply {
		t.Errorf("another configuration: %v", done.Reapply)
	}
}

// Changes of single places are sent to their routes, without the whole configuration.
func TestChangesAgainstRecordedAnswers(t *testing.T) {
	jobs := recorded(t)
	const steps = "submitted running validate render-containers render-container-volumes promote activate web.service=starting web.service=running health-check cleanup completed"
	for place, route := range map[string]string{"users.ops": "PUT /api/config/users/ops", "-users.ops": "DELETE /api/config/users/ops", "network": "PATCH /api/config/network",
		"containers.container.web": "PUT /api/config/containers/web", "-containers.network.net": "DELETE /api/config/container-networks/net",
		"containers.volume.data": "PUT /api/config/container-volumes/data"} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			change := &api.Change{Value: []byte(`{"a": 1}`)}
			name, deletes := strings.CutPrefix(place, "-")
			if change.Place = strings.Split(name, "."); deletes {
				change.Value = nil
			}
			p, done, events, err := play(t, map[string][]reply{route: {busy, submitted}, getJob: polls(jobs["part"])}, change)
			sameEnd(t, steps, true, done, events, err)
			if got := p.sent[route]; got != string(change.Value) {
				t.Errorf("it sends %q", got)
			}
			for _, request := range p.log {
				if request == "POST "+api.PathConfig {
					t.Error("it sends the whole configuration")
				}
			}
		})
	}
	for status, body := range map[int]string{404: `{"status_code":404,"detail":"Not Found"}`, 405: `{"status_code":405,"detail":"Method Not Allowed"}`} {
		change := &api.Change{Place: []string{"users", "ops"}, Value: []byte("{}")}
		_, _, _, err := play(t, map[string][]reply{"PUT /api/config/users/ops": {{status, body, ""}}}, change)
		var refused *provision.RefusedError
		if !errors.As(err, &refused) || !strings.HasSuffix(err.Error(), "the device cannot change users.ops alone; send a whole configuration") {
			t.Errorf("%d: %v", status, err)
		}
	}
}
