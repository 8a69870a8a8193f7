package registry

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"imgtool/image/fault"
	"imgtool/image/remote"
)

// explain turns an error of an HTTP client into one sentence, without the URL, because the URL
// of a redirection may contain a key.
func explain(host string, err error) error {
	if g, ok := errors.AsType[*remote.GoneError](err); ok {
		return g
	}
	if b, ok := errors.AsType[*remote.BusyError](err); ok {
		return b
	}
	if p, ok := errors.AsType[*remote.ProxyError](err); ok {
		return p
	}
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		if answer.Request != nil {
			host = answer.Request.URL.Host
		}
		words := ""
		if len(answer.Errors) > 0 {
			words = cmp.Or(answer.Errors[0].Message, string(answer.Errors[0].Code))
		}
		if len(words) > 200 {
			words = strings.ToValidUTF8(words[:200], "") + "…"
		}
		switch status := answer.StatusCode; {
		case status == http.StatusUnauthorized || status == http.StatusForbidden:
			if words != "" {
				words = fmt.Sprintf(" (%q)", words)
			}
			return fault.New(fault.Permission, "%s denies access with status %d%s: log in with docker login, podman login or skopeo login", host, status, words)
		case remote.Temporary(status):
			return fault.New(fault.Input, "%s keeps responding with status %d, %s: try again later", host, status, http.StatusText(status))
		}
		if words != "" {
			words = fmt.Sprintf(" (%q)", words)
		}
		return fmt.Errorf("%s responds with status %d, %s%s", host, answer.StatusCode, http.StatusText(answer.StatusCode), words)
	}
	for u := new(url.Error); errors.As(err, &u); {
		err = u.Err
	}
	if text := err.Error(); strings.Contains(text, "\n") { // of the library, with the text of a response
		err = errors.New(strings.Join(strings.Fields(text), " "))
	}
	if strings.HasPrefix(err.Error(), host) {
		return err
	}
	return fmt.Errorf("%s: %w", host, err)
}
