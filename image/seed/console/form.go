package console

import (
	"crypto/subtle"
	"io"
	"net/http"

	"imgtool/image/seed/api"
)

var (
	errEmpty = &refusal{http.StatusBadRequest, "No file was chosen and nothing was pasted."}
	errToken = &refusal{http.StatusForbidden, "Invalid bootstrap token"}
)

// submitted returns the handler for the page's form. The configuration is checked, and with apply
// it is applied if it has no faults. Clients other than browsers get a job for a configuration with
// faults too, as from AtomixOS. The check does not use api.PathValidate, which always needs a
// signature.
func (c *Console) submitted(apply bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name, body, err := c.receiveForm(w, r)
		if err != nil {
			c.problem(w, r, err, "")
			return
		}
		text := document(body)
		v, err := c.try(name, text, body)
		if err == nil && apply && (v.OK() || !wantsHTML(r)) {
			var job api.Submitted
			if job, err = c.apply(name, body); err == nil {
				http.Redirect(w, r, pathView+job.JobID, http.StatusSeeOther)
				return
			}
		}
		body.Close()
		if err != nil {
			c.problem(w, r, err, text)
			return
		}
		data := c.state(r)
		data.Verdict, data.Text = v, text
		status := http.StatusOK
		if !v.OK() {
			status = http.StatusBadRequest
		}
		c.show(w, status, data)
	}
}

// try checks a configuration. text is its text if it is a document.
func (c *Console) try(name, text string, body *upload) (*verdict, error) {
	c.mu.Lock()
	_, err := c.authorize(body.claim)
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	faults, err := c.device.Validate(name, body)
	body.Seek(0, io.SeekStart)
	if name == pastedName {
		name = ""
	}
	return newVerdict(name, text, faults, err), nil
}

// receiveForm returns the file or text of the page's form, and its name.
func (c *Console) receiveForm(w http.ResponseWriter, r *http.Request) (name string, body *upload, err error) {
	k := newClaim(r, firstOnly)
	in, err := c.admit(w, r, k, api.MaxBody+1<<20)
	if err != nil {
		return "", nil, err
	}
	if name, err = c.form(in, r); err == nil {
		body, err = in.done(k)
	}
	if err != nil {
		in.end()
		return "", nil, received(err)
	}
	if end, _ := body.Seek(0, io.SeekEnd); end == 0 {
		body.Close()
		return "", nil, errEmpty
	}
	body.Seek(0, io.SeekStart)
	return name, body, nil
}

// pastedName is the name of a document that was pasted.
const pastedName = "config.toml"

// form reads the page's form into in, and returns the file name. The form has bootstrap_token,
// then config_file and config. The first of the two that is not empty is used.
func (c *Console) form(in *intake, r *http.Request) (name string, err error) {
	r.Body = io.NopCloser(in.transfer)
	form, err := r.MultipartReader()
	if err != nil {
		return "", err
	}
	name = pastedName
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
			return "", errToken
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
