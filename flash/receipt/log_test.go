package receipt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/fault"
	"imgtool/image/imagetest"
)

func TestLogAddsEachDiskOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := Check(path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the check has created the file")
	}
	for range 2 {
		l, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := l.Add("sda", entry{Disk: "sda", Unit: "W1", Serial: "7", Time: "then"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil || strings.Count(string(text), "\n") != 2 || !strings.HasSuffix(string(text), "}\n") {
		t.Errorf("%q, %v", text, err)
	}
	if info, _ := os.Stat(path); info.Mode() != 0o600 {
		t.Errorf("the mode is %v", info.Mode())
	}
}

func TestNilLog(t *testing.T) {
	l, err := Open("")
	if l != nil || err != nil {
		t.Fatalf("%v, %v", l, err)
	}
	if err := l.Add("sda", entry{}); err != nil {
		t.Error(err)
	}
	l.WarnReused("W1", "", &imagetest.Recorder{})
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestLogThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "none", "log"), "/dev/full", "/dev/null/log"} {
		check := Check(path)
		_, err := Open(path)
		for _, err := range []error{check, err} {
			if fault.Kind(err) != fault.Write || !strings.HasPrefix(err.Error(), path+": writing the receipt: ") {
				t.Errorf("%s: got %v of kind %q", path, err, fault.Kind(err))
			}
		}
	}
}

func TestWarnReused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	lines := `{"unit":"W1","disk":"sda","serial":"7","time":"then","status":0}
{"unit":"W2","disk":"sdb","status":7}
{"unit":"W3","sta
{"vsn":"W4","status":0,"media":[{"medium":"sd","disk":"sdc","time":"now","status":0},{"medium":"nvme","disk":"sdd","status":8}]}
`
	if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct{ unit, medium, want string }{
		{"W1", "", "unit W1 was written to sda (serial 7) at then"},
		{"W2", "", ""},
		{"W3", "", ""},
		{"W4", "sd", "unit W4 was written to sdc as its sd at now"},
		{"W4", "nvme", ""},
		{"", "", ""},
	} {
		var rep imagetest.Recorder
		l.WarnReused(c.unit, c.medium, &rep)
		if got := rep.String(); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s %s: got %q, want %q", c.unit, c.medium, got, c.want)
		}
	}
}
