package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"
	"imgtool/image/seed/api"
	"imgtool/image/seed/console/consoletest"
)

// No output of imgtool may contain these.
const (
	secretToken      = "hunter2-in-the-environment"
	secretPassphrase = "correct-horse"
)

// site is a home directory with a seed and keys.
type site struct {
	t    *testing.T
	dir  string
	env  []string
	seed string // file

	gateway string // of its devices: an address of this computer

	text string // when the next program says it, then is called
	then func()
}

var sites atomic.Int32

// newSite returns a site whose seed has the key named admin.
func newSite(t *testing.T) *site {
	s := &site{t: t, dir: t.TempDir(), gateway: fmt.Sprintf("127.76.%d.1", sites.Add(1))}
	if err := os.Mkdir(filepath.Join(s.dir, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.env = append(os.Environ(), "HOME="+s.dir, "SSH_AUTH_SOCK=")
	s.seed = filepath.Join(s.dir, "config.toml")
	s.write(s.seed, s.config("new", s.key("admin", "", "-t", "ed25519")))
	return s
}

func (s *site) write(file, text string) {
	s.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// key creates a key and returns its public line.
func (s *site) key(name, passphrase string, kind ...string) string {
	s.t.Helper()
	file := s.path(name)
	imagetest.Run(s.t, "ssh-keygen", append([]string{"-q", "-N", passphrase, "-C", name + "@desk", "-f", file}, kind...)...)
	b, err := os.ReadFile(file + ".pub")
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func (s *site) path(name string) string { return filepath.Join(s.dir, ".ssh", name) }

// config returns a seed with the site's gateway address.
func (s *site) config(image string, keys ...string) string {
	var users strings.Builder
	for i, key := range keys {
		fmt.Fprintf(&users, "[users.ops%d]\nisAdmin = true\nssh_key = %q\n", i, key)
	}
	return fmt.Sprintf(`version = 1
%[1]s
[network.dnsmasq]
gateway_cidr = "%[2]s/24"
dhcp_start = "%[2]s0"
dhcp_end = "%[2]s9"

[activation]
required = ["web"]
timeout_seconds = 1

[containers.container.web]
privileged = false
[containers.container.web.Container]
Image = "registry.example/%[3]s:1"
Environment = ["TOKEN=%[4]s"]
`, users.String(), s.gateway, image, secretToken)
}

// run runs imgtool, and checks that its output contains no secrets.
func (s *site) run(args ...string) (status int, stdout, stderr string) {
	s.t.Helper()
	cmd := tool(s.t, args...)
	return s.runs(cmd)
}

func (s *site) runs(cmd *exec.Cmd) (status int, stdout, stderr string) {
	s.t.Helper()
	var out, errs bytes.Buffer
	cmd.Env = s.env
	cmd.Stdout, cmd.Stderr = &out, &errs
	if s.then != nil {
		cmd.Stderr = &notice{Writer: &errs, text: s.text, then: s.then}
		s.then = nil
	}
	err := cmd.Run()
	if failed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &failed) {
		s.t.Fatal(err)
	}
	s.discreet(errs.String())
	if !strings.Contains(cmd.String(), "export") {
		s.discreet(out.String())
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// onceSaid calls a function when the next program says a text.
func (s *site) onceSaid(text string, then func()) { s.text, s.then = text, sync.OnceFunc(then) }

// notice calls a function when a text was written.
type notice struct {
	io.Writer
	text string
	then func()
	all  strings.Builder
}

func (n *notice) Write(b []byte) (int, error) {
	n.all.Write(b)
	if strings.Contains(n.all.String(), n.text) {
		n.then()
	}
	return n.Writer.Write(b)
}

func (s *site) discreet(text string) {
	s.t.Helper()
	for _, secret := range []string{secretToken, secretPassphrase, "PRIVATE KEY", "SSH SIGNATURE", api.PathJobs} {
		if strings.Contains(text, secret) {
			s.t.Errorf("it tells %q:\n%s", secret, text)
		}
	}
}

// wants runs imgtool, and checks its exit status and output.
func (s *site) wants(status int, words string, args ...string) string {
	s.t.Helper()
	got, stdout, stderr := s.run(args...)
	if got != status || !strings.Contains(stdout+stderr, words) {
		s.t.Errorf("imgtool %s\nends with %d, wanted %d and %q:\n%s%s", strings.Join(args, " "), got, status, words, stdout, stderr)
	}
	return stdout + stderr
}

// device starts a device with the configuration of the seed, but another image.
func (s *site) device(d *consoletest.Device) *consoletest.Device {
	text, err := os.ReadFile(s.seed)
	if err != nil {
		s.t.Fatal(err)
	}
	d.Start(s.t, bytes.Replace(text, []byte("/new:1"), []byte("/old:1"), 1))
	return d
}

func (s *site) fresh(d *consoletest.Device) *consoletest.Device {
	d.Start(s.t, nil)
	return d
}

func (s *site) has(d *consoletest.Device, image string) {
	s.t.Helper()
	config, _ := d.Config()
	if image == "" && config != nil || image != "" && !bytes.Contains(config, []byte("/"+image+":1")) {
		s.t.Errorf("the device has another configuration than wanted, %q:\n%s", image, config)
	}
}

func TestProvisionFirst(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	d := s.fresh(&consoletest.Device{})
	s.wants(0, "up, and waits for its first configuration", "provision", "status", d.URL())
	said := s.wants(0, "applied in", "provision", d.URL(), "--seed", s.seed)
	s.has(d, "new")
	for _, words := range []string{"is plain HTTP", "s  Switching to the new configuration\n", "web.service (rootless): running", "s  Finished\n"} {
		if strings.Count(said, words) != 1 {
			t.Errorf("%q is not said once:\n%s", words, said)
		}
	}
	if r := d.Requests(); slices.Contains(r, "POST "+api.PathValidate) || slices.Contains(r, "GET "+api.PathNonce) {
		t.Errorf("a signature was sent to a device without a configuration: %q", r)
	}
	s.wants(0, "up, and has the configuration of "+s.seed, "provision", "status", d.URL(), "--seed", s.seed, "--key", s.path("admin"))
}

func TestProvisionBundle(t *testing.T) {
	imagetest.Long(t)
	t.Parallel()
	s := newSite(t)
	for _, name := range []string{"config.tar.zst", "config.tar.gz"} {
		bundle := filepath.Join(s.dir, name)
		dir := t.TempDir()
		text, _ := os.ReadFile(s.seed)
		s.write(filepath.Join(dir, "config.toml"), strings.Replace(string(text), "Environment =", "Volume = \"${FILES_DIR}/site:/site\"\nEnvironment =", 1))
		if err := os.Mkdir(filepath.Join(dir, "files"), 0o755); err != nil {
			t.Fatal(err)
		}
		s.write(filepath.Join(dir, "files", "site"), "hello")
		s.wants(0, "", "seed", "bundle", dir, "-o", bundle)
		d := s.fresh(&consoletest.Device{})
		s.wants(0, "applied in", "provision", d.URL(), "--seed", bundle)
		s.has(d, "new")

		// The device deletes the files of the bundle.
		s.wants(0, "files of a bundle; the device deletes them", "provision", d.URL(), "--seed", s.seed, "--key", s.path("admin"))
		s.wants(0, "applied in", "provision", d.URL(), "--seed", bundle, "--key", s.path("admin"))
		s.wants(0, "is not a bundle, but its containers use files of a bundle", "provision", d.URL(), "--seed", filepath.Join(dir, "config.toml"), "--key", s.path("admin"))
	}
}

// Keys of all types can sign.
func TestProvisionKeyTypes(t *testing.T) {
	imagetest.Long(t)
	t.Parallel()
	for _, kind := range [][]string{{"ed25519"}, {"ecdsa", "-b", "256"}, {"ecdsa", "-b", "384"}, {"ecdsa", "-b", "521"}, {"rsa", "-b", "3072"}} {
		t.Run(strings.Join(kind, ""), func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.write(s.seed, s.config("new", s.key("key", "", append([]string{"-t"}, kind...)...)))
			d := s.device(&consoletest.Device{})
			said := s.wants(0, "applied in", "provision", d.URL(), "--seed", s.seed, "--key", s.path("key"))
			if !strings.Contains(said, "takes the signature of "+s.path("key")+" (SHA256:") {
				t.Errorf("whose key it was is not said:\n%s", said)
			}
			s.has(d, "new")
		})
	}
	t.Run("encrypted", func(t *testing.T) {
		s := newSite(t)
		s.write(s.seed, s.config("new", s.key("locked", secretPassphrase, "-t", "ed25519")))
		d := s.device(&consoletest.Device{})
		s.wants(2, "has a passphrase; add it to ssh-agent", "provision", d.URL(), "--seed", s.seed, "--key", s.path("locked"))
		s.has(d, "old")
		p := newPerson(t)
		cmd := p.starts("provision", d.URL(), "--seed", s.seed, "--key", s.path("locked"))
		p.sees("Passphrase of " + s.path("locked") + ": ")
		p.types("wrong\n")
		p.sees("It is wrong. Passphrase of ")
		p.types(secretPassphrase + "\n")
		if status := p.ends(cmd); status != 0 {
			t.Errorf("ends with %d", status)
		}
		p.sees("applied in")
		s.discreet(p.text())
		s.has(d, "new")
	})
	t.Run("default", func(t *testing.T) {
		// A key among several in ~/.ssh belongs to an admin.
		s := newSite(t)
		s.key("id_ed25519", "", "-t", "ed25519")
		s.write(s.seed, s.config("new", s.key("id_rsa", "", "-t", "rsa")))
		d := s.device(&consoletest.Device{})
		s.wants(0, "takes the signature of "+s.path("id_rsa"), "provision", d.URL(), "--seed", s.seed)
		if n := strings.Count(strings.Join(d.Requests(), "\n"), api.PathValidate); n != 1 {
			t.Errorf("the admin's key was not tried first, but as number %d", n)
		}
		s.has(d, "new")
	})
}

// startAgent runs OpenSSH's agent with keys.
func (s *site) startAgent(names ...string) {
	s.t.Helper()
	socket := filepath.Join(s.dir, "agent")
	cmd := exec.Command(imagetest.Need(s.t, "ssh-agent"), "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	imagetest.Wait(s.t, "the agent starts", func() bool { _, err := os.Stat(socket); return err == nil })
	s.env = append(s.env, "SSH_AUTH_SOCK="+socket)
	for _, name := range names {
		add := exec.Command(imagetest.Need(s.t, "ssh-add"), "-q", s.path(name))
		add.Env = s.env
		if out, err := add.CombinedOutput(); err != nil {
			s.t.Fatalf("ssh-add: %v\n%s", err, out)
		}
	}
}

func TestProvisionAgentKeys(t *testing.T) {
	imagetest.Long(t)
	t.Parallel()
	s := newSite(t)
	s.key("other", "", "-t", "ed25519")
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		s.write(s.seed, s.config("new", s.key(kind, "", "-t", kind)))
	}
	s.startAgent("other", "ed25519", "ecdsa", "rsa")
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		// The private key is in the agent only.
		if err := os.Remove(s.path(kind)); err != nil {
			t.Fatal(err)
		}
		public, _ := os.ReadFile(s.path(kind) + ".pub")
		key, _, _, _, err := ssh.ParseAuthorizedKey(public)
		if err != nil {
			t.Fatal(err)
		}
		s.write(s.seed, s.config("new", strings.TrimSpace(string(public))))
		for _, id := range []string{s.path(kind) + ".pub", ssh.FingerprintSHA256(key), kind + "@desk"} {
			d := s.device(&consoletest.Device{})
			s.wants(0, "takes the signature of "+kind+"@desk", "provision", d.URL(), "--seed", s.seed, "--key", id)
			s.has(d, "new")
		}
		d := s.device(&consoletest.Device{})
		s.wants(0, "takes the signature of "+kind+"@desk", "provision", d.URL(), "--seed", s.seed)
	}
	d := s.device(&consoletest.Device{})
	s.wants(3, "there is no such file, and ssh-agent has no key with that fingerprint or comment", "provision", d.URL(), "--seed", s.seed, "--key", "nobody@desk")
}

// keyring is an agent with a security key. OpenSSH's agent requires hardware for that.
type keyring struct {
	agent.Agent
	key *consoletest.SecurityKey
}

func (k *keyring) List() ([]*agent.Key, error) {
	return []*agent.Key{{Format: k.key.PublicKey().Type(), Blob: k.key.PublicKey().Marshal(), Comment: "token"}}, nil
}

func (k *keyring) Sign(_ ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	return k.key.Sign(nil, data)
}

func TestProvisionSecurityKey(t *testing.T) {
	imagetest.Long(t)
	t.Parallel()
	for _, key := range []*consoletest.SecurityKey{consoletest.NewSKEd25519(t), consoletest.NewSKECDSA(t)} {
		s := newSite(t)
		l, err := net.Listen("unix", filepath.Join(s.dir, "agent"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go agent.ServeAgent(&keyring{agent.NewKeyring(), key}, conn)
			}
		}()
		s.env = append(s.env, "SSH_AUTH_SOCK="+l.Addr().String())
		s.write(s.seed, s.config("new", strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))))
		d := s.device(&consoletest.Device{})
		s.wants(0, "touch the security key token (SHA256:", "provision", d.URL(), "--seed", s.seed, "--key", "token")
		s.has(d, "new")
	}
}

func TestProvisionRefused(t *testing.T) {
	imagetest.Long(t)
	t.Parallel()
	s := newSite(t)
	s.key("other", "", "-t", "ed25519")
	admin, other := s.path("admin"), s.path("other")

	d := s.device(&consoletest.Device{})
	s.wants(4, "the device does not take the signature of "+other, "provision", d.URL(), "--seed", s.seed, "--key", other)
	s.wants(4, "takes another only with the signature of one of its admins", "provision", d.URL(), "--seed", s.seed)
	s.wants(4, "the device does not take the signature of", "provision", "validate", d.URL(), "--seed", s.seed, "--key", other)
	s.wants(4, "the device does not take the signature of", "provision", "export", d.URL(), "--key", other)
	s.wants(4, "no key was found", "provision", "export", d.URL())
	s.wants(4, "no key was found", "provision", "status", d.URL(), "--seed", s.seed)
	s.has(d, "old")

	// An expired nonce is replaced once.
	d = s.device(&consoletest.Device{Stale: 1})
	s.wants(0, "applied", "provision", d.URL(), "--seed", s.seed, "--key", admin)
	d = s.device(&consoletest.Device{Stale: 100})
	s.wants(4, "had expired when the signed request arrived, twice", "provision", d.URL(), "--seed", s.seed, "--key", admin)
	s.has(d, "old")

	// Faults that only the device finds.
	d = s.device(&consoletest.Device{Intercept: func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != api.PathValidate {
			return false
		}
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(api.Verdict{Error: "no \x1b[31mTOKEN=" + secretToken + "\nhere"})
		return true
	}})
	s.wants(4, "the configuration is not valid: no [31mTOKEN=*** here\n", "provision", d.URL(), "--seed", s.seed, "--key", admin)
	s.wants(4, "the configuration is not valid: no", "provision", "validate", d.URL(), "--seed", s.seed, "--key", admin)
	s.has(d, "old")
	f := s.fresh(&consoletest.Device{Fail: "validate", Error: "bad TOKEN=" + secretToken})
	s.wants(4, "the device refused it at the step \"Checking the configuration\" and kept its configuration: bad TOKEN=***", "provision", f.URL(), "--seed", s.seed)
	s.has(f, "")
	f = s.fresh(&consoletest.Device{})
	s.wants(4, "has no admin who could do this", "provision", "export", f.URL(), "--key", admin)

	// A bad seed is not sent.
	bad := filepath.Join(s.dir, "bad.toml")
	s.write(bad, strings.Replace(s.config("new"), "version = 1", "version = 2", 1))
	s.wants(3, "bad.toml:1: version: is 2; it must be 1", "provision", f.URL(), "--seed", bad)
	s.wants(3, "users: is missing", "provision", "validate", f.URL(), "--seed", bad)
	s.wants(2, "name the configuration: --seed config.toml", "provision", f.URL())
	if n := len(f.Requests()); n != 2 {
		t.Errorf("the device was asked %d times, not for its health and page alone", n)
	}
}

func TestProvisionBusyDevice(t *testing.T) {
	imagetest.Long(t)
	t.Parallel()
	s := newSite(t)
	hold := make(chan struct{})
	d := s.fresh(&consoletest.Device{Hold: hold})
	other, err := http.Post(d.URL()+api.PathConfig, "", strings.NewReader(s.config("other", s.key("key", "", "-t", "ed25519"))))
	if err != nil || other.StatusCode != http.StatusAccepted {
		t.Fatal(other, err)
	}
	s.wants(4, "the device is busy: another provisioning job is running", "provision", d.URL(), "--seed", s.seed)
	go func() {
		defer close(hold)
		for range 9000 { // until it was asked a third time
			if strings.Count(strings.Join(d.Requests(), "\n"), "POST "+api.PathConfig) > 2 {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	// The first job ends with a configuration, so that the next one requires a signature.
	s.wants(0, "is busy with another job; waiting until it ends", "provision", d.URL(), "--seed", s.seed, "--wait", "1m", "--key", s.path("key"))
	s.has(d, "new")
}

func TestProvisionRollback(t *testing.T) {
	imagetest.Long(t)
	t.Parallel()
	s := newSite(t)
	admin := s.path("admin")
	d := s.device(&consoletest.Device{Fail: "health-check", Error: "web.service: exit 1, TOKEN=" + secretToken})
	s.wants(11, "it failed at the step \"Checking the health of the device\" and the device went back to the previous configuration: web.service: exit 1, TOKEN=***", "provision", d.URL(), "--seed", s.seed, "--key", admin)
	s.has(d, "old")
	d = s.fresh(&consoletest.Device{Fail: "activate", Error: "no network"})
	s.wants(11, "and the device waits for a configuration again: no network", "provision", d.URL(), "--seed", s.seed)
	s.has(d, "")
	d = s.device(&consoletest.Device{Fail: "settle", Error: "no", StuckRollback: true})
	s.wants(12, "and the rollback failed too: no", "provision", d.URL(), "--seed", s.seed, "--key", admin)

	// With --json.
	d = s.device(&consoletest.Device{Fail: "activate", Error: "no"})
	status, stdout, stderr := s.run("provision", "--json", d.URL(), "--seed", s.seed, "--key", admin)
	var result struct{ State, Address, Why string }
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || status != 11 || result.State != "rolled-back" || result.Address != d.URL() || !strings.HasSuffix(result.Why, ": no") {
		t.Errorf("%d, %v: %s", status, err, stdout)
	}
	for line := range strings.Lines(stderr) {
		var e struct{ Event string }
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Event == "" {
			t.Errorf("%q is not an event", line)
		}
	}
	d = s.fresh(&consoletest.Device{})
	_, stdout, _ = s.run("provision", "--json", d.URL(), "--seed", s.seed)
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || result.State != "applied" {
		t.Errorf("%v: %s", err, stdout)
	}
}

// stops makes the service of a device end at a step of a job.
func stops(d *consoletest.Device, step string) *consoletest.Device {
	done := false
	d.OnStep = func(now string) {
		if now == step && !done {
			done = true
			d.Down()
		}
	}
	return d
}

func TestProvisionRestart(t *testing.T) {
	imagetest.Long(t)
	t.Parallel()
	s := newSite(t)
	admin := s.path("admin")
	for _, c := range []struct {
		name   string
		fresh  bool
		step   string
		key    bool
		status int
		words  string
		image  string
	}{
		{"again, before it is active", false, "write-users", true, 11, "the job was lost, and the device has the previous configuration", "old"},
		{"again, when it is active", false, "activate", true, 0, "applied in", "new"},
		{"first, before it is active", true, "write-users", false, 11, "the job was lost, and the device still waits for its first configuration", ""},
		{"first, when it is active", true, "activate", true, 0, "applied in", "new"},
		{"first, when it is active, without a key", true, "activate", false, 12, "the device does not show its configuration: no key of an admin was found", "new"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := stops(&consoletest.Device{}, c.step)
			const missed = "does not answer; it may be restarting or have a new address"
			s.onceSaid(missed, d.Up)
			if c.fresh {
				s.fresh(d)
			} else {
				s.device(d)
			}
			args := []string{"provision", d.URL(), "--seed", s.seed}
			if c.key {
				args = append(args, "--key", admin)
			}
			if said := s.wants(c.status, c.words, args...); !strings.Contains(said, missed) {
				t.Errorf("it saw no restart:\n%s", said)
			}
			s.has(d, c.image)
		})
	}
}

func TestProvisionNewAddress(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	moved := "http://" + s.gateway + ":8080"
	d := &consoletest.Device{Forwarding: moved}
	done := false
	d.OnStep = func(step string) {
		if step == "service-restart" && !done {
			done = true
			d.Move(strings.TrimPrefix(moved, "http://"))
		}
	}
	s.device(d)
	status, stdout, stderr := s.run("--json", "provision", d.URL(), "--seed", s.seed, "--key", s.path("admin"))
	if status != 0 || !strings.Contains(stdout, `"forwarding_url": "`+moved+`"`) {
		t.Errorf("exit status %d: %s%s", status, stdout, stderr)
	}
	s.has(d, "new")
}

// hangUp ends a connection without an answer.
func hangUp(w http.ResponseWriter) {
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		conn.Close()
	}
}

// Another device has the same address on its LAN, and the same configuration.
func TestProvisionSameAddressElsewhere(t *testing.T) {
	imagetest.Long(t)
	t.Parallel()
	s := newSite(t)
	other := &consoletest.Device{}
	text, _ := os.ReadFile(s.seed)
	other.Start(t, text)
	other.Move(s.gateway + ":8080")
	d := s.device(stops(&consoletest.Device{}, "write-users"))
	asked := sync.OnceFunc(func() { go d.Up() })
	other.Intercept = func(http.ResponseWriter, *http.Request) bool { asked(); return false }
	s.wants(11, "the device has the previous configuration", "provision", d.URL(), "--seed", s.seed, "--key", s.path("admin"))
	if n := len(other.Requests()); n == 0 {
		t.Error("the other was not asked, and nothing is shown by this")
	}
}

// The answer to the configuration is lost.
func TestProvisionLostAnswer(t *testing.T) {
	imagetest.Long(t)
	t.Parallel()
	s := newSite(t)
	for _, fresh := range []bool{false, true} {
		lost := false
		d := &consoletest.Device{}
		d.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != api.PathConfig || lost {
				return false
			}
			lost = true
			body, _ := io.ReadAll(r.Body)
			d.SetConfig(body)
			hangUp(w)
			return true
		}
		if fresh {
			s.fresh(d)
		} else {
			s.device(d)
		}
		said := s.wants(0, "applied in", "provision", d.URL(), "--seed", s.seed, "--key", s.path("admin"))
		if !strings.Contains(said, "the answer was lost; sending it again") {
			t.Errorf("it got an answer:\n%s", said)
		}
	}

	// All answers are lost.
	d := &consoletest.Device{Intercept: func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == api.PathConfig {
			hangUp(w)
		}
		return r.URL.Path == api.PathConfig
	}}
	s.device(d)
	s.wants(12, "the answer of the device was lost, and it gave no other within 3s", "provision", d.URL(), "--seed", s.seed, "--key", s.path("admin"), "--timeout", "3s")
	s.wants(8, "has another configuration than", "provision", "status", d.URL(), "--seed", s.seed, "--key", s.path("admin"))
}

func TestProvisionNoDevice(t *testing.T) {
	imagetest.Long(t)
	t.Parallel()
	s := newSite(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	s.wants(9, nobody+" does not answer: connection refused", "provision", nobody, "--seed", s.seed)
	s.wants(9, "does not answer: ", "provision", "status", "nobody.invalid")
	for _, address := range []string{"ftp://1.2.3.4", "http://", "http://me:pw@1.2.3.4", "http://1.2.3.4/api", "1.2.3.4:0", "1.2.3.4:99999", "1.2.3.4:", "a b"} {
		s.wants(2, "is not the address of a device", "provision", "status", address)
	}

	// A device that is still booting.
	d := s.fresh(&consoletest.Device{})
	d.Down()
	booting := tool(t, "provision", d.URL(), "--seed", s.seed, "--wait", "10m")
	var text said
	booting.Env, booting.Stdout, booting.Stderr = s.env, &text, &text
	must(booting.Start())
	imagetest.Wait(t, "it waits", func() bool { return strings.Contains(text.String(), "connection refused; waiting up to 10m") })
	d.Up()
	if err := booting.Wait(); err != nil {
		t.Errorf("%v: %s", err, text.String())
	}
	s.has(d, "new")

	// Other servers.
	for _, answer := range []func(w http.ResponseWriter, r *http.Request) bool{
		func(w http.ResponseWriter, r *http.Request) bool { fmt.Fprint(w, "<html>"); return true },
		func(w http.ResponseWriter, r *http.Request) bool { http.NotFound(w, r); return true },
		func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
			return true
		},
	} {
		other := s.fresh(&consoletest.Device{Intercept: answer})
		s.wants(10, "is not the provisioning service of an AtomixOS device", "provision", other.URL(), "--seed", s.seed, "--wait", "1m")
		if n := len(other.Requests()); n != 1 {
			t.Errorf("it was asked %d times", n)
		}
	}
}

// Signatures cover the identifier of the device, so that they are not valid for another.
func TestProvisionIdentifier(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	d := s.fresh(&consoletest.Device{})
	s.wants(0, "(device "+consoletest.ID+")", "provision", "status", d.URL())
	s.wants(10, "is the device "+consoletest.ID+"; it must be AAAAAAAAAAA", "provision", d.URL(), "--seed", s.seed, "--device", "AAAAAAAAAAA")
	s.wants(0, "applied in", "provision", d.URL(), "--seed", s.seed, "--device", consoletest.ID)
	s.has(d, "new")

	nonce := func(id string) string { return id + strings.Repeat("A", 43-len(id)) }
	for name, c := range map[string]struct {
		health, nonce string
		want          int
	}{
		"a device without an identifier":        {`{"status":"ok"}`, nonce("B"), 10},
		"another device":                        {`{"status":"ok","device":"AAAAAAAAAAA"}`, nonce("AAAAAAAAAAA"), 10},
		"a device that passes another's on":     {`{"status":"ok","device":"` + consoletest.ID + `"}`, nonce("AAAAAAAAAAA"), 10},
		"an identifier that is none":            {`{"status":"ok","device":"../.."}`, nonce("A"), 10},
		"a device that is as it says of itself": {`{"status":"ok","device":"` + consoletest.ID + `"}`, nonce(consoletest.ID[:10] + "Q"), 4},
	} {
		posted := false
		other := s.device(&consoletest.Device{Intercept: func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case r.URL.Path == api.PathHealth:
				fmt.Fprint(w, c.health)
			case r.URL.Path == api.PathNonce:
				fmt.Fprintf(w, `{"nonce":%q}`, c.nonce)
			case r.Method == http.MethodPost:
				posted = true
				return false
			default:
				return false
			}
			return true
		}})
		status, _, said := s.run("provision", other.URL(), "--seed", s.seed, "--key", s.path("admin"), "--device", consoletest.ID)
		if status != c.want || posted != (c.want == 4) {
			t.Errorf("%s: status %d, posted: %v: %s", name, status, posted, said)
		}
	}
}

func TestProvisionInterrupted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	hold := make(chan struct{})
	defer close(hold)
	d := s.fresh(&consoletest.Device{Hold: hold})
	cmd := tool(t, "provision", d.URL(), "--seed", s.seed)
	go func() {
		for range 9000 {
			if strings.Contains(strings.Join(d.Requests(), "\n"), api.PathJobs) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		cmd.Process.Signal(os.Interrupt)
	}()
	if status, _, stderr := s.runs(cmd); status != exit.Interrupted || !strings.Contains(stderr, "interrupted: the device has the configuration and continues with it") {
		t.Errorf("ends with %d:\n%s", status, stderr)
	}
}

func TestProvisionRemoteAddress(t *testing.T) {
	t.Parallel()
	imagetest.NeedRoot(t)
	s := newSite(t)
	d := s.fresh(&consoletest.Device{})
	// A documentation address, which is not a local one.
	const far = "203.0.113.77"
	imagetest.Run(t, "ip", "address", "add", far+"/32", "dev", "lo")
	t.Cleanup(func() { imagetest.Run(t, "ip", "address", "del", far+"/32", "dev", "lo") })
	d.Move(far + ":0")
	s.wants(2, "is not a local address, and the configuration may contain secrets; pass --yes", "provision", d.URL(), "--seed", s.seed)
	p := newPerson(t)
	cmd := p.starts("provision", d.URL(), "--seed", s.seed)
	p.sees("Type yes to go on: ")
	p.types("no\n")
	if status := p.ends(cmd); status != 4 {
		t.Errorf("after a no it ends with %d", status)
	}
	if r := d.Requests(); slices.ContainsFunc(r, func(r string) bool { return r != "GET "+api.PathHealth }) {
		t.Errorf("something was sent: %q", r)
	}
	s.wants(0, "up, and waits for its first configuration", "provision", "status", strings.TrimPrefix(d.URL(), "http://"))
	s.wants(0, "applied in", "provision", d.URL(), "--seed", s.seed, "--yes")
}

func TestProvisionExport(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	d := s.device(&consoletest.Device{})
	want, _ := d.Config()
	_, stdout, _ := s.run("provision", "export", d.URL(), "--key", s.path("admin"))
	if stdout != string(want) {
		t.Errorf("exported:\n%s\nwanted:\n%s", stdout, want)
	}
	file := filepath.Join(s.dir, "export.toml")
	s.wants(0, file+": ", "provision", "export", d.URL(), "--key", s.path("admin"), "-o", file)
	if got, _ := os.ReadFile(file); !bytes.Equal(got, want) {
		t.Errorf("%s has another text", file)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	s.wants(0, "would take "+s.seed, "provision", "validate", d.URL(), "--seed", s.seed, "--key", s.path("admin"))
	s.has(d, "old")
	s.wants(0, "up, and has a configuration", "provision", "status", d.URL())
	for _, c := range []struct{ want, line string }{
		{`"text": "`, "export"},
		{`"path": "` + file, "export -o " + file},
		{`"ok": true`, "validate --seed " + s.seed},
		{`"same": false`, "status --seed " + s.seed},
	} {
		words := strings.Fields(c.line)
		_, stdout, stderr := s.run(append([]string{"--json", "provision", words[0], d.URL(), "--key", s.path("admin")}, words[1:]...)...)
		if !strings.Contains(stdout, c.want) {
			t.Errorf("%s: no %s in %s%s", c.line, c.want, stdout, stderr)
		}
	}
}

// Per-unit values are secrets, too.
func TestProvisionUnit(t *testing.T) {
	imagetest.Long(t)
	t.Parallel()
	s := newSite(t)
	text, _ := os.ReadFile(s.seed)
	template, table := filepath.Join(s.dir, "seed.toml"), filepath.Join(s.dir, "units.csv")
	s.write(template, strings.NewReplacer(secretToken, "@{token}", "/new:1", "/@{image}:1").Replace(string(text)))
	s.write(table, "unit,token,image\nW1,"+secretToken+",one\nW2,other,two\n")
	d := s.fresh(&consoletest.Device{Fail: "validate", Error: "TOKEN=" + secretToken})
	s.wants(4, "kept its configuration: TOKEN=***", "provision", d.URL(), "--seed", template, "--values", table, "--unit", "W1")
	d = s.fresh(&consoletest.Device{})
	s.wants(0, "applied in", "provision", d.URL(), "--seed", template, "--values", table, "--unit", "W1")
	s.has(d, "one")
	s.wants(3, "W3", "provision", d.URL(), "--seed", template, "--values", table, "--unit", "W3")
	s.wants(8, "has another configuration", "provision", "status", d.URL(), "--seed", template, "--values", table, "--unit", "W2", "--key", s.path("admin"))
}
