package console

import (
	"crypto/subtle"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"mime/multipart"
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
	Job           *api.Job
	Refresh       bool
	Words, Class  string
}

func show(w http.ResponseWriter, status int, data pageData) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Frame-Options", "DENY")
	w.WriteHeader(status)
	pageTemplate.Execute(w, data)
}

// open says whether the device has no configuration, and answers if it has one.
func (c *Console) open(w http.ResponseWriter) bool {
	config, err := c.device.Config()
	if err != nil {
		refuse(w, http.StatusInternalServerError, "Internal Server Error")
	} else if config != nil {
		refuse(w, http.StatusNotFound, "Not Found")
	}
	return err == nil && config == nil
}

func (c *Console) page(w http.ResponseWriter, r *http.Request) {
	if c.open(w) {
		show(w, http.StatusOK, pageData{Token: c.token, Detail: c.device.Detail()})
	}
}

// pasted takes the page's form: bootstrap_token, and config_file or config.
func (c *Console) pasted(w http.ResponseWriter, r *http.Request) {
	if !c.open(w) || !bootstrap(w, r) {
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, api.MaxBody+1<<20)
	form, err := r.MultipartReader()
	if err != nil {
		refuse(w, http.StatusBadRequest, "%v", err)
		return
	}
	allowed := false
	var b *upload
	name := "config.toml"
	defer func() {
		if b != nil {
			b.Close()
		}
	}()
	for {
		part, err := form.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			refuse(w, http.StatusBadRequest, "%v", err)
			return
		}
		switch part.FormName() {
		case "bootstrap_token":
			token, _ := io.ReadAll(io.LimitReader(part, 100))
			allowed = subtle.ConstantTimeCompare(token, []byte(c.token)) == 1
		case "config_file", "config":
			got, ok := c.take(w, part)
			if !ok {
				return
			}
			// An empty field is one that was not used.
			if end, _ := got.Seek(0, io.SeekEnd); end == 0 || b != nil {
				got.Close()
				continue
			}
			got.Seek(0, io.SeekStart)
			b = got
			if file := part.FileName(); plainName.MatchString(file) {
				name = file
			}
		}
	}
	if !allowed {
		refuse(w, http.StatusForbidden, "Invalid bootstrap token")
		return
	}
	if b == nil {
		show(w, http.StatusBadRequest, pageData{Token: c.token, Detail: "There is no file, and nothing was pasted."})
		return
	}
	submitted, err := c.apply(name, b, false)
	if err != nil {
		show(w, http.StatusConflict, pageData{Token: c.token, Detail: err.Error()})
		return
	}
	b = nil // the job's now
	http.Redirect(w, r, pathView+submitted.JobID, http.StatusSeeOther)
}

func (c *Console) take(w http.ResponseWriter, part *multipart.Part) (*upload, bool) {
	return c.save(w, io.LimitReader(part, api.MaxBody+1))
}

// view shows a job; who knows its id may see it.
func (c *Console) view(w http.ResponseWriter, r *http.Request) {
	j := c.find(r.PathValue("id"))
	if j == nil {
		refuse(w, http.StatusNotFound, "Not Found")
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
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
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
