package edit_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image/edit"
	"imgtool/image/edit/edittest"
)

func TestDeriveAndSub(t *testing.T) {
	tr := small()
	words := edittest.Dump(tr)
	got, err := edit.Derive(tr, []string{"/dir/*", "/etc", "/t*1", "/nowhere/*"})
	must(t, err)
	var paths []string
	for path := range got.All() {
		if !strings.HasPrefix(path, "lib") && !strings.HasPrefix(path, "boot") && !strings.HasPrefix(path, "opt") {
			paths = append(paths, "/"+path)
		}
	}
	if d := cmp.Diff([]string{"/", "/dir", "/empty", "/ldir", "/pipe", "/run", "/twin2"}, paths); d != "" {
		t.Error(d)
	}
	for _, c := range []struct{ pattern, want string }{
		{"dev/*", `exclude: "dev/*" is not a valid path`}, {"/[", `exclude "/[": syntax error in pattern`}, {"/", "remove the whole tree"},
	} {
		if _, err := edit.Derive(tr, []string{c.pattern}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.pattern, err)
		}
	}

	sub, err := edit.Sub(tr, "/ldir")
	must(t, err)
	want := "/ 040755 0:0 @1\n/l 120777 0:0 @1 -> sub/f\n/sub 040755 0:0 @1\n/sub/f 100640 7:8 @1\n\tf\n"
	if d := cmp.Diff(want, edittest.Dump(sub)); d != "" {
		t.Error(d)
	}
	if all, err := edit.Sub(tr, "/"); err != nil || edittest.Dump(all) != words {
		t.Error("the tree below / is another:", err)
	}
	for path, want := range map[string]string{"/n": "/n: file does not exist", "/etc/a": "/etc/a is a file, not a directory"} {
		if _, err := edit.Sub(tr, path); err == nil || err.Error() != want {
			t.Error(err)
		}
	}
}

type broken struct{}

func (broken) Size() int64                       { return 4 }
func (broken) ReadAt([]byte, int64) (int, error) { return 0, errors.New("the disk is gone") }
