package remote_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/remote"
)

// loginOf serves a file and keeps the login of the last request.
func loginOf(t *testing.T) (server *httptest.Server, login func() string) {
	t.Helper()
	var last atomic.Value
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, ok := r.BasicAuth()
		if last.Store(user + "|" + password); !ok {
			last.Store("none")
		}
		w.Write([]byte("hello"))
	}))
	t.Cleanup(server.Close)
	return server, func() string { return last.Load().(string) }
}

// The logins of a netrc file are those that curl uses.
func TestNetrcLikeCurl(t *testing.T) {
	curl := imagetest.Need(t, "curl")
	server, login := loginOf(t)
	_, port, _ := strings.Cut(server.URL[len("http://"):], ":")
	for _, c := range []struct{ text, user, want string }{
		{"machine localhost login u password p\n", "", "u|p"},
		{"machine localhost password p login u", "", "u|p"},
		{"machine LOCALHOST\n\tlogin u\n\tpassword p\n", "", "u|p"},
		{"machine other login a password b\nmachine localhost login u password p\n", "", "u|p"},
		{"machine localhost login u password p\nmachine localhost login v password q\n", "", "u|p"},
		{"machine localhost login u password p\nmachine localhost login v password q\n", "v", "v|q"},
		{"machine other login a password b\n", "", "none"},
		{"machine other login a password b\ndefault login d password e\n", "", "d|e"},
		{"machine localhost login u password p\ndefault login d password e\n", "", "u|p"},
		{"# machine localhost login a password b\nmachine localhost login u password p\n", "", "u|p"},
		{"machine localhost login u password p#q\n", "", "u|p#q"},
		{"machine localhost login u password \"p q\"\n", "", "u|p q"},
		{"machine localhost login u password \"p\\\"\\\\q\\t\"\n", "", "u|p\"\\q\t"},
		{"macdef init\nmachine localhost login a password b\n\nmachine localhost login u password p\n", "", "u|p"},
		{"machine other login a password b\nmacdef x\nls\n\nmachine localhost login u password p\n", "", "u|p"},
		{"machine localhost login machine password login\n", "", "machine|login"},
		{"", "", "none"},
		{"hello\n", "", "none"},
	} {
		file := filepath.Join(t.TempDir(), "logins")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		u := url.URL{Scheme: "http", Host: "localhost:" + port, Path: "/x"}
		if c.user != "" {
			u.User = url.User(c.user)
		}
		if out, err := exec.Command(curl, "-sS", "-o", "/dev/null", "--noproxy", "*", "--netrc-file", file, u.String()).CombinedOutput(); err != nil {
			t.Errorf("%q: curl: %v: %s", c.text, err, out)
		}
		his := login()
		t.Setenv("NETRC", file)
		f, err := remote.Open(t.Context(), u.String(), remote.Options{})
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		f.Close()
		if ours := login(); ours != c.want || his != c.want {
			t.Errorf("%q, user %q: the login is %s, that of curl %s, want %s", c.text, c.user, ours, his, c.want)
		}
	}
}

// netrc writes a file of logins and names it.
func netrc(t *testing.T, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "logins")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NETRC", file)
}

// The login of a netrc file is sent to the server of the URL alone: to no other host or port that it
// redirects to, even one that has a login in the file, and to no other computer without encryption.
func TestNetrcLoginsAreNotSentElsewhere(t *testing.T) {
	other, login := loginOf(t)
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, _, _ := r.BasicAuth(); user != "u" {
			t.Errorf("the first server got the login of %q", user)
		}
		http.Redirect(w, r, other.URL+"/y", http.StatusFound)
	}))
	defer first.Close()
	netrc(t, "machine localhost login u password p\nmachine 127.0.0.1 login v password q\ndefault login d password e\n")
	for _, url := range []string{strings.Replace(first.URL, "127.0.0.1", "localhost", 1)} {
		f, err := remote.Open(t.Context(), url, remote.Options{})
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if login() != "none" {
			t.Errorf("%s: the target of the redirect got %s", url, login())
		}
	}
	for _, a := range addresses(t) {
		l, err := net.Listen("tcp", net.JoinHostPort(a, "0"))
		if err != nil {
			continue
		}
		server := &http.Server{Handler: other.Config.Handler}
		go server.Serve(l)
		f, err := remote.Open(t.Context(), "http://"+l.Addr().String()+"/x", remote.Options{})
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		server.Close()
		if login() != "none" {
			t.Errorf("without encryption, %s got %s", a, login())
		}
	}
}

// addresses returns the addresses of this computer in networks.
func addresses(t *testing.T) (list []string) {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && ip.IP.To4() != nil {
			list = append(list, ip.IP.String())
		}
	}
	return list
}

// A password in the URL comes first, ~/.netrc is read without $NETRC, and a wrong file is an error
// without what is in it.
func TestNetrcFiles(t *testing.T) {
	server, login := loginOf(t)
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("NETRC", "")
	open := func(user string) error {
		f, err := remote.Open(t.Context(), "http://"+user+strings.TrimPrefix(server.URL, "http://")+"/x", remote.Options{})
		if err == nil {
			f.Close()
		}
		return err
	}
	if err := open(""); err != nil || login() != "none" {
		t.Errorf("without a file: %v, %s", err, login())
	}
	if err := os.WriteFile(filepath.Join(home, ".netrc"), []byte("machine 127.0.0.1 login u password p\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]string{"": "u|p", "u@": "u|p", "v@": "v|", "v:q@": "v|q", "u:@": "u|"} {
		if err := open(user); err != nil || login() != want {
			t.Errorf("%q: %v, %s, want %s", user, err, login(), want)
		}
	}
	netrc(t, "machine 127.0.0.1 login u password \"secret\n")
	if err := open(""); err == nil || !strings.HasSuffix(err.Error(), "/logins: a word that begins with a quote has no second quote in its line") || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	t.Setenv("NETRC", filepath.Join(home, "none"))
	if err := open(""); err == nil || !strings.Contains(err.Error(), "reading the logins of servers: ") || !strings.Contains(err.Error(), "none") {
		t.Error(err)
	}
}
