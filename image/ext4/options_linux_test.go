package ext4_test

import (
	"bytes"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"imgtool/image/imagetest"
)

// features are the features that Linux 4.9, its e2fsck and CBoot support.
const features = "has_journal ext_attr resize_inode dir_index filetype extent 64bit flex_bg sparse_super large_file huge_file dir_nlink extra_isize metadata_csum"

func dumped(out, field string) string {
	m := regexp.MustCompile(`(?m)^` + field + `:\s*(.*?)\s*$`).FindStringSubmatch(out)
	if m == nil {
		return ""
	}
	return m[1]
}

func TestNewOptions(t *testing.T) {
	opt := sized(700 * mib)
	opt.Reserved, opt.JournalSize, opt.Inodes, opt.Time = 2, 8*mib, 20_000, 1<<32+7
	path := write(t, build(t, nil, opt))
	fsck(t, path)
	out := imagetest.Run(t, "dumpe2fs", path)
	for field, want := range map[string]string{
		"Filesystem volume name": "system", "Filesystem UUID": "01234567-89ab-4def-8123-456789abcdef", "Filesystem features": features,
		"Directory Hash Seed": "01020304-0506-0708-090a-0b0c0d0e0f10", "Default directory hash": "half_md4", "Filesystem flags": "unsigned_directory_hash",
		"Default mount options": "user_xattr acl", "Errors behavior": "Continue", "Filesystem state": "clean", "Total journal size": "8M",
		"Journal features": `\(none\)`, "Inode count": "20064", "Block count": "179200", "Reserved block count": "3584", "Checksum type": "crc32c",
		"Flex block group size": "16", "First inode": "11", "Inode size": "256", "Mount count": "0", "Maximum mount count": "-1",
	} {
		want = strings.ReplaceAll(want, `\`, "")
		if got := dumped(out, field); got != want {
			t.Errorf("%s is %q and not %q", field, got, want)
		}
	}
	if stat := imagetest.Run(t, "debugfs", "-R", "stat lost+found", path); !strings.Contains(stat, "Size: 16384") {
		t.Errorf("lost+found has not the 16 KiB that e2fsck wants:\n%s", stat)
	}
	data, err := os.ReadFile(path)
	must(t, err)
	for _, group := range []int{1, 3, 5} {
		at := strconv.Itoa(group * 32768)
		copied := imagetest.Run(t, "dumpe2fs", "-h", "-o", "superblock="+at, "-o", "blocksize=4096", path)
		if dumped(copied, "Filesystem UUID") != dumped(out, "Filesystem UUID") || dumped(copied, "Free blocks") != dumped(out, "Free blocks") {
			t.Errorf("the copy of the superblock at %s is not what it copies:\n%.300s", at, copied)
		}
		if nr := data[group*32768*4096+0x5a]; int(nr) != group {
			t.Errorf("the superblock in group %d says %d", group, nr)
		}
		if !bytes.Equal(data[4096:2*4096], data[group*32768*4096+4096:][:4096]) {
			t.Errorf("the group descriptors in group %d are others", group)
		}
	}
	opt.JournalSize, opt.Reserved = -1, -1
	path = write(t, build(t, nil, opt))
	fsck(t, path)
	out = imagetest.Run(t, "dumpe2fs", path)
	if got := dumped(out, "Filesystem features"); got != strings.TrimPrefix(features, "has_journal ") {
		t.Error(got)
	}
	if got := dumped(out, "Reserved block count"); got != "0" {
		t.Error(got)
	}
}
