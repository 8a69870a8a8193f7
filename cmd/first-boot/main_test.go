//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"imgtool/image"
	"imgtool/image/fat"
	"imgtool/image/fault"
	"imgtool/image/imagetest"
	"imgtool/image/seed"
	"imgtool/image/seed/api"
	"imgtool/image/seed/bundle"
	"imgtool/image/seed/provision"
)

// box is a device in a directory.
type box struct {
	t       *testing.T
	root    string
	wan     string // its addresses, both of this computer
	gateway string
	key     ssh.Signer
	cmd     *exec.Cmd

	mu  sync.Mutex
	log bytes.Buffer
}

// program is the executable of first-boot.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "first-boot")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "first-boot")
	out, err := exec.Command("go", "build", "-o", file, ".").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return file, err
})

func TestMain(m *testing.M) {
	status := m.Run()
	if file, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(file))
	}
	os.Exit(status)
}

var boxes byte

// newBox returns a device without a configuration.
func newBox(t *testing.T) *box {
	imagetest.NeedRoot(t)
	boxes++
	b := &box{t: t, root: t.TempDir(), wan: fmt.Sprintf("127.77.%d.1", boxes), gateway: fmt.Sprintf("127.78.%d.1", boxes)}
	for _, dir := range []string{"data/config", "dev", "etc", "sys/class/block", "home", "bin", "sbin"} {
		b.mkdir(dir)
	}
	b.write("etc/passwd", "root::0:0:root:/root:/bin/sh\n")
	b.write("etc/group", "root:x:0:\n")
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if b.key, err = ssh.NewSignerFromKey(private); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.kill)
	return b
}

func (b *box) mkdir(path string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Join(b.root, path), 0o755); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) write(path, text string) {
	b.t.Helper()
	b.mkdir(filepath.Dir(path))
	if err := os.WriteFile(filepath.Join(b.root, path), []byte(text), 0o755); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) read(path string) string {
	text, _ := os.ReadFile(filepath.Join(b.root, path))
	return string(text)
}

// volume adds a partition with a FAT on it.
func (b *box) volume(disk, part, label, partlabel string, files map[string]string) {
	b.t.Helper()
	var list []fat.File
	for name, text := range files {
		list = append(list, fat.File{Path: name, Content: strings.NewReader(text)})
	}
	m, err := fat.New(4<<20, fat.Options{Label: label}, list)
	if err != nil {
		b.t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(b.root, "dev", disk+part))
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, io.NewSectionReader(image.Content(m), 0, m.Size())); err != nil {
		b.t.Fatal(err)
	}
	event := "DEVTYPE=partition\n"
	if partlabel != "" {
		event += "PARTNAME=" + partlabel + "\n"
	}
	node := filepath.Join("sys/devices", disk, disk+part)
	b.write(filepath.Join(node, "uevent"), event)
	b.write(filepath.Join(node, "partition"), "1\n")
	if err := os.Symlink(filepath.Join("../../devices", disk, disk+part), filepath.Join(b.root, "sys/class/block", disk+part)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) seed(image string) string {
	return fmt.Sprintf(`version = 1
[users.ops]
isAdmin = true
ssh_key = %q
[network.dnsmasq]
gateway_cidr = "%s/24"
dhcp_start = "%s0"
dhcp_end = "%s9"
[network.firewall.inbound.wan]
tcp = [22]
[activation]
required = ["web"]
timeout_seconds = 1
[containers.container.web]
privileged = false
[containers.container.web.Container]
Image = "registry.example/%s:1"
Volume = "${FILES_DIR}/site:/site"
PublishPort = ["8080:80"]
`, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(b.key.PublicKey()))), b.gateway, b.gateway, b.gateway, image)
}

func (b *box) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

func (b *box) said() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.String()
}

// start boots the device.
func (b *box) start(args ...string) {
	b.t.Helper()
	file, err := program()
	if err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	b.log.Reset()
	b.mu.Unlock()
	b.cmd = exec.Command(file, append(args, "-root", b.root, "-listen", b.wan+":8080", "-narrow", "6s")...)
	b.cmd.Stdout, b.cmd.Stderr = b, b
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) kill() {
	if b.cmd != nil {
		b.cmd.Process.Kill()
		b.cmd.Wait()
		b.cmd = nil
	}
}

// says waits until the device logs a text.
func (b *box) says(pattern string) {
	b.t.Helper()
	for range 20_000 {
		if regexp.MustCompile(pattern).MatchString(b.said()) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.t.Fatalf("%q is not said:\n%s", pattern, b.said())
}

// has waits until the device is provisioned, and checks its configuration.
func (b *box) has(image string) {
	b.t.Helper()
	b.says("first-boot: provisioned\n")
	for path, want := range map[string]string{
		"data/config/config.toml":                        "/" + image + ":1",
		"data/.completed_first_boot":                     "T",
		"etc/containers/systemd/users/990/web.container": "127.0.0.1:8080:80",
		"etc/ssh/authorized_keys.d/ops":                  "ssh-ed25519 ",
		"etc/passwd":                                     "ops:x:1000:1000::/home/ops:/bin/sh\n",
		"etc/group":                                      "wheel:x:10:ops\n",
		"etc/nftables.conf":                              "iifname eth0 tcp dport { 22 } accept",
		"etc/dnsmasq.d/lan.conf":                         "dhcp-range=" + b.gateway + "0," + b.gateway + "9",
		"etc/chrony.conf":                                "server time.cloudflare.com iburst\n",
	} {
		if got := b.read(path); !strings.Contains(got, want) {
			b.t.Errorf("%s has no %q:\n%s", path, want, got)
		}
	}
	b.madeOf(b.read("data/config/config.toml"))
	for _, left := range []string{"data/config.atomixos-promotion-pending", "data/config.atomixos-candidate"} {
		if _, err := os.Stat(filepath.Join(b.root, left)); err == nil {
			b.t.Errorf("%s is left behind", left)
		}
	}
}

// madeOf checks the files of a configuration. Only their owner can read them.
func (b *box) madeOf(text string) {
	b.t.Helper()
	config, faults := seed.Check([]byte(text))
	if config == nil {
		b.t.Fatal(faults)
	}
	for _, f := range config.Render() {
		path := "data/config/" + f.Path
		if diff := cmp.Diff(f.Text, b.read(path)); diff != "" {
			b.t.Errorf("%s: %s", path, diff)
		}
		if info, err := os.Stat(filepath.Join(b.root, path)); err != nil {
			b.t.Error(err)
		} else if info.Mode() != 0o600 {
			b.t.Errorf("%s: %v", path, info.Mode())
		}
	}
}

func (b *box) client(address string) *provision.Client {
	b.t.Helper()
	c, err := provision.Connect(b.t.Context(), provision.Target{Address: address, Wait: 3 * time.Minute})
	if err != nil {
		b.t.Fatalf("%v\n%s", err, b.said())
	}
	return c
}

func (b *box) apply(c *provision.Client, name string, body []byte) (*provision.Applied, error) {
	b.t.Helper()
	sent, faults, err := bundle.Check(name, bytes.NewReader(body))
	if err != nil || sent.Config == nil {
		b.t.Fatal(err, faults)
	}
	return c.Apply(b.t.Context(), provision.Request{Payload: &provision.Payload{Name: name, Body: body, Config: sent.Config}, Timeout: 5 * time.Minute,
		Keys:   func() ([]*provision.Key, error) { return []*provision.Key{{Name: "key", Signer: b.key}}, nil },
		Report: func(provision.Event) {}})
}

func (b *box) health() string {
	b.t.Helper()
	answer, err := http.Get("http://" + b.wan + ":8080" + api.PathHealth)
	if err != nil {
		b.t.Fatal(err)
	}
	defer answer.Body.Close()
	var h api.Health
	if err := json.NewDecoder(answer.Body).Decode(&h); err != nil || h.Status != "ok" {
		b.t.Fatalf("%v, %+v", err, h)
	}
	return h.Detail
}

func (b *box) fresh() { b.write("etc/atomixos/fresh-flash", "") }

func TestSeedAfterFlash(t *testing.T) {
	imagetest.Long(t)
	b := newBox(t)
	b.write("sbin/mark-good", "#!/bin/sh\necho good >>"+b.root+"/marks\n")
	b.volume("mmcblk1", "p1", "BOOT-A", "boot-a", map[string]string{"config.toml": b.seed("boot")})
	b.volume("sda", "1", "STICK", "", map[string]string{"config.toml": b.seed("stick")})
	b.fresh()
	b.start()
	b.has("boot")
	if b.read("marks") != "good\n" {
		t.Errorf("the slot was marked %q", b.read("marks"))
	}

	// The console is now open to the LAN only.
	b.client(b.wan)
	b.says("the console is at http://" + b.gateway)
	b.client(b.gateway)
	if _, err := net.Dial("tcp", b.wan+":8080"); err == nil {
		t.Error("the console is open to all")
	}

	// The configuration survives a reboot.
	b.kill()
	b.start()
	b.says("the configuration of /data is taken")
	b.has("boot")
	b.client(b.gateway)
}

func TestBootPartitionIsIgnoredLater(t *testing.T) {
	b := newBox(t)
	b.volume("mmcblk1", "p1", "BOOT-A", "boot-a", map[string]string{"config.toml": b.seed("boot")})
	b.start()
	b.says("waiting for a configuration on port 8080")
	if _, err := os.Stat(filepath.Join(b.root, "data/config/config.toml")); err == nil {
		t.Error("it was taken")
	}
}

func TestOrderOfSticks(t *testing.T) {
	b := newBox(t)
	own := map[string]string{"config.toml": b.seed("own")}
	b.volume("mmcblk1", "p1", "BOOT-A", "boot-a", own)
	b.volume("mmcblk1", "p3", "BOOT", "boot-b", own)
	b.volume("sda", "1", "", "boot-b", own)
	b.volume("sda", "2", "", "", own)
	b.volume("sdb", "1", "", "aaa", map[string]string{"config.toml": b.seed("partlabel")})
	b.volume("sdc", "1", "ZZZ", "", map[string]string{"config.toml": b.seed("label")})
	b.volume("sdd", "1", "EMPTY", "", nil)
	b.volume("sde", "1", "ZZZZ", "", map[string]string{"config.toml": b.seed("later")})
	b.start()
	b.has("label")
	b.says(`the stick ZZZ has a config.toml`)
}

func TestBadSeedIsSkipped(t *testing.T) {
	b := newBox(t)
	bad := strings.Replace(b.seed("bad"), "version = 1", "version = 2", 1)
	b.volume("mmcblk1", "p1", "BOOT-A", "boot-a", map[string]string{"config.toml": bad})
	b.volume("sda", "1", "BAD", "", map[string]string{"config.toml": bad})
	b.fresh()
	b.start()
	b.says("waiting for a configuration on port 8080")
	const why = "the seed of the boot partition is not taken: config.toml:1: version: is (not shown); it must be 1; the seed of the stick BAD is not taken: "
	if got := b.health(); !strings.HasPrefix(got, why) {
		t.Errorf("health says %q", got)
	}
	b.kill()

	b.volume("sdb", "1", "GOOD", "", map[string]string{"config.toml": b.seed("good")})
	b.start()
	b.has("good")
}

func TestConsole(t *testing.T) {
	imagetest.Long(t)
	b := newBox(t)
	b.start()
	c := b.client(b.wan)
	done, err := b.apply(c, "config.toml", []byte(b.seed("first")))
	if err != nil || done.Reapply || done.Forwarding != "http://"+b.gateway+":8080" {
		t.Fatalf("%+v %v\n%s", done, err, b.said())
	}
	b.has("first")

	// It stays open for a while, and then to the LAN only; after a reboot at once.
	b.kill()
	b.start()
	b.has("first")
	if _, err := net.Dial("tcp", b.wan+":8080"); err == nil {
		t.Error("the console is open to all")
	}
	c = b.client(b.gateway)
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "config.toml"), []byte(b.seed("second")), 0o644)
	os.MkdirAll(filepath.Join(dir, "files/site/deep"), 0o755)
	os.WriteFile(filepath.Join(dir, "files/site/deep/index.html"), []byte("hello"), 0o755)
	var archive bytes.Buffer
	if _, err := bundle.Write(&archive, "config.tar.zst", os.DirFS(dir), time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	if done, err := b.apply(c, "config.tar.zst", archive.Bytes()); err != nil || !done.Reapply {
		t.Fatalf("%+v %v\n%s", done, err, b.said())
	}
	b.has("second")
	file := filepath.Join(b.root, "data/config/files/site/deep/index.html")
	if out := strings.TrimSpace(imagetest.Run(t, "stat", "-c", "%a %u %g", file, filepath.Dir(file), filepath.Join(b.root, "data/config/files"))); out != "600 990 990\n700 990 990\n700 990 990" {
		t.Errorf("modes and owners of the bundle's files:\n%s", out)
	}
	if b.read("data/config/files/site/deep/index.html") != "hello" {
		t.Error("the bundle's file is another")
	}
	// A plain document deletes them.
	if _, err := b.apply(c, "config.toml", []byte(b.seed("third"))); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("files of the bundle are still there")
	}
	if exported, err := c.Export(t.Context(), &provision.Key{Name: "key", Signer: b.key}); err != nil || string(exported) != b.seed("third") {
		t.Errorf("exported %q, %v", exported, err)
	}

	// The console follows the address of the LAN.
	old := b.gateway
	b.gateway = strings.Replace(old, "127.78.", "127.79.", 1)
	if done, err := b.apply(c, "config.toml", []byte(b.seed("third"))); err != nil || done.Forwarding != "http://"+b.gateway+":8080" {
		t.Errorf("%+v, %v", done, err)
	}
	c = b.client(b.gateway)
	if _, err := net.Dial("tcp", old+":8080"); err == nil {
		t.Error("the console is at the old address")
	}

	// Other keys are refused.
	_, private, _ := ed25519.GenerateKey(rand.Reader)
	admin := b.key
	b.key, _ = ssh.NewSignerFromKey(private)
	if _, err := b.apply(c, "config.toml", []byte(b.seed("fourth"))); err == nil || !strings.Contains(err.Error(), "does not take the signature") {
		t.Errorf("another key: %v", err)
	}
	b.key = admin

	// A configuration that cannot be applied is rolled back.
	os.Remove(filepath.Join(b.root, "etc/nftables.conf"))
	b.mkdir("etc/nftables.conf/no")
	_, err = b.apply(c, "config.toml", []byte(b.seed("fifth")))
	if err == nil || !strings.Contains(err.Error(), "firewall: ") {
		t.Errorf("%v", err)
	}
	if !strings.Contains(b.read("data/config/config.toml"), "/third:1") {
		t.Error("the configuration of before is not back")
	}
	b.kill()
	if err := os.RemoveAll(filepath.Join(b.root, "etc/nftables.conf")); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.has("third")
}

func TestFailedFirstConfigurationIsDiscarded(t *testing.T) {
	b := newBox(t)
	b.mkdir("etc/nftables.conf/no")
	b.write("sbin/mark-good", "#!/bin/sh\n[ \"$1\" = waiting ] || echo good >>"+b.root+"/marks\n")
	b.start()
	_, err := b.apply(b.client(b.wan), "config.toml", []byte(b.seed("first")))
	if fault.Kind(err) != fault.RolledBack {
		t.Errorf("%v", err)
	}
	if b.read("data/config/config.toml") != "" {
		t.Error("it is still there")
	}
	if b.read("marks") != "" || b.read("data/.completed_first_boot") != "" || strings.Contains(b.said(), "first-boot: provisioned") {
		t.Errorf("the device counts as provisioned:\n%s", b.said())
	}
	if fresh, err := b.client(b.wan).Fresh(t.Context()); !fresh || err != nil {
		t.Errorf("the device does not wait: %v", err)
	}
}

func TestPageForm(t *testing.T) {
	b := newBox(t)
	b.write("etc/hostname", "rock64\n")
	b.write("proc/device-tree/model", "Pine64 Rock64\x00")
	b.write("sys/class/net/eth0/address", "02:ba:91:4c:11:07\n")
	b.start()
	b.client(b.wan)
	base := "http://" + b.wan + ":8080"
	get := func(path string) (int, string) {
		answer, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		return answer.StatusCode, string(text)
	}
	_, page := get("/")
	token := regexp.MustCompile(`name="bootstrap_token" value="([^"]{43})"`).FindStringSubmatch(page)
	if token == nil {
		t.Fatalf("the page has no token:\n%s", page)
	}
	for _, of := range []string{"<dd>rock64</dd>", "<dd>Pine64 Rock64</dd>", "<dd>02:ba:91:4c:11:07</dd>", "<dd>" + b.wan + ":8080</dd>", "<dt>Device id</dt>"} {
		if !strings.Contains(page, of) {
			t.Errorf("the page does not say %s:\n%s", of, page)
		}
	}
	post := func(token string, header map[string]string) *http.Response {
		var form bytes.Buffer
		w := multipart.NewWriter(&form)
		w.WriteField("bootstrap_token", token)
		w.CreateFormFile("config_file", "")
		w.WriteField("config", strings.ReplaceAll(b.seed("pasted"), "\n", "\r\n"))
		w.Close()
		r, _ := http.NewRequest("POST", base+"/apply", &form)
		r.Header.Set("Content-Type", w.FormDataContentType())
		for k, v := range header {
			r.Header.Set(k, v)
		}
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer
	}
	if s := post("wrong", nil).StatusCode; s != http.StatusForbidden {
		t.Errorf("with a wrong token: %d", s)
	}
	if s := post(token[1], map[string]string{"Origin": "http://evil.example"}).StatusCode; s != http.StatusUnauthorized {
		t.Errorf("from another page: %d", s)
	}
	answer := post(token[1], map[string]string{"Origin": base})
	job := answer.Header.Get("Location")
	if answer.StatusCode != http.StatusSeeOther || !strings.HasPrefix(job, "/ui/jobs/") {
		t.Fatalf("%d %s", answer.StatusCode, job)
	}
	_, events := get(job + "/events")
	if !strings.Contains(events, "event: step\ndata: {\"step\":\"promote\"") || !strings.Contains(events, "event: end\ndata: {\"state\":\"succeeded\"") {
		t.Errorf("events:\n%s", events)
	}
	if _, view := get(job); !strings.Contains(view, "The configuration was applied") {
		t.Errorf("the job's page:\n%s", view)
	}
	b.has("pasted")
	if s, _ := get("/"); s != http.StatusNotFound {
		t.Errorf("the page of a device with a configuration: %d", s)
	}
}

// After a kill at any time, the next boot ends provisioned or waiting, with a complete
// configuration or none.
func TestKill(t *testing.T) {
	imagetest.Long(t)
	n := 12
	if os.Getenv("SOAK") != "" {
		n = 200
	}
	ends := map[string]int{}
	var spans [2]int64 // bytes that it reads and writes until it is provisioned
	for i := range n + 2 {
		b := newBox(t)
		again := i % 2
		var from int64
		times := 1
		if again == 1 {
			b.start()
			if _, err := b.apply(b.client(b.wan), "config.toml", []byte(b.seed("before"))); err != nil {
				t.Fatal(err)
			}
			b.kill()
			b.start()
			c := b.client(b.gateway)
			from, times = imagetest.Moved(b.cmd.Process.Pid), 2
			go func() {
				sent, _, _ := bundle.Check("", strings.NewReader(b.seed("new")))
				c.Apply(context.Background(), provision.Request{Payload: &provision.Payload{Name: "config.toml", Body: []byte(b.seed("new")), Config: sent.Config}, Timeout: time.Second,
					Keys:   func() ([]*provision.Key, error) { return []*provision.Key{{Name: "key", Signer: b.key}}, nil },
					Report: func(provision.Event) {}})
			}()
		} else {
			b.volume("mmcblk1", "p1", "BOOT-A", "boot-a", map[string]string{"config.toml": b.seed("new")})
			b.fresh()
			b.start()
		}
		// The first two are killed when they are provisioned.
		at := from + spans[again]*int64(i)/int64(n)
		if i < 2 {
			at = math.MaxInt64
		}
		now := from
		for now < at && strings.Count(b.said(), "first-boot: provisioned\n") < times {
			time.Sleep(50 * time.Microsecond)
			now = imagetest.Moved(b.cmd.Process.Pid)
		}
		if i < 2 {
			spans[again] = now - from
		}
		b.kill()
		os.Remove(filepath.Join(b.root, "etc/atomixos/fresh-flash"))
		b.start()
		b.says("first-boot: provisioned\n|waiting for a configuration")
		switch text := b.read("data/config/config.toml"); {
		case text == "" && again == 0:
			ends["waiting"]++
		case text == b.seed("before") && again == 1:
			b.has("before")
			ends["before"]++
		case text == b.seed("new"):
			b.has("new")
			ends["new"]++
		default:
			t.Errorf("killed after %d bytes, it has:\n%s\n%s", at-from, text, b.said())
		}
		b.kill()
	}
	t.Logf("%d kills within %d bytes: %v", n+2, spans, ends)
}
