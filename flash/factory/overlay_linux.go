package factory

import (
	"fmt"

	"golang.org/x/sys/unix"

	"imgtool/flash/disk"
)

// checkOverlay refuses the running root file system if it is an overlay, as changes would go
// to its upper layer.
func checkOverlay(root string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return fmt.Errorf("%s: %w", root, err)
	}
	if uint32(st.Type) == unix.OVERLAYFS_SUPER_MAGIC && root == "/" {
		return &disk.RefusedError{Disk: root, Reason: "it is an overlay, and changes to it would not be in the root file system: mount that read-write and name it with --root"}
	}
	return nil
}
