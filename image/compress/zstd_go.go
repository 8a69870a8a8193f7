//go:build !cgo

package compress

import "io"

// newFastZstd is newZstd: without cgo there is no faster decoder.
func newFastZstd(r io.Reader, maxWindow int64) (io.Reader, func(), error) {
	return newZstd(r, maxWindow)
}
