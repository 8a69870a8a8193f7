package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"imgtool/image/hostfile"
)

// receiptError is a receipt that could not be written.
type receiptError struct {
	path string
	err  error
}

func (e *receiptError) Error() string {
	return fmt.Sprintf("%s: writing the receipt: %v", e.path, e.err)
}
func (e *receiptError) Unwrap() error { return e.err }

// receiptRoom is more than a receipt takes.
const receiptRoom = 64 << 10

// receipts is the file that receipts are appended to, or nil if none are asked for. Receipts
// hold per-unit data: a file that is made is readable by its owner alone. Whether it can be
// written is found out before anything else is done.
func receipts(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	fail := func(err error) (*os.File, error) {
		if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
			err = pathErr.Err
		}
		return nil, &receiptError{path, err}
	}
	if info, err := os.Stat(path); err == nil && !takesReceipts(path, info) {
		return fail(errors.New("it is not a regular file"))
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return fail(err)
	}
	info, err := f.Stat()
	if err == nil && !takesReceipts(path, info) {
		err = errors.New("it is not a regular file")
	}
	if err == nil {
		// A full device says so for nothing at all.
		_, err = f.Write(nil)
	}
	if err == nil && info.Mode().IsRegular() {
		err = reserve(f, info.Size(), receiptRoom)
	}
	if err != nil {
		f.Close()
		return fail(err)
	}
	return f, nil
}

// takesReceipts says whether receipts may go to a file: one that keeps them, or one that the
// program was started with, such as /dev/stdout.
func takesReceipts(path string, info fs.FileInfo) bool {
	return info.Mode().IsRegular() || hostfile.Inherited(path)
}

// addReceipt appends a receipt as a line. Without a file there is nothing to do.
func addReceipt(f *os.File, receipt any) error {
	if f == nil {
		return nil
	}
	line, err := json.Marshal(receipt)
	if err == nil {
		_, err = f.Write(append(line, '\n'))
	}
	if info, statErr := f.Stat(); err == nil && statErr == nil && info.Mode().IsRegular() {
		release(f)
		err = f.Sync()
	}
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err
	}
	if err != nil {
		return &receiptError{f.Name(), err}
	}
	return nil
}
