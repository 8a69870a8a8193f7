package packaging_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgtool/image/imagetest"
)

// Two copies of the sources make the same files of a release, byte by byte, and they are complete
// and signed.
// With SOAK=1 everything is compiled, twice and without a cache. Otherwise a script stands for the
// programs.
func TestDist(t *testing.T) {
	t.Parallel()
	p := build(t)
	for _, program := range []string{"git", "ruby", "ssh-keygen", "x86_64-linux-gnu-gcc", "aarch64-linux-gnu-gcc"} {
		imagetest.Need(t, program)
	}
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	imagetest.Run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	goProgram := "go"
	if os.Getenv("SOAK") == "" {
		goProgram = filepath.Join(dir, "go")
		// Everything but "go build ... -o FILE ./cmd/imgtool" is Go's.
		stub := `#!/bin/sh
[ "$1" = build ] && for last; do :; done && [ "$last" = ./cmd/imgtool ] || exec go "$@"
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\nexec ` + p.program + ` "$@"\n' >"$2" && chmod +x "$2"
`
		if err := os.WriteFile(goProgram, []byte(stub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var outs []string
	for _, name := range []string{"a", "another/copy"} {
		sources, out := filepath.Join(dir, name, "imgtool"), filepath.Join(dir, name, "out")
		imagetest.Run(t, "sh", "-c", `mkdir -p "$1" && cd .. && git -c "safe.directory=*" ls-files -co --exclude-standard | tar -c -T - | tar -x -C "$1"`, "sh", sources)
		cmd := exec.Command("packaging/dist", out)
		cmd.Dir = sources
		cmd.Env = append(os.Environ(), "GO="+goProgram, "SIGNING_KEY="+key, "HOMEPAGE=https://example.org/imgtool", "VERSION=v1.2.3", "SOURCE_DATE_EPOCH=1700000000")
		if os.Getenv("SOAK") != "" {
			cmd.Env = append(cmd.Env, "GOCACHE="+filepath.Join(dir, name, "cache"))
		}
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		outs = append(outs, out)
	}
	want := []string{"SHA256SUMS", "SHA256SUMS.sig", "buildinfo.txt", "imgtool-darwin-amd64.tar.gz", "imgtool-darwin-arm64.tar.gz",
		"imgtool-linux-amd64.deb", "imgtool-linux-amd64.rpm", "imgtool-linux-amd64.tar.gz",
		"imgtool-linux-arm64.deb", "imgtool-linux-arm64.rpm", "imgtool-linux-arm64.tar.gz", "imgtool.rb"}
	var got []string
	for _, file := range glob(t, filepath.Join(outs[0], "*")) {
		got = append(got, filepath.Base(file))
		if digest(t, file) != digest(t, filepath.Join(outs[1], filepath.Base(file))) {
			t.Errorf("the copies make different %s", filepath.Base(file))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("files %q, not %q", got, want)
	}
	checkSums(t, outs[0], key)
	checkArchives(t, outs[0])
	for _, arch := range []string{"amd64", "arm64"} {
		file := filepath.Join(outs[0], "imgtool-linux-"+arch)
		if text := imagetest.Run(t, "dpkg-deb", "-W", "--showformat", "${Package} ${Version} ${Architecture} ${Homepage}", file+".deb"); text != "imgtool 1.2.3-1 "+arch+" https://example.org/imgtool" {
			t.Errorf("%s.deb is %s", file, text)
		}
		text := imagetest.Run(t, "sh", "-c", `rpm -qp --queryformat '%{NAME} %{VERSION} %{ARCH} %{BUILDTIME}' "$1" 2>/dev/null`, "sh", file+".rpm")
		if text != "imgtool 1.2.3 "+map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[arch]+" 1700000000" {
			t.Errorf("%s.rpm is %s", file, text)
		}
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// checkSums checks the checksums and their signature, as packaging/README.md describes it.
func checkSums(t *testing.T, out, key string) {
	t.Helper()
	if text := imagetest.Run(t, "sh", "-c", `cd "$1" && sha256sum --check SHA256SUMS`, "sh", out); strings.Count(text, ": OK\n") != 10 {
		t.Errorf("10 files have checksums:\n%s", text)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	signers := filepath.Join(t.TempDir(), "allowed_signers")
	if err := os.WriteFile(signers, fmt.Appendf(nil, "release %s", public), 0o600); err != nil {
		t.Fatal(err)
	}
	verify := `ssh-keygen -Y verify -f "$1" -I release -n file -s SHA256SUMS.sig`
	imagetest.Run(t, "sh", "-c", `cd "$2" && `+verify+` <SHA256SUMS`, "sh", signers, out)
	if err := exec.Command("sh", "-c", `cd "$2" && echo changed | `+verify, "sh", signers, out).Run(); err == nil {
		t.Error("the signature is of anything")
	}
}

// checkArchives checks that the archives have all parts, that every module has its
// license, and that the formula names the archives' checksums.
func checkArchives(t *testing.T, out string) {
	t.Helper()
	formula := imagetest.Run(t, "cat", filepath.Join(out, "imgtool.rb"))
	imagetest.Run(t, "ruby", "-c", filepath.Join(out, "imgtool.rb"))
	for _, archive := range glob(t, filepath.Join(out, "*.tar.gz")) {
		list := imagetest.Run(t, "tar", "-tzf", archive)
		name := strings.TrimSuffix(filepath.Base(archive), ".tar.gz")
		top := strings.Replace(name, "imgtool-", "imgtool-1.2.3-", 1)
		for _, file := range []string{"LICENSE", "README.md", "bin/imgtool", "share/man/man1/imgtool-flash.1", "share/bash-completion/completions/imgtool",
			"share/zsh/site-functions/_imgtool", "share/fish/vendor_completions.d/imgtool.fish"} {
			if !strings.Contains(list, top+"/"+file+"\n") {
				t.Errorf("%s has no %s", archive, file)
			}
		}
		if linux := strings.Contains(name, "linux"); strings.Contains(list, "udev") != linux || strings.Contains(list, "polkit") != linux {
			t.Errorf("%s: rules for Linux only:\n%s", archive, list)
		}
		if !strings.Contains(formula, fmt.Sprintf("url \"https://example.org/imgtool/releases/download/v1.2.3/%s.tar.gz\"\n      sha256 %q", name, digest(t, archive))) {
			t.Errorf("the formula does not name %s:\n%s", archive, formula)
		}
		licenses := imagetest.Run(t, "tar", "-xzOf", archive, top+"/share/doc/imgtool/third-party-licenses.txt")
		parts := strings.Split(licenses, "\n== ")[1:]
		for _, part := range parts {
			if title, text, _ := strings.Cut(part, "\n"); len(strings.TrimSpace(text)) < 60 {
				t.Errorf("%s has no license of %s", archive, title)
			}
		}
		if len(parts) < 30 {
			t.Errorf("%s has %d licenses", archive, len(parts))
		}
	}
}
