package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"imgtool/cmd/imgtool/exit"
	"imgtool/cmd/imgtool/schematest"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image/imagetest"
)

// recordsVar names the directory in which every run of the program with --json, in any test or
// script of this package, leaves what it printed. It is checked when all tests have run.
const recordsVar = "IMGTOOL_TEST_RECORDS"

// recorded is main for tests.
func recorded() {
	dir, args := os.Getenv(recordsVar), os.Args[1:]
	if dir == "" || !usage.AsksJSON(args) || usage.Completing(args) {
		main()
		return
	}
	var stdout, stderr bytes.Buffer
	status := run(args, os.Stdin, io.MultiWriter(os.Stdout, &stdout), io.MultiWriter(os.Stderr, &stderr))
	r := record{Args: args, Status: status, Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
	r.addManifests()
	text, err := json.Marshal(r)
	must(err)
	f, err := os.CreateTemp(dir, "*.json")
	must(err)
	_, err = f.Write(text)
	must(err)
	os.Exit(status)
}

type record struct {
	Args           []string
	Status         int
	Stdout, Stderr []byte
	Manifests      [][]byte // of the images that were built
}

// addManifests reads the manifests that the document names.
func (r *record) addManifests() {
	type file struct{ Manifest string }
	var files []file
	if json.Unmarshal(r.Stdout, &files) != nil {
		files = make([]file, 1)
		json.Unmarshal(r.Stdout, &files[0])
	}
	for _, f := range files {
		if text, err := os.ReadFile(f.Manifest); err == nil {
			r.Manifests = append(r.Manifests, text)
		}
	}
}

// check returns what is wrong with what was printed.
func (r record) check(s *schematest.Schemas) error {
	err := s.Check(schematest.Run{Command: commandOf(r.Args), Status: r.Status, Stdout: r.Stdout, Stderr: r.Stderr})
	for _, m := range r.Manifests {
		if err == nil {
			err = s.Validate("manifest", m)
		}
	}
	if err != nil {
		err = fmt.Errorf("imgtool %q, exit status %d: %w", r.Args, r.Status, err)
	}
	return err
}

// commandOf returns the command of a command line, such as "seed check".
func commandOf(args []string) string {
	for _, arg := range args {
		if arg == "--help" || arg == "-h" || arg == "--version" {
			return "help"
		}
	}
	root := newCommand(&ui{})
	cmd, _, err := root.Find(args)
	if err != nil {
		cmd = root
	}
	return strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath(), "imgtool"), " ")
}

var schemas = sync.OnceValues(func() (*schematest.Schemas, error) { return schematest.Load("../../docs/schemas") })

// checkRecords checks what all runs with --json have printed.
func checkRecords(dir string) (failed bool) {
	s, err := schemas()
	must(err)
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	must(err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(err)
		var r record
		must(json.Unmarshal(text, &r))
		if err := r.check(s); err != nil {
			fmt.Fprintf(os.Stderr, "what --json prints is not as docs/schemas says: %v\n", err)
			failed = true
		}
	}
	return failed
}

// unseen are the properties that no test of this package can produce, by patterns of their
// places, each with the reason.
var unseen = map[string]string{
	`disks.json/.*/(vendor|serial|bus|kind)`:                                     "needs such a disk",
	`(bundle|inspect).json/.*/(type|min_rauc_version)`:                           "needs RAUC 1.15",
	`disks.json/.*/needs`:                                                        "needs another user than root",
	`receipt.json/.*/(model|serial)`:                                             "needs such a disk",
	`events.json/.*/(rate|eta_s)`:                                                "needs a phase of seconds",
	`bundle.json/properties/(handler|images/items/properties/variant)`:           "needs a bundle of another program",
	`(bundle|inspect).json/.*/description`:                                       "tested without --json",
	`events.json/oneOf/4/properties/message`:                                     "no device of the tests sends it",
	`inspect.json/.*/erofs/properties/label`:                                     "needs a label",
	`manifest.json/.*/unit/.*/mode`:                                              "no board has it",
	`failure.json/\$defs/signature/properties/(authority|comment|user_verified)`: "tested in package sign",
	`failure.json/properties/result`:                                             "tested in package terminal",
}

// checkSeen reports properties of the schemas that no document had. All tests must have run.
func checkSeen() (failed bool) {
	s, err := schemas()
	must(err)
	for _, at := range s.Unseen() {
		known := false
		for pattern := range unseen {
			known = known || regexp.MustCompile("^"+pattern+"$").MatchString(at)
		}
		if !known {
			fmt.Fprintf(os.Stderr, "no test prints a document with %s, and it is not in unseen\n", at)
			failed = true
		}
	}
	return failed
}

// The schemas are strict: every property is described, no value may be null, and strings are
// not empty unless they may be.
func TestSchemas(t *testing.T) {
	s, err := schemas()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	s.Each(func(at string, p map[string]any) {
		n++
		if text, _ := p["description"].(string); !strings.HasSuffix(text, ".") {
			t.Errorf("%s has no description", at)
		}
		_, enum := p["enum"]
		name := at[strings.LastIndex(at, "/")+1:]
		strict := enum || p["minLength"] != nil || p["pattern"] != nil || p["format"] != nil || schematest.MayBeEmpty(name)
		if p["type"] == "string" && !strict && !strings.HasPrefix(at, "manifest.json") {
			t.Errorf("%s may be empty", at)
		}
		if types, ok := p["type"].([]any); ok && !strings.HasPrefix(at, "manifest.json") {
			t.Errorf("%s may be %v", at, types)
		}
		if name != strings.ToLower(name) || strings.ContainsAny(name, "- ") {
			t.Errorf("%s is not in lower case with _", at)
		}
	})
	if n < 200 {
		t.Errorf("only %d properties", n)
	}
}

// runJSON runs the program with --json in this process, and checks what it prints.
func runJSON(t *testing.T, stdin string, args ...string) (status int, stdout []byte) {
	t.Helper()
	s, err := schemas()
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"--json"}, args...)
	var out, errs bytes.Buffer
	status = run(args, strings.NewReader(stdin), &out, &errs)
	r := record{Args: args, Status: status, Stdout: out.Bytes(), Stderr: errs.Bytes()}
	r.addManifests()
	if err := r.check(s); err != nil {
		t.Error(err)
	}
	return status, out.Bytes()
}

// Each wrong input of TestWrongInputs leaves one document with the exit status.
func TestWrongInputsAreOneDocument(t *testing.T) {
	makeWrongInputs(t)
	for _, c := range wrongInputs {
		if strings.Contains(c.line, "--json") || strings.HasPrefix(c.line, "vm ") && !strings.Contains(c.line, "--headless") {
			continue // with --json, vm needs --headless
		}
		args := strings.Split(strings.ReplaceAll(c.line, `""`, ""), " ")
		if status, out := runJSON(t, "", args...); status != c.status {
			t.Errorf("%s: exit status %d, want %d: %s", c.line, status, c.status, out)
		}
	}
}

// Every command prints one document, without arguments, with too many, with unknown flags, and
// with --help.
func TestEveryCommandPrintsOneDocument(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("IMGTOOL_CACHE_DIR", filepath.Join(t.TempDir(), "blocks"))
	s, err := schemas()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for path, cmd := range commands() {
		if cmd.Hidden {
			continue
		}
		n++
		words := strings.Fields(path)[1:]
		if name := schematest.Of(strings.Join(words, " ")); !slices.Contains(s.Names(), name) {
			t.Errorf("docs/schemas has no %s.json for %s", name, path)
		}
		for _, more := range [][]string{nil, {"a", "b", "c", "d"}, {"--nope"}, {""}, {"--help"}, {"nope"}} {
			runJSON(t, "", append(slices.Clone(words), more...)...)
		}
	}
	if n < 30 {
		t.Errorf("only %d commands", n)
	}
}

// Commands print their documents after success and failure, and for dry runs.
func TestDocuments(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("IMGTOOL_CACHE_DIR", filepath.Join(t.TempDir(), "blocks"))
	must(makeInputs("in"))
	must(os.WriteFile("bad.toml", []byte("version = 2\n"), 0o644))
	must(os.WriteFile("badly.toml", []byte("version = 2\nname = \"@{unit}\"\n"), 0o644))
	must(os.WriteFile("warn.toml", []byte(tinySeed+"Imag = \"x\"\nEnvironment = \"@{unit}\"\n"), 0o644))
	must(os.WriteFile("units.csv", []byte("unit\nW1\nW2\n"), 0o644))
	must(os.MkdirAll("odd", 0o755))
	must(os.WriteFile("odd/\xff", nil, 0o644))
	web := httptest.NewServer(http.FileServer(http.Dir(".")))
	defer web.Close()
	must(os.WriteFile("template.toml", []byte(tinySeed+"Environment = \"@{unit}\"\n"), 0o644))
	_, key, _ := strings.Cut(tinySeed, "ssh_key = ")
	must(os.WriteFile(tinyKey, []byte(strings.Split(key, "\"")[1]+"\n"), 0o644))
	must(os.MkdirAll("site/files", 0o755))
	must(os.WriteFile("site/config.toml", []byte(tinySeed), 0o644))
	for _, name := range []string{"disk", "other", "third"} {
		sparseFile(t, name, 4<<30)
	}
	sparseFile(t, "small", 1<<20)
	sparseFile(t, "stick", 66<<20)
	imgtool(t, "build", "--board", "in/tiny.toml", "--inputs", "in", "-o", "x.img.zst")
	imgtool(t, "build", "--board", "in/tiny.toml", "--inputs", "in", "-o", "bare.img")
	must(os.Remove("bare.img.manifest.json"))
	must(os.Remove("bare.img.bmap"))
	host, closeRegistry := newRegistry()
	defer closeRegistry()
	for _, c := range documentLines {
		args := strings.Fields(strings.NewReplacer("HOST", host, "WEB", strings.TrimPrefix(web.URL, "http://")).Replace(c.line))
		status, out := runJSON(t, c.stdin, args...)
		if status != c.status || !strings.Contains(string(out), c.has) {
			t.Errorf("%s: exit status %d, want %d and %s: %.1000s", c.line, status, c.status, c.has, out)
		}
	}
	if os.Geteuid() == 0 {
		runJSON(t, "", "flash", "--yes", "-i", "unseeded.img", "other")
		if status, out := runJSON(t, "", "seed", "put", imagetest.Loop(t, "other"), "in/config.toml"); status != exit.OK || !strings.Contains(string(out), `"disk": "/dev/loop`) {
			t.Errorf("exit status %d: %s", status, out)
		}
	}
	overwrite(t, "disk", kernelOf(t, "x.img.zst"), []byte("wrong"))
	if status, out := runJSON(t, "", "verify", "-i", "x.img.zst", "disk"); status != exit.Mismatch || !strings.Contains(string(out), `"file": "Image"`) {
		t.Errorf("exit status %d: %s", status, out)
	}
	s, err := schemas()
	if err != nil {
		t.Fatal(err)
	}
	receipts, err := os.ReadFile("receipts")
	if err != nil || bytes.Count(receipts, []byte("\n")) < 3 {
		t.Errorf("%v: %s", err, receipts)
	}
	for line := range bytes.Lines(receipts) {
		if err := s.Validate("receipt", line); err != nil {
			t.Errorf("%v: %s", err, line)
		}
	}
}

// documentLines are command lines whose documents are checked. They follow each other. HOST is a
// registry, and WEB a web server of the working directory.
var documentLines = []struct {
	line   string
	status int
	has    string // in the document
	stdin  string
}{
	{line: "version"},
	{line: "boards"},
	{line: "boards rock64", has: `"definition": "`},
	{line: "boards rock64 --repart", has: `"text"`},
	{line: "boards photon-nx", has: `"layouts"`},
	{line: "boards nope", status: 2, has: `"kind": "usage"`},
	{line: "completion bash", has: `"text"`},
	{line: "disks"},
	{line: "build --board in/tiny.toml --inputs in -o y.img.zst --image-sha256 --sbom --provenance", has: `"image_sha256"`},
	{line: "build --board rock64 --inputs in --seed in/config.toml -o rock.img.zst", has: `"build_id"`},
	{line: "build --board rock64 --inputs in -o unseeded.img"},
	{line: "build --board in/tiny.toml --inputs in --cmdline quiet --sbom -o raw.img", has: `"sbom"`},
	{line: "inspect raw.img", has: `"path": "raw.img.spdx.json"`},
	{line: "build --board in/tiny.toml --inputs nope", status: 3, has: `"kind": "input"`},
	{line: "cache", has: `"oldest"`},
	{line: "cache trim 1KiB", has: `"freed"`},
	{line: "cache clear"},
	{line: "inspect x.img.zst", has: `"squashfs"`},
	{line: "inspect disk", status: 6, has: `"kind": "corrupt"`},
	{line: "ls x.img.zst", has: `"boot-a"`},
	{line: "ls -R --xattrs x.img.zst:rootfs-a/", has: `"xattrs"`},
	{line: "ls x.img.zst:rootfs-a/home/user/"},
	{line: "ls x.img.zst:nope", status: 3},
	{line: "cat x.img.zst:rootfs-a/etc/passwd", has: `"text": "root:x:0:0::/root:/bin/sh\n"`},
	{line: "cat x.img.zst:boot-a/Image", has: `"size": 7000001`},
	{line: "cat rock.img.zst:boot-a/initrd", has: `"base64": "H4v0`},
	{line: "diff x.img.zst x.img.zst", has: `"same": true`},
	{line: "diff x.img.zst rock.img.zst", status: 1, has: `"same": false`},
	{line: "diff x.img.zst nope", status: 3},
	{line: "sbom x.img.zst", has: `"spdxVersion"`},
	{line: "sbom y.img.zst", has: `"spdxVersion"`},
	{line: "inspect y.img.zst", has: `"attachments"`},
	{line: "catalog --url https://example.com y.img.zst", has: `"os_list"`},
	{line: "catalog --url https://example.com y.img.zst -o os.json", has: `"os_list"`},
	{line: "catalog --url x y.img.zst", status: 2},
	{line: "push HOST/boards/tiny:1 y.img.zst", has: `"digest": "sha256:`},
	{line: "push HOST/boards/tiny:1 nope", status: 3},
	{line: "pull HOST/boards/tiny:1 -o pulled.img.zst", has: `"had": false`},
	{line: "pull HOST/boards/tiny:2", status: 3},
	{line: "build --board in/tiny.toml --inputs in --rootfs odd -o odd.img"},
	{line: "diff x.img.zst odd.img", status: 1, has: `"path_raw": "`},
	{line: "ls odd.img:rootfs-a/", has: `"path_raw":"`},
	{line: "flash --yes -i http://WEB/x.img.zst disk", has: `"fetched"`},
	{line: "inspect http://WEB/nope.img", status: 3},
	{line: "verify x.img.zst", has: `"checked_with"`},
	{line: "verify -i x.img.zst third", status: 8, has: `"kind": "mismatch"`},
	{line: "verify bare.img"},
	{line: "inspect bare.img", status: 6, has: `"fault": "`},
	{line: "ls bare.img"},
	{line: "flash --yes -i bare.img disk", has: `"verified"`},
	{line: "verify -i bare.img disk", has: `"verified"`},
	{line: "flash --dry-run -i x.img.zst disk", has: `"to_write"`},
	{line: "flash --dry-run -i x.img.zst disk other", has: `"receipts"`},
	{line: "flash --yes --receipt receipts -i x.img.zst disk", has: `"written"`},
	{line: "flash --yes --receipt receipts -i x.img.zst disk other", has: `"receipts"`},
	{line: "flash --yes -i x.img.zst small", status: 4, has: `"disk_state": "unchanged"`},
	{line: "flash --yes -i x.img.zst disk small", status: 4, has: `"receipts"`},
	{line: "flash -i x.img.zst disk", status: 2},
	{line: "verify -i x.img.zst disk", has: `"verified"`},
	{line: "seed check in/config.toml", has: `"ok": true`},
	{line: "seed check warn.toml", has: `"warning": true`},
	{line: "seed check --values units.csv warn.toml", has: `"warning": true`},
	{line: "seed check --values units.csv badly.toml", status: 3, has: `"units"`},
	{line: "seed check bad.toml", status: 3, has: `"faults": [`},
	{line: "seed check -", has: `"ok": true`, stdin: tinySeed},
	{line: "seed check --values units.csv template.toml", has: `"units"`},
	{line: "seed check --values units.csv --unit W1 template.toml", has: `"unit": "W1"`},
	{line: "seed render in/config.toml", has: `"path"`},
	{line: "seed render bad.toml", status: 3},
	{line: "seed schema", has: `"$schema"`},
	{line: "seed new --user ops --ssh-key " + tinyKey + " --container web --image registry.example/web:1", has: `"text"`, stdin: ""},
	{line: "seed new --user ops --ssh-key " + tinyKey + " --container web --image registry.example/web:1 -o new.toml", has: `"path": "new.toml"`},
	{line: "seed bundle site -o site.tar.zst", has: `"bundle"`},
	{line: "seed check site.tar.zst", has: `"members"`},
	{line: "seed get rock.img.zst", has: `"text": "version = 1`},
	{line: "seed get x.img.zst", status: 3},
	{line: "seed rm rock.img.zst", has: `"image": "rock.img.zst"`},
	{line: "seed put --values units.csv --unit W1 rock.img.zst template.toml", has: `"unit": "W1"`},
	{line: "seed stick --dry-run stick in/config.toml", has: `"dry_run": true`},
	{line: "seed stick --yes --receipt receipts stick in/config.toml", has: `"written"`},
	{line: "provision --seed in/config.toml 127.0.0.1:1", status: 9, has: `"kind": "gone"`},
	{line: "provision status 127.0.0.1:1", status: 9},
}

// tinyKey is a file with the key of tinySeed's admin.
const tinyKey = "key.pub"
