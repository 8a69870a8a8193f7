package boottest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/imagetest"
)

// site is a directory with an SSH key and a seed whose admin has that key.
type site struct {
	t    *testing.T
	dir  string
	seed string
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir()}
	s.seed = filepath.Join(s.dir, "config.toml")
	imagetest.Run(t, "ssh-keygen", "-q", "-N", "", "-C", "admin@desk", "-t", "ed25519", "-f", s.key())
	s.write(s.seed, fmt.Sprintf(`version = 1

[users.ops0]
isAdmin = true
ssh_key = %q

[network.dnsmasq]
gateway_cidr = "172.20.30.1/24"
dhcp_start = "172.20.30.10"
dhcp_end = "172.20.30.19"

[activation]
required = ["web"]
timeout_seconds = 1

[containers.container.web]
privileged = false
[containers.container.web.Container]
Image = "registry.example/new:1"
`, strings.TrimSpace(string(imagetest.Read(t, s.key()+".pub")))))
	return s
}

func (s *site) key() string { return filepath.Join(s.dir, "admin") }

func (s *site) write(file, text string) {
	s.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// wants runs imgtool and checks its exit status and a text of its output.
func (s *site) wants(status int, text string, args ...string) {
	s.t.Helper()
	cmd := exec.Command("imgtool", args...)
	cmd.Env = append(os.Environ(), "HOME="+s.dir, "SSH_AUTH_SOCK=")
	got, stdout, stderr := end(s.t, cmd)
	if got != status || !strings.Contains(stdout+stderr, text) {
		s.t.Errorf("imgtool %s\nends with %d, want %d and %q:\n%s%s", strings.Join(args, " "), got, status, text, stdout, stderr)
	}
}
