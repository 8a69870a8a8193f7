package edit_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image/edit"
	"imgtool/image/edit/edittest"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// small returns a tree for edits of single paths.
func small() *tree.Tree {
	t := tree.New(1)
	file := func(text string) *tree.Inode {
		return &tree.Inode{Mode: tree.Regular | 0o640, UID: 7, GID: 8, ModTime: 1, Content: strings.NewReader(text)}
	}
	link := func(target string) *tree.Inode {
		return &tree.Inode{Mode: tree.Symlink | 0o777, ModTime: 1, Target: target}
	}
	twin := file("twin\n")
	twin.Xattrs = []tree.Xattr{{Name: "security.capability", Value: "c"}, {Name: "user.a", Value: "b"}}
	for _, f := range []struct {
		path string
		node *tree.Inode
	}{
		{"etc/a", file("one\ntwo\nlast")},
		{"etc/vars", file("# A=0\nA=1 # first\nexport B=\"x y\"\nC='q'\nA=2\nLONG=\"a\nb\"\n")},
		{"etc/bin", file("a\x00b")},
		{"etc/big", &tree.Inode{Mode: tree.Regular | 0o644, ModTime: 1, Content: strings.NewReader(strings.Repeat("x", edit.MaxText+1))}},
		{"etc/to-a", link("a")},
		{"etc/gone", link("../run/file")},
		{"etc/fstab", file("/dev/sda1 / ext4 defaults 0 1\n/dev/sda2 none swap sw 0 0\n/dev/x /two ext4 ro 0 0\n/dev/y /two ext4 ro 0 0\n")},
		{"etc/passwd", file("root:x:0:0::/:/bin/sh\nme:x:1000:1001::/:/bin/sh\nodd:x:many:1::/:\n")},
		{"etc/group", file("us:x:1001:\n")},
		{"etc/shadow", file("root:*:1::::::\nme:$6$x:1::::::\nmeme:$6$z:1::::::\noff:!$6$y:1::::::\n")},
		{"twin1", twin},
		{"twin2", twin},
		{"dir/sub/f", file("f")},
		{"dir/l", link("sub/f")},
		{"empty", &tree.Inode{Mode: tree.Dir | 0o700, ModTime: 1}},
		{"ldir", link("dir")},
		{"run", &tree.Inode{Mode: tree.Dir | 0o755, ModTime: 1}},
		{"pipe", &tree.Inode{Mode: tree.Fifo | 0o600, ModTime: 1}},
		{"boot/extlinux/extlinux.conf", file("TIMEOUT 30\nDEFAULT a\nLABEL a\n  LINUX /etc/a\n  APPEND x=1 rw y=2 rw y=3\nLABEL b\n  LINUX /etc/b\n")},
		{"etc/systemd/system/masked.service", link("/dev/null")},
		{"etc/systemd/system/empty.service", file("")},
		{"etc/systemd/system/ln.service", link("/opt/ln.service")},
		{"opt/ln.service", file("[Install]\nWantedBy=m.target\n")},
		{"lib/systemd/system/s.service", file("[Unit]\nWantedBy=wrong.target\n[Install]\n# a comment\nWantedBy=old.target\nWantedBy=\nWantedBy=m.target \\\n; in between\n n.target\nRequiredBy=r.target\nUpheldBy=u.target\nAlias=other.service\nAlso=s.socket bare.service s.service\n")},
		{"lib/systemd/system/s.socket", file("[Install]\nWantedBy=sockets.target\n")},
		{"lib/systemd/system/bare.service", file("[Service]\nExecStart=/x\n")},
		{"lib/systemd/system/alias.service", link("s.service")},
		{"lib/systemd/system/t@.service", file("[Install]\nWantedBy=%i.target\nAlias=x-%p-%i.service\n")},
		{"lib/systemd/system/d@.service", file("[Install]\nDefaultInstance=one\nWantedBy=m.target\n")},
		{"lib/systemd/system/spec.service", file("[Install]\nWantedBy=%H.target\n")},
		{"lib/systemd/system/odd.service", file("[Install]\nWantedBy=../x.target\n")},
		{"lib/systemd/system/type.service", file("[Install]\nAlias=x.socket\n")},
		{"lib/systemd/system/also.service", file("[Install]\nAlso=nowhere.service\n")},
		{"lib/systemd/system/open.service", file("[Install]\nWantedBy=a.target \\\n")},
	} {
		if err := t.Put(f.path, f.node); err != nil {
			panic(err)
		}
	}
	return t
}

// delta describes what an edit changed.
func delta(before, after *tree.Tree) string {
	old := map[string]bool{}
	for _, s := range blocks(before) {
		old[s] = true
	}
	var b strings.Builder
	now := map[string]bool{}
	for _, s := range blocks(after) {
		now[s] = true
		if !old[s] {
			b.WriteString("+" + s)
		}
	}
	for _, s := range blocks(before) {
		if path, _, _ := strings.Cut(s, " "); !now[s] && after.Lookup(path[1:]) == nil {
			b.WriteString("-" + path + "\n")
		}
	}
	return b.String()
}

func blocks(t *tree.Tree) []string {
	return strings.SplitAfter(strings.ReplaceAll(edittest.Dump(t), "\n/", "\n\x00/"), "\x00")
}

func apply(t testing.TB, tr *tree.Tree, text string) (*tree.Tree, error) {
	t.Helper()
	edits, err := edit.Parse("x.toml", []byte(text))
	if err != nil {
		return nil, err
	}
	return edit.Apply(tr, edits, map[string]string{"NAME": "value", "TWO": "a\nb"}, 9, nil)
}

func TestApply(t *testing.T) {
	imagetest.Long(t)
	for _, c := range []struct{ name, edit, want string }{
		{"a new file", `write path="/etc/n" text="@NAME@\n"`, "+/etc/n 100644 0:0 @9\n\tvalue\n"},
		{"an empty file", `write path="/etc/n" text=""`, "+/etc/n 100644 0:0 @9\n"},
		{"a new file with all there is", `write path="/a/b/n" text="x" mode="4750" owner="me:us" parents=true`,
			"+/a 040755 0:0 @9\n+/a/b 040755 0:0 @9\n+/a/b/n 104750 1000:1001 @9\n\tx\n"},
		{"a file that is there", `write path="/etc/a" text="x"`, "+/etc/a 100640 7:8 @9\n\tx\n"},
		{"the same file", `write path="/etc/a" text="one\ntwo\nlast"`, ""},
		{"the same file with another mode", `write path="/etc/a" text="one\ntwo\nlast" mode="600"`, "+/etc/a 100600 7:8 @9\n\tone\n\ttwo\n\tlast\n"},
		{"a file that is not text", `write path="/etc/bin" text="x"`, "+/etc/bin 100640 7:8 @9\n\tx\n"},
		{"a file through a link", `write path="/etc/to-a" text="x"`, "+/etc/a 100640 7:8 @9\n\tx\n"},
		{"a file through a link to nothing", `write path="/etc/gone" text="x"`, "+/run/file 100644 0:0 @9\n\tx\n"},
		{"a file of two names", `write path="/twin2" text="x"`, "+/twin1 100640 7:8 @9 user.a=\"b\"\n\tx\n+/twin2 100640 7:8 @9 user.a=\"b\" = /twin1\n"},

		{"a new directory", `mkdir path="/n" mode="700" owner="5:6"`, "+/n 040700 5:6 @9\n"},
		{"new directories", `mkdir path="/n/m" parents=true`, "+/n 040755 0:0 @9\n+/n/m 040755 0:0 @9\n"},
		{"a directory that is there", `mkdir path="/empty"`, ""},
		{"a directory with another mode", `mkdir path="/ldir" mode="0711"`, "+/dir 040711 0:0 @9\n"},

		{"a link", `symlink path="/etc/n" target="a"`, "+/etc/n 120777 0:0 @9 -> a\n"},
		{"a link up and down", `symlink path="/ldir/n" target="../etc/a"`, "+/dir/n 120777 0:0 @9 -> ../etc/a\n"},
		{"a link in place of a link", `symlink path="/etc/to-a" target="/etc/vars"`, "+/etc/to-a 120777 0:0 @9 -> /etc/vars\n"},
		{"the same link", `symlink path="/etc/to-a" target="a"`, ""},
		{"a link in place of a file", `symlink path="/etc/a" target="/etc/vars" replace=true`, "+/etc/a 120777 0:0 @9 -> /etc/vars\n"},
		{"a link to nothing that need not be there", `symlink path="/etc/to-a" target="/nowhere" missing-ok=true`, ""},
		{"a link to what need not be there", `symlink path="/etc/n" target="a" missing-ok=true`, "+/etc/n 120777 0:0 @9 -> a\n"},
		{"a link to nothing", `symlink path="/n/l" target="/nowhere" dangling=true parents=true`, "+/n 040755 0:0 @9\n+/n/l 120777 0:0 @9 -> /nowhere\n"},

		{"no file", `remove path="/etc/a" missing-ok=true`, "-/etc/a\n"},
		{"no link", `remove path="/etc/to-a" missing-ok=true`, "-/etc/to-a\n"},
		{"no directory", `remove path="/dir" missing-ok=true`, "-/dir\n-/dir/l\n-/dir/sub\n-/dir/sub/f\n"},
		{"no contents", `remove path="/ldir" contents=true`, "-/dir/l\n-/dir/sub\n-/dir/sub/f\n"},
		{"nothing to remove", `remove path="/etc/n" missing-ok=true`, ""},

		{"another name", `rename from="/etc/to-a" to="/n/l" parents=true missing-ok=true`, "+/n 040755 0:0 @9\n+/n/l 120777 0:0 @1 -> a\n-/etc/to-a\n"},
		{"another name of a directory", `rename from="/dir/sub" to="/sub" missing-ok=true`, "+/sub 040755 0:0 @1\n+/sub/f 100640 7:8 @1\n\tf\n-/dir/sub\n-/dir/sub/f\n"},
		{"another name of nothing", `rename from="/none" to="/n" missing-ok=true`, ""},

		{"a user who is locked out", `lock-user user="me"`, "+/etc/shadow 100640 7:8 @9\n\troot:*:1::::::\n\tme:!$6$x:1::::::\n\tmeme:$6$z:1::::::\n\toff:!$6$y:1::::::\n"},
		{"a user who is locked out already", `lock-user user="off"`, ""},
		{"a user there need not be", `lock-user user="none" missing-ok=true`, ""},

		{"a mode", `chmod path="/etc/to-a" mode="4755"`, "+/etc/a 104755 7:8 @9\n\tone\n\ttwo\n\tlast\n"},
		{"the same mode", `chmod path="/etc/a" mode="0640"`, ""},
		{"an owner", `chown path="/empty" owner="me:0"`, "+/empty 040700 1000:0 @9\n"},
		{"an owner of all", `chown path="/ldir" owner="7:8" recursive=true`, "+/dir 040755 7:8 @9\n+/dir/l 120777 7:8 @9 -> sub/f\n+/dir/sub 040755 7:8 @9\n"},

		{"a copy", `copy from="/etc/to-a" to="/n" replace=true`, "+/n 100640 7:8 @1\n\tone\n\ttwo\n\tlast\n"},
		{"a copy in place of a file", `copy from="/pipe" to="/etc/a" replace=true`, "+/etc/a 010600 0:0 @1\n"},

		{"a moved directory", `move-tree from="/dir" to="/n/dir" parents=true link=true`,
			"+/dir 120777 0:0 @9 -> /n/dir\n+/n 040755 0:0 @9\n+/n/dir 040755 0:0 @1\n+/n/dir/l 120777 0:0 @1 -> sub/f\n+/n/dir/sub 040755 0:0 @1\n+/n/dir/sub/f 100640 7:8 @1\n\tf\n-/dir/l\n-/dir/sub\n-/dir/sub/f\n"},
		{"a directory into an empty one", `move-tree from="/run" to="/empty" link=true`, "+/empty 040755 0:0 @1\n+/run 120777 0:0 @9 -> /empty\n"},
		{"a directory that was not there", `move-tree from="/n" to="/m" make=true link=true`, "+/m 040755 0:0 @9\n+/n 120777 0:0 @9 -> /m\n"},

		{"a line", `append-line path="/etc/a" line="three @NAME@"`, "+/etc/a 100640 7:8 @9\n\tone\n\ttwo\n\tlast\n\tthree value\n"},
		{"a line that is there", `append-line path="/etc/a" line="two"`, ""},
		{"a line to a file of two names", `append-line path="/twin1" line="x"`, "+/twin1 100640 7:8 @9 user.a=\"b\"\n\ttwin\n\tx\n+/twin2 100640 7:8 @9 user.a=\"b\" = /twin1\n"},

		{"comments", `comment-line path="/etc/a" lines=["one","last"]`, "+/etc/a 100640 7:8 @9\n\t# one\n\ttwo\n\t# last\n"},
		{"comments by a pattern", `comment-line path="/etc/vars" pattern="^A="`, "+/etc/vars 100640 7:8 @9\n\t# A=0\n\t# A=1 # first\n\texport B=\"x y\"\n\tC='q'\n\t# A=2\n\tLONG=\"a\n\tb\"\n"},
		{"a line that is a comment", `comment-line path="/etc/vars" lines=["A=0"]`, ""},
		{"a line that need not be there", `comment-line path="/etc/a" lines=["none"] missing-ok=true`, ""},

		{"a variable", `set-var path="/etc/vars" key="A" value="3"`, "+/etc/vars 100640 7:8 @9\n\t# A=0\n\tA=1 # first\n\texport B=\"x y\"\n\tC='q'\n\tA=3\n\tLONG=\"a\n\tb\"\n"},
		{"a variable in quotes", `set-var path="/etc/vars" key="B" value="z$\""`, "+/etc/vars 100640 7:8 @9\n\t# A=0\n\tA=1 # first\n\texport B=\"z\\$\\\"\"\n\tC='q'\n\tA=2\n\tLONG=\"a\n\tb\"\n"},
		{"a variable in single quotes", `set-var path="/etc/vars" key="C" value="$x"`, "+/etc/vars 100640 7:8 @9\n\t# A=0\n\tA=1 # first\n\texport B=\"x y\"\n\tC='$x'\n\tA=2\n\tLONG=\"a\n\tb\"\n"},
		{"a new variable", `set-var path="/etc/a" key="N" value="a b"`, "+/etc/a 100640 7:8 @9\n\tone\n\ttwo\n\tlast\n\tN=\"a b\"\n"},
		{"the same variable", `set-var path="/etc/vars" key="A" value="2"`, ""},

		{"a unit with all there is", `enable-unit unit="s.service"`, `+/etc/systemd/system/m.target.wants 040755 0:0 @9
+/etc/systemd/system/m.target.wants/s.service 120777 0:0 @9 -> /lib/systemd/system/s.service
+/etc/systemd/system/n.target.wants 040755 0:0 @9
+/etc/systemd/system/n.target.wants/s.service 120777 0:0 @9 -> /lib/systemd/system/s.service
+/etc/systemd/system/other.service 120777 0:0 @9 -> /lib/systemd/system/s.service
+/etc/systemd/system/r.target.requires 040755 0:0 @9
+/etc/systemd/system/r.target.requires/s.service 120777 0:0 @9 -> /lib/systemd/system/s.service
+/etc/systemd/system/sockets.target.wants 040755 0:0 @9
+/etc/systemd/system/sockets.target.wants/s.socket 120777 0:0 @9 -> /lib/systemd/system/s.socket
+/etc/systemd/system/u.target.upholds 040755 0:0 @9
+/etc/systemd/system/u.target.upholds/s.service 120777 0:0 @9 -> /lib/systemd/system/s.service
`},
		{"an instance", `enable-unit unit="t@eth0.service"`, `+/etc/systemd/system/eth0.target.wants 040755 0:0 @9
+/etc/systemd/system/eth0.target.wants/t@eth0.service 120777 0:0 @9 -> /lib/systemd/system/t@.service
+/etc/systemd/system/x-t-eth0.service 120777 0:0 @9 -> /lib/systemd/system/t@.service
`},
		{"a default instance", `enable-unit unit="d@.service"`, `+/etc/systemd/system/m.target.wants 040755 0:0 @9
+/etc/systemd/system/m.target.wants/d@one.service 120777 0:0 @9 -> /lib/systemd/system/d@.service
`},
		{"a unit from elsewhere", `enable-unit unit="ln.service"`, `+/etc/systemd/system/m.target.wants 040755 0:0 @9
+/etc/systemd/system/m.target.wants/ln.service 120777 0:0 @9 -> /etc/systemd/system/ln.service
`},
		{"a unit that is not enabled", `disable-unit unit="s.service"`, ""},
		{"a unit that is not there", `disable-unit unit="n.service" missing-ok=true`, ""},
		{"a linked unit", `disable-unit unit="ln.service" missing-ok=true`, "-/etc/systemd/system/ln.service\n"},

		{"another root", `fstab where="/" spec="/dev/sdb1"`, "+/etc/fstab 100640 7:8 @9\n\t/dev/sdb1 / ext4 defaults 0 1\n\t/dev/sda2 none swap sw 0 0\n\t/dev/x /two ext4 ro 0 0\n\t/dev/y /two ext4 ro 0 0\n"},
		{"a new mount", `fstab where="/n" spec="LABEL=n" type="ext4" comment="new"`, "+/etc/fstab 100640 7:8 @9\n\t/dev/sda1 / ext4 defaults 0 1\n\t/dev/sda2 none swap sw 0 0\n\t/dev/x /two ext4 ro 0 0\n\t/dev/y /two ext4 ro 0 0\n\t# new\n\tLABEL=n /n ext4 defaults 0 0\n"},
		{"other options of swap", `fstab where="none" spec="/dev/sda2" options="pri=1" dump=0 pass=0`, "+/etc/fstab 100640 7:8 @9\n\t/dev/sda1 / ext4 defaults 0 1\n\t/dev/sda2 none swap pri=1 0 0\n\t/dev/x /two ext4 ro 0 0\n\t/dev/y /two ext4 ro 0 0\n"},
		{"no swap", `fstab-remove where="swap" spec="/dev/sda2" missing-ok=true`, "+/etc/fstab 100640 7:8 @9\n\t/dev/sda1 / ext4 defaults 0 1\n\t/dev/x /two ext4 ro 0 0\n\t/dev/y /two ext4 ro 0 0\n"},

		{"a label changed", `extlinux label="b" linux="/etc/n" append-set={root="/dev/x"}`, "+/boot/extlinux/extlinux.conf 100640 7:8 @9\n\tTIMEOUT 30\n\tDEFAULT a\n\tLABEL a\n\t  LINUX /etc/a\n\t  APPEND x=1 rw y=2 rw y=3\n\tLABEL b\n\t  LINUX /etc/n\n\t  APPEND root=/dev/x\n"},
		{"the last token", `extlinux label="a" append-replace={rw="ro"} append-remove=["y"]`, "+/boot/extlinux/extlinux.conf 100640 7:8 @9\n\tTIMEOUT 30\n\tDEFAULT a\n\tLABEL a\n\t  LINUX /etc/a\n\t  APPEND x=1 rw ro\n\tLABEL b\n\t  LINUX /etc/b\n"},
		{"one label in place of all", `extlinux add="c" copy-of="b" remove-labels=["a","b"] missing-ok=true default="c" timeout=50`, "+/boot/extlinux/extlinux.conf 100640 7:8 @9\n\tTIMEOUT 50\n\tDEFAULT c\n\t\n\tLABEL c\n\t  LINUX /etc/b\n"},
		{"a copy of the first label, which goes", `extlinux add="c" remove-labels=["a", "b"] missing-ok=true default="c"`, "+/boot/extlinux/extlinux.conf 100640 7:8 @9\n\tTIMEOUT 30\n\tDEFAULT c\n\t\n\tLABEL c\n\t  LINUX /etc/a\n\t  APPEND x=1 rw y=2 rw y=3\n"},

		{"what is needed is there", `mkdir path="/empty" needs=["/etc/to-a", "/dir"]`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := toml(c.edit)
			before := small()
			words := edittest.Dump(before)
			after, err := apply(t, before, text)
			must(t, err)
			if d := cmp.Diff(words, edittest.Dump(before)); d != "" {
				t.Error("the tree that was given is another now:", d)
			}
			got := strings.ReplaceAll(delta(before, after), "\x00", "")
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
			if strings.Contains(c.edit, `"the last token"`) || strings.Contains(c.edit, "append-replace") {
				return // rw is there twice
			}
			again, err := apply(t, after, text)
			must(t, err)
			if d := cmp.Diff(edittest.Dump(after), edittest.Dump(again)); d != "" {
				t.Error("twice is not once:", d)
			}
		})
	}
}

// toml writes an edit of one line: the verb, then its keys.
func toml(edit string) string {
	do, keys, _ := strings.Cut(edit, " ")
	var b strings.Builder
	fmt.Fprintf(&b, "[[edit]]\ndo = %q\n", do)
	quoted, depth := false, 0
	for i, r := range keys {
		switch {
		case r == '"' && keys[i-1] != '\\':
			quoted = !quoted
		case !quoted && strings.ContainsRune("[{", r):
			depth++
		case !quoted && strings.ContainsRune("]}", r):
			depth--
		case !quoted && depth == 0 && r == ' ':
			r = '\n'
		}
		b.WriteRune(r)
	}
	return b.String() + "\n"
}

func TestApplyErrors(t *testing.T) {
	for _, c := range []struct{ edit, want string }{
		{`write path="/n/m/f" text=""`, "/n/m/f: the directory /n/m does not exist; parents = true makes it"},
		{`write path="/dir" text=""`, "/dir is a directory, not a file"},
		{`write path="/etc/a/f" text=""`, "/etc/a/f: its parent etc/a is not a directory"},
		{`write path="/etc/n" text="" owner="you:us"`, "/etc/passwd has no entry for you"},
		{`write path="/etc/n" text="" owner="me:them"`, "/etc/group has no entry for them"},
		{`write path="/etc/n" text="" owner="odd:us"`, `/etc/passwd has the invalid ID "many" for odd`},
		{`mkdir path="/etc/a"`, "/etc/a is a file, not a directory"},
		{`mkdir path="/n/m"`, "/n/m: the directory /n does not exist"},
		{`mkdir path="/etc/a/b" parents=true`, "its parent etc/a is not a directory"},
		{`symlink path="/etc/n" target="nowhere"`, "/etc/n: the target nowhere: /etc/nowhere: file does not exist; dangling = true allows a missing target"},
		{`symlink path="/etc/n" target="n"`, "the target n: /etc/n: file does not exist"},
		{`symlink path="/etc/a" target="a" replace=true`, "/etc/a would be a link to itself"},
		{`symlink path="/etc/a" target="vars"`, "/etc/a is a file; replace = true replaces it"},
		{`symlink path="/empty" target="/dir" replace=true`, "/empty is a directory; remove or move it before linking"},
		{`symlink path="/n/l" target="/dir"`, "/n/l: the directory /n does not exist"},
		{`remove path="/etc/n"`, "/etc/n: file does not exist"},
		{`remove path="/"`, "the root cannot be removed"},
		{`remove path="/etc/a" contents=true`, "/etc/a is a file, which has no contents"},
		{`rename from="/etc/n" to="/m"`, "/etc/n: file does not exist"},
		{`rename from="/etc/a" to="/etc/vars"`, "/etc/vars already exists"},
		{`rename from="/dir" to="/dir/n"`, "/dir cannot be moved into itself, to /dir/n"},
		{`rename from="/etc/a" to="/n/a"`, "/n/a: the directory /n does not exist; parents = true makes it"},
		{`rename from="/" to="/n"`, "the root cannot be renamed"},
		{`lock-user user="none"`, "/etc/shadow has no user none"},
		{`chmod path="/etc/n" mode="600"`, "/etc/n: file does not exist"},
		{`chown path="/etc/gone" owner="0:0"`, "/etc/gone: run/file: file does not exist"},
		{`copy from="/n" to="/m"`, "/n: file does not exist"},
		{`copy from="/dir" to="/dir/sub/n"`, "/dir cannot be copied into itself"},
		{`copy from="/etc/a" to="/etc/vars"`, "/etc/vars already exists; replace = true replaces it"},
		{`copy from="/etc/a" to="/empty" replace=true`, "/empty already exists"},
		{`move-tree from="/n" to="/m"`, "/n: file does not exist; make = true makes an empty directory"},
		{`move-tree from="/n" to="/m" make=true`, "needs link = true"},
		{`move-tree from="/etc/a" to="/m"`, "/etc/a is a file, not a directory"},
		{`move-tree from="/ldir" to="/m" link=true`, "/ldir is a symbolic link, not a directory"},
		{`move-tree from="/dir" to="/dir/n"`, "/dir cannot be moved into itself, to /dir/n"},
		{`move-tree from="/empty" to="/dir"`, "/dir already exists, and is not an empty directory"},
		{`move-tree from="/dir" to="/n/dir"`, "/n/dir: the directory /n does not exist"},
		{`move-tree from="/" to="/n"`, "the root cannot be moved"},
		{`append-line path="/etc/n" line="x"`, "/etc/n: file does not exist"},
		{`append-line path="/dir" line="x"`, "/dir is a directory, not a file"},
		{`append-line path="/pipe" line="x"`, "/pipe is a fifo, not a file"},
		{`append-line path="/etc/bin" line="x"`, "/etc/bin is not text"},
		{`append-line path="/etc/big" line="x"`, "/etc/big has 1048577 bytes; only text of up to 1048576 bytes can be edited"},
		{`append-line path="/etc/a" line="@TWO@"`, "line has a line end or a zero byte"},
		{`append-line path="/etc/a" line="@NONE@"`, "unknown variable @NONE@; known variables: NAME, TWO"},
		{`comment-line path="/etc/a" lines=["two","three"]`, `/etc/a has no line "three"`},
		{`comment-line path="/etc/a" pattern="^t.*e$"`, `/etc/a has no line "^t.*e$"`},
		{`set-var path="/etc/vars" key="LONG" value="x"`, `/etc/vars:6: "LONG=\"a" is more than an assignment of one word to LONG`},
		{`enable-unit unit="none.service"`, "unknown unit none.service: it is not in /etc/systemd/system, /usr/local/lib/systemd/system, /lib/systemd/system, /usr/lib/systemd/system"},
		{`enable-unit unit="bare.service"`, "bare.service cannot be enabled: /lib/systemd/system/bare.service has no [Install] section with WantedBy"},
		{`enable-unit unit="masked.service"`, "masked.service is masked: /etc/systemd/system/masked.service leads to /dev/null"},
		{`enable-unit unit="empty.service"`, "empty.service is masked: /etc/systemd/system/empty.service is empty"},
		{`enable-unit unit="alias.service"`, "alias.service is an alias of s.service; enable that"},
		{`enable-unit unit="t@.service"`, "t@.service is a template without DefaultInstance"},
		{`enable-unit unit="spec.service"`, "%H.target: unsupported specifier; supported: %i, %p, %n, %N and %%"},
		{`enable-unit unit="odd.service"`, `[Install] has "../x.target", which is not a valid unit name`},
		{`enable-unit unit="type.service"`, "the alias x.socket has another type"},
		{`enable-unit unit="also.service"`, "/lib/systemd/system/also.service: Also=nowhere.service: unknown unit nowhere.service"},
		{`enable-unit unit="open.service"`, "/lib/systemd/system/open.service: the file ends in a continuation line"},
		{`disable-unit unit="none.service"`, "unknown unit none.service"},
		{`fstab where="/n" spec="/dev/x"`, "/etc/fstab has no entry for /n, and a new one needs spec and type"},
		{`fstab where="/two" spec="/dev/x"`, "/etc/fstab: lines 3 and 4 are both for /two"},
		{`fstab where="/" pass=2 path="/etc/n"`, "/etc/n: file does not exist"},
		{`fstab-remove where="/n"`, "/etc/fstab has no entry for /n"},
		{`fstab-remove where="/two"`, "lines 3 and 4"},
		{`extlinux label="c" fdt="/f"`, "/boot/extlinux/extlinux.conf: no label c; the file has a, b"},
		{`extlinux add="c" copy-of="d"`, "no label d"},
		{`extlinux default="c"`, "default: unknown label c; known labels: a, b"},
		{`extlinux remove-labels=["c"]`, "no label c"},
		{`extlinux label="a" append-replace={quiet="loud"}`, "label a: APPEND: no token quiet in"},
		{`extlinux label="a" append-set={y="4"}`, "label a: APPEND: several tokens y="},
		{`extlinux label="b" append-remove=["x"]`, `label b: APPEND: "" cannot be a value`},
		{`mkdir path="/empty" needs=["/etc/a", "/n"]`, "needs /n: file does not exist"},
	} {
		before := small()
		words := edittest.Dump(before)
		_, err := apply(t, before, toml(c.edit))
		do, _, _ := strings.Cut(c.edit, " ")
		if err == nil || !strings.HasPrefix(err.Error(), "x.toml:1: "+do+": ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\n%v\nwant %s", c.edit, err, c.want)
		}
		if strings.HasSuffix(c.want, "file does not exist") && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v is not fs.ErrNotExist", err)
		}
		if edittest.Dump(before) != words {
			t.Errorf("%s: the tree was changed", c.edit)
		}
	}
}

// Only files whose content is lost are reported.
func TestReplacedFilesAreReported(t *testing.T) {
	for text, want := range map[string]string{
		toml(`symlink path="/etc/a" target="vars" replace=true`):                "/etc/a is a file of 12 bytes: a link to vars replaces it",
		toml(`symlink path="/etc/to-a" target="vars" replace=true`):             "",
		toml(`symlink path="/etc/new" target="vars" replace=true`):              "",
		toml(`symlink path="/etc/a" target="/no" replace=true missing-ok=true`): "",
	} {
		edits, err := edit.Parse("x.toml", []byte(text))
		must(t, err)
		var said []string
		_, err = edit.Apply(small(), edits, nil, 9, func(text string) { said = append(said, text) })
		must(t, err)
		if got := strings.Join(said, "\n"); got != want {
			t.Errorf("%s said %q, want %q", text, got, want)
		}
	}
}

// lock-user changes /etc/shadow as passwd(1) does.
func TestLockUserAgreesWithPasswd(t *testing.T) {
	imagetest.NeedRoot(t)
	passwd := imagetest.Need(t, "passwd")
	const before = "root:*:18000:0:99999:7:::\nme:$6$x$y:18000:0:99999:7:::\nempty::18000:0:99999:7:::\noff:!$6$y:18000:0:99999:7:::\nodd:!:18000::::::\n"
	for _, user := range []string{"root", "me", "empty", "off", "odd"} {
		dir := t.TempDir()
		must(t, os.Mkdir(filepath.Join(dir, "etc"), 0o755))
		var names strings.Builder
		for i, name := range []string{"root", "me", "empty", "off", "odd"} {
			fmt.Fprintf(&names, "%s:x:%d:%d::/:/bin/sh\n", name, i, i)
		}
		must(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte(names.String()), 0o644))
		must(t, os.WriteFile(filepath.Join(dir, "etc/shadow"), []byte(before), 0o640))
		imagetest.Run(t, passwd, "-R", dir, "-l", user)
		want, err := os.ReadFile(filepath.Join(dir, "etc/shadow"))
		must(t, err)
		tr := tree.New(1)
		must(t, tr.Put("etc/shadow", &tree.Inode{Mode: tree.Regular | 0o640, Content: strings.NewReader(before)}))
		after, err := apply(t, tr, toml(fmt.Sprintf("lock-user user=%q", user)))
		must(t, err)
		if d := cmp.Diff(string(want), edittest.Text(after, "/etc/shadow")); d != "" {
			t.Errorf("%s: %s", user, d)
		}
	}
}

func TestCopiedHardLinks(t *testing.T) {
	tr := small()
	must(t, tr.Put("dir/one", tr.Lookup("twin1")))
	must(t, tr.Put("dir/two", tr.Lookup("twin1")))
	out, err := apply(t, tr, toml(`copy from="/dir" to="/n"`)+toml(`append-line path="/n/one" line="x"`))
	must(t, err)
	if out.Lookup("n/one") != out.Lookup("n/two") || edittest.Text(out, "/n/two") != "twin\nx\n" {
		t.Error("the copies are not one file")
	}
	for _, path := range []string{"/dir/one", "/twin1"} {
		if edittest.Text(out, path) != "twin\n" {
			t.Errorf("%s was changed with its copy", path)
		}
	}
}

func TestDisableUnit(t *testing.T) {
	before := small()
	on, err := apply(t, before, toml(`enable-unit unit="s.service"`)+toml(`enable-unit unit="t@a.service"`)+toml(`enable-unit unit="t@b.service"`))
	must(t, err)
	off, err := apply(t, on, toml(`disable-unit unit="s.service"`)+toml(`disable-unit unit="t@a.service"`))
	must(t, err)
	var links []string
	for path, n := range off.All() {
		if strings.HasPrefix(path, "etc/systemd/system/") && n.Type() == tree.Symlink && before.Lookup(path) == nil {
			links = append(links, path[len("etc/systemd/system/"):])
		}
	}
	// An alias of a template does not say whose it is.
	if d := cmp.Diff([]string{"b.target.wants/t@b.service", "sockets.target.wants/s.socket", "x-t-a.service", "x-t-b.service"}, links); d != "" {
		t.Error(d)
	}
	if off, err = apply(t, off, toml(`disable-unit unit="t@.service"`)); err != nil || off.Lookup("etc/systemd/system/b.target.wants/t@b.service") != nil {
		t.Error("an instance is left:", err)
	}
}

func TestReadError(t *testing.T) {
	tr := small()
	must(t, tr.Put("etc/a", &tree.Inode{Mode: tree.Regular | 0o644, Content: broken{}}))
	_, err := apply(t, tr, toml(`append-line path="/etc/a" line="x"`))
	if err == nil || err.Error() != "x.toml:1: append-line: reading /etc/a: the disk is gone" {
		t.Error(err)
	}
}

func FuzzApply(f *testing.F) {
	samples, _ := filepath.Glob("testdata/*.toml")
	for _, s := range samples {
		text, err := os.ReadFile(s)
		must(f, err)
		f.Add(text)
	}
	for _, s := range []string{`comment-line path="/etc/securetty" pattern="tty"`, `chown path="/etc" owner="waggle:waggle" recursive=true`,
		`copy from="/etc" to="/n"`, `remove path="/etc" contents=true`, `disable-unit unit="k3s.service"`, `fstab-remove where="/media/rpi"`} {
		f.Add([]byte(toml(s)))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		edits, err := edit.Parse("x.toml", text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "x.toml:") {
				t.Errorf("%v names no file", err)
			}
			return
		}
		out, err := edit.Apply(edittest.L4T(), edits, map[string]string{"KERNEL": edittest.Kernel}, 1700000000, nil)
		if err != nil {
			return
		}
		for path, n := range out.All() {
			if path != "" && (n == nil || out.Lookup(path[:max(0, strings.LastIndexByte(path, '/'))]).Type() != tree.Dir) {
				t.Fatalf("%q has no directory", path)
			}
		}
	})
}
