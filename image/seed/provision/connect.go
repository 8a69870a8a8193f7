package provision

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"imgtool/image/fault"
	"imgtool/image/seed/api"
)

// Address parses the address of a device: a host, HOST:PORT or a URL.
func Address(s string) (*url.URL, error) {
	wrong := func(format string, args ...any) (*url.URL, error) {
		return nil, fault.New(fault.Usage, "%q is not the address of a device: %s", s, fmt.Sprintf(format, args...))
	}
	text := s
	if !strings.Contains(s, "://") {
		// An IPv6 address may be given without brackets.
		if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
			text = "[" + s + "]"
		}
		text = "http://" + strings.ReplaceAll(text, "%", "%25")
	}
	u, err := url.Parse(text)
	if err != nil {
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err
		}
		return wrong("%v", err)
	}
	port := u.Port()
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return wrong("it must be a host, or begin with http:// or https://")
	case u.Hostname() == "":
		return wrong("it has no host")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Path != "" && u.Path != "/":
		return wrong("it must be a host and a port only")
	case port == "" && strings.HasSuffix(u.Host, ":"):
		return wrong("it has no port after the colon")
	case port == "" && u.Scheme == "https":
		port = "443"
	case port == "":
		port = strconv.Itoa(api.Port)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return wrong("its port is %s; it must be 1 to 65535", port)
	}
	return &url.URL{Scheme: u.Scheme, Host: net.JoinHostPort(u.Hostname(), port)}, nil
}

// Dial resolves the address of a device and returns a client for it. With plain HTTP, all
// requests go to the IP address that answered first, and use it as their host, which a device
// without a configuration requires. Proxies are not used, and redirections not followed.
func Dial(ctx context.Context, address *url.URL) (*Client, error) {
	dialer := &net.Dialer{Timeout: connectTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", address.Host)
	if err != nil {
		return nil, &GoneError{Address: address.Host, Err: err}
	}
	defer conn.Close()
	base := *address
	if base.Scheme == "http" {
		base.Host = conn.RemoteAddr().String()
	}
	return newClient(&base), nil
}

func newClient(base *url.URL) *Client {
	return &Client{
		base: base,
		http: &http.Client{
			// A connection does not survive a restart of the service.
			Transport:     &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: connectTimeout}).DialContext, TLSHandshakeTimeout: connectTimeout, ExpectContinueTimeout: connectTimeout, MaxResponseHeaderBytes: maxHeader},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// sleep waits. It returns an error if the context ends first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// Target selects a device.
type Target struct {
	Address string        // see [Address]
	Device  string        // identifier that it must have; empty: any device
	Wait    time.Duration // how long to wait until it answers
	Waiting func(error)   // called if it does not answer at once and Wait is positive; may be nil
}

// Connect waits until a device answers, and returns a client for it.
func Connect(ctx context.Context, t Target) (*Client, error) {
	address, err := Address(t.Address)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(t.Wait)
	for first := true; ; first = false {
		c, err := Dial(ctx, address)
		if err == nil {
			err = c.Health(ctx)
		}
		switch {
		case err == nil && t.Device != "" && c.Device != t.Device:
			return nil, wrongDevice(c.URL(), c.Device, t.Device)
		case err == nil:
			return c, nil
		case ctx.Err() != nil || errors.As(err, new(*OtherError)) || time.Now().After(deadline):
			return nil, err
		}
		if first && t.Wait > 0 && t.Waiting != nil {
			t.Waiting(err)
		}
		if err := sleep(ctx, 2*pollInterval); err != nil {
			return nil, err
		}
	}
}
