//go:build unix && !linux

package hostfs

// openLongPath is the path itself: elsewhere there is no way to one that is too long.
func openLongPath(path string) (string, func(), error) { return path, func() {}, nil }
