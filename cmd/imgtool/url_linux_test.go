package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/artifact"
	"imgtool/image/imagetest"
)

// nginx serves a directory, and returns its URL and a function that returns how many bytes it
// has sent since the last call, and with how many responses.
func nginx(t *testing.T, dir string) (url string, sent func() (bytes int64, responses int)) {
	t.Helper()
	program := imagetest.Need(t, "nginx")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	own := t.TempDir()
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	temp := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temp += fmt.Sprintf("%s_temp_path %s/%s;\n", kind, own, kind)
	}
	config := filepath.Join(own, "nginx.conf")
	text := fmt.Sprintf(`%s daemon off; master_process off; pid %s/pid; error_log %[2]s/errors;
events {}
http { log_format sizes "$request_uri $body_bytes_sent"; access_log %[2]s/log sizes; default_type application/octet-stream;
%s server { listen %s; root %s; } }`, user, own, temp, addr, dir)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-c", config, "-p", own, "-e", filepath.Join(own, "errors"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	imagetest.Wait(t, "nginx starts", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	seen, asked := 0, 0
	return "http://" + addr, func() (n int64, responses int) {
		// A request is logged after its end, before the next request.
		asked++
		last := fmt.Sprintf("/none-%d", asked)
		if res, err := http.Get("http://" + addr + last); err == nil {
			res.Body.Close()
		}
		var log string
		imagetest.Wait(t, "the requests are logged", func() bool {
			log = string(read(t, filepath.Join(own, "log")))
			return strings.Contains(log[seen:], last+" ") && strings.HasSuffix(log, "\n")
		})
		for line := range strings.Lines(log[seen:]) {
			name, size, _ := strings.Cut(line, " ")
			if strings.HasPrefix(name, "/none-") {
				continue
			}
			k := int64(0)
			fmt.Sscan(size, &k)
			n += k
			responses++
		}
		seen = len(log)
		return n, responses
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// twoBuilds builds dir/old.img.zst and dir/new.img.zst, whose root file systems have n files
// of 1 MiB, some of which differ.
func twoBuilds(t *testing.T, dir string, n int) {
	t.Helper()
	if err := makeInputs(filepath.Join(dir, "in")); err != nil {
		t.Fatal(err)
	}
	put := func(i int, seed byte) {
		b := make([]byte, 1<<20)
		rand.NewChaCha8([32]byte{seed, byte(i), byte(i >> 8)}).Read(b)
		path := filepath.Join(dir, "root", "data", fmt.Sprintf("file%04d", i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		put(i, 1)
	}
	build := func(name string) {
		imgtool(t, "build", "--board", "rock64", "--inputs", filepath.Join(dir, "in"), "--rootfs", filepath.Join(dir, "root"), "-o", filepath.Join(dir, name))
	}
	build("old.img.zst")
	for i := n / 3; i < n/3+1+n/100; i++ {
		put(i, 2)
	}
	put(n-2, 2)
	build("new.img.zst")
}

// openArtifact opens an image file.
func openArtifact(t *testing.T, path string) *artifact.Opened {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	o, err := artifact.Open(io.NewSectionReader(f, 0, info.Size()), nil)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// lacking returns how many bytes of an image file have the pieces that a disk does not have.
func lacking(t *testing.T, path, disk string) (size int64) {
	t.Helper()
	o := openArtifact(t, path)
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	missing := o.Manifest.Pieces[:0:0]
	for _, p := range o.Manifest.Pieces {
		b := make([]byte, p.Len)
		f.ReadAt(b, p.Off)
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != p.SHA256 {
			missing = append(missing, p)
		}
	}
	for _, s := range o.FileSpans(missing) {
		size += s.Len
	}
	return size
}

// flashURL flashes and returns the receipt.
func flashURL(t *testing.T, url, disk string, args ...string) (receipt struct{ Fetched, Written, Skipped int64 }) {
	t.Helper()
	cmd := tool(t, append([]string{"flash", "--yes", "--json", "-i", url, disk}, args...)...)
	var events bytes.Buffer
	cmd.Stderr = &events
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("flash %s: %v\n%s", url, err, events.String())
	}
	if !strings.Contains(events.String(), `"fetched":`) {
		t.Errorf("the events have no fetched bytes: %s", events.String())
	}
	if err := json.Unmarshal(out, &receipt); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return receipt
}

// A flash from a web server onto a disk that has the previous build fetches hardly more than
// the pieces that differ. SOAK=1 uses an image of 1 GB.
func TestFlashFromWebServerFetchesWhatDiffers(t *testing.T) {
	imagetest.Long(t)
	dir, n := t.TempDir(), 40
	if os.Getenv("SOAK") != "" {
		n = 950
	}
	twoBuilds(t, dir, n)
	url, sent := nginx(t, dir)
	disk := sparseFile(t, filepath.Join(dir, "disk"), 4_000_000_000)

	whole := lacking(t, filepath.Join(dir, "old.img.zst"), disk)
	first := flashURL(t, url+"/old.img.zst", disk)
	imgtool(t, "verify", "-i", filepath.Join(dir, "old.img.zst"), disk)
	total, responses := sent()
	t.Logf("a blank disk: %d bytes of pieces, %d bytes fetched, %d bytes sent by nginx in %d responses", whole, first.Fetched, total, responses)
	if responses > 10 {
		t.Errorf("nginx was asked %d times", responses)
	}

	// The manifest and the table, and 64 KiB at the start and at the end in search of them.
	info := openArtifact(t, filepath.Join(dir, "new.img.zst"))
	extra := int64(len(info.Manifest.Encode())) + 12*int64(len(info.Manifest.Pieces)) + 128<<10
	differ := lacking(t, filepath.Join(dir, "new.img.zst"), disk)
	second := flashURL(t, url+"/new.img.zst", disk)
	total, _ = sent()
	imgtool(t, "verify", "-i", filepath.Join(dir, "new.img.zst"), disk)
	t.Logf("with the previous build: %d bytes of pieces differ, %d bytes fetched, %d bytes sent by nginx", differ, second.Fetched, total)
	if most := differ*11/10 + extra; second.Fetched > most || total > most || second.Fetched < differ/2 {
		t.Errorf("%d bytes fetched, %d bytes sent, want at most %d", second.Fetched, total, most)
	}

	// A disk with this build needs hardly anything.
	third := flashURL(t, url+"/new.img.zst", disk)
	if most := lacking(t, filepath.Join(dir, "new.img.zst"), disk)*11/10 + extra; third.Fetched > most {
		t.Errorf("the same build again: %d bytes fetched, want at most %d", third.Fetched, most)
	}
	// verify compares with the manifest and fetches what the disk lacks.
	sent()
	imgtool(t, "verify", "-i", url+"/new.img.zst", disk)
	if n, _ := sent(); n > lacking(t, filepath.Join(dir, "new.img.zst"), disk)*11/10+extra {
		t.Errorf("verify: %d bytes sent", n)
	}
	// One file is read with a part of the image.
	got := imgtool(t, "cat", url+"/new.img.zst:rootfs-a/data/file0000")
	if got != string(read(t, filepath.Join(dir, "root/data/file0000"))) {
		t.Error("cat prints another file")
	}
	if n, _ := sent(); n > 24<<20 {
		t.Errorf("cat: %d bytes sent", n)
	}
	if n := flashURL(t, url+"/new.img.zst", disk, "--delta", "no"); n.Fetched < openSize(t, filepath.Join(dir, "new.img.zst"))-extra {
		t.Errorf("without delta: %d bytes fetched", n.Fetched)
	}
	imgtool(t, "verify", "-i", filepath.Join(dir, "new.img.zst"), disk)
}

func openSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// faultyServer serves a directory, unless before handles a request.
func faultyServer(t *testing.T, dir string, before func(w http.ResponseWriter, r *http.Request) (done bool)) *httptest.Server {
	t.Helper()
	files := http.FileServer(http.Dir(dir))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before == nil || !before(w, r) {
			files.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// cutWriter closes the connection after so many bytes of bodies.
type cutWriter struct {
	http.ResponseWriter
	left *atomic.Int64
}

func (c cutWriter) Write(p []byte) (int, error) {
	n := min(int64(len(p)), max(0, c.left.Add(-int64(len(p)))+int64(len(p))))
	c.ResponseWriter.Write(p[:n])
	if n < int64(len(p)) {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return len(p), nil
}

// After an interrupted flash, the rest is fetched, and the disk is as the image.
func TestInterruptedFlashFromWebServerGoesOn(t *testing.T) {
	imagetest.Long(t)
	dir := t.TempDir()
	twoBuilds(t, dir, 40)
	disk := sparseFile(t, filepath.Join(dir, "disk"), 4_000_000_000)
	var left atomic.Int64
	left.Store(30 << 20)
	s := faultyServer(t, dir, func(w http.ResponseWriter, r *http.Request) bool {
		http.FileServer(http.Dir(dir)).ServeHTTP(cutWriter{w, &left}, r)
		return true
	})
	cmd := tool(t, "flash", "--yes", "-i", s.URL+"/new.img.zst", disk)
	out, err := cmd.CombinedOutput()
	if failed, ok := err.(*exec.ExitError); !ok || failed.ExitCode() != exit.Gone || !strings.Contains(string(out), "it closed the connection 6 times") || !strings.Contains(string(out), "not bootable") {
		t.Fatalf("%v: %s", err, out)
	}
	left.Store(1 << 40)
	missing := lacking(t, filepath.Join(dir, "new.img.zst"), disk)
	got := flashURL(t, s.URL+"/new.img.zst", disk)
	t.Logf("%d bytes of pieces were missing, %d bytes fetched", missing, got.Fetched)
	if got.Fetched > missing*11/10+200<<10 || missing > openSize(t, filepath.Join(dir, "new.img.zst"))-20<<20 {
		t.Errorf("%d bytes fetched, %d were missing", got.Fetched, missing)
	}
	imgtool(t, "verify", "-i", filepath.Join(dir, "new.img.zst"), disk)
}

// Every fault of a server ends with one sentence, its status, and a disk that is as it was if
// nothing was written.
func TestFlashFromFaultyServers(t *testing.T) {
	imagetest.Long(t)
	dir := t.TempDir()
	if err := makeInputs(filepath.Join(dir, "in")); err != nil {
		t.Fatal(err)
	}
	x := filepath.Join(dir, "x.img.zst")
	imgtool(t, "build", "--board", filepath.Join(dir, "in/tiny.toml"), "--inputs", filepath.Join(dir, "in"), "-o", x)
	sum := sha256.Sum256(read(t, x))
	status := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(code); return true }
	}
	page := func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, "<!DOCTYPE html><title>Log in</title>")
		return true
	}
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(secure.Close)
	flipped := bytes.Clone(read(t, x))
	flipped[len(flipped)/2] ^= 1
	for _, c := range []struct {
		name      string
		before    func(http.ResponseWriter, *http.Request) bool
		args      []string
		status    int
		want      string
		unchanged bool
	}{
		{"401", status(401), nil, exit.Permission, "denies access with status 401", true},
		{"403", status(403), nil, exit.Permission, "denies access with status 403", true},
		{"404", status(404), nil, exit.Input, "has no such file", true},
		{"a login page", page, nil, exit.Input, "sent a web page", true},
		{"a page of another type", func(w http.ResponseWriter, r *http.Request) bool {
			io.WriteString(w, "<!DOCTYPE html><title>Log in</title>")
			return true
		}, nil, exit.Input, "a web page", true},
		{"429 for a day", func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "86400")
			w.WriteHeader(429)
			return true
		}, nil, exit.Input, "asks to retry after 24h0m0s, the limit is 1m0s", true},
		{"503", status(503), nil, exit.Input, "keeps responding with status 503", true},
		{"a loop", func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, r.URL.Path+"/", http.StatusFound)
			return true
		}, nil, exit.Input, "redirects more than 10 times", true},
		{"an untrusted certificate", func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, secure.URL, http.StatusFound)
			return true
		}, nil, exit.Input, "certificate", true},
		{"nothing", func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Length", "0")
			return true
		}, nil, exit.Corrupt, "empty", true},
		{"cut short", func(w http.ResponseWriter, r *http.Request) bool {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(read(t, x)[:openSize(t, x)-1000]))
			return true
		}, nil, exit.Corrupt, "cut short", true},
		{"endless zeros", func(w http.ResponseWriter, r *http.Request) bool {
			for _, err := w.Write(make([]byte, 1<<20)); err == nil; _, err = w.Write(make([]byte, 1<<20)) {
				continue
			}
			return true
		}, nil, exit.Corrupt, "is corrupt", true},
		{"another hash", nil, []string{"--sha256", strings.Repeat("0", 64)}, exit.Corrupt, hex.EncodeToString(sum[:]), true},
		{"half a hash", nil, []string{"--sha256", "1234"}, exit.Usage, "64 hexadecimal digits", true},
		{"no SHA256SUMS", nil, []string{"--sha256sums"}, exit.Input, "there is no", true},
		{"another board", nil, []string{"--board", "rock64"}, exit.WrongBoard, "is an image for tiny", true},
		{"a flipped byte", func(w http.ResponseWriter, r *http.Request) bool {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(flipped))
			return true
		}, nil, exit.Corrupt, "corrupt", false},
		{"a new version in between", func() func(http.ResponseWriter, *http.Request) bool {
			var n atomic.Int32
			return func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("ETag", fmt.Sprintf(`"%d"`, n.Add(1)/3))
				return false
			}
		}(), nil, exit.Corrupt, "it changed on the server while it was read: its ETag was", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			disk := filepath.Join(t.TempDir(), "disk")
			before := bytes.Repeat([]byte("what was there\n"), 9<<20)
			if err := os.WriteFile(disk, before, 0o644); err != nil {
				t.Fatal(err)
			}
			s := faultyServer(t, dir, func(w http.ResponseWriter, r *http.Request) bool {
				return !strings.HasSuffix(r.URL.Path, ".json") && c.before != nil && c.before(w, r)
			})
			out, err := tool(t, append([]string{"flash", "--yes", "-i", s.URL + "/x.img.zst", disk}, c.args...)...).CombinedOutput()
			text := string(out)
			failed, ok := err.(*exec.ExitError)
			if !ok || failed.ExitCode() != c.status || !strings.Contains(text, c.want) || strings.Contains(text, "panic") {
				t.Errorf("%v: %s\nwant status %d, ... %s", err, text, c.status, c.want)
			}
			if same := bytes.Equal(read(t, disk), before); same != c.unchanged {
				t.Errorf("the disk is unchanged: %v, want %v", same, c.unchanged)
			}
		})
	}
}

// Every form, with and without ranges, gives the disk that the file gives, and so does one with
// the right SHA-256.
func TestFlashOfEveryFormFromWebServer(t *testing.T) {
	imagetest.Long(t)
	dir := t.TempDir()
	if err := makeInputs(filepath.Join(dir, "in")); err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{"x.img", "x.img.zst", "x.img.xz", "x.img.gz", "x.simg"} {
		imgtool(t, "build", "--board", filepath.Join(dir, "in/tiny.toml"), "--inputs", filepath.Join(dir, "in"), "-o", filepath.Join(dir, form))
	}
	imagetest.Run(t, "zip", "-jq", filepath.Join(dir, "x.zip"), filepath.Join(dir, "x.img"))
	if err := os.Mkdir(filepath.Join(dir, "foreign"), 0o755); err != nil {
		t.Fatal(err)
	}
	// Without a manifest beside it: raw alone, with a block map, and a zstd of another program.
	for _, cmd := range []string{"cp x.img foreign/plain.img", "cp x.img foreign/mapped.img", "cp x.img.bmap foreign/mapped.img.bmap", "zstd -qo foreign/plain.img.zst x.img"} {
		imagetest.Run(t, "sh", "-c", "cd "+dir+" && "+cmd)
	}
	names := []string{"x.img", "x.img.zst", "x.img.xz", "x.img.gz", "x.simg", "x.zip", "foreign/plain.img", "foreign/mapped.img", "foreign/plain.img.zst"}
	sums, err := exec.Command("sh", "-c", "cd "+dir+" && sha256sum *.img* *.simg *.zip").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "SHA256SUMS"), sums, 0o644); err != nil {
		t.Fatal(err)
	}
	const size = 70 << 20
	// The disk that a local file gives, with the manifest or block map of its name beside it.
	local := map[string][]byte{}
	for _, name := range names {
		alone, disk := t.TempDir(), sparseFile(t, filepath.Join(t.TempDir(), "disk"), size)
		imagetest.Run(t, "sh", "-c", fmt.Sprintf("cd %s && for f in %s %[2]s.manifest.json %[2]s.bmap; do [ ! -e $f ] || cp $f %[3]s; done", dir, name, alone))
		imgtool(t, "flash", "--yes", "-i", filepath.Join(alone, filepath.Base(name)), disk)
		local[name] = read(t, disk)
	}
	for _, ranges := range []bool{true, false} {
		s := faultyServer(t, dir, func(w http.ResponseWriter, r *http.Request) bool {
			if !ranges {
				r.Header.Del("Range")
				r.Header.Del("If-Range")
			}
			return false
		})
		for _, name := range names {
			if !ranges && (name == "x.simg" || name == "x.zip") {
				continue // they need random access
			}
			disk := sparseFile(t, filepath.Join(t.TempDir(), "disk"), size)
			got := flashURL(t, s.URL+"/"+name, disk)
			if got.Fetched == 0 {
				t.Errorf("%s, ranges %v: nothing fetched", name, ranges)
			}
			want := local[name]
			if !bytes.Equal(read(t, disk), want) {
				t.Errorf("%s, ranges %v: the disk differs", name, ranges)
			}
			imgtool(t, "verify", s.URL+"/"+name)
			if out := imgtool(t, "cat", s.URL+"/"+name+":boot-a/Image"); out != string(read(t, filepath.Join(dir, "in/Image"))) {
				t.Errorf("%s, ranges %v: cat prints another file", name, ranges)
			}
			if strings.HasPrefix(name, "x.") {
				sum := sha256.Sum256(read(t, filepath.Join(dir, name)))
				for _, args := range [][]string{{"--sha256", strings.ToUpper(hex.EncodeToString(sum[:]))}, {"--sha256sums"}} {
					disk := sparseFile(t, filepath.Join(t.TempDir(), "disk"), size)
					if flashURL(t, s.URL+"/"+name, disk, args...); !bytes.Equal(read(t, disk), want) {
						t.Errorf("%s %v: the disk differs", name, args)
					}
				}
			}
		}
	}
}

// A seed is put in while the image is written, also where the disk has the image without it.
func TestSeedIsPutIntoImageFromWebServer(t *testing.T) {
	imagetest.Long(t)
	dir := built(t)
	url, _ := nginx(t, dir)
	disk := sparseFile(t, filepath.Join(dir, "disk"), 4_000_000_000)
	seed, x := filepath.Join(dir, "in/config.toml"), filepath.Join(dir, "x.img.zst")
	flashURL(t, url+"/x.img.zst", disk)
	flashURL(t, url+"/x.img.zst", disk, "--seed", seed)
	imgtool(t, "verify", "-i", x, "--seed", seed, disk)
	flashURL(t, url+"/x.img.zst", disk)
	imgtool(t, "verify", "-i", x, disk)
}

// A partition that fills the disk is made to fit a larger one, also where the disk has what the
// image has.
func TestImageFromWebServerFillsDisk(t *testing.T) {
	imagetest.Long(t)
	dir := t.TempDir()
	if err := makeL4T(filepath.Join(dir, "l4t.tar")); err != nil {
		t.Fatal(err)
	}
	imgtool(t, "build", "--board", "photon-nx", "--rootfs", filepath.Join(dir, "l4t.tar"), "--medium", "nvme", "-o", filepath.Join(dir, "x.img.zst"))
	x := filepath.Join(dir, "x-nvme.img.zst")
	url, _ := nginx(t, dir)
	disk := sparseFile(t, filepath.Join(dir, "disk"), openArtifact(t, x).Manifest.Size)
	for _, size := range []int64{openArtifact(t, x).Manifest.Size, 600e9, 600e9} {
		if err := os.Truncate(disk, size); err != nil {
			t.Fatal(err)
		}
		flashURL(t, url+"/x-nvme.img.zst", disk)
		imgtool(t, "verify", "-i", x, disk)
		imgtool(t, "verify", "-i", url+"/x-nvme.img.zst", disk)
	}
}

// Commands that change images refuse URLs.
func TestImagesAtURLsAreNotChanged(t *testing.T) {
	for _, args := range [][]string{
		{"seed", "rm", "http://127.0.0.1:1/x.img"},
		{"seed", "put", "https://user:SECRET@127.0.0.1:1/x.img", "/dev/null"},
		{"flash", "--yes", "http://127.0.0.1:1/x.img"},
	} {
		out, err := tool(t, args...).CombinedOutput()
		if failed, ok := err.(*exec.ExitError); !ok || failed.ExitCode() != exit.Usage || !strings.Contains(string(out), "/x.img is ") || strings.Contains(string(out), "SECRET") {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
}

// Text that a server sends after its response is not printed, although package http logs it.
func TestServerThatSendsTooMuch(t *testing.T) {
	image := make([]byte, 1<<20)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%sand more", len(image), image)
	}))
	defer s.Close()
	cmd := tool(t, "ls", s.URL+"/x.img")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err == nil || strings.Contains(stderr.String(), "and more") {
		t.Errorf("%v: %q", err, stderr.String())
	}
}
