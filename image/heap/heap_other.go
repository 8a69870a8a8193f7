//go:build !linux

// Package heap is where a program's memory lies.
package heap

// UseHugePages does nothing: it is for Linux.
func UseHugePages() {}
