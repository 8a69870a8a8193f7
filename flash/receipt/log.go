// Package receipt keeps the receipts of disks that were written in a file, one a line.
package receipt

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/progress"
)

// Now returns the time as receipts have it.
func Now() string { return time.Now().UTC().Format(time.RFC3339) }

// Log is a file of receipts, a JSON object a line. A nil Log takes no receipts.
type Log struct {
	f *os.File

	mu    sync.Mutex
	added map[string]bool // by disk
}

// room is reserved for receipts; it is more than one takes.
const room = 64 << 10

// Open opens or creates the file at a path and reserves room in it, so that receipts can
// be written later. Without a path it returns nil. Receipts have per-unit data, so a file that
// is created is readable by its owner only.
func Open(path string) (*Log, error) {
	f, err := openFile(path)
	if f == nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() {
		err = reserve(f, info.Size(), room)
	}
	if err != nil {
		f.Close()
		return nil, logError(path, err)
	}
	return &Log{f: f, added: map[string]bool{}}, nil
}

// openFile opens a log and checks that receipts can be written to it. A file that the program
// was started with, such as /dev/stdout, may be of any kind.
func openFile(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	const flags = os.O_APPEND | os.O_CREATE | syscall.O_NONBLOCK
	f, err := os.OpenFile(path, flags|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENXIO) {
		f, err = os.OpenFile(path, flags|os.O_WRONLY, 0o600)
	}
	if err != nil {
		return nil, logError(path, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && !hostfile.Inherited(path) {
		err = errors.New("it is not a regular file")
	}
	if err == nil && info.Mode().IsRegular() && !holdsReceipts(f, info.Size()) {
		err = errors.New("the file is not one of receipts, as it does not begin with a JSON object: name a new file")
	}
	if err == nil {
		_, err = f.Write(nil) // on a full device even this fails
	}
	if err != nil {
		f.Close()
		return nil, logError(path, err)
	}
	return f, nil
}

// holdsReceipts reports whether a file may be one of receipts, and not an image, a disk or a
// configuration that would be damaged. A file that cannot be read may be one.
func holdsReceipts(f *os.File, size int64) bool {
	const begin = `{"`
	b := make([]byte, len(begin))
	n, err := f.ReadAt(b, 0)
	return size == 0 || n == 0 && err != nil || string(b[:n]) == begin
}

// Check returns the error that [Open] would return, and creates no file.
func Check(path string) error {
	if _, err := os.Stat(path); path != "" && errors.Is(err, fs.ErrNotExist) {
		if err := hostfile.CheckOutput(path); err != nil {
			return fault.New(fault.WriteKind(err), "%s: writing the receipt: %s", path, strings.TrimPrefix(err.Error(), path+": "))
		}
		return nil
	}
	f, err := openFile(path)
	f.Close() // also if it is nil
	return err
}

func logError(path string, err error) error {
	if err == nil {
		return nil
	}
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err
	}
	if errors.Is(err, syscall.EISDIR) {
		err = errors.New("it is a directory")
	}
	kind := fault.Write
	if errors.Is(err, fs.ErrPermission) {
		kind = fault.Permission
	}
	return fault.New(kind, "%s: writing the receipt: %w", path, err)
}

// Close gives back the room that was not used and closes the file.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	if info, err := l.f.Stat(); err == nil && info.Mode().IsRegular() {
		l.f.Truncate(info.Size())
	}
	return l.f.Close()
}

// Add appends the receipt of a disk as a line, once.
func (l *Log) Add(disk string, r any) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.added[disk] {
		return nil
	}
	l.added[disk] = true
	line, err := json.Marshal(r)
	if err == nil {
		_, err = l.f.Write(append(line, '\n'))
	}
	if info, statErr := l.f.Stat(); err == nil && statErr == nil && info.Mode().IsRegular() {
		err = l.f.Sync()
	}
	return logError(l.f.Name(), err)
}

// entry is the part of a receipt that identifies a disk, or a unit with several media.
type entry struct {
	Unit   string  `json:"unit"`
	VSN    string  `json:"vsn"`
	Time   string  `json:"time"`
	Disk   string  `json:"disk"`
	Serial string  `json:"serial"`
	Medium string  `json:"medium"`
	Status int     `json:"status"`
	Media  []entry `json:"media"`
}

// WarnReused warns if the log has a receipt of a unit already. medium is empty for a
// unit with a single medium. Whether it is the same disk is not known: a card has the serial
// number of its reader.
func (l *Log) WarnReused(unit, medium string, r progress.Reporter) {
	if l == nil || unit == "" {
		return
	}
	if info, err := l.f.Stat(); err != nil || !info.Mode().IsRegular() {
		return
	}
	found := entry{}
	lines := bufio.NewScanner(io.NewSectionReader(l.f, 0, math.MaxInt64))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var old entry
		if json.Unmarshal(lines.Bytes(), &old) != nil {
			continue // an interrupted write, or another program's line
		}
		if old.Unit == unit && old.Status == 0 {
			found = old
		}
		for _, m := range old.Media {
			if old.VSN == unit && m.Medium == medium && m.Status == 0 {
				found = m
			}
		}
	}
	if err := lines.Err(); err != nil {
		r.Warnf("%s: whether unit %s was written before is not known: %v", l.f.Name(), unit, err)
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
	r.Warnf("%s says that unit %s was written to %s%s%s at %s: two devices must not have one identity; pass --reprovision if it is the same disk, or that one is out of use",
		l.f.Name(), unit, found.Disk, about, medium, found.Time)
}
