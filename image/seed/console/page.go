package console

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"imgtool/image/seed/api"
)

// Routes for browsers.
const (
	pathApply  = "/apply"
	pathCheck  = "/check"
	pathView   = "/ui/jobs/"
	pathAssets = "/assets/"
)

//go:embed assets
var assets embed.FS

var pageTemplate = template.Must(template.ParseFS(assets, "assets/page.html"))

// example is a configuration that lacks only the key of its admin. The device refuses it as it is,
// so that it is not applied by accident.
var example = func() string {
	text, err := assets.ReadFile("assets/example.toml")
	if err != nil {
		panic(err)
	}
	return string(text)
}()

// Unit identifies a device to people. Empty fields are not shown.
type Unit struct {
	Name  string // host name
	Board string
	MAC   string // of the first network interface
}

// pageData is the data of the page.
type pageData struct {
	View    string // name of the template of the state
	Unit    Unit
	ID      string // see api.Health
	Address string // of the console
	Host    string // that the browser used

	Alert   string // why the last request failed
	Detail  string // why the device waits or takes no configuration
	Token   string // of the form; empty: there is no form
	Text    string // in the form
	Example string
	Verdict *verdict
	Job     *jobData
}

// The states of the page.
const (
	viewForm     = "form"     // the device waits for a configuration
	viewStarting = "starting" // it still looks for one itself
	viewUnready  = "unready"  // it cannot take one
	viewOwned    = "owned"    // it has one
	viewNothing  = "nothing"  // there is no such page
	viewJob      = "job"
)

var titles = map[string]string{
	viewForm:     "Set up this device",
	viewStarting: "This device is starting",
	viewUnready:  "This device cannot be set up now",
	viewOwned:    "This device is set up",
	viewNothing:  "There is no such page",
	viewJob:      "Setting up the device",
}

// Heading returns the heading of the page.
func (d pageData) Heading() string {
	if d.Job == nil {
		return titles[d.View]
	}
	switch d.Job.State {
	case api.Succeeded:
		return titles[viewOwned]
	case api.Failed:
		return "The configuration was not applied"
	}
	return titles[viewJob]
}

// Title returns the title of the page, which begins with what is new on it.
func (d pageData) Title() string {
	title := d.Heading()
	switch v := d.Verdict; {
	case d.Alert != "":
		title = "Error: " + title
	case v != nil && v.OK():
		title = "Valid: " + title
	case v != nil && v.Broken != "":
		title = "Cannot be read: " + title
	case v != nil:
		title = v.Count() + ": " + title
	}
	if d.Unit.Name != "" {
		title += " – " + d.Unit.Name
	}
	return title
}

// Invalid reports whether the text in the form has faults.
func (d pageData) Invalid() bool { return d.Verdict != nil && !d.Verdict.OK() }

// policy is the Content-Security-Policy of the page, which loads its own style and script only.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; " +
	"require-trusted-types-for 'script'; trusted-types 'none'"

// show writes the page.
func (c *Console) show(w http.ResponseWriter, status int, data pageData) {
	w.Header().Set("Content-Security-Policy", policy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	pageTemplate.Execute(w, data)
}

// asset serves the style or script of the page.
func asset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	kind := map[string]string{"page.css": "text/css", "page.js": "text/javascript"}[name]
	text, err := assets.ReadFile("assets/" + name)
	if kind == "" || err != nil {
		refuse(w, notFound)
		return
	}
	w.Header().Set("Content-Type", kind+"; charset=utf-8")
	w.Write(text)
}

// state returns the page for the state of the device.
func (c *Console) state(r *http.Request) pageData {
	data := pageData{ID: c.id, Host: hostname(r.Host)}
	if c.unit != nil {
		data.Unit = c.unit()
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		data.Address = local.String()
	}
	config, err := c.device.Config()
	c.mu.Lock()
	booting := c.booting
	c.mu.Unlock()
	unready := c.device.Ready()
	switch {
	case err != nil:
		data.View, data.Detail = viewUnready, "Its configuration cannot be read."
	case config != nil:
		data.View = viewOwned
	case booting:
		data.View = viewStarting
	case unready != nil:
		data.View, data.Detail = viewUnready, unready.Error()
	case !allowedHost(r):
		// Its requests would be refused.
		data.View, data.Detail = viewUnready, "It takes no first configuration under the name "+data.Host+". Use its IP address"
		if data.Address != "" {
			data.Detail += ": http://" + data.Address
		}
	default:
		data.View, data.Detail, data.Token, data.Example = viewForm, c.device.Detail(), c.token, example
	}
	return data
}

// page serves the page. A device with a configuration answers with status 404, as AtomixOS does.
func (c *Console) page(w http.ResponseWriter, r *http.Request) {
	data := c.state(r)
	if data.View == viewOwned {
		c.problem(w, r, notFound, "")
		return
	}
	if r.URL.Query().Has("example") {
		data.Text = data.Example
	}
	c.show(w, http.StatusOK, data)
}

// wantsHTML reports whether a request comes from a browser.
func wantsHTML(r *http.Request) bool { return strings.Contains(r.Header.Get("Accept"), "text/html") }

// problem answers a request of a browser with an error and the page, which keeps the text of the
// form. Other clients get the error as JSON.
func (c *Console) problem(w http.ResponseWriter, r *http.Request, err error, text string) {
	if !wantsHTML(r) {
		refuse(w, err)
		return
	}
	refused := internal
	errors.As(err, &refused)
	data := c.state(r)
	data.Text = text
	switch {
	case refused.status == http.StatusNotFound && r.URL.Path == api.PathPage:
	case refused.status == http.StatusNotFound && r.Method == http.MethodGet:
		data.View, data.Token = viewNothing, ""
	case refused.status == http.StatusNotFound: // the device was set up in the meantime
		data.Alert = "Nothing was changed: the device has got its configuration in the meantime."
	default:
		data.Alert = explained(refused)
	}
	w.Header().Set("Connection", "close") // the rest of the body is not read
	c.show(w, refused.status, data)
}

// explained returns a refusal in words for people.
func explained(e *refusal) string {
	if e == busy {
		return "The device is busy with a configuration. Wait a moment, and send yours again."
	}
	switch e.status {
	case http.StatusForbidden:
		return "The form was out of date, because the device has restarted. Send it again."
	case http.StatusUnauthorized:
		return "The request did not come from this page. Open the page by the device's IP address and send it again."
	case http.StatusRequestEntityTooLarge:
		return "It is larger than 32 MiB, which is the most that the device takes."
	case http.StatusInternalServerError, http.StatusMethodNotAllowed, http.StatusNotFound:
		return http.StatusText(e.status) + "."
	}
	return strings.ToUpper(e.reason[:1]) + strings.TrimSuffix(e.reason[1:], ".") + "."
}

// jobData is a job on the page.
type jobData struct {
	*api.Job
	Users    []string // that have an account now
	Services []string // with their states
}

// Path returns the path of the job's page.
func (j *jobData) Path() string { return pathView + j.ID }

// Steps returns the number of steps that a job can have, and At the place of the current one.
func (j *jobData) Steps() int { return len(api.Steps()) - 1 }
func (j *jobData) At() int    { return max(api.StepIndex(j.Step), 0) }

// Now describes the current step.
func (j *jobData) Now() string {
	if len(j.Events) == 0 {
		return api.StepWords(api.Steps()[0])
	}
	return j.Events[len(j.Events)-1].Words()
}

// FailedAt describes the step that failed, which is the last one before the rollback.
func (j *jobData) FailedAt() string {
	for _, e := range slices.Backward(j.Events) {
		if e.Step != api.Rollback {
			return api.StepWords(e.Step)
		}
	}
	return api.StepWords(j.Step)
}

// Ending describes what the device has after a failure.
func (j *jobData) Ending() string {
	switch j.Rollback {
	case api.RollbackDiscarded:
		return "The device has deleted it and waits for a configuration again."
	case api.RollbackCompleted:
		return "The device has gone back to its previous configuration."
	case api.RollbackFailed:
		return "Going back failed, too. Restart the device: it then recovers."
	}
	return "Nothing was changed."
}

// Time returns how long the job took.
func (j *jobData) Time() string {
	if j.Duration == nil {
		return ""
	}
	return fmt.Sprintf("%.1f s", *j.Duration)
}

// Admin returns the name of an admin, for an example.
func (j *jobData) Admin() string {
	for _, u := range j.Users {
		if name, ok := strings.CutSuffix(u, admin); ok {
			return name
		}
	}
	return "USER"
}

// LAN returns the host of the device's new address.
func (j *jobData) LAN() string {
	if j.Result == nil {
		return ""
	}
	return hostname(strings.TrimPrefix(j.Result.Forwarding, "http://"))
}

// hostname removes the port of an address.
func hostname(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// view shows a job to anyone who knows its id.
func (c *Console) view(w http.ResponseWriter, r *http.Request) {
	j := c.find(r.PathValue("id"))
	if j == nil {
		c.problem(w, r, notFound, "")
		return
	}
	data := c.state(r)
	if j.State != api.Failed {
		data.Token = "" // no form
	}
	data.View, data.Job = viewJob, &jobData{Job: &j.Job, Users: j.users}
	last := map[string]string{}
	for _, e := range j.Events {
		if e.Service == "" {
			continue
		}
		if last[e.Service] == "" {
			data.Job.Services = append(data.Job.Services, e.Service)
		}
		last[e.Service] = e.Status
	}
	for i, service := range data.Job.Services {
		data.Job.Services[i] += ": " + last[service]
	}
	c.show(w, http.StatusOK, data)
}

const (
	maxViews   = 16               // concurrent event streams
	sendBefore = 10 * time.Second // time limit for sending an event
)

// stepData is the data of a server-sent event.
type stepData struct {
	api.Event
	Words string `json:"words"`
	At    int    `json:"at"`
}

// events streams the events of a job to a browser, from its beginning: a server-sent event "step"
// for each, then an event "end".
func (c *Console) events(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if c.find(id) == nil {
		refuse(w, notFound)
		return
	}
	select {
	case c.views <- struct{}{}:
		defer func() { <-c.views }()
	default:
		refuse(w, errCrowded)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	send := func(kind string, v any) {
		text, _ := json.Marshal(v)
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, strings.ReplaceAll(string(text), "\n", " "))
	}
	for seen := 0; ; {
		j := c.find(id)
		if j == nil {
			return
		}
		out.SetWriteDeadline(time.Now().Add(sendBefore))
		for _, e := range j.Events[seen:] {
			send("step", stepData{e, e.Words(), api.StepIndex(e.Step)})
		}
		seen = len(j.Events)
		ended := j.State == api.Succeeded || j.State == api.Failed
		if ended {
			send("end", map[string]string{"state": j.State})
		}
		if out.Flush() != nil || ended {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-c.ctx.Done():
			return
		case <-time.After(300 * time.Millisecond):
		}
	}
}
