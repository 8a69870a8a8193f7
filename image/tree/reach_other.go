//go:build unix && !linux

package tree

// reach is the path itself: elsewhere there is no way to one that is too long.
func reach(path string) (string, func(), error) { return path, func() {}, nil }
