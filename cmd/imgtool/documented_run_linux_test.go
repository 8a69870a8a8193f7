package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/testscript"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"
	"imgtool/image/seed/console/consoletest"
)

// A treatment states how documented commands are run that cannot be run as they are.
type treatment struct {
	page    string // only on this page, or on all if it is empty
	match   string // a regular expression
	skip    string // why the command is not run
	replace string // is run in place of the match
	status  int    // the expected exit status
	behind  bool   // runs in the background until its block ends
}

// treatments are applied in order.
var treatments = []treatment{
	// Disks are regular files, devices and registries are servers of this test, and no person
	// answers questions.
	{match: `/dev/sd([a-zX-Z])\b`, replace: `sd$1`},
	{match: `imgtool (flash|factory|seed stick)\b( --yes)?`, replace: `imgtool $1 --yes`},
	{match: `\blocalhost:5000\b`, replace: `$$REGISTRY`},
	{match: `\b172\.20\.30\.1\b`, replace: `$$DEVICE`},
	{match: `\bhttps://images\.example\b`, replace: `$$WEB`},
	{match: `imgtool vm\b( --headless)?`, replace: `imgtool vm --headless`},
	{page: "docs/tutorials/rock64.md", match: `imgtool vm --headless$`, replace: `imgtool vm --headless --until "imgtool starter ready"`},
	{page: "docs/tutorials/rock64.md", match: `--forward 8080`, replace: `--forward 18080:8080`},
	{page: "docs/tutorials/rock64.md", match: `imgtool vm --headless --forward`, behind: true},
	{page: "docs/tutorials/rock64.md", match: `\b127\.0\.0\.1\b`, replace: `127.0.0.1:18080`},
	{page: "docs/reference/first-boot.md", match: `\b127\.0\.0\.1\b`, replace: `$$DEVICE`},
	{match: `imgtool seed new -o (\S+)$`, replace: `imgtool seed new --user ops --ssh-key ~/.ssh/id_ed25519.pub --container web --image registry.example/web:1 -o $1`},

	{page: "docs/reference/seed.md", match: `(imgtool provision )unset (\S+ containers.container.old)`, replace: `${1}set ${2} web.toml; ${1}unset ${2}`},
	{page: "docs/reference/seed.md", match: `(imgtool provision )unset (\S+ network.dnsmasq.domain)`, replace: `echo '{"dnsmasq": {"domain": "lan"}}' | ${1}set $$DEVICE network -; ${1}unset ${2}`},

	{page: "docs/reference/image.md", match: `--rootfs l4t.tar`, replace: `--rootfs l4t.tar --input initrd=initrd`},
	{match: `imgtool diff old.img.zst new.img.zst`, status: exit.Differs},

	{page: generated, match: ``, skip: "examples of the help: the other pages run such commands"},
	{page: "docs/how-to/factory.md", match: `read -r -p .*`, replace: `true`},
	{match: `^sudo (apt|apt-get|dnf|udevadm) |^brew |^nix |^sudo install `, skip: "changes this computer"},
	{match: `imgtool flash --yes$`, skip: "offers disks of this computer: TestChoosingADisk tests it"},
	{match: `^veritysetup verify root root ROOT_HASH`, skip: "its hash and offset are of an image with a hash tree: the tests of image/verity run it"},
	{match: `^udisksctl `, skip: "needs a mounted stick"},
	{match: `^picocom `, skip: "needs a serial adapter"},
	{match: `^make (image|build|test|short|race|soak|lint|bench|fuzz|help|dist|release)\b`, skip: "compiles the program, or runs other tests"},
	{match: `^fw_setenv |^reboot$|^rauc install `, skip: "runs on the device"},
	{match: `imgtool flash --yes --board rock64$`, skip: "waits for a board in recovery mode: recovery.txt tests it"},
	{match: `imgtool factory --yes --live`, skip: "changes the unit it runs on: factory_live.txt tests it"},
}

// TestDocumentedCommandsRun runs the commands of the docs, page by page, in the order of the
// page. A page begins in an empty directory, or with what its script in testdata/docs makes.
func TestDocumentedCommandsRun(t *testing.T) {
	imagetest.Long(t)
	for _, program := range []string{"bash", "ssh-keygen", "sgdisk", "zstd"} {
		imagetest.Need(t, program)
	}
	used := make([]bool, len(treatments))
	var files []string
	dir := t.TempDir()
	for page, text := range documentedPages(t) {
		if script := scriptOf(t, page, text, used); script != "" {
			file := filepath.Join(dir, scriptName(page))
			if err := os.WriteFile(file, []byte(script), 0o644); err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
	}
	for i, tr := range treatments {
		if !used[i] {
			t.Errorf("no command in the docs matches %s: remove the row", tr.match)
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	testscript.Run(t, testscript.Params{
		Files: files,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", env.Getenv("PATH")+":/usr/sbin:/sbin")
			env.Setenv("TMPDIR", env.WorkDir)
			env.Setenv("HOME", filepath.Join(env.WorkDir, ".home"))
			env.Setenv("XDG_CACHE_HOME", cache)                           // Debian's packages
			env.Setenv("IMGTOOL_CACHE_DIR", filepath.Join(dir, "blocks")) // of all pages
			boards, err := filepath.Abs("../../testdata/boards")
			env.Setenv("BOARDS", boards)
			return err
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// registry [NAME TAR] starts a registry, with a container image or empty.
			"registry": func(ts *testscript.TestScript, neg bool, args []string) {
				host, close := newRegistry()
				ts.Defer(close)
				ts.Setenv("REGISTRY", host)
				if len(args) > 0 {
					pushContainer(ts, host+"/"+args[0], args[1])
				}
			},
			// webserver serves the directory of the page.
			"webserver": func(ts *testscript.TestScript, neg bool, args []string) {
				s := httptest.NewServer(http.FileServer(http.Dir(ts.Getenv("WORK"))))
				ts.Defer(s.Close)
				ts.Setenv("WEB", s.URL)
			},
			// device [CONFIG] starts a device that has a configuration, or none yet.
			"device": func(ts *testscript.TestScript, neg bool, args []string) {
				var config []byte
				for _, file := range args {
					config = []byte(ts.ReadFile(file))
				}
				d := &consoletest.Device{}
				d.Start(t, config)
				ts.Setenv("DEVICE", d.URL())
			},
		},
	})
}

// scriptName returns the name of the script of a page.
func scriptName(page string) string {
	return strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(page, "docs/"), ".md"), "/", "-") + ".txt"
}

// scriptOf returns a test script that runs the commands of a page, or nothing.
func scriptOf(t *testing.T, page, text string, used []bool) string {
	var script, files strings.Builder
	blocks, _ := blocksOf(t, page, text)
	for i, b := range blocks {
		if b.file != "" {
			fmt.Fprintf(&script, "cp block-%d %s\n", i, b.file)
			fmt.Fprintf(&files, "-- block-%d --\n%s", i, b.text)
		}
		lines := ""
		for _, c := range commandsOf(t, b) {
			lines += lineFor(c, used)
		}
		if lines == "" {
			continue
		}
		fmt.Fprintf(&script, "# %s\nexec bash block-%d.sh\n", b, i)
		fmt.Fprintf(&files, "-- block-%d.sh --\nset -eu -o pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n%s", i, lines)
	}
	if script.Len() == 0 {
		return ""
	}
	before, err := os.ReadFile(filepath.Join("testdata/docs", scriptName(page)))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	setup, archive, _ := strings.Cut(string(before), "\n-- ")
	if archive != "" {
		archive = "-- " + archive
	}
	return setup + "\n" + script.String() + archive + files.String()
}

// lineFor returns the line of a shell that runs a command as its treatment says, or nothing.
func lineFor(c command, used []bool) string {
	line, status, behind := c.text, 0, false
	for i, tr := range treatments {
		match := regexp.MustCompile(tr.match)
		if tr.page != "" && tr.page != c.page || !match.MatchString(line) {
			continue
		}
		used[i] = true
		switch {
		case tr.skip != "":
			return ""
		case tr.status != 0:
			status = tr.status
		case tr.behind:
			behind = true
		default:
			line = match.ReplaceAllString(line, tr.replace)
		}
	}
	switch where := fmt.Sprintf("echo \"# line %d\" >&2\n", c.line); {
	case behind:
		return where + line + " &\n"
	case status != 0:
		return where + "status=0\n{ " + line + "\n} || status=$?\n[ $status = " + fmt.Sprint(status) + " ]\n"
	default:
		return where + line + "\n"
	}
}

// pushContainer stores a container image with a tar as its layer.
func pushContainer(ts *testscript.TestScript, reference, tar string) {
	layer, err := tarball.LayerFromFile(ts.MkAbs(tar))
	ts.Check(err)
	img, err := mutate.AppendLayers(empty.Image, layer)
	ts.Check(err)
	ref, err := name.ParseReference(reference)
	ts.Check(err)
	ts.Check(remote.Write(ref, img))
}
