package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// answering accepts connections, and sends each a text after it has received something.
func answering(t *testing.T, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1<<16))
			io.WriteString(c, text)
			c.Close()
		}
	}()
	return l.Addr().String()
}

// An error of a proxy names the proxy, and shows no password.
func TestErrorsNameTheProxy(t *testing.T) {
	none, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	none.Close()
	refused := none.Addr().String()
	login := answering(t, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n")
	forbids := answering(t, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
	cannot := answering(t, "HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n")
	odd := answering(t, "hello\r\n\r\n")
	const secure, plain, oci = "https://images.example/x.img", "http://images.example/x.img", "oci://images.example/x:1"
	for _, c := range []struct {
		image, proxy, user string
		status             int
		want               string
	}{
		{secure, refused, "", 9, "the proxy <> does not answer: connection refused"},
		{plain, refused, "", 9, "the proxy <> does not answer: connection refused"},
		{oci, refused, "", 9, "the proxy <> does not answer: connection refused"},
		{secure, login, "", 5, "the proxy <> requires a login (status 407, Proxy Authentication Required): it can be in HTTPS_PROXY"},
		{secure, login, "u:secret@", 5, "the proxy <> refuses the login in its URL, in HTTPS_PROXY or HTTP_PROXY, with status 407"},
		{plain, login, "", 5, "the proxy <> requires a login (status 407"},
		{oci, login, "u:secret@", 5, "the proxy <> refuses the login"},
		{secure, forbids, "u:secret@", 5, "the proxy <> does not connect to images.example: it responds with status 403, Forbidden"},
		{oci, forbids, "", 5, "the proxy <> does not connect to images.example: it responds with status 403, Forbidden"},
		{secure, cannot, "", 3, "the proxy <> does not connect to images.example: it responds with status 501, Not Implemented"},
		{secure, odd, "", 3, "images.example through the proxy <>: malformed HTTP response"},
	} {
		cmd := tool(t, "inspect", c.image)
		url := "http://" + c.user + c.proxy
		cmd.Env = append(os.Environ(), "HTTPS_PROXY="+url, "HTTP_PROXY="+url, "NO_PROXY=", "https_proxy="+url, "http_proxy="+url, "no_proxy=")
		out, err := cmd.CombinedOutput()
		exit, _ := errors.AsType[*exec.ExitError](err)
		want := "imgtool: " + c.image + ": " + strings.ReplaceAll(c.want, "<>", c.proxy)
		if exit == nil || exit.ExitCode() != c.status || !strings.Contains(string(out), want) || strings.Contains(string(out), "secret") || strings.Count(string(out), "\n") > 2 {
			t.Errorf("%s with the proxy %s: %v, want %d\n%swant %s", c.image, c.proxy, err, c.status, out, want)
		}
	}
}

// An image is read through a proxy.
func TestImageThroughProxy(t *testing.T) {
	image := tiny(t, "proxied")
	proxy := answeringFiles(t, image)
	cmd := tool(t, "inspect", "http://images.example/x.img.zst")
	cmd.Env = append(os.Environ(), "HTTP_PROXY=http://"+proxy, "http_proxy=http://"+proxy, "NO_PROXY=", "no_proxy=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// answeringFiles serves a file for every URL of a host, as a proxy does.
func answeringFiles(t *testing.T, path string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host != "images.example" {
			t.Errorf("the proxy is asked for %s", r.URL)
		}
		http.ServeFile(w, r, path)
	})}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}
