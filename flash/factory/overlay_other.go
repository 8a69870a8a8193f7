//go:build !linux

package factory

func checkOverlay(root string) error { return nil }
