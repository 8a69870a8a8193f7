//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"imgtool/image/imagetest"
	"imgtool/image/seed/api"
)

// held is a request whose last bytes are not sent yet.
type held struct {
	t    *testing.T
	conn net.Conn
	rest []byte
}

func (b *box) hold(address, path, kind string, body []byte) *held {
	b.t.Helper()
	conn, err := net.Dial("tcp", address+":8080")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s:8080\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", path, address, kind, len(body))
	n := len(body) - 50
	conn.Write(body[:n])
	return &held{b.t, conn, body[n:]}
}

// taken reports whether the device has read all that was sent: nothing is in the receive queue
// of its end of the connection.
func (h *held) taken() bool {
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		h.t.Fatal(err)
	}
	ours := h.conn.LocalAddr().(*net.TCPAddr)
	ip := ours.IP.To4()
	own := fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], ours.Port)
	for line := range strings.Lines(string(text)) {
		// Its own address, the other one, the state, and the bytes to send and to read.
		if f := strings.Fields(line); len(f) > 4 && f[2] == own {
			return strings.HasSuffix(f[4], ":00000000")
		}
	}
	return false
}

// finish sends the rest and returns the status, or 0 if the device closed the
// connection.
func (h *held) finish() int {
	h.conn.Write(h.rest)
	h.conn.SetReadDeadline(time.Now().Add(3 * time.Minute))
	head := make([]byte, 12)
	if _, err := io.ReadFull(h.conn, head); err != nil {
		return 0
	}
	status, _ := strconv.Atoi(string(head[9:]))
	return status
}

// form is the page's form with a configuration.
func (b *box) form(text string) (kind string, body []byte) {
	b.t.Helper()
	answer, err := http.Get("http://" + b.wan + ":8080/")
	if err != nil {
		b.t.Fatal(err)
	}
	defer answer.Body.Close()
	page, _ := io.ReadAll(answer.Body)
	token := regexp.MustCompile(`name="bootstrap_token" value="([^"]{43})"`).FindSubmatch(page)
	if token == nil {
		b.t.Fatalf("the page has no form:\n%s", page)
	}
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	w.WriteField("bootstrap_token", string(token[1]))
	w.WriteField("config", text)
	w.Close()
	return w.FormDataContentType(), form.Bytes()
}

func TestDelayedUploadDoesNotBypassAuthorization(t *testing.T) {
	b := newBox(t)
	b.start()
	c := b.client(b.wan)
	stranger := strings.Replace(b.seed("stranger"), "[users.ops]", "[users.stranger]", 1)
	kind, form := b.form(stranger)
	uploads := map[string]*held{
		"the page's form": b.hold(b.wan, "/apply", kind, form),
		"the API":         b.hold(b.wan, api.PathConfig, "application/octet-stream", []byte(stranger)),
	}
	for name, h := range uploads {
		imagetest.Wait(t, name+" is read", h.taken)
	}
	if _, err := b.apply(c, "config.toml", []byte(b.seed("owner"))); err != nil {
		t.Fatal(err)
	}
	b.has("owner")
	for name, h := range uploads {
		if status := h.finish(); status != http.StatusUnauthorized && status != http.StatusNotFound {
			t.Errorf("%s: status %d", name, status)
		}
	}
	b.has("owner")
	if strings.Contains(b.read("data/config/users.json"), "stranger") || strings.Contains(b.read("etc/passwd"), "stranger") {
		t.Error("the stranger has the device")
	}
}

func TestLinksOfUsersAreNotFollowed(t *testing.T) {
	imagetest.Long(t)
	b := newBox(t)
	b.start()
	if _, err := b.apply(b.client(b.wan), "config.toml", []byte(b.seed("first"))); err != nil {
		t.Fatal(err)
	}
	b.has("first")
	b.write("etc/shadow", "root:secret:::::::\n")
	home := filepath.Join(b.root, "home/ops")
	if out := strings.TrimSpace(imagetest.Run(t, "stat", "-c", "%a %u %g", home)); out != "700 1000 1000" {
		t.Errorf("the home directory is %s", out)
	}
	before := imagetest.Run(t, "stat", "-c", "%a %u %n", filepath.Join(b.root, "etc"), filepath.Join(b.root, "etc/shadow"))
	links := [][2]string{{".ssh", "../../etc"}, {".ssh/authorized_keys", "../../../etc/shadow"}, {".ssh", "/etc"}, {".ssh/authorized_keys", filepath.Join(b.root, "etc/shadow")}}
	for i, link := range links {
		os.RemoveAll(filepath.Join(home, ".ssh"))
		at := filepath.Join(home, link[0])
		os.MkdirAll(filepath.Dir(at), 0o777)
		if err := os.Symlink(link[1], at); err != nil {
			t.Fatal(err)
		}
		if _, err := b.apply(b.client(b.gateway), "config.toml", []byte(b.seed(fmt.Sprintf("next%d", i)))); err != nil {
			t.Fatal(err)
		}
		b.has(fmt.Sprintf("next%d", i))
		if to, err := os.Readlink(at); err != nil || to != link[1] {
			t.Errorf("%v: the user's link is %q, %v", link, to, err)
		}
	}
	if after := imagetest.Run(t, "stat", "-c", "%a %u %n", filepath.Join(b.root, "etc"), filepath.Join(b.root, "etc/shadow")); after != before || b.read("etc/shadow") != "root:secret:::::::\n" {
		t.Errorf("before:\n%safter:\n%s%s", before, after, b.read("etc/shadow"))
	}
}

// The file name is not signed, so it must have no effect.
func TestFilenameHasNoEffect(t *testing.T) {
	b := newBox(t)
	b.start()
	if _, err := b.apply(b.client(b.wan), "config.toml", []byte(b.seed("first"))); err != nil {
		t.Fatal(err)
	}
	b.has("first")
	b.kill()
	b.start()
	b.has("first")
	b.client(b.gateway)
	base := "http://" + b.gateway + ":8080"
	for i, name := range []string{"config.tar.gz", "config.tar.zst", "config.toml"} {
		image := fmt.Sprintf("name%d", i)
		body := []byte(b.seed(image))
		if name == "config.toml" {
			text := body
			body = packed(t, func(w *tar.Writer) { member(w, "config.toml", text) })
		}
		q, _ := http.NewRequest("POST", base+api.PathConfig, bytes.NewReader(body))
		q.Header.Set(api.HeaderFilename, name)
		b.sign(q, base, body)
		if job := b.ends(q); !strings.Contains(job, `"state":"succeeded"`) || !strings.Contains(b.read("data/config/config.toml"), "/"+image+":1") {
			t.Errorf("under the name %s: %s", name, job)
		}
	}
}

// sign signs a request as the admin.
func (b *box) sign(q *http.Request, base string, body []byte) {
	b.t.Helper()
	answer, err := http.Get(base + api.PathNonce)
	if err != nil {
		b.t.Fatal(err)
	}
	defer answer.Body.Close()
	var n api.Nonce
	if err := json.NewDecoder(answer.Body).Decode(&n); err != nil {
		b.t.Fatal(err)
	}
	signature, err := api.Sign(api.Message(n.Nonce, q.URL.Path, sha256.Sum256(body)), b.key)
	if err != nil {
		b.t.Fatal(err)
	}
	q.Header.Set(api.HeaderNonce, n.Nonce)
	q.Header.Set(api.HeaderSignature, signature)
}

func TestUserIDs(t *testing.T) {
	imagetest.Long(t)
	b := newBox(t)
	b.start()
	with := func(image string, users ...string) []byte {
		text := b.seed(image)
		for _, name := range users {
			text += "[users." + name + "]\n"
		}
		return []byte(text)
	}
	ids := func() map[string]string {
		all := map[string]string{}
		for line := range strings.Lines(b.read("etc/passwd")) {
			if f := strings.Split(line, ":"); len(f[2]) == 4 {
				all[f[0]] = f[2]
			}
		}
		return all
	}
	address := b.wan
	for i, c := range []struct {
		users []string
		want  map[string]string
	}{
		{[]string{"zoe"}, map[string]string{"ops": "1000", "zoe": "1001"}},
		{[]string{"zoe", "aaa"}, map[string]string{"ops": "1000", "zoe": "1001", "aaa": "1002"}},
		{[]string{"bbb"}, map[string]string{"ops": "1000", "bbb": "1003"}}, // not a used one
		{[]string{"bbb", "aaa"}, map[string]string{"ops": "1000", "bbb": "1003", "aaa": "1002"}},
	} {
		image := fmt.Sprintf("users%d", i)
		if _, err := b.apply(b.client(address), "config.toml", with(image, c.users...)); err != nil {
			t.Fatal(err)
		}
		b.says("first-boot: provisioned\n")
		if got := ids(); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%v: %v, wanted %v", c.users, got, c.want)
		}
		address = b.gateway
	}
	b.kill()
	b.start()
	b.has("users3")
	if got := ids(); got["bbb"] != "1003" {
		t.Errorf("after a boot: %v", got)
	}
	// The home of another user is not changed.
	os.RemoveAll(filepath.Join(b.root, "home/aaa"))
	b.mkdir("home/aaa")
	os.Chown(filepath.Join(b.root, "home/aaa"), 1003, 1003)
	_, err := b.apply(b.client(b.gateway), "config.toml", with("more", "aaa", "bbb"))
	if err == nil || !strings.Contains(err.Error(), "/home/aaa belongs to the user 1003; it must belong to 1002") {
		t.Errorf("%v", err)
	}
}

func TestSecretsAreNotLogged(t *testing.T) {
	b := newBox(t)
	const secret = "hunter2-TOKEN"
	bad := []string{
		strings.Replace(b.seed("a"), "[activation]", "[os_upgrade]\nserver_url = \"https://deploy:"+secret+"@example\"\n[activation]", 1),
		b.seed("a") + "Environment = " + secret + "\n",
		strings.Replace(b.seed("a"), `PublishPort = ["8080:80"]`, `PublishPort = ["`+secret+`"]`, 1),
		strings.Replace(b.seed("a"), `required = ["web"]`, `required = ["`+secret+`"]`, 1),
	}
	for i, text := range bad {
		b.volume(fmt.Sprintf("sd%c", 'a'+i), "1", fmt.Sprintf("STICK%d", i), "", map[string]string{"config.toml": text})
	}
	b.start()
	b.says("waiting for a configuration on port 8080")
	if health := b.health(); strings.Contains(health, secret) || strings.Count(health, "is not taken: config.toml:") != len(bad) {
		t.Errorf("health says %s", health)
	}
	for _, text := range bad {
		job := b.submit(text)
		if strings.Contains(job, secret) || !strings.Contains(job, `"state":"failed"`) {
			t.Errorf("the job says %s", job)
		}
	}
	if strings.Contains(b.said(), secret) {
		t.Errorf("the log says %s", b.said())
	}

	// Only the user of a container can read its unit.
	good := strings.Replace(b.seed("web"), "[users.ops]", "[containers.container.host]\nprivileged = true\n[containers.container.host.Container]\nImage = \"a\"\nEnvironment = \"T="+secret+"\"\n[users.ops]", 1)
	if _, err := b.apply(b.client(b.wan), "config.toml", []byte(good)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"etc/containers/systemd/host.container":          "600 0 0",
		"etc/containers/systemd/users/990/web.container": "600 990 990",
		"data/config/config.toml":                        "600 0 0",
		"data/config/quadlet/host.container":             "600 0 0",
		"data/config":                                    "700 0 0",
		"data/user-ids.json":                             "600 0 0",
		"data/device-id":                                 "600 0 0",
	} {
		if out := strings.TrimSpace(imagetest.Run(t, "stat", "-c", "%a %u %g", filepath.Join(b.root, path))); out != want {
			t.Errorf("%s is %s, wanted %s", path, out, want)
		}
	}
	if out, _ := exec.Command("grep", "-rl", secret, b.root).Output(); strings.Count(string(out), "\n") != 3+len(bad) {
		t.Errorf("the secret is in\n%s", out)
	}
}

// submit posts an unsigned configuration and returns the result of ends.
func (b *box) submit(text string) string {
	q, _ := http.NewRequest("POST", "http://"+b.wan+":8080"+api.PathConfig, strings.NewReader(text))
	return b.ends(q)
}

// ends sends a request that starts a job, waits until the job ends, and returns its state.
func (b *box) ends(q *http.Request) string {
	b.t.Helper()
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		b.t.Fatal(err)
	}
	body, _ := io.ReadAll(answer.Body)
	answer.Body.Close()
	location := answer.Header.Get("Location")
	if location == "" {
		return fmt.Sprintf("status %d: %s", answer.StatusCode, body)
	}
	for {
		answer, err := http.Get("http://" + q.URL.Host + location)
		if err != nil {
			b.t.Fatal(err)
		}
		job, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if bytes.Contains(job, []byte(`"duration_seconds"`)) {
			return string(job)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// memory returns the peak memory of the device in KiB.
func (b *box) memory() int {
	b.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.cmd.Process.Pid))
	if err != nil {
		b.t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	kib, _ := strconv.Atoi(string(m[1]))
	return kib
}

const mostMemory = 64 << 10

func TestServiceUnderManyConnections(t *testing.T) {
	imagetest.Long(t)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Max < 4096 {
		t.Fatalf("this test opens 1,200 connections; the limit of open files is %d", limit.Max)
	}
	for _, provisioned := range []bool{false, true} {
		b := newBox(t)
		b.start()
		address := b.wan
		if provisioned {
			if _, err := b.apply(b.client(b.wan), "config.toml", []byte(b.seed("first"))); err != nil {
				t.Fatal(err)
			}
			b.says("the console is at http://" + b.gateway)
			address = b.gateway
		}
		request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", api.PathHealth, address)
		for range 1100 {
			if conn, err := net.DialTimeout("tcp", address+":8080", 2*time.Second); err == nil {
				defer conn.Close()
				io.WriteString(conn, request)
			}
		}
		for i := range 100 {
			conn, err := net.DialTimeout("tcp", address+":8080", 2*time.Second)
			if err != nil {
				continue
			}
			defer conn.Close()
			size := []int{1000, 200 << 10, 32 << 20}[i%3]
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", api.PathConfig, address, size)
			go func() {
				for {
					if _, err := conn.Write([]byte("#")); err != nil {
						return
					}
					time.Sleep(300 * time.Millisecond)
				}
			}()
		}
		time.Sleep(2 * time.Second)
		client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		for _, path := range []string{api.PathHealth, api.PathNonce, api.PathHealth} {
			begin := time.Now()
			answer, err := client.Get("http://" + address + ":8080" + path)
			if err != nil {
				t.Fatalf("provisioned: %v: %v", provisioned, err)
			}
			answer.Body.Close()
			t.Logf("%s after %v", path, time.Since(begin).Round(time.Millisecond))
		}
		if _, err := b.apply(b.client(address), "config.toml", []byte(b.seed("among"))); err != nil {
			t.Errorf("provisioned: %v: the owner's configuration: %v", provisioned, err)
		}
		b.has("among")
		if most := b.memory(); most > mostMemory {
			t.Errorf("it took %d KiB", most)
		}
		b.kill()
	}
}

// packed returns a bundle in gzip.
func packed(t *testing.T, fill func(w *tar.Writer)) []byte {
	t.Helper()
	var out bytes.Buffer
	z, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	w := tar.NewWriter(z)
	fill(w)
	if w.Close() != nil || z.Close() != nil {
		t.Fatal("a bundle is not written")
	}
	return out.Bytes()
}

func member(w *tar.Writer, name string, text []byte) {
	w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg})
	w.Write(text)
}

func TestMemory(t *testing.T) {
	imagetest.Long(t)
	b := newBox(t)
	b.start()
	b.client(b.wan)
	repeat := func(s string) string {
		var out strings.Builder
		for i := 0; out.Len() < int(limits.Document)-1000; i++ {
			out.WriteString(strings.ReplaceAll(s, "#", strconv.Itoa(i)))
		}
		return out.String()
	}
	valid := b.seed("large")
	documents := map[string]string{
		"a list":            "a = [" + repeat("1,") + "]",
		"tables":            "a = [" + repeat("{},") + "]",
		"headers":           repeat("[h#]\n"),
		"ports":             strings.Replace(valid, `"8080:80"`, repeat(`"1:2:3:4",`)+`"8080:80"`, 1),
		"users":             valid + repeat("[users.u#]\n"),
		"containers":        valid + repeat("[containers.container.c#]\nprivileged=true\n[containers.container.c#.Container]\nImage=\"a\"\n"),
		"a string":          valid + "# " + strings.Repeat("x", int(limits.Document)-1000),
		"larger":            valid + "# " + strings.Repeat("x", 1<<20),
		"as large as it is": valid + "# " + strings.Repeat("x", api.MaxBody-2000),
		"environment":       strings.Replace(valid, `PublishPort`, `Environment = [`+repeat(`"a#=b",`)+"]\nPublishPort", 1),
	}
	var window bytes.Buffer
	wide, _ := zstd.NewWriter(&window, zstd.WithWindowSize(64<<20), zstd.WithSingleSegment(false))
	io.Copy(wide, io.LimitReader(zeroes{}, 80<<20))
	wide.Close()
	bundles := map[string][]byte{
		"names": packed(t, func(w *tar.Writer) {
			member(w, "config.toml", []byte(valid))
			for i := range 1000 {
				member(w, fmt.Sprintf("files/%04d/%s", i, strings.Repeat(strings.Repeat("n", 250)+"/", 13)+"f"), nil)
			}
		}),
		"zeros": packed(t, func(w *tar.Writer) {
			member(w, "config.toml", []byte(valid))
			for i := range 3 {
				member(w, fmt.Sprintf("files/%d", i), make([]byte, 60<<20))
			}
		}),
		"a large document": packed(t, func(w *tar.Writer) { member(w, "config.toml", []byte(valid+"#"+strings.Repeat("x", 60<<20))) }),
		"a wide window":    window.Bytes(),
		"a long name": packed(t, func(w *tar.Writer) {
			w.WriteHeader(&tar.Header{Name: strings.Repeat("n/", 500_000), Typeflag: tar.TypeDir})
		}),
	}
	for name, bundle := range bundles {
		documents["a bundle: "+name] = string(bundle)
	}
	names := slices.Sorted(maps.Keys(documents))
	if os.Getenv("SOAK") == "" {
		seed := rand.Uint64()
		t.Logf("a sample with seed %d", seed)
		rand.New(rand.NewPCG(seed, 0)).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		names = names[:6]
	}
	for _, name := range names {
		b.tryMemory(name, []byte(documents[name]))
	}
}

// tryMemory sends a configuration to a waiting device, and checks its peak memory. Afterwards
// the device waits again.
func (b *box) tryMemory(name string, body []byte) {
	b.t.Helper()
	began := time.Now()
	said := b.submit(string(body))
	most := b.memory()
	b.t.Logf("%s: %d KiB, %v: %.100s", name, most, time.Since(began).Round(time.Millisecond), said)
	if most > mostMemory {
		b.t.Errorf("%s: it took %d KiB", name, most)
	}
	b.kill()
	os.RemoveAll(filepath.Join(b.root, "data/config"))
	b.mkdir("data/config")
	b.start()
	b.client(b.wan)
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestUploadsLeaveFreeSpace(t *testing.T) {
	imagetest.Long(t)
	b := newBox(t)
	data := filepath.Join(b.root, "data")
	if err := unix.Mount("tmpfs", data, "tmpfs", 0, "size=100m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(data, unix.MNT_DETACH) })
	b.mkdir("data/config")
	b.start()
	c := b.client(b.wan)
	if _, err := b.apply(c, "config.toml", []byte(b.seed("first"))); err != nil {
		t.Fatal(err)
	}
	b.says("the console is at http://" + b.gateway)
	// Without a signature they are not stored.
	for range 20 {
		h := b.hold(b.gateway, api.PathConfig, "application/octet-stream", make([]byte, 4<<20))
		if status := h.finish(); status != http.StatusUnauthorized && status != 0 {
			t.Errorf("an upload without a signature: %d", status)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(data, &fs); err != nil {
		t.Fatal(err)
	}
	if free := int64(fs.Bavail) * int64(fs.Bsize); free < 99<<20 {
		t.Errorf("%d bytes are free", free)
	}
	if _, err := b.apply(b.client(b.gateway), "config.toml", []byte(b.seed("second"))); err != nil {
		t.Error(err)
	}
	b.has("second")

	// A large upload is refused if it would leave too little free space.
	if err := os.WriteFile(filepath.Join(data, "logs"), make([]byte, 70<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	bundle := packed(t, func(w *tar.Writer) {
		member(w, "config.toml", []byte(b.seed("third")))
		noise := make([]byte, 24<<20)
		for i := range noise {
			noise[i] = byte(i * i >> 7 * 31)
		}
		member(w, "files/noise", noise)
	})
	if len(bundle) < 300<<10 {
		t.Fatalf("the bundle has only %d bytes", len(bundle))
	}
	bundle = append(bundle, make([]byte, 24<<20-len(bundle))...)
	if _, err := b.apply(b.client(b.gateway), "config.tar.gz", bundle); err == nil || !strings.Contains(err.Error(), "too little free space") {
		t.Errorf("a bundle of %d bytes with 30 MiB free: %v", len(bundle), err)
	}
}

func TestDataMustBeMounted(t *testing.T) {
	b := newBox(t)
	b.write("sbin/mark-good", "#!/bin/sh\necho good >>"+b.root+"/marks\n")
	b.volume("mmcblk1", "p1", "BOOT-A", "boot-a", map[string]string{"config.toml": b.seed("boot")})
	b.fresh()
	b.start("-mounted")
	b.says("the data partition is not mounted")
	if health := b.health(); !strings.Contains(health, "the data partition is not mounted") {
		t.Errorf("health says %q", health)
	}
	if said := b.submit(b.seed("console")); !strings.HasPrefix(said, "status 503") || !strings.Contains(said, "the data partition is not mounted") {
		t.Errorf("a configuration: %s", said)
	}
	if strings.Contains(b.said(), "provisioned") || b.read("marks") != "" || b.read("data/config/config.toml") != "" || b.read("data/.completed_first_boot") != "" {
		t.Errorf("it has a configuration:\n%s", b.said())
	}
	b.kill()

	data := filepath.Join(b.root, "data")
	if err := unix.Mount("tmpfs", data, "tmpfs", 0, "size=10m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(data, unix.MNT_DETACH) })
	b.start("-mounted")
	b.has("boot")
}
