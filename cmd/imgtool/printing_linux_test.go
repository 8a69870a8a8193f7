package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"imgtool/cmd/imgtool/exit"
	"imgtool/cmd/imgtool/terminal"
	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/imagetest"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
)

// hostile is a name that would set the window's title, delete a line, reverse the direction
// of text and forge a line.
const hostile = "h\x1b]0;T\x07\x1b[2K\x9b1m\u009b1m\u202e\u2066\u2028\nimgtool: FORGED\rimgtool: FORGED"

// hostileText is the text of a file, which may have several lines.
var hostileText = strings.ReplaceAll(hostile, "imgtool: FORGED", "more") + "\ttab\n"

// onTerminal runs imgtool with a terminal as stdout and stderr, and checks every byte that
// it prints.
func onTerminal(t *testing.T, args ...string) string {
	t.Helper()
	p := newPerson(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	run(args, null, p.screen, p.screen)
	const end = "this is all"
	p.screen.WriteString(end)
	p.sees(end)
	return checkTerminal(t, p, args...)
}

// checkTerminal checks the bytes sent to a terminal, and returns them.
func checkTerminal(t *testing.T, p *person, args ...string) string {
	t.Helper()
	p.mu.Lock()
	got := p.seen.String()
	p.mu.Unlock()
	// The terminal adds carriage returns to newlines, and the progress bar uses them.
	text := strings.ReplaceAll(got, "\r\n", "\n")
	text = drawn.ReplaceAllString(text, "")
	for i, r := range text {
		if r == utf8.RuneError && text[i] != "\ufffd"[0] || !unicode.IsPrint(r) && r != '\n' && r != '\t' && r != '\r' {
			t.Errorf("%q: %U at byte %d of %q", args, r, i, text)
			break
		}
	}
	for _, before := range []string{"\n", "\r"} {
		if strings.Contains(before+text, before+"imgtool: FORGED") {
			t.Errorf("%q: a name forges a line of %q", args, text)
		}
	}
	return text
}

// drawn are the sequences with which progress is drawn: they clear lines and go up.
var drawn = regexp.MustCompile(`\x1b\[(K|[0-9]+[AC]|[?]7[hl])`)

// Every command is run with hostile arguments and a hostile value of each flag.
func TestArgumentsHaveNoEffectOnATerminal(t *testing.T) {
	imagetest.Long(t)
	t.Chdir(t.TempDir())
	t.Setenv("TERM", "xterm")
	commands := 0
	var each func(c *cobra.Command, path []string)
	each = func(c *cobra.Command, path []string) {
		for _, sub := range c.Commands() {
			each(sub, append(path[:len(path):len(path)], sub.Name()))
		}
		commands++
		for n := range 4 {
			args := path[:len(path):len(path)]
			for range n {
				args = append(args, hostile)
			}
			onTerminal(t, args...)
			onTerminal(t, append(args, "--json")...)
		}
		// Go quotes text without ASCII control characters with backquotes.
		onTerminal(t, append(path[:len(path):len(path)], "\u009b1m\u202e")...)
		onTerminal(t, append(path[:len(path):len(path)], "--"+hostile)...)
		onTerminal(t, append(path[:len(path):len(path)], "-"+hostile)...)
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Value.Type() != "bool" {
				onTerminal(t, append(path[:len(path):len(path)], "--"+f.Name+"="+hostile, hostile)...)
			}
		})
	}
	root := newCommand(&ui{})
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	each(root, nil)
	onTerminal(t, "__complete", "ls", hostile)
	onTerminal(t, "__complete", hostile, "\u009b1m\u202e")
	if commands < 25 {
		t.Errorf("only %d commands", commands)
	}
}

// hostileImage returns a disk with hostile names of partitions and files. Names of
// partitions are cut to their maximum length.
func hostileImage(t *testing.T) string {
	t.Helper()
	tr := tree.New(1)
	for path, n := range map[string]*tree.Inode{
		hostile:    {Mode: tree.Regular | 0o644, Content: strings.NewReader("data")},
		"link":     {Mode: tree.Symlink | 0o777, Target: hostile + "/x"},
		"text":     {Mode: tree.Regular | 0o644, Content: strings.NewReader(hostileText)},
		"binary":   {Mode: tree.Regular | 0o644, Content: strings.NewReader("a\x00b")},
		"xattrs":   {Mode: tree.Regular | 0o644, Xattrs: []tree.Xattr{{Name: "user." + hostile, Value: hostile}}},
		"d/" + "x": {Mode: tree.Regular | 0o644},
	} {
		if err := tr.Put(path, n); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := squashfs.Write(t.Context(), f, tr, squashfs.Options{Compression: "gzip", BlockSize: 4096}, nil); err != nil {
		t.Fatal(err)
	}
	inside, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	const start = 1 << 20
	size := int64(len(inside)+511) / 512 * 512
	table := gpt.Table{GUID: "11111111-1111-1111-1111-111111111111", Size: 8 << 20, FirstUsable: gpt.HeadSize, Parts: []gpt.Part{
		{Number: 1, Name: "p\x1b]0;T\x07\u202e\u009b\nimgtool: FORGED", Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", GUID: "22222222-2222-2222-2222-222222222222", Off: start, Len: size},
		{Number: 2, Name: "q\x1b[2K", Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", GUID: "22222222-2222-2222-2222-222222222223", Off: 4 << 20, Len: 1 << 20}}}
	extents, err := table.Extents()
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.New(table.Size, append(extents, image.Extent{Name: "root", Off: start, Content: bytes.NewReader(inside)})...)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, m.Size())
	if _, err := m.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "x.img")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Names from images are escaped on a terminal.
func TestNamesInImagesHaveNoEffectOnATerminal(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("TERM", "xterm")
	x := hostileImage(t)
	other := filepath.Join(t.TempDir(), hostile[:20]+".img")
	data, err := os.ReadFile(x)
	if err != nil {
		t.Fatal(err)
	}
	data[5<<20-1] = 1
	if err := os.WriteFile(other, data, 0o644); err != nil {
		t.Fatal(err)
	}
	empty, room := sparseFile(t, "empty.img", 1<<20), sparseFile(t, "room.img", 16<<20)
	for _, test := range []struct {
		args []string
		want string // is shown
	}{
		{[]string{"inspect", x}, `p\x1b]0;T\x07\u202e\u009b\nimgtool: FORGED`},
		{[]string{"inspect", other}, `q\x1b[2K`},
		{[]string{"ls", x}, `p\x1b]0;T\x07\u202e\u009b\nimgtool: FORGED`},
		{[]string{"ls", "-R", "--xattrs", x + ":1"}, `"h\x1b]0;T\a\x1b[2K\x9b1m\u009b1m\u202e\u2066\u2028\nimgtool: FORGED\rimgtool: FORGED"`},
		{[]string{"ls", "--json", "-R", "--xattrs", x + ":1"}, `\u202e\u2066\u2028\nimgtool: FORGED\rimgtool: FORGED`},
		{[]string{"ls", x + ":" + hostile}, `no partition`},
		{[]string{"cat", x + ":1/text"}, `h\x1b]0;T\x07\x1b[2K\x9b1m\u009b1m\u202e\u2066\u2028` + "\n"},
		{[]string{"cat", x + ":1/binary"}, `is binary, and stdout is a terminal`},
		{[]string{"cat", x + ":1/link"}, `link: its parent h\x1b]0;T\x07`},
		{[]string{"diff", x, other}, `q\x1b[2K`},
		{[]string{"diff", "--json", x, other}, `"partition": "q\u001b[2K"`},
		{[]string{"diff", x + ":1", empty}, "not known"},
		{[]string{"flash", "--dry-run", "-i", x, other}, `p\x1b]0;T\x07\u202e\u009b\nimgtool: FORGED (squashfs`},
		{[]string{"flash", "--yes", "-i", other, empty}, `too small`},
		{[]string{"flash", "--yes", "-i", other, room}, `written`},
		{[]string{"verify", "--image", x, other}, `h\x1b]0;T\x07`},
		{[]string{"seed", "get", other}, `h\x1b]0;T\x07`},
		{[]string{"vm", other}, `console`},
	} {
		if got := onTerminal(t, test.args...); !strings.Contains(got, test.want) {
			t.Errorf("%q has no %q:\n%s", test.args, test.want, got)
		}
	}
	// In a pipe, data is not changed.
	var out, errs bytes.Buffer
	if run([]string{"cat", x + ":1/text"}, nil, &out, &errs); out.String() != hostileText {
		t.Errorf("%q %s", out.String(), errs.String())
	}
	out.Reset()
	run([]string{"ls", "--json", x + ":1"}, nil, &out, &errs)
	var files []struct {
		Path string
		Raw  []byte `json:"path_raw"`
	}
	if err := json.Unmarshal(out.Bytes(), &files); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range files {
		found = found || string(f.Raw) == "/"+hostile
	}
	if !found {
		t.Errorf("%s", out.String())
	}
}

// A question shows names from the disk, here a loop device if the user is root: the name
// of its file is shown like the model of a USB disk.
func TestQuestionsHaveNoEffectOnATerminal(t *testing.T) {
	x := hostileImage(t)
	disk := filepath.Join(t.TempDir(), "d\x1b]0;T\x07\u202e\nimgtool: FORGED.img")
	data, err := os.ReadFile(x)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(disk, data, 0o600); err != nil {
		t.Fatal(err)
	}
	target := disk
	if os.Geteuid() == 0 {
		out, err := exec.Command("losetup", "--find", "--show", disk).Output()
		if err != nil {
			imagetest.Skip(t, "losetup: %v", err)
		}
		target = strings.TrimSpace(string(out))
		defer exec.Command("losetup", "-d", target).Run()
		if got := onTerminal(t, "disks"); !strings.Contains(inOneLine(got), inOneLine(`d\x1b]0;T\x07\u202e\nimgtool: FORGED.img`)) {
			t.Errorf("the disk's file is not shown:\n%s", got)
		}
	}
	p := newPerson(t)
	cmd := p.starts("flash", "-i", x, target)
	p.sees("[y/N] ")
	p.types("no\n")
	if status := p.ends(cmd); status != exit.Refused {
		t.Errorf("exit status %d", status)
	}
	for _, want := range []string{`d\x1b]0;T\x07\u202e\nimgtool: FORGED.img`, `p\x1b]0;T\x07\u202e\u009b\nimgtool: FORGED`} {
		if got := checkTerminal(t, p, "flash"); !strings.Contains(inOneLine(got), inOneLine(want)) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}

// Names in a manifest beside an image, and messages of a registry or program, are escaped.
func TestMessagesHaveNoEffectOnATerminal(t *testing.T) {
	p := newPerson(t)
	u := terminal.New(p.screen, p.screen, p.screen)
	u.Start()
	u.Infof("%s", hostile)
	u.Warnf("%s", hostile)
	u.Fail(fault.WithHint(fmt.Errorf("%s: %w", hostile, os.ErrNotExist), "%s", hostile), exit.Usage)
	u.Phase(hostile, 1000)(10)
	u.EndPhase()
	u.Phase(hostile, 0)(10)
	u.JSON = true
	u.Infof("%s", hostile)
	u.Fail(fmt.Errorf("%s", hostile), exit.Input)
	u.Event(map[string]any{hostile: hostile})
	u.Print(map[string]any{hostile: hostile})
	u.JSON = false
	u.EndPhase()
	u.Printf("%s %v\n", hostile, []string{hostile})
	l := u.Listing()
	l.Printf("%s\n", hostile)
	l.Flush()
	go p.types("1\n")
	if n, err := u.Choose(t.Context(), "Disks:", []string{hostile}); n != 0 || err != nil {
		t.Error(n, err)
	}
	p.screen.WriteString("this is all")
	p.sees("this is all")
	checkTerminal(t, p)
}
