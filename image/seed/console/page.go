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

// What browsers use, as long as the device has no configuration.
const (
	pathApply = "/apply"
	pathView  = "/ui/jobs/"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// pageData is what the page shows: a job, or the form.
type pageData struct {
	Token, Detail string
	Starting      bool // the device looks for a configuration itself
	Job           *api.Job
	Refresh       bool
	Words, Class  string
	Nonce         string // of the content security policy
}

const (
	maxViews   = 16               // pages that follow a job at a time
	sendBefore = 10 * time.Second // the time in which a page must take an event
)

// show writes the page, whose own script and style are all that it may run.
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

// pasted takes the page's form: bootstrap_token first, then config_file and config,
// of which the first that is not empty counts.
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

// form reads the page's form into in, and returns the name of what was sent.
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
			// Nothing is kept of a form that does not come from the page.
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

// ending is how a job ended, in words; class is empty while it runs.
func ending(j *api.Job) (words, class string) {
	switch j.State {
	case api.Succeeded:
		words = "The device has its configuration."
		if j.Result != nil && j.Result.Forwarding != "" {
			words += " It is at " + j.Result.Forwarding + " from now on."
		}
		return words, "good"
	case api.Failed:
		return "It failed: " + j.Error, "bad"
	}
	return "It runs.", ""
}

// events tells a browser what happens in a job, from its beginning: an event step
// for each, then one that is called end.
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
