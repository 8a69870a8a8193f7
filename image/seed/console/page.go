package console

import (
	"crypto/subtle"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"strings"
	"time"

	"imgtool/image/seed/api"
)

// Routes for browsers, which are available while the device has no configuration.
const (
	pathApply = "/apply"
	pathView  = "/ui/jobs/"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// pageData is the data of the page, which shows a job or the form.
type pageData struct {
	Token, Detail string
	Starting      bool // the device still looks for a configuration itself
	Job           *api.Job
	Refresh       bool
	Words, Class  string
	Nonce         string // of the Content-Security-Policy
}

const (
	maxViews   = 16               // concurrent event streams
	sendBefore = 10 * time.Second // time limit for sending an event
)

// show writes the page. Its Content-Security-Policy allows only its own script and style.
func show(w http.ResponseWriter, status int, data pageData) {
	data.Nonce = random()
	own := "'nonce-" + data.Nonce + "'"
	w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src "+own+"; style-src "+own+
		"; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	pageTemplate.Execute(w, data)
}

func (c *Console) page(w http.ResponseWriter, r *http.Request) {
	config, err := c.device.Config()
	c.mu.Lock()
	booting := c.booting
	c.mu.Unlock()
	switch {
	case err != nil:
		refuse(w, internal)
	case config != nil:
		refuse(w, notFound)
	default:
		data := pageData{Token: c.token, Detail: c.device.Detail(), Starting: booting, Refresh: booting}
		if err := c.device.Ready(); err != nil {
			data.Detail, data.Token = err.Error(), ""
		}
		show(w, http.StatusOK, data)
	}
}

// pasted handles the page's form: bootstrap_token, then config_file and config. The first of the
// two that is not empty is used.
func (c *Console) pasted(w http.ResponseWriter, r *http.Request) {
	k := newClaim(r, firstOnly)
	in, err := c.admit(w, r, k, api.MaxBody+1<<20)
	if err != nil {
		refuse(w, err)
		return
	}
	name, err := c.form(in, r)
	var body *upload
	if err == nil {
		body, err = in.done(k)
	}
	if err != nil {
		in.end()
		refuse(w, received(err))
		return
	}
	if end, _ := body.Seek(0, io.SeekEnd); end == 0 {
		body.Close()
		show(w, http.StatusBadRequest, pageData{Token: c.token, Detail: "No file was chosen and nothing was pasted."})
		return
	}
	body.Seek(0, io.SeekStart)
	submitted, err := c.apply(name, body)
	var refused *refusal
	switch {
	case errors.As(err, &refused) && refused.status == http.StatusConflict:
		body.Close()
		show(w, http.StatusConflict, pageData{Token: c.token, Detail: refused.reason})
	case err != nil:
		body.Close()
		refuse(w, err)
	default:
		http.Redirect(w, r, pathView+submitted.JobID, http.StatusSeeOther)
	}
}

// form reads the page's form into in, and returns the file name.
func (c *Console) form(in *intake, r *http.Request) (name string, err error) {
	r.Body = io.NopCloser(in.transfer)
	form, err := r.MultipartReader()
	if err != nil {
		return "", err
	}
	name = "config.toml"
	allowed, size := false, int64(0)
	for {
		part, err := form.NextPart()
		if err == io.EOF && allowed {
			return name, nil
		}
		if err != nil && err != io.EOF {
			return "", err
		}
		switch {
		case err == nil && part.FormName() == "bootstrap_token":
			token, _ := io.ReadAll(io.LimitReader(part, 100))
			allowed = subtle.ConstantTimeCompare(token, []byte(c.token)) == 1
		case !allowed:
			// The form does not come from the page.
			return "", &refusal{http.StatusForbidden, "Invalid bootstrap token"}
		case size == 0 && (part.FormName() == "config_file" || part.FormName() == "config"):
			if size, err = io.Copy(in, io.LimitReader(part, api.MaxBody+1)); err != nil {
				return "", err
			}
			if size > api.MaxBody {
				return "", errLarge
			}
			if file := part.FileName(); size > 0 && plainName.MatchString(file) {
				name = file
			}
		}
	}
}

// view shows a job to anyone who knows its id.
func (c *Console) view(w http.ResponseWriter, r *http.Request) {
	j := c.find(r.PathValue("id"))
	if j == nil {
		refuse(w, notFound)
		return
	}
	words, class := ending(j)
	show(w, http.StatusOK, pageData{Job: j, Refresh: class == "", Words: words, Class: class})
}

// ending describes the state of a job. class is empty while it runs.
func ending(j *api.Job) (words, class string) {
	switch j.State {
	case api.Succeeded:
		words = "The device has its configuration."
		if j.Result != nil && j.Result.Forwarding != "" {
			words += " Its new address is " + j.Result.Forwarding + "."
		}
		return words, "good"
	case api.Failed:
		return "It failed: " + j.Error, "bad"
	}
	return "It runs.", ""
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
			send("step", e)
		}
		seen = len(j.Events)
		words, class := ending(j)
		if class != "" {
			send("end", map[string]string{"words": words, "class": class})
		}
		if out.Flush() != nil || class != "" {
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
