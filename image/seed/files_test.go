package seed_test

import (
	"bufio"
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image/seed"
)

// made is a document and the files that AtomixOS wrote for it below /data/config, without
// config.toml. There are no files if it refused the document.
type made struct {
	ID     string
	Config string
	Files  map[string]string
}

func readMade(t testing.TB, file string, least int) []made {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []made
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var v made
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	if len(all) < least {
		t.Fatalf("%s: %d documents, want %d", file, len(all), least)
	}
	return all
}

func TestRenderAgreesWithDevice(t *testing.T) {
	for _, v := range readMade(t, "testdata/files.jsonl", 33) {
		t.Run(v.ID, func(t *testing.T) { sameFiles(t, v) })
	}
}

func TestRenderOfGeneratedDocumentsAgreesWithDevice(t *testing.T) {
	taken := 0
	for _, v := range readMade(t, "testdata/generated.jsonl", 98) {
		t.Run(v.ID, func(t *testing.T) { sameFiles(t, v) })
		if v.Files != nil {
			taken++
		}
	}
	if taken < 50 {
		t.Errorf("%d documents are taken", taken)
	}
}

func sameFiles(t *testing.T, v made) {
	t.Helper()
	c, faults := seed.Check([]byte(v.Config))
	if c == nil {
		if v.Files != nil {
			t.Errorf("it is refused: %v\n%s", wrong(faults), v.Config)
		}
		return
	}
	if v.Files == nil {
		t.Errorf("it is taken:\n%s", v.Config)
		return
	}
	files := map[string]string{}
	for _, f := range c.Render() {
		files[f.Path] = f.Text
	}
	if files["config.toml"] != v.Config {
		t.Error("config.toml was changed")
	}
	delete(files, "config.toml")
	if diff := cmp.Diff(v.Files, files); diff != "" {
		t.Errorf("%s\n%s", diff, v.Config)
	}
}
