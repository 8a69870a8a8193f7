package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"
)

// The top of the project, from this directory.
const top = "../.."

// readYAML reads a YAML file with a parser of others.
func readYAML(t *testing.T, text []byte, v any) {
	t.Helper()
	cmd := exec.Command(imagetest.Need(t, "ruby"), "-ryaml", "-rjson", "-e", "puts JSON.generate(YAML.load(STDIN.read))")
	cmd.Stdin = bytes.NewReader(text)
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func projectFile(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// shell runs a script of the project, or a command of bash, in dir, and returns its exit status
// and output.
func shell(t *testing.T, dir string, env []string, words ...string) (status int, stdout, stderr string) {
	t.Helper()
	imagetest.Need(t, "jq")
	if strings.HasPrefix(words[0], ".ci/") {
		path, err := filepath.Abs(filepath.Join(top, words[0]))
		if err != nil {
			t.Fatal(err)
		}
		words[0] = path
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), o.String(), e.String()
}

// The summary is this Markdown. Names cannot break its table.
func TestSummary(t *testing.T) {
	dir, err := filepath.Abs("testdata/ci")
	if err != nil {
		t.Fatal(err)
	}
	status, out, text := shell(t, dir, nil, ".ci/summary", "build.json", "push.json")
	want, err := os.ReadFile(filepath.Join(dir, "summary.md"))
	if err != nil || status != 0 || out != string(want) {
		t.Errorf("exit status %d, %v %s\n%s\nwant\n%s", status, err, text, out, want)
	}
}

// ciSite is a directory that the user without rights can enter, with inputs, a copy of the
// program, and a script in place of QEMU that says what CONSOLE has.
func ciSite(t *testing.T) (dir string, env []string) {
	t.Helper()
	imagetest.Long(t)
	dir, err := os.MkdirTemp("/var/tmp", "imgtool-ci-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program, err := exec.LookPath("imgtool")
	if err == nil {
		err = makeInputs(filepath.Join(dir, "in"))
	}
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "bin"), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "bin/qemu-system-aarch64"), []byte("#!/bin/sh\necho \"$CONSOLE\"\n"), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "cp", program, filepath.Join(dir, "imgtool"))
	imagetest.Run(t, "chmod", "-R", "a+rX", dir)
	return dir, []string{"IMGTOOL=" + dir + "/imgtool", "PATH=" + dir + "/bin:" + os.Getenv("PATH"), "OUT=" + dir + "/out", "CI_CACHE=" + dir + "/cache",
		"GITHUB_STEP_SUMMARY=" + dir + "/step", recordsVar + "=", "CONSOLE=imgtool starter ready: slot a"}
}

// The script that builds the images of a board in CI makes all its files without rights, and
// fails if two builds differ or if the image does not start.
func TestImagesOfCI(t *testing.T) {
	dir, env := ciSite(t)
	build := []string{".ci/image", "rock64", "--board", "rock64", "--inputs", "in"}
	if status, out, text := shell(t, dir, env, build...); status != 0 || !strings.Contains(out, "### rock64, build `") {
		t.Fatalf("exit status %d\n%s%s", status, out, text)
	}
	made := filepath.Join(dir, "out/rock64")
	for _, name := range []string{"rock64.img.zst", "rock64.img.zst.bmap", "rock64.img.zst.manifest.json", "rock64.img.zst.spdx.json", "rock64.img.zst.provenance.json", "build.json", "console.log", "SHA256SUMS", "summary.md"} {
		info, err := os.Stat(filepath.Join(made, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; strings.HasPrefix(name, "rock64.") && os.Geteuid() == 0 && owner != 65534 {
			t.Errorf("%s was made by user %d, who has rights", name, owner)
		}
	}
	imagetest.Run(t, "sh", "-c", "cd "+made+" && sha256sum --check --quiet SHA256SUMS && cmp summary.md "+dir+"/step")

	if status, out, text := shell(t, dir, append(env, "CONSOLE=Kernel panic"), build...); status != exit.Gone {
		t.Errorf("an image that does not start: exit status %d\n%s%s", status, out, text)
	}
	other := "#!/bin/sh\ncase \" $* \" in *' --no-cache '*) set -- \"$@\" --build-id other ;; esac\nexec " + dir + "/imgtool \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "bin/imgtool"), []byte(other), 0o755); err != nil {
		t.Fatal(err)
	}
	if status, out, text := shell(t, dir, append(env, "IMGTOOL="+dir+"/bin/imgtool"), build...); status == 0 || !strings.Contains(out+text, "differ") {
		t.Errorf("two builds that differ: exit status %d\n%s%s", status, out, text)
	}
	if status, _, text := shell(t, dir, env, ".ci/image", "rock64", "--board", "rock65"); status != exit.Usage && status != exit.Input || !strings.Contains(text, "rock65") {
		t.Errorf("an unknown board: exit status %d\n%s", status, text)
	}
}

// The boards of CI's matrix are those of imgtool.
func TestBoardsOfCI(t *testing.T) {
	program, err := exec.LookPath("imgtool")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	status, out, text := shell(t, ".", []string{"IMGTOOL=" + program}, ".ci/boards", "--json")
	if err := json.Unmarshal([]byte(out), &names); err != nil || status != 0 || strings.Count(out, "\n") != 1 {
		t.Fatalf("exit status %d, %v\n%s%s", status, err, out, text)
	}
	_, lines, _ := shell(t, ".", []string{"IMGTOOL=" + program}, ".ci/boards")
	if got := strings.Fields(lines); fmt.Sprint(got) != fmt.Sprint(names) || len(got) < 3 {
		t.Errorf("%q, and in JSON %q", got, names)
	}
}

// A release has all files, checksums of them, and a list of the images.
func TestReleaseOfCI(t *testing.T) {
	dir, env := ciSite(t)
	programs := filepath.Join(dir, "programs")
	if err := os.Mkdir(programs, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"imgtool-linux-amd64.tar.gz", "SHA256SUMS", "buildinfo.txt"} {
		if err := os.WriteFile(filepath.Join(programs, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if status, out, text := shell(t, dir, env, ".ci/image", "rock64", "--board", "rock64", "--inputs", "in"); status != 0 {
		t.Fatalf("exit status %d\n%s%s", status, out, text)
	}
	release := []string{".ci/release", "release", "programs", "out/rock64"}
	env = append(env, "RELEASE_URL=https://example.com/v1")
	if status, out, text := shell(t, dir, env, release...); status != 0 || !strings.Contains(text, "SIGNING_KEY, an SSH key, is not set") {
		t.Fatalf("exit status %d\n%s%s", status, out, text)
	}
	const check = "cd release && sha256sum --check --quiet SHA256SUMS && test $(wc -l < SHA256SUMS) = 8 && grep -q ' imgtool-linux-amd64.tar.gz$' SHA256SUMS" +
		" && grep -q '\"https://example.com/v1/rock64.img.zst\"' os_list.json && grep -q '### rock64' notes.md && ! grep -q notes.md SHA256SUMS"
	if status, out, text := shell(t, dir, nil, "bash", "-c", check); status != 0 {
		t.Errorf("the release is wrong: %s%s", out, text)
	}
	sign := "ssh-keygen -q -t ed25519 -N '' -f key && echo \"release $(cat key.pub)\" > signers"
	if status, out, text := shell(t, dir, nil, "bash", "-c", sign); status != 0 {
		t.Fatal(out, text)
	}
	if status, out, text := shell(t, dir, append(env, "SIGNING_KEY=key"), release...); status != 0 || strings.Contains(text, "not signed") {
		t.Fatalf("exit status %d\n%s%s", status, out, text)
	}
	const checkSigned = check + " && ssh-keygen -q -Y verify -f ../signers -I release -n file -s SHA256SUMS.sig < SHA256SUMS && $IMGTOOL verify --allowed-signers ../signers rock64.img.zst" +
		" && sum=$(sha256sum < rock64.img.zst | cut -d' ' -f1) && for f in os_list.json notes.md rock64.img.zst.spdx.json rock64.img.zst.provenance.json; do grep -q $sum $f || { echo $f has no $sum; exit 1; }; done"
	if status, out, text := shell(t, dir, env, "bash", "-c", checkSigned); status != 0 {
		t.Errorf("the signed release is wrong: %s%s", out, text)
	}
	if status, _, text := shell(t, dir, env, append(release, "out/rock64")...); status == 0 || !strings.Contains(text, "is in two directories") {
		t.Errorf("a file that is there twice: exit status %d\n%s", status, text)
	}
	if status, _, text := shell(t, dir, env, ".ci/release", "release", "programs"); status == 0 || !strings.Contains(text, "there are no images") {
		t.Errorf("no images: exit status %d\n%s", status, text)
	}
	if status, _, text := shell(t, dir, append(env, "SIGNING_KEY=none"), release...); status == 0 || !strings.Contains(text, "SIGNING_KEY is none, and there is no such key") {
		t.Errorf("no key: exit status %d\n%s", status, text)
	}
}

var pinned = regexp.MustCompile(`^[\w.-]+/[\w./-]+@[0-9a-f]{40}$`)

// Actions of others are pinned by commit, in the workflows and in the action, and every job has
// no more rights than it declares.
func TestWorkflows(t *testing.T) {
	type step struct {
		Uses string `json:"uses"`
	}
	type workflow struct {
		Permissions any `json:"permissions"`
		Jobs        map[string]struct {
			Permissions any    `json:"permissions"`
			Steps       []step `json:"steps"`
		} `json:"jobs"`
		Runs struct {
			Steps []step `json:"steps"`
		} `json:"runs"`
	}
	files, err := fs.Glob(os.DirFS(top), ".github/workflows/*.yml")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	n := 0
	for _, file := range append(files, "action.yml") {
		var w workflow
		readYAML(t, projectFile(t, file), &w)
		steps := w.Runs.Steps
		if file != "action.yml" && w.Permissions == nil {
			t.Errorf("%s has no permissions: it gets those of the repository", file)
		}
		for name, job := range w.Jobs {
			if p := fmt.Sprint(w.Permissions); p == "map[]" && job.Permissions == nil {
				t.Errorf("%s: %s has no permissions", file, name)
			}
			if p := fmt.Sprint(job.Permissions); strings.Contains(p, "write") && name != "release" {
				t.Errorf("%s: %s may write: %s", file, name, p)
			}
			steps = append(steps, job.Steps...)
		}
		for _, s := range steps {
			if s.Uses == "" || s.Uses == "./" {
				continue
			}
			if n++; !pinned.MatchString(s.Uses) {
				t.Errorf("%s: %s is not pinned by commit", file, s.Uses)
			}
		}
	}
	if n < 15 {
		t.Errorf("only %d actions were found", n)
	}
}
