//go:build !linux

package receipt

import "os"

func reserve(*os.File, int64, int64) error { return nil }
