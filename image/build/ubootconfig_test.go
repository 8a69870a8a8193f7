package build_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"imgtool/boards"
	"imgtool/image/imagetest"
	"imgtool/image/source"
)

// configOf has the options of U-Boot's configuration that each command of boot.scr needs. The
// script can use no other commands.
var configOf = map[string]string{
	"echo": "CMD_ECHO", "test": "HUSH_PARSER", "true": "HUSH_PARSER", "setenv": "CMDLINE", "reset": "CMDLINE", "run": "CMD_RUN", "sleep": "CMD_SLEEP",
	"source": "CMD_SOURCE", "load": "CMD_FS_GENERIC", "test -e": "CMD_FS_GENERIC", "booti": "CMD_BOOTI", "itest.l": "CMD_ITEST", "saveenv": "CMD_SAVEENV",
	"env import": "CMD_IMPORTENV", "env export": "CMD_EXPORTENV", "mmc dev": "CMD_MMC", "mmc read": "CMD_MMC", "mmc write": "MMC_WRITE",
	"gpio": "CMD_GPIO", "ums": "CMD_USB_MASS_STORAGE",
}

// command is a command of a script.
type command struct {
	name      string
	condition bool // of an if: the script goes on without it
}

var (
	quotes  = regexp.MustCompile(`"[^"]*"`)
	strung  = regexp.MustCompile(`'([^']*)'`)
	comment = regexp.MustCompile(`(?m)^ *#.*$`)
	loop    = regexp.MustCompile(`^for \w+ in .*`)
	local   = regexp.MustCompile(`^\w+=`)
)

// commandsOf returns the commands of a script, and of variables that it runs.
func commandsOf(text string) (all []command) {
	text = comment.ReplaceAllString(text, "")
	for _, s := range strung.FindAllStringSubmatch(text, -1) {
		all = append(all, commandsOf(s[1])...)
	}
	text = quotes.ReplaceAllString(strung.ReplaceAllString(text, "Q"), "Q")
	for part := range strings.FieldsFuncSeq(strings.ReplaceAll(text, "&&", ";"), func(r rune) bool { return r == ';' || r == '\n' }) {
		part, condition := strings.TrimSpace(part), false
		for {
			word, rest, _ := strings.Cut(part, " ")
			if !slices.Contains([]string{"if", "then", "else", "do", "fi", "done"}, word) {
				break
			}
			part, condition = strings.TrimSpace(rest), word == "if"
		}
		if part == "" || loop.MatchString(part) || local.MatchString(part) {
			continue
		}
		words := strings.Fields(strings.Replace(part, "${devtype} ", "mmc ", 1))
		name := words[0]
		switch {
		case name == "env", words[0] == "mmc":
			name += " " + words[1]
		case name == "test" && slices.Contains(words, "-e"):
			name = "test -e"
		}
		all = append(all, command{name, condition})
	}
	return all
}

// ubootPackage has the U-Boots of Debian for Rockchip's boards, with their configurations.
func ubootPackage(t *testing.T) (open func(path string) []byte, names []string) {
	t.Helper()
	imagetest.Need(t, "apt-get")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	o := source.NewOpener(source.Options{Arch: "arm64", CacheDir: filepath.Join(cache, "imgtool")})
	t.Cleanup(func() { o.Close() })
	p, err := o.Package(t.Context(), "u-boot-rockchip")
	if err != nil {
		t.Fatal(err)
	}
	for name := range p.Tree.All() {
		names = append(names, name)
	}
	return func(path string) []byte {
		t.Helper()
		n, err := p.Tree.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, n.Size())
		if _, err := n.Content.ReadAt(b, 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		return b
	}, names
}

// config is a U-Boot's configuration in the package.
func config(t *testing.T, gz []byte) map[string]string {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(gz))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			all[strings.TrimPrefix(name, "CONFIG_")] = value
		}
	}
	return all
}

const ubootConfigs = "usr/share/doc/u-boot-rockchip/configs/config."

// The script of the starter runs with the U-Boot that the starter ships: each command is
// there, or the script goes on without it.
func TestBootScriptRunsOnShippedUBoot(t *testing.T) {
	imagetest.Long(t)
	open, _ := ubootPackage(t)
	has := config(t, open(ubootConfigs+"rock64-rk3328.gz"))
	used := map[string]bool{}
	for _, c := range commandsOf(bootScript(t, "script")) {
		symbol, known := configOf[c.name]
		optional := c.name == "gpio" || c.name == "ums"
		switch {
		case !known:
			t.Errorf("the command %s is not known here: add what it needs of U-Boot's configuration", c.name)
		case has[symbol] != "y" && !optional:
			t.Errorf("the command %s needs CONFIG_%s, which the U-Boot does not have", c.name, symbol)
		case optional && !c.condition:
			t.Errorf("the script needs %s", c.name)
		}
		used[c.name] = true
	}
	for name := range configOf {
		if !used[name] {
			t.Errorf("the script is not seen to use %s; it uses %v", name, slices.Sorted(maps.Keys(used)))
		}
	}

	// Nothing else uses the sector of the tries.
	const tries = 0x3f0000
	number := func(symbol string) int64 {
		n, err := strconv.ParseInt(has[symbol], 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	from, size := number("ENV_OFFSET"), number("ENV_SIZE")
	if end := 64*512 + int64(len(open("usr/lib/u-boot/rock64-rk3328/idbloader.img"))); end > tries || from < tries+512 && from+size > tries {
		t.Errorf("idbloader.img ends at byte %d, U-Boot's environment has %d bytes from %d on, and the tries are at %d", end, size, from, tries)
	}
}

// For each board in the package, the binary lacks the same commands as its
// configuration.
func TestLackedByUBoot(t *testing.T) {
	open, names := ubootPackage(t)
	all := slices.Sorted(maps.Keys(boards.UBootCommands))
	seen := map[string]int{}
	for _, name := range names {
		board, ok := strings.CutPrefix(name, ubootConfigs)
		if !ok {
			continue
		}
		board = strings.TrimSuffix(board, ".gz")
		has := config(t, open(name))
		lacked, err := boards.LackedByUBoot(bytes.NewReader(open("usr/lib/u-boot/"+board+"/u-boot.itb")), all)
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range all {
			said := slices.ContainsFunc(lacked, func(text string) bool { return strings.Contains(text, " has no "+command+" command: ") })
			if said == (has[configOf[command]] == "y") {
				t.Errorf("%s: %s is reported as missing: %v; CONFIG_%s is %q", board, command, said, configOf[command], has[configOf[command]])
			}
			if !said {
				seen[command]++
			}
		}
	}
	// Some boards have the commands.
	if seen["gpio"] == 0 || seen["ums"] == 0 {
		t.Errorf("of the boards in the package so many have a command: %v", seen)
	}
	if lacked, err := boards.LackedByUBoot(strings.NewReader("no U-Boot"), all); len(lacked) > 0 || err != nil {
		t.Errorf("of something else it says %v, %v", lacked, err)
	}
}
