package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"
)

// action is action.yml.
type action struct {
	Inputs map[string]struct {
		Default  string `json:"default"`
		Required bool   `json:"required"`
	} `json:"inputs"`
	Outputs map[string]struct {
		Value string `json:"value"`
	} `json:"outputs"`
	Runs struct {
		Steps []actionStep `json:"steps"`
	} `json:"runs"`
}

type actionStep struct {
	ID    string            `json:"id"`
	If    string            `json:"if"`
	Uses  string            `json:"uses"`
	Shell string            `json:"shell"`
	Env   map[string]string `json:"env"`
	With  map[string]string `json:"with"`
	Run   string            `json:"run"`
}

// runner runs the steps of an action like the runner of GitHub: only the parts that this action
// uses.
type runner struct {
	t       *testing.T
	dir     string // the workspace
	values  map[string]string
	path    string
	summary string // file
}

var expression = regexp.MustCompile(`\$\{\{ *([\w.-]+) *\}\}`)

func (r *runner) expand(text string) string {
	return expression.ReplaceAllStringFunc(text, func(e string) string {
		name := expression.FindStringSubmatch(e)[1]
		value, ok := r.values[name]
		if !ok && !strings.HasPrefix(name, "steps.") && !strings.HasPrefix(name, "github.") {
			r.t.Fatalf("the action uses %s, which there is not", e)
		}
		return value
	})
}

var condition = regexp.MustCompile(`^([\w.-]+) != '(.*)'$`)

// runAction runs the action with inputs, and returns its outputs, the log and the exit status of the
// step that failed.
func (r *runner) runAction(a *action, inputs map[string]string) (outputs map[string]string, text string, status int) {
	r.t.Helper()
	temp := r.t.TempDir()
	r.values = map[string]string{}
	for name, in := range a.Inputs {
		r.values["inputs."+name] = in.Default
	}
	for name, value := range inputs {
		if _, ok := a.Inputs[name]; !ok {
			r.t.Fatalf("the action has no input %s", name)
		}
		r.values["inputs."+name] = value
	}
	r.path, r.summary = os.Getenv("PATH"), filepath.Join(temp, "summary")
	for i, s := range a.Runs.Steps {
		if s.If != "" {
			m := condition.FindStringSubmatch(s.If)
			if m == nil {
				r.t.Fatalf("the runner of this test does not know the condition %s", s.If)
			}
			if r.values[m[1]] == m[2] {
				continue
			}
		}
		if s.Uses != "" {
			for _, v := range s.With {
				r.expand(v)
			}
			continue
		}
		out, s := r.step(s, filepath.Join(temp, fmt.Sprint(i)))
		if text += out; s != 0 {
			return nil, text, s
		}
	}
	outputs = map[string]string{}
	for name, out := range a.Outputs {
		outputs[name] = r.expand(out.Value)
	}
	return outputs, text, 0
}

func (r *runner) step(s actionStep, files string) (text string, status int) {
	r.t.Helper()
	if s.Shell != "bash" {
		r.t.Fatalf("a step has the shell %q", s.Shell)
	}
	if expression.MatchString(s.Run) {
		r.t.Errorf("a value gets into a script as code: %s", s.Run)
	}
	abs, err := filepath.Abs(top)
	if err != nil {
		r.t.Fatal(err)
	}
	script := files + ".sh"
	for name, text := range map[string]string{script: s.Run, files + ".output": "", files + ".path": ""} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	cmd := exec.Command("bash", "--noprofile", "--norc", "-eo", "pipefail", script)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "PATH="+r.path, "GITHUB_ACTION_PATH="+abs, "RUNNER_TEMP="+filepath.Dir(files), "GITHUB_STEP_SUMMARY="+r.summary,
		"GITHUB_OUTPUT="+files+".output", "GITHUB_PATH="+files+".path")
	for name, value := range s.Env {
		cmd.Env = append(cmd.Env, name+"="+r.expand(value))
	}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		r.t.Fatal(err)
	}
	for name, value := range r.outputs(files + ".output") {
		r.values["steps."+s.ID+".outputs."+name] = value
	}
	for dir := range strings.Lines(readText(r.t, files+".path")) {
		r.path = strings.TrimSpace(dir) + ":" + r.path
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// outputs reads a file of NAME=VALUE, and of NAME<<END, lines, END.
func (r *runner) outputs(file string) map[string]string {
	all := map[string]string{}
	lines := strings.Split(strings.TrimSuffix(readText(r.t, file), "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		name, end, many := strings.Cut(lines[i], "<<")
		if !many {
			name, value, _ := strings.Cut(lines[i], "=")
			all[name] = value
			continue
		}
		var value []string
		for i++; i < len(lines) && lines[i] != end; i++ {
			value = append(value, lines[i])
		}
		all[name] = strings.Join(value, "\n")
	}
	return all
}

// The steps of the action build an image, push it and describe it; its outputs are true. A
// failure is an annotation.
func TestAction(t *testing.T) {
	imagetest.Long(t)
	imagetest.Need(t, "jq")
	t.Setenv(recordsVar, "")
	var a action
	readYAML(t, projectFile(t, "action.yml"), &a)
	program, err := exec.LookPath("imgtool")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	r := &runner{t: t, dir: t.TempDir()}
	if err := makeInputs(filepath.Join(r.dir, "in")); err != nil {
		t.Fatal(err)
	}
	inputs := map[string]string{"program": program, "board": "in/tiny.toml", "inputs": "in", "rootfs": "in/rootfs.tar", "output": "out/os $x.img.zst",
		"args": "--build-id\nab\n--cmdline\na b=\"c\" $(touch broken)\n", "push": host + "/boards/tiny:1"}
	out, text, status := r.runAction(&a, inputs)
	if status != 0 {
		t.Fatalf("exit status %d\n%s", status, text)
	}
	image := filepath.Join(r.dir, "out/os $x.img.zst")
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(readText(t, image))))
	resp, err := http.Head(s.URL + "/v2/boards/tiny/manifests/1")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	want := map[string]string{"images": "out/os $x.img.zst", "build-id": "ab", "sha256": sum, "json": "out/os $x.build.json", "digest": resp.Header.Get("Docker-Content-Digest")}
	if !maps.Equal(out, want) {
		t.Errorf("outputs are\n%q, want\n%q", out, want)
	}
	if m := readText(t, image+".manifest.json"); !strings.Contains(m, `a b=\"c\" $(touch broken)`) {
		t.Errorf("the argument was changed: %s", m)
	}
	if _, err := os.Stat(filepath.Join(r.dir, "broken")); err == nil {
		t.Error("an argument was run as a command")
	}
	if !strings.Contains(text, "::warning::rootfs: in/rootfs.tar may not be a root file system") {
		t.Errorf("no annotation of the warning:\n%s", text)
	}
	summary := readText(t, r.summary)
	for _, part := range []string{"### tiny, build `ab`", "`os $x.img.zst`", "`" + sum + "`", "digest `" + want["digest"] + "`"} {
		if !strings.Contains(summary, part) {
			t.Errorf("the summary does not have %s:\n%s", part, summary)
		}
	}
	if list, err := os.ReadDir(filepath.Join(r.dir, ".imgtool-cache")); err != nil || len(list) == 0 {
		t.Errorf("the cache that is kept is empty: %v", err)
	}

	inputs["board"], inputs["push"] = "in/none.toml", ""
	if _, text, status := r.runAction(&a, inputs); status != exit.Input || !strings.Contains(text, "::error::") || !strings.Contains(text, "none.toml") {
		t.Errorf("an unknown board: exit status %d\n%s", status, text)
	}
}

// The action gets the program of its release, if that has the published SHA-256.
func TestProgramOfTheAction(t *testing.T) {
	imagetest.Need(t, "curl")
	dir := t.TempDir()
	source := filepath.Join(dir, "_actions/owner/imgtool/v1.2.3")
	releases := filepath.Join(dir, "releases")
	arch := strings.TrimSpace(string(must1(exec.Command("go", "env", "GOARCH").Output())))
	archive := "imgtool-linux-" + arch + ".tar.gz"
	script := strings.Join([]string{"set -e",
		"mkdir -p " + source + "/.ci/action x/imgtool-1.2.3/bin " + releases + "/v1.2.3",
		"cp $TOP/.ci/action/program " + source + "/.ci/action/",
		`printf '#!/bin/sh\necho released\n' > x/imgtool-1.2.3/bin/imgtool`,
		`printf 'build:\n\tprintf "#!/bin/sh\\necho built\\n" > imgtool; chmod +x imgtool\n' > ` + source + "/Makefile",
		"tar -C x -czf " + releases + "/v1.2.3/" + archive + " imgtool-1.2.3",
		"cd " + releases + "/v1.2.3 && sha256sum " + archive + " > SHA256SUMS"}, "\n")
	abs, err := filepath.Abs(top)
	if err != nil {
		t.Fatal(err)
	}
	if status, out, text := shell(t, dir, []string{"TOP=" + abs}, "bash", "-c", script); status != 0 {
		t.Fatal(out, text)
	}
	get := func(env ...string) (int, string) {
		status, out, text := shell(t, dir, append(env, "RELEASES=file://"+releases), source+"/.ci/action/program", "bin")
		return status, out + text
	}
	if status, text := get(); status != 0 || !strings.HasSuffix(text, "released\n") {
		t.Errorf("the program of the release: exit status %d\n%s", status, text)
	}
	if err := os.WriteFile(filepath.Join(dir, "mine"), []byte("#!/bin/sh\necho mine\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if status, text := get("PROGRAM=mine"); status != 0 || !strings.HasSuffix(text, "mine\n") {
		t.Errorf("the program of the user: exit status %d\n%s", status, text)
	}
	sums := filepath.Join(releases, "v1.2.3/SHA256SUMS")
	if err := os.WriteFile(sums, []byte(strings.Repeat("0", 64)+"  "+archive+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(filepath.Join(dir, "bin"))
	if status, text := get(); status != exit.Corrupt || !strings.Contains(text, "does not have the SHA-256 in SHA256SUMS") {
		t.Errorf("another program than that of the release: exit status %d\n%s", status, text)
	}
	if _, err := os.Stat(filepath.Join(dir, "bin/imgtool")); err == nil {
		t.Error("a program that was altered is left")
	}
	os.Remove(sums)
	if status, text := get(); status != 0 || !strings.HasSuffix(text, "built\n") || !strings.Contains(text, "SHA256SUMS cannot be fetched") {
		t.Errorf("a version without a release: exit status %d\n%s", status, text)
	}
}

func must1[T any](v T, err error) T {
	must(err)
	return v
}

// The example for GitLab runs: it logs in to a registry that asks for a password, builds, starts
// and pushes.
func TestGitLabExample(t *testing.T) {
	imagetest.Long(t)
	page := string(projectFile(t, "docs/how-to/ci.md"))
	_, page, ok := strings.Cut(page, "`.gitlab-ci.yml`:\n\n```yaml\n")
	if !ok {
		t.Fatal("the page has no example for GitLab")
	}
	text, _, _ := strings.Cut(page, "```")
	var jobs map[string]struct {
		Before    []string          `json:"before_script"`
		Script    []string          `json:"script"`
		Variables map[string]string `json:"variables"`
		Artifacts struct {
			Paths []string `json:"paths"`
		} `json:"artifacts"`
	}
	readYAML(t, []byte(text), &jobs)
	job := jobs["image"]
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "gitlab-ci-token" || password != `p"s` {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	dir, env := ciSite(t)
	imagetest.Run(t, "sh", "-c", "mv "+dir+"/in "+dir+"/boot && cp "+dir+"/boot/rootfs.tar "+dir+" && mkdir "+dir+"/.imgtool-cache && chmod 777 "+dir+"/.imgtool-cache")
	env = append(env, "HOME="+dir+"/home", "CI_PROJECT_DIR="+dir, "CI_REGISTRY="+host, "CI_REGISTRY_IMAGE="+host+"/group/project",
		"CI_REGISTRY_USER=gitlab-ci-token", `CI_REGISTRY_PASSWORD=p"s`, "CI_COMMIT_SHORT_SHA=0123abcd", "CONSOLE=debian login:")
	script := "set -eo pipefail\numask 0\n"
	for name, value := range job.Variables {
		script += "export " + name + "=\"" + value + "\"\n"
	}
	for _, line := range append(job.Before, job.Script...) {
		if !strings.HasPrefix(line, "apt-get ") {
			script += line + "\n"
		}
	}
	if status, out, text := shell(t, dir, env, "bash", "-c", script); status != 0 {
		t.Fatalf("exit status %d\n%s%s", status, out, text)
	}
	req, err := http.NewRequest("HEAD", s.URL+"/v2/group/project/os/manifests/0123abcd", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("gitlab-ci-token", `p"s`)
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the registry does not have the image: %v %v", resp, err)
	}
	for _, pattern := range job.Artifacts.Paths {
		if files, err := filepath.Glob(filepath.Join(dir, pattern)); err != nil || len(files) < 5 {
			t.Errorf("%s are %q, %v", pattern, files, err)
		}
	}
}
