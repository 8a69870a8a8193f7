package edit_test

import (
	"fmt"
	"strings"
	"testing"

	"imgtool/image/edit"
	"imgtool/image/edit/edittest"
)

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"an unknown verb", "[[edit]]\n\ndo = \"symlnk\"", `x.toml:3: unknown verb "symlnk"; known verbs: append-line, chmod, chown, comment-line, copy, disable-unit, enable-unit, extlinux, fstab, fstab-remove, lock-user, mkdir, move-tree, remove, rename, set-var, symlink, write`},
		{"no verb", "# a\n[[edit]]\npath = \"/x\"", "x.toml:2: the key do is missing; known verbs: append-line,"},
		{"a verb that is a number", "[[edit]]\ndo = 1", `x.toml:2: unknown verb ""`},
		{"an unknown key", "[[edit]]\ndo = \"chmod\"\npath = \"/x\"\nmode = \"600\"\nmod = 1", `x.toml:5: chmod has no key "mod"; known keys: do, mode, needs, path`},
		{"a key of another verb", "[[edit]]\ndo = \"chmod\"\npath = \"/x\"\nmode = \"600\"\n\n[[edit]]\ndo = \"mkdir\"\npath=\"/x\"\ntext = \"x\"", `x.toml:9: mkdir has no key "text"; known keys: do, mode, needs, owner, parents, path`},
		{"a missing key", "[[edit]]\ndo = \"write\"\npath = \"/x\"", `x.toml:1: write needs the key "text"`},
		{"two faults", "[[edit]]\ndo = \"mkdir\"\n[[edit]]\ndo = \"chmod\"\npath = \"/x\"", "x.toml:1: mkdir needs the key \"path\"\nx.toml:3: chmod needs the key \"mode\""},
		{"a key outside", "name = 1\n", `x.toml:1: unknown key "name"; a file of edits has only [[edit]] tables`},
		{"a table outside", "[[edit]]\ndo = \"mkdir\"\npath = \"/x\"\n[other]\na = 1", `x.toml:4: unknown key "other"`},
		{"edits in a line", "edit = [{do = \"mkdir\", path = \"/x\"}]", `x.toml:1: unknown key "edit"; a file of edits has only [[edit]] tables`},
		{"a table of an edit", "[[edit]]\ndo = \"mkdir\"\npath = \"/x\"\n[edit.append-set]\na = \"b\"", `x.toml:4: mkdir has no key "append-set"`},
		{"no TOML", "[[edit]]\ndo = \n", "x.toml:2: "},
		{"a wrong type", "[[edit]]\ndo = \"chmod\"\npath = \"/x\"\nmode = 600", "x.toml:4: "},
		{"a key twice", "[[edit]]\ndo = \"mkdir\"\npath = \"/x\"\npath = \"/y\"", "x.toml:4: "},
		{"a path that is none", toml(`mkdir path="etc"`), `x.toml:1: mkdir: path: "etc" is not a valid path: it must begin with / and have no empty, . or .. elements`},
		{"a path up", toml(`copy from="/a/../b" to="/c"`), `from: "/a/../b" is not a valid path`},
		{"a need that is not a path", toml(`mkdir path="/x" needs=["y"]`), `needs: "y" is not a valid path`},
		{"a mode in words", toml(`chmod path="/x" mode="u+x"`), `mode "u+x" is not three or four octal digits, such as "0644"`},
		{"a mode of 8", toml(`chmod path="/x" mode="0888"`), "is not three or four"},
		{"a mode too short", toml(`chmod path="/x" mode="7"`), "is not three or four"},
		{"no group", toml(`chown path="/x" owner="root"`), `owner "root" is not user:group`},
		{"an empty target", toml(`symlink path="/x" target=""`), "target is empty"},
		{"lines and a pattern", toml(`comment-line path="/x" lines=["a"] pattern="b"`), "it needs either lines or pattern"},
		{"neither", toml(`comment-line path="/x"`), "it needs either lines or pattern"},
		{"a bad pattern", toml(`comment-line path="/x" pattern="("`), "missing closing )"},
		{"a line of two", toml(`append-line path="/x" line="a\nb"`), "line has a line end"},
		{"a variable's name", toml(`set-var path="/x" key="a-b" value=""`), `key "a-b" is not a valid variable name`},
		{"a user's name", toml(`lock-user user="a:b"`), `user "a:b" is not a valid user name`},
		{"a unit's name", toml(`enable-unit unit="docker"`), `unit "docker" is not a valid unit name, such as docker.service`},
		{"a unit's path", toml(`enable-unit unit="a/b.service"`), "is not a valid unit name"},
		{"a mount point that is none", toml(`fstab where="media" spec="x"`), `where "media" is not a mount point`},
		{"swap of no device", toml(`fstab where="swap" type="swap"`), "an entry for swap needs spec"},
		{"an empty option", toml(`fstab where="/" options=""`), "options is empty"},
		{"a negative pass", toml(`fstab where="/" pass=-1`), "must not be negative"},
		{"add and label", toml(`extlinux add="a" label="b"`), "add and label exclude each other"},
		{"no label", toml(`extlinux fdt="/x"`), "add or label is missing"},
		{"nothing about a label", toml(`extlinux label="a" default="a"`), "an edit with label needs a key that changes the label"},
		{"copy-of alone", toml(`extlinux label="a" copy-of="b" fdt="/x"`), "copy-of needs add"},
		{"a relative FDT", toml(`extlinux label="a" fdt="x.dtb"`), `fdt: "x.dtb" is not a valid path`},
		{"two tokens", toml(`extlinux label="a" append-replace={rw="ro quiet"}`), `"ro quiet" must be one token`},
		{"a comment for a token", toml(`extlinux label="a" append-set={root="#"}`), "append-set: root=# must be one token"},
		{"a negative timeout", toml(`extlinux timeout=-1`), "timeout -1 is negative"},
		{"too much", strings.Repeat("#", edit.MaxText+1), "x.toml: 1048577 bytes; edits have at most 1048576"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := edit.Parse("x.toml", []byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
	if edits, err := edit.Parse("x.toml", nil); err != nil || len(edits) != 0 {
		t.Error(edits, err)
	}
}

func TestErrorsNameLines(t *testing.T) {
	text := "# one\n[[edit]]\ndo = \"write\"\npath = \"/x\"\ntext = '''\n[[edit]]\na\n'''\n\n  [[ edit ]]\n\"do\" = 'mkdir'\npath = \"/y\"\n"
	edits, err := edit.Parse("x.toml", []byte(text))
	must(t, err)
	if got := fmt.Sprint(edits); got != "[x.toml:2: write x.toml:10: mkdir]" {
		t.Error(got)
	}
}

func TestVariables(t *testing.T) {
	edits, err := edit.Parse("x.toml", []byte(toml(`mkdir path="@WHERE@/x"`)))
	must(t, err)
	if _, err := edit.Apply(small(), edits, nil, 9, nil); err == nil || err.Error() != "x.toml:1: mkdir: unknown variable @WHERE@; no variables are set" {
		t.Error(err)
	}
	if _, err := edit.Apply(small(), edits, map[string]string{"WHERE": "run"}, 9, nil); err == nil || !strings.Contains(err.Error(), `path: "run/x" is not a valid path`) {
		t.Error(err)
	}
	for range 2 { // a value is not put into what was parsed
		out, err := edit.Apply(small(), edits, map[string]string{"WHERE": "/run"}, 9, nil)
		must(t, err)
		if out.Lookup("run/x") == nil {
			t.Error("no /run/x")
		}
	}
	// Nor do values have variables.
	edits, err = edit.Parse("x.toml", []byte(toml(`append-line path="/etc/a" line="@A@ user@host @b@"`)))
	must(t, err)
	out, err := edit.Apply(small(), edits, map[string]string{"A": "@B@"}, 9, nil)
	must(t, err)
	if got := edittest.Text(out, "/etc/a"); got != "one\ntwo\nlast\n@B@ user@host @b@\n" {
		t.Errorf("%q", got)
	}
}
