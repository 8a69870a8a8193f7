package suggest_test

import (
	"testing"

	"imgtool/image/suggest"
)

func TestClosest(t *testing.T) {
	boards := []string{"photon-nx", "photon-nx-agent", "rock64"}
	files := []string{"Image", "initrd", "boot.scr", "rk3328-rock64.dtb"}
	for _, c := range []struct {
		word  string
		known []string
		want  string
	}{
		{"rok64", boards, "rock64"},
		{"Rock64", boards, "rock64"},
		{"rock", boards, "rock64"},
		{"photon", boards, "photon-nx"},
		{"photonnx", boards, "photon-nx"},
		{"Imgae", files, "Image"},
		{"Imag", files, "Image"},
		{"root-a", []string{"boot-a", "rootfs-a"}, "rootfs-a"},
		{"bot-a", []string{"boot-a", "rootfs-a"}, "boot-a"},
		{"uild", []string{"flash", "build"}, "build"},
		{"rs", []string{"ls"}, ""},
		{"ect", []string{"bin", "etc", "dev"}, "etc"},
		{"sl", []string{"ls", "vm"}, "ls"},
		{"rootf-a", []string{"boot-a", "rootfs-a"}, "rootfs-a"},
		{"buid", []string{"flash", "build"}, "build"},
		{"beaglebone", boards, ""},
		{"x", boards, ""},
		{"r", boards, ""},
		{"", boards, ""},
		{"ab", []string{"a"}, "a"},
		{"kernel", files, ""},
	} {
		if got := suggest.Closest(c.word, c.known); got != c.want {
			t.Errorf("Closest(%q) = %q, want %q", c.word, got, c.want)
		}
	}
}

func TestQuestion(t *testing.T) {
	for want, names := range map[string][]string{
		"":                            nil,
		"; did you mean ls?":          {"", "ls"},
		"; did you mean ls or disks?": {"ls", "disks"},
		"; did you mean a, b or c?":   {"a", "b", "c"},
	} {
		if got := suggest.Question(names...); got != want {
			t.Errorf("Question(%q) = %q, want %q", names, got, want)
		}
	}
	if got := suggest.DidYouMean("rok64", []string{"rock64"}); got != "; did you mean rock64?" {
		t.Error(got)
	}
}
