package remote

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"imgtool/image/fault"
)

// StatusError says that a server responded with an error.
type StatusError struct {
	Host   string
	Status int
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%d, %s", e.Status, http.StatusText(e.Status))
	if http.StatusText(e.Status) == "" {
		text = fmt.Sprint(e.Status)
	}
	switch {
	case e.Missing():
		return fmt.Sprintf("%s has no such file (status %s)", e.Host, text)
	case e.Kind() == fault.Permission:
		return fmt.Sprintf("%s denies access with status %s: a login can be in the URL, as in https://USER:PASSWORD@HOST/FILE, or in ~/.netrc", e.Host, text)
	case Temporary(e.Status):
		return fmt.Sprintf("%s keeps responding with status %s: try again later", e.Host, text)
	}
	return fmt.Sprintf("%s responds with status %s", e.Host, text)
}

// Kind returns the kind of the error.
func (e *StatusError) Kind() string {
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return fault.Permission
	}
	return fault.Input
}

// Missing reports whether the server says that there is no such file.
func (e *StatusError) Missing() bool {
	return e.Status == http.StatusNotFound || e.Status == http.StatusGone
}

// Temporary reports whether a request with this status may succeed later.
func Temporary(status int) bool { return temporary(status) || status/100 == 5 }

// ChangedError says that a file on a server changed while it was read.
type ChangedError struct {
	What       string // ETag, Last-Modified or size
	Was, IsNow string
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("it changed on the server while it was read: its %s was %s and is %s: start again", e.What, e.Was, e.IsNow)
}

// Kind returns the kind of the error.
func (e *ChangedError) Kind() string { return fault.Corrupt }

// clean returns an error of an HTTP client without the URL, because the URL of a redirect may
// contain a key.
func clean(host string, err error) error {
	for u := new(url.Error); errors.As(err, &u); {
		err = u.Err
	}
	if strings.HasPrefix(err.Error(), host) || errors.As(err, new(*ProxyError)) || errors.As(err, new(*GoneError)) {
		return err
	}
	return fmt.Errorf("%s: %w", host, err)
}
