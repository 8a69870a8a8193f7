package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"imgtool/flash/disk"
)

// overlaid refuses a root whose changes would go to another layer.
func overlaid(root string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return fmt.Errorf("%s: %w", root, err)
	}
	if uint32(st.Type) == unix.OVERLAYFS_SUPER_MAGIC && root == "/" {
		return &disk.RefusedError{Disk: root, Reason: "it is an overlay, and what is changed there would not be in the root file system: mount that read-write and name it with --root"}
	}
	return nil
}
