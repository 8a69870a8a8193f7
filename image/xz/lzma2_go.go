//go:build !(cgo && liblzma)

package xz

import (
	"hash"
	"hash/crc64"
	"io"
)

// Library is what decompresses LZMA2.
const Library = "Go"

func newLZMA2(l *lzma2, dict int64) (io.Reader, error) { return goLZMA2(l, dict) }

func newCRC64() hash.Hash { return crc64.New(crc64.MakeTable(crc64.ECMA)) }
