//go:build !(cgo && liblzma)

package xz

import "io"

// Library is what decompresses LZMA2.
const Library = "Go"

func newLZMA2(l *lzma2, dict int64) (io.Reader, error) { return goLZMA2(l, dict) }
