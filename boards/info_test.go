package boards_test

import (
	"strings"
	"testing"

	"imgtool/boards"
)

func TestInfo(t *testing.T) {
	b, err := boards.Get("rock64")
	if err != nil {
		t.Fatal(err)
	}
	info := b.Info("emmc")
	if err := info.Check(); err != nil {
		t.Error(err)
	}
	if s := info.Seed; s == nil || s.Number != 1 || s.Partition != "boot-a" || s.Path != "config.toml" || s.Format != "atomixos" || s.SlotB != "boot-b" {
		t.Errorf("seed: %+v", s)
	}
	if info.Unit != nil || info.KindOf("emmc") != "emmc" || len(info.Blobs) != 2 || strings.Join(info.Blobs[1].Commands, " ") != "gpio ums" {
		t.Errorf("%+v", info)
	}

	// A manifest of an older version has no record.
	info, err = boards.InfoOf("photon-nx", "sd", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := info.Check(); err != nil {
		t.Error(err)
	}
	if info.Seed != nil || !strings.Contains(info.NoSeed, "imgtool factory") || strings.Join(info.MediaNames(), " ") != "emmc sd nvme" {
		t.Errorf("%+v", info)
	}
	if on := info.Unit.On("nvme", nil); len(on) != 1 || on[0].Directory != "/overlay" {
		t.Errorf("places on nvme: %+v", on)
	}
	if _, err := boards.InfoOf("mine", "emmc", nil); err == nil || !strings.Contains(err.Error(), "mine") {
		t.Errorf("board that is neither recorded nor built in: %v", err)
	}
}

// Keys of definitions that were written for older versions.
func TestFormerKeys(t *testing.T) {
	b, err := boards.Get("photon-nx")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b.Source)
	from, to := strings.Index(text, "[[unit.variable]]"), strings.Index(text, "[[unit.file]]")
	text = text[:from] + "[unit]\nmac-prefix = \"00:01:02\"\n" + text[to:]
	text = strings.Replace(text, "directory = ", "folder = ", 1)
	old, err := boards.Parse("x.toml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	if p := old.Unit.Places[0]; p.Directory != "/overlay" || p.Folder != "" {
		t.Errorf("%+v", p)
	}
	if v := old.Unit.Variables; len(v) != 2 || v[0].Name != "vsn" || v[1].MAC.Prefix != "00:01:02" {
		t.Errorf("%+v", v)
	}
	if b, err = boards.Get("photon-nx"); err != nil || b.Unit.Variables[1].MAC.Prefix != "48:b0:2d" {
		t.Errorf("the built-in board changed: %+v, %v", b.Unit.Variables[1].MAC, err)
	}
}
