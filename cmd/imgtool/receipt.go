package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/volume"
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

// receiptLog is the file that receipts are appended to. nil is none.
type receiptLog struct {
	f *os.File

	mu    sync.Mutex
	added map[string]bool // disks whose receipt is written
}

// receipts opens the file that receipts are appended to. It is nil if none are asked for,
// or none are to be written. Receipts hold per-unit data: a file that is made is readable
// by its owner alone. Whether it can be written is found out before anything else is done.
func receipts(path string, dryRun bool) (*receiptLog, error) {
	if path == "" || dryRun {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_RDWR|syscall.O_NONBLOCK, 0o600)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENXIO) {
		f, err = os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY|syscall.O_NONBLOCK, 0o600)
	}
	if err == nil {
		err = readyForReceipts(f, path)
	}
	if err != nil {
		return nil, newReceiptError(path, err)
	}
	return &receiptLog{f: f, added: map[string]bool{}}, nil
}

// checkReceipts says why receipts cannot be written, and makes no file.
func checkReceipts(path string) error {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = hostfile.CheckOutput(path)
	case err == nil && !takesReceipts(path, info):
		err = errors.New("it is not a regular file")
	case err == nil:
		var f *os.File
		if f, err = os.OpenFile(path, os.O_APPEND|os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			// A full device says so for nothing at all.
			_, err = f.Write(nil)
			f.Close()
		}
	}
	if err != nil {
		return newReceiptError(path, err)
	}
	return nil
}

func newReceiptError(path string, err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err
	}
	return &receiptError{path, err}
}

// readyForReceipts looks whether receipts can be written to an open file, and closes it if
// not.
func readyForReceipts(f *os.File, path string) error {
	info, err := f.Stat()
	if err == nil && !takesReceipts(path, info) {
		err = errors.New("it is not a regular file")
	}
	if err == nil {
		_, err = f.Write(nil)
	}
	if err == nil && info.Mode().IsRegular() {
		err = reserve(f, info.Size(), receiptRoom)
	}
	if err != nil {
		f.Close()
	}
	return err
}

// Close closes the file.
func (l *receiptLog) Close() error {
	if l == nil {
		return nil
	}
	release(l.f)
	return l.f.Close()
}

// takesReceipts says whether receipts may go to a file: one that keeps them, or one that the
// program was started with, such as /dev/stdout.
func takesReceipts(path string, info fs.FileInfo) bool {
	return info.Mode().IsRegular() || hostfile.Inherited(path)
}

// add appends the receipt of a disk as a line, unless it is there. Without a log there is
// nothing to do.
func (l *receiptLog) add(disk string, receipt any) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.added[disk] {
		return nil
	}
	l.added[disk] = true
	line, err := json.Marshal(receipt)
	if err == nil {
		_, err = l.f.Write(append(line, '\n'))
	}
	if info, statErr := l.f.Stat(); err == nil && statErr == nil && info.Mode().IsRegular() {
		err = l.f.Sync()
	}
	if err != nil {
		return newReceiptError(l.f.Name(), err)
	}
	return nil
}

// refused leaves a receipt of each disk where nothing was written because one of them is
// refused, or the image. It returns err, and what is to be said beside it.
func (l *receiptLog) refused(names []string, pic *volume.Source, err error, ctx context.Context, u *ui) error {
	if l == nil || fault.Kind(err) == fault.Usage {
		return err
	}
	refusal, one := errors.AsType[*disk.RefusedError](err)
	for _, name := range names {
		dev, findErr := disk.Find("/", name)
		if findErr != nil {
			dev = &disk.Disk{Path: name}
		}
		var r receipt
		r.describe(dev, pic)
		r.fail(ctx, err)
		if one && refusal.Disk != dev.Path {
			r.Error = "nothing is written, because another disk is refused: " + r.Error
		}
		r.Left = flash.Unchanged
		if lost := l.add(r.Disk, r); lost != nil {
			u.warn(lost.Error())
			break
		}
	}
	return err
}

// abandon leaves a receipt of each disk whose writing does not end after an interrupt, and
// says what is on it.
func (l *receiptLog) abandon(units []*unit, u *ui) {
	var words []string
	for _, n := range units {
		if n.ended.Load() {
			l.add(n.disk.Path, n.receipt)
			continue
		}
		r := n.receipt
		r.Time, r.Left = time.Now().UTC().Format(time.RFC3339), n.job.Watch.State()
		r.Status, r.Error = exitInterrupted, "interrupted"
		u.leftOn(n.disk.Path, r.Left)
		words = append(words, leftWords(n.disk.Path, r.Left))
		l.add(r.Disk, r)
	}
	u.leaves(strings.Join(words, "; "))
}

// twin is a receipt of a disk, or of a unit with several, as far as it tells whether a unit
// was written already.
type twin struct {
	Unit   string `json:"unit"`
	VSN    string `json:"vsn"`
	Time   string `json:"time"`
	Disk   string `json:"disk"`
	Serial string `json:"serial"`
	Medium string `json:"medium"`
	Status int    `json:"status"`
	Media  []twin `json:"media"`
}

// warnOfTwins warns if receipts say that a unit was written already. A medium is one of
// several of a unit, or nothing. The disk may be the same one: card readers have a serial
// number, and cards in them none, so that cannot be told.
func (l *receiptLog) warnOfTwins(unit, medium string, u *ui) {
	if l == nil || unit == "" {
		return
	}
	if info, err := l.f.Stat(); err != nil || !info.Mode().IsRegular() {
		return
	}
	found := twin{}
	lines := bufio.NewScanner(io.NewSectionReader(l.f, 0, math.MaxInt64))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var t twin
		if json.Unmarshal(lines.Bytes(), &t) != nil {
			continue // of an interrupted write, or another program's
		}
		if t.Unit == unit && t.Status == exitOK {
			found = t
		}
		for _, m := range t.Media {
			if t.VSN == unit && m.Medium == medium && m.Status == exitOK {
				found = m
			}
		}
	}
	if err := lines.Err(); err != nil {
		u.warn(fmt.Sprintf("%s: whether unit %s was written before is not known: %v", l.f.Name(), unit, err))
	}
	if found.Disk == "" {
		return
	}
	about := ""
	if found.Serial != "" {
		about = " (serial " + found.Serial + ")"
	}
	if medium != "" {
		medium = " as its " + medium
	}
	u.warn(fmt.Sprintf("%s says that unit %s was written to %s%s%s at %s: two devices must not have one identity; pass --reprovision if it is the same disk, or that one is out of use",
		l.f.Name(), unit, found.Disk, about, medium, found.Time))
}
