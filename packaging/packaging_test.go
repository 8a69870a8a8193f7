package packaging_test

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"imgtool/image/imagetest"
)

// packages are a Debian and an RPM package of the same program, made as a release's are.
type packages struct{ deb, rpm, program string }

var built = sync.OnceValues(func() (p packages, err error) {
	dir, err := os.MkdirTemp("", "imgtool-packages-")
	if err != nil {
		return p, err
	}
	cleanup = append(cleanup, dir)
	p = packages{filepath.Join(dir, "imgtool.deb"), filepath.Join(dir, "imgtool.rpm"), filepath.Join(dir, "imgtool")}
	script := `./deb "$1" && dpkg-deb --fsys-tarfile "$1" | tar -xO ./usr/bin/imgtool >"$3" && chmod +x "$3" && ./rpm "$2" "$3"`
	if out, err := exec.Command("sh", "-c", script, "sh", p.deb, p.rpm, p.program).CombinedOutput(); err != nil {
		return p, fmt.Errorf("%w\n%s", err, out)
	}
	return p, nil
})

var cleanup []string

func TestMain(m *testing.M) {
	status := m.Run()
	for _, dir := range cleanup {
		os.RemoveAll(dir)
	}
	os.Exit(status)
}

func build(t *testing.T) packages {
	t.Helper()
	imagetest.Long(t)
	for _, program := range []string{"gcc", "make", "dpkg-deb"} {
		imagetest.Need(t, program)
	}
	// Go repeats a test only if files changed that the test itself has read.
	for _, pattern := range []string{"*", "udev/*", "polkit/*"} {
		for _, file := range glob(t, pattern) {
			os.ReadFile(file)
		}
	}
	p, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The released program is static, small and starts at once.
func TestProgram(t *testing.T) {
	p := build(t)
	f, err := elf.Open(p.program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if libraries, err := f.ImportedLibraries(); err != nil || len(libraries) > 0 {
		t.Errorf("the program needs %q: %v", libraries, err)
	}
	for _, segment := range f.Progs {
		if segment.Type == elf.PT_INTERP {
			t.Error("the program needs an interpreter")
		}
	}
	info, err := os.Stat(p.program)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() >= 25e6 {
		t.Errorf("the program has %d bytes, more than 25 MB", info.Size())
	}
	fastest := time.Hour
	for range 20 {
		cmd := exec.Command(p.program, "--version")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		fastest = min(fastest, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
	}
	if fastest >= 100*time.Millisecond {
		t.Errorf("imgtool --version takes %v of processor time", fastest)
	}
	if out := imagetest.Run(t, p.program, "version"); !strings.Contains(out, "libzstd") {
		t.Errorf("the program has no libzstd: %s", out)
	}
	t.Logf("%d bytes, --version in %v", info.Size(), fastest)
}

// lintian has nothing to say, apart from the tags that packaging/lintian-overrides explains.
func TestLintian(t *testing.T) {
	t.Parallel()
	imagetest.Need(t, "lintian")
	p := build(t)
	// Its exit status also counts overridden errors.
	out, _ := exec.Command("lintian", "--allow-root", "--show-overrides", "--tag-display-limit", "0", p.deb).CombinedOutput()
	overridden := 0
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "O: ") {
			overridden++
		} else if !strings.HasPrefix(line, "N:") {
			t.Error(line)
		}
	}
	if overridden != 2 {
		t.Errorf("%d tags are overridden, not 2:\n%s", overridden, out)
	}
}

func digest(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// On a bare Debian the package installs, its program, man pages and completions work, and purging
// leaves nothing.
func TestDebianPackage(t *testing.T) {
	t.Parallel()
	imagetest.NeedRoot(t)
	imagetest.Need(t, "mmdebstrap")
	tree := filepath.Join(t.TempDir(), "debian")
	var made sync.WaitGroup
	var failed error
	made.Go(func() {
		out, err := exec.Command("mmdebstrap", "--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io", "--include=man-db,bash-completion,zsh,fish,udev", "bookworm", tree).CombinedOutput()
		if err != nil {
			failed = fmt.Errorf("mmdebstrap: %w\n%s", err, out)
		}
	})
	defer made.Wait() // the directory is removed after that
	p := build(t)
	made.Wait()
	if failed != nil {
		t.Fatal(failed)
	}
	before := paths(t, tree)
	imagetest.Run(t, "cp", p.deb, filepath.Join(tree, "tmp/imgtool.deb"))
	in := func(program string, args ...string) string {
		t.Helper()
		mount := `mount -t proc proc "$1/proc" && mount --rbind /sys "$1/sys" && exec chroot "$@"`
		cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-c", mount, "sh", tree, program}, args...)...)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "MANWIDTH=80"}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%s %q: %v\n%s%s", program, args, err, out, &stderr)
		}
		return string(out)
	}
	in("dpkg", "-i", "/tmp/imgtool.deb")
	if out := in("dpkg", "-V", "imgtool"); out != "" {
		t.Errorf("dpkg -V: %s", out)
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{strings.TrimSpace(imagetest.Run(t, p.program, "--version")), []string{"imgtool", "--version"}},
		{"rock64", []string{"imgtool", "boards"}},
		{"EXIT STATUS", []string{"man", "imgtool"}},
		{"write a seed from a few answers", []string{"man", "imgtool-seed-new"}},
		{"imgtool-flash (1)", []string{"sh", "-c", "mandb -q && apropos imgtool"}},
		{"flash\n", []string{"bash", "-c", `. /usr/share/bash-completion/bash_completion; _completion_loader imgtool
			COMP_WORDS=(imgtool fl) COMP_CWORD=1 COMP_LINE='imgtool fl' COMP_POINT=10 COMP_TYPE=9; __start_imgtool; printf '%s\n' "${COMPREPLY[@]}"`}},
		{"_imgtool loaded", []string{"zsh", "-fc", `autoload -Uz compinit; compinit -u -D; autoload +X $_comps[imgtool] && print $_comps[imgtool] loaded`}},
		{"flash\t", []string{"fish", "-c", `complete -C "imgtool fl"`}},
	} {
		if out := in(c.args[0], c.args[1:]...); !strings.Contains(out, c.want) {
			t.Errorf("%q prints no %q:\n%s", c.args, c.want, out)
		}
	}
	for _, rule := range []string{"usr/share/polkit-1/rules.d/60-imgtool.rules", "usr/lib/udev/rules.d/70-imgtool.rules"} {
		if info, err := os.Stat(filepath.Join(tree, rule)); err != nil || info.Mode() != 0o644 {
			t.Errorf("%s: %v %v", rule, info, err)
		}
	}
	rule := "/usr/lib/udev/rules.d/70-imgtool.rules"
	if out := in("sh", "-c", "udevadm test --action=add /sys/class/mem/null 2>&1"); !strings.Contains(out, "Reading rules file: "+rule+"\n") || strings.Contains(out, rule+":") {
		t.Errorf("udev does not take the rules:\n%s", out)
	}
	in("rm", "/tmp/imgtool.deb")
	in("apt-get", "purge", "-y", "imgtool")
	after := paths(t, tree)
	for _, path := range after {
		if !slices.Contains(before, path) {
			t.Errorf("purging leaves %s", path)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d paths before, %d after", len(before), len(after))
	}
}

// paths lists a tree apart from what Debian's own programs write while they run.
func paths(t *testing.T, tree string) (all []string) {
	t.Helper()
	own := regexp.MustCompile(`^(var/(lib/(dpkg|apt)|log|cache)|run|dev)/|^root/\.(local|config|cache)`)
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		path = strings.TrimPrefix(path, tree+"/")
		if err == nil && !own.MatchString(path) {
			all = append(all, path)
		}
		return err
	})
	if err != nil || len(all) < 5000 {
		t.Fatalf("%d paths: %v", len(all), err)
	}
	return all
}

// The RPM package installs into an empty root, and it has the same files as the Debian package.
func TestRPMPackage(t *testing.T) {
	t.Parallel()
	imagetest.NeedRoot(t)
	imagetest.Need(t, "rpm")
	p := build(t)
	root := t.TempDir()
	rpm := func(args ...string) string {
		t.Helper()
		return imagetest.Run(t, "rpm", append([]string{"--root", root, "--dbpath", "/var/lib/rpm"}, args...)...)
	}
	rpm("-i", "--nodeps", p.rpm)
	if out, err := exec.Command("rpm", "--root", root, "--dbpath", "/var/lib/rpm", "-V", "--nodeps", "imgtool").CombinedOutput(); err != nil {
		t.Errorf("rpm -V: %v\n%s", err, out)
	}
	if got, want := imagetest.Run(t, "chroot", root, "/usr/bin/imgtool", "--version"), imagetest.Run(t, p.program, "--version"); got != want {
		t.Errorf("version %q, not %q", got, want)
	}
	files := strings.Fields(imagetest.Run(t, "sh", "-c", `rpm -qlp "$1" 2>/dev/null`, "sh", p.rpm))
	have := map[string]bool{}
	for _, f := range files {
		have[strings.Replace(f, "/zsh/site-functions/", "/zsh/vendor-completions/", 1)] = true
	}
	for line := range strings.Lines(imagetest.Run(t, "dpkg-deb", "-c", p.deb)) {
		name := strings.TrimPrefix(strings.Fields(line)[5], ".")
		own := strings.Contains(name, "lintian") || strings.HasSuffix(name, "/copyright") || strings.HasSuffix(name, "/changelog.Debian.gz")
		if !strings.HasSuffix(name, "/") && !own && !have[name] {
			t.Errorf("the RPM package has no %s", name)
		}
	}
	rpm("-e", "imgtool")
	left, err := exec.Command("find", root, "-path", root+"/var", "-prune", "-o", "-name", "*imgtool*", "-print").Output()
	if err != nil || len(left) > 0 {
		t.Errorf("erasing leaves %s: %v", left, err)
	}
}

// Versions of packages are in the order of their commits, for dpkg and for rpm.
func TestPackageVersions(t *testing.T) {
	imagetest.Need(t, "dpkg")
	imagetest.Need(t, "rpm")
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	order := []string{"0123abc", "v0.1.0-rc1", "v0.1.0-rc1-2-gabc", "v0.1.0-rc2", "v0.1.0", "v0.1.0-2-gabc", "v0.1.0-10-gabc", "v0.1.0-10-gabc-dirty", "v0.1.1-rc1", "v0.10.0"}
	last := ""
	for _, described := range order {
		v := strings.TrimSpace(imagetest.Run(t, "./version", described))
		if !regexp.MustCompile(`^[0-9][A-Za-z0-9.+~]*$`).MatchString(v) {
			t.Errorf("%s is version %q", described, v)
		}
		if last != "" {
			if err := exec.Command("dpkg", "--compare-versions", last+"-1", "lt", v+"-1").Run(); err != nil {
				t.Errorf("dpkg: %s is not older than %s: %v", last, v, err)
			}
			if out := imagetest.Run(t, "rpm", "--eval", fmt.Sprintf(`%%{lua:print(rpm.vercmp("%s", "%s"))}`, last, v)); strings.TrimSpace(out) != "-1" {
				t.Errorf("rpm: %s is not older than %s: %s", last, v, out)
			}
		}
		last = v
	}
}

// The flake can be evaluated, and its hash is of the Go modules that the program uses.
func TestFlake(t *testing.T) {
	imagetest.Long(t)
	imagetest.Need(t, "nix-instantiate")
	imagetest.Need(t, "nix-hash")
	flake, err := filepath.Abs("../flake.nix")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{flake, "../go.mod", "../go.sum"} {
		os.ReadFile(file) // Go repeats the test if one changed
	}
	// nix knows nothing about the network here: nixpkgs is a replacement that keeps arguments.
	nix := func(attribute string) string {
		t.Helper()
		cmd := exec.Command("nix-instantiate", "--eval", "--strict", "-E", `
			let lib = {
				genAttrs = names: f: builtins.listToAttrs (map (name: { inherit name; value = f name; }) names);
				optionalString = yes: text: if yes then text else "";
				licenses.asl20 = "Apache-2.0";
			};
			in ((import `+flake+`).outputs {
				self = { shortRev = "0123abc"; outPath = "/source"; };
				nixpkgs = { inherit lib; legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" "x86_64-darwin" "aarch64-darwin" ] (system: {
					inherit lib; buildGoModule = a: a; installShellFiles = "installShellFiles";
					stdenv.hostPlatform.isLinux = system == "x86_64-linux" || system == "aarch64-linux";
				}); };
			}).packages.`+attribute)
		cmd.Env = append(os.Environ(), "NIX_STATE_DIR="+t.TempDir(), "NIX_STORE_DIR="+t.TempDir())
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", attribute, err, &stderr)
		}
		return strings.Trim(string(out), "\"\n")
	}
	if linux, mac := nix("x86_64-linux.default.postInstall"), nix("aarch64-darwin.default.postInstall"); !strings.Contains(linux, "udev") || strings.Contains(mac, "udev") {
		t.Errorf("for Linux %s\nfor macOS %s", linux, mac)
	}
	vendor := filepath.Join(t.TempDir(), "vendor")
	imagetest.Run(t, "go", "mod", "vendor", "-o", vendor)
	out, err := exec.Command("nix-hash", "--type", "sha256", vendor).Output()
	if err != nil {
		t.Fatal(err)
	}
	sum, err := hex.DecodeString(strings.TrimSpace(string(out)))
	if err != nil || len(sum) != sha256.Size {
		t.Fatalf("nix-hash prints %q: %v", out, err)
	}
	want := "sha256-" + base64.StdEncoding.EncodeToString(sum)
	if got := nix("x86_64-linux.default.vendorHash"); got != want {
		t.Errorf("flake.nix has vendorHash %q; it must be %q", got, want)
	}
}
