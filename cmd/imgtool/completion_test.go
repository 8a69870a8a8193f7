package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"
)

// completions makes a directory with images and other files and returns what completes the last
// argument there. Descriptions are left out.
func completions(t *testing.T, args ...string) []string {
	t.Helper()
	var out, errs bytes.Buffer
	if status := run(append([]string{"__complete"}, args...), strings.NewReader(""), &out, &errs); status != exit.OK {
		t.Errorf("%q: exit status %d", args, status)
	}
	if rest := strings.TrimSpace(errs.String()); !strings.HasPrefix(rest, "Completion ended with directive") || strings.Contains(rest, "\n") {
		t.Errorf("%q: stderr is %q", args, rest)
	}
	last := args[len(args)-1]
	if _, value, ok := strings.Cut(last, "="); ok && strings.HasPrefix(last, "-") {
		last = value
	}
	var words []string
	for line := range strings.Lines(out.String()) {
		word, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if strings.HasPrefix(word, last) && !strings.HasPrefix(word, ":") { // the scripts filter too
			words = append(words, word)
		}
	}
	return words
}

// completionDir makes a directory with an image and other files, and changes to it.
func completionDir(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	if err := makeInputs("in"); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"out", "site"} {
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	imgtool(t, "build", "--board", "in/tiny.toml", "--inputs", "in", "-o", "x.img.zst")
	for name, text := range map[string]string{"out/y.img": "y", "seed.toml": "", "units.csv": "unit,key\nW1,a\nW2,b\n", "notes.txt": "", "site.tar.zst": "", "bad.img.zst": "bad"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCompletion(t *testing.T) {
	completionDir(t)
	for _, c := range []struct {
		line, want string // words; the word to complete is after the last space
	}{
		{"bu", "build bundle"},
		{"seed ", "bundle check get new put render rm schema stick"},
		{"cache ", "clear trim"},
		{"provision e", "export"},
		{"help se", "seed"},
		{"help seed n", "new"},
		{"catalog --url=f", "file://"},
		{"catalog x.img.zst ou", "out/ out/y.img"},
		{"completion ", "bash zsh fish powershell"},
		{"version ", ""},
		{"build --board ro", "rock64"},
		{"build --board photon", "photon-nx photon-nx-agent"},
		{"build --board ./se", "./seed.toml"},
		{"build --board=ro", "rock64"},
		{"boards r", "rock64"},
		{"build --board photon-nx --layout ", "ab-squashfs"},
		{"build --board rock64 --layout ", ""},
		{"build --board photon-nx --medium ", "emmc sd nvme"},
		{"build --board photon-nx --size s", "sd="},
		{"build --board photon-nx --size sd=16", "sd=16GiB"},
		{"build --board rock64 --input I", "Image="},
		{"build --board rock64 --input Image=in/I", "Image=in/Image"},
		{"build --board rock64 --input Image=st", "Image=starter"},
		{"build --board rock64 --partition root", "rootfs-a= rootfs-b="},
		{"build --board photon-nx --partition sd/s", "sd/scratch="},
		{"build --rootfs in/roo", ""},
		{"build --slots ", "a ab"},
		{"build --profile d", "development"},
		{"build --compression g", "gzip"},
		{"build --block-size 64", "64KiB"},
		{"build --inputs i", "in/"},
		{"build --edits s", "seed.toml site/"},
		{"build --seed seed", "seed.toml"},
		{"build --values u", "units.csv"},
		{"build --values units.csv --unit ", "W1 W2"},
		{"flash --values units.csv --unit W1", "W1"},
		{"factory --unit se", "seed.toml"},
		{"build --cmdline ", ""},
		{"build x", ""},
		{"flash -i ", "bad.img.zst in/ out/ site/ x.img.zst out/y.img"},
		{"flash --image out/", "out/y.img"},
		{"flash --verify ", "full sampled none"},
		{"flash --delta a", "auto"},
		{"verify x", "x.img.zst"},
		{"vm x", "x.img.zst"},
		{"vm --slot ", "a b"},
		{"vm --usb out", "out/ out/y.img"},
		{"inspect out/y", "out/y.img"},
		{"ls x", "x.img.zst x.img.zst:"},
		{"ls x.img.zst:", "x.img.zst:boot-a/ x.img.zst:rootfs-a/"},
		{"ls x.img.zst:b", "x.img.zst:boot-a/"},
		{"cat x.img.zst:boot-a/", "x.img.zst:boot-a/Image x.img.zst:boot-a/boot.scr"},
		{"cat x.img.zst:boot-a/I", "x.img.zst:boot-a/Image"},
		{"cat x.img.zst:rootfs-a/e", "x.img.zst:rootfs-a/etc/"},
		{"cat x.img.zst:rootfs-a/etc/p", "x.img.zst:rootfs-a/etc/passwd"},
		{"diff x.img.zst x.img.zst:r", "x.img.zst:rootfs-a/"},
		{"ls x.img.zst:nope/", ""},
		{"ls bad.img.zst:", ""},
		{"ls nope:", ""},
		{"cat notes.txt:", ""},
		{"seed check s", "seed.toml site/ site.tar.zst"},
		{"seed put x", "x.img.zst"},
		{"seed put x.img.zst s", "seed.toml site/"},
		{"seed bundle si", "site/"},
		{"seed new --image ", ""},
		{"provision set 10.0.0.1 us", "users."},
		{"provision unset 10.0.0.1 network.f", "network.firewall"},
		{"provision 10.0.0.1 --seed site", "site/ site.tar.zst"},
		{"provision ", "export set status unset validate"},
		{"cache trim 1", "1GiB"},
		{"flash --json --ver", "--verify"},
	} {
		got := completions(t, strings.Split(c.line, " ")...)
		// Flags are offered with their value too, as --verify=.
		got = slices.DeleteFunc(got, func(word string) bool { return strings.HasPrefix(word, "--") && strings.HasSuffix(word, "=") })
		if want := strings.Fields(c.want); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", c.line, got, want)
		}
	}
}

// Disks are completed with their size and model.
func TestCompletionOfDisks(t *testing.T) {
	imagetest.NeedRoot(t)
	dev := imagetest.Loop(t, sparseFile(t, filepath.Join(t.TempDir(), "disk"), 64<<20))
	for _, line := range []string{"flash ", "verify ", "inspect ", "seed stick ", "factory --sd ", "flash /dev/nope "} {
		var out bytes.Buffer
		run(append([]string{"__complete"}, strings.Split(line, " ")...), strings.NewReader(""), &out, io.Discard)
		if !strings.Contains(out.String(), dev+"\t64.0 MiB") {
			t.Errorf("%q: %s is not in %q", line, dev, out.String())
		}
	}
}

// Bash gets words that it can put in place, although it splits them at = and :, and with and
// without the package bash-completion.
func TestCompletionInBash(t *testing.T) {
	completionDir(t)
	const script = `
if [[ -n $1 ]]; then source "$1"; fi
source <(imgtool completion bash)
while IFS= read -r line; do
	COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9 COMP_KEY=9 COMPREPLY=()
	mapfile -t COMP_WORDS < <(grep -oE '[:=]+|[^[:space:]:=]+' <<<"$line")
	if [[ $line == *" " ]]; then COMP_WORDS+=(""); fi
	COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
	__start_imgtool imgtool "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
	echo "${COMPREPLY[*]}"
done`
	lines := [][2]string{
		{"imgtool bu", "build bundle"},
		{"imgtool build --board ro", "rock64"},
		{"imgtool build --board rock64 --input Im", "Image="},
		{"imgtool build --board rock64 --input Image=st", "starter"},
		{"imgtool ls x.img.zst:ro", "rootfs-a/"},
		{"imgtool cat x.img.zst:boot-a/Im", "boot-a/Image"},
		{"imgtool flash --verify=sa", "sampled"},
		{"imgtool flash -i out/y", "out/y.img"},
	}
	packages := []string{""}
	if at := "/usr/share/bash-completion/bash_completion"; fileExists(at) {
		packages = append(packages, at)
	}
	for _, at := range packages {
		var in, want strings.Builder
		for _, l := range lines {
			in.WriteString(l[0] + "\n")
			want.WriteString(l[1] + "\n")
		}
		program, err := exec.LookPath("imgtool")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("bash", "--norc", "-c", script, "bash", at)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"))
		cmd.Stdin = strings.NewReader(in.String())
		if out, err := cmd.Output(); err != nil || string(out) != want.String() {
			t.Errorf("with %q: %v, got\n%swant\n%s", at, err, out, want.String())
		}
	}
}

func TestCompletionInFish(t *testing.T) {
	imagetest.Need(t, "fish")
	completionDir(t)
	for line, want := range map[string]string{
		"imgtool fla":                             "flash\tWrite an image to a disk and verify it\n",
		"imgtool build --board ro":                "rock64\tPINE64 Rock64, AtomixOS on eMMC\n",
		"imgtool build --board rock64 --input Im": "Image=\n",
		"imgtool ls x.img.zst:boot-a/I":           "x.img.zst:boot-a/Image\t6.7 MiB\n",
	} {
		cmd := exec.Command("fish", "--no-config", "-c", "imgtool completion fish | source; complete -C $argv[1]", line)
		if out, err := cmd.Output(); err != nil || string(out) != want {
			t.Errorf("%q: %v, got %q, want %q", line, err, out, want)
		}
	}
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// The scripts are valid in their shells.
func TestCompletionScripts(t *testing.T) {
	for shell, check := range map[string][]string{"bash": {"bash", "-n"}, "zsh": {"zsh", "-n"}, "fish": {"fish", "--no-execute"}} {
		imagetest.Need(t, shell)
		file := filepath.Join(t.TempDir(), shell)
		if err := os.WriteFile(file, []byte(imgtool(t, "completion", shell)), 0o644); err != nil {
			t.Fatal(err)
		}
		imagetest.Run(t, append(check, file)[0], append(check, file)[1:]...)
	}
}

// Every flag with a value has a completion, even if that is none.
func TestEveryFlagIsCompleted(t *testing.T) {
	for path, cmd := range commands() {
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if _, ok := cmd.GetFlagCompletionFunc(f.Name); !ok && f.Value.Type() != "bool" {
				t.Errorf("%s --%s: it is not in the table of complete", path, f.Name)
			}
		})
	}
}
