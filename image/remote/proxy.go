package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"imgtool/image/fault"
)

// ProxyError says that a proxy does not connect to a host.
type ProxyError struct {
	Proxy  string // host and port
	Host   string
	Status int
	login  bool // one was sent
}

func (e *ProxyError) Error() string {
	status := strings.TrimSuffix(fmt.Sprintf("%d, %s", e.Status, http.StatusText(e.Status)), ", ")
	switch {
	case e.Status == http.StatusProxyAuthRequired && e.login:
		return fmt.Sprintf("the proxy %s refuses the login in its URL, in HTTPS_PROXY or HTTP_PROXY, with status %s", e.Proxy, status)
	case e.Status == http.StatusProxyAuthRequired:
		return fmt.Sprintf("the proxy %s requires a login (status %s): it can be in HTTPS_PROXY or HTTP_PROXY, as in http://USER:PASSWORD@HOST:PORT", e.Proxy, status)
	}
	return fmt.Sprintf("the proxy %s does not connect to %s: it responds with status %s; NO_PROXY can have hosts that are reached without it", e.Proxy, e.Host, status)
}

// Kind returns the kind of the error.
func (e *ProxyError) Kind() string {
	if e.Status == http.StatusProxyAuthRequired || e.Status == http.StatusForbidden {
		return fault.Permission
	}
	return fault.Input
}

// proxyOf returns the proxy of the environment for a request, or nil. Errors do not contain its
// URL, which may have a password.
func proxyOf(req *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(req)
	if err != nil {
		return nil, fault.New(fault.Usage, "%s_PROXY is not the URL of a proxy, such as http://HOST:PORT", strings.ToUpper(req.URL.Scheme))
	}
	return u, nil
}

// checkConnect returns an error if a proxy refuses to connect to a host.
func checkConnect(_ context.Context, proxy *url.URL, req *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return &ProxyError{proxy.Host, strings.TrimSuffix(req.Host, ":443"), resp.StatusCode, proxy.User != nil}
}

// checkProxy returns an error if the response to a request without TLS is that of a proxy which
// requires a login.
func checkProxy(resp *http.Response) error {
	proxy, _ := proxyOf(resp.Request)
	if proxy == nil || resp.StatusCode != http.StatusProxyAuthRequired {
		return nil
	}
	return &ProxyError{proxy.Host, resp.Request.URL.Host, resp.StatusCode, proxy.User != nil}
}

// peer names the host that a request failed at, and the proxy if there is one.
func peer(req *http.Request, err error) string {
	proxy, _ := proxyOf(req)
	op, ok := errors.AsType[*net.OpError](err)
	switch {
	case proxy == nil:
		return req.URL.Host
	case ok && op.Op == "proxyconnect":
		return "the proxy " + proxy.Host
	}
	return req.URL.Host + " through the proxy " + proxy.Host
}
