package fileinfo_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/image/fileinfo"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
)

// The capabilities are named as getcap names them.
func TestCapabilities(t *testing.T) {
	imagetest.NeedRoot(t)
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, caps := range []string{"cap_net_raw=ep", "cap_net_raw,cap_chown=p", "cap_sys_admin,cap_checkpoint_restore,cap_kill=eip", "cap_setuid=i", "cap_setuid=i cap_chown=p", "cap_setuid=eip cap_chown=ep", "cap_setuid,cap_bpf=i cap_chown=ip", "="} {
		imagetest.Run(t, "setcap", caps, file)
		_, want, _ := strings.Cut(strings.TrimSpace(imagetest.Run(t, "getcap", file)), " ")
		value := make([]byte, 100)
		n, err := unix.Lgetxattr(file, "security.capability", value)
		if err != nil {
			t.Fatal(err)
		}
		got := fileinfo.Xattr(tree.Xattr{Name: "security.capability", Value: string(value[:n])})
		// libcap has several spellings for sets that are not effective.
		if normal(got) != normal(want) {
			t.Errorf("%s: %q, getcap says %q", caps, got, want)
		}
	}
	// Values that are not capabilities.
	for _, value := range []string{"", "xxxxxxxxxxxxxxxxxxxx", "\x01\x00\x00\x02", strings.Repeat("\x02", 24)} {
		if text := fileinfo.Xattr(tree.Xattr{Name: "security.capability", Value: value}); strings.Contains(text, "cap_") {
			t.Errorf("%q is %s", value, text)
		}
	}
}

// normal returns the flags of each capability, sorted.
func normal(text string) string {
	flags := map[string]string{}
	for _, set := range strings.Fields(text) {
		i := strings.IndexAny(set, "=+-")
		if i < 0 {
			return text
		}
		for _, name := range strings.Split(set[:i], ",") {
			for _, f := range set[i+1:] {
				if set[i] == '-' {
					flags[name] = strings.ReplaceAll(flags[name], string(f), "")
				} else if !strings.ContainsRune(flags[name], f) {
					flags[name] += string(f)
				}
			}
		}
	}
	for name, set := range flags {
		b := []byte(set)
		slices.Sort(b)
		flags[name] = string(b)
	}
	return fmt.Sprint(flags)
}
