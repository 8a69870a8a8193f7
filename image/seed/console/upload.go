package console

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Limits for receiving bodies. Bodies of up to smallBody bytes are kept in memory, larger ones in
// a file, and the number of both is limited. A sender that is slower than minRate is dropped if
// another one needs its place, and in any case after slowFor.
const (
	smallBody   = 256 << 10
	smallPlaces = 8
	minRate     = 16 << 10        // bytes per second
	evictAfter  = time.Second     // from when the rate counts if another sender needs the place
	slowFor     = 5 * time.Second // from when the rate counts
	stalled     = 5 * time.Second // time limit of a read
	placeWait   = time.Second     // how long a request waits for a place
	maxWaiting  = 8               // requests that wait for a place
	reserve     = 16 << 20        // bytes that stay free in the spool directory; at most an eighth of its file system
)

// transfer is a body that is being received.
type transfer struct {
	src   io.Reader
	conn  *http.ResponseController
	begun time.Time

	mu      sync.Mutex
	n       int64
	evicted bool
}

var (
	errSlow    = &refusal{http.StatusRequestTimeout, "the body comes too slowly"}
	errCrowded = &refusal{http.StatusServiceUnavailable, "the device is receiving something else; try again"}
	errFull    = &refusal{http.StatusInsufficientStorage, "the device has too little free space for that"}
	errLarge   = &refusal{http.StatusRequestEntityTooLarge, "Request Entity Too Large"}
)

// Read fails if the sender is too slow or was evicted.
func (t *transfer) Read(p []byte) (int, error) {
	t.mu.Lock()
	if t.evicted {
		t.mu.Unlock()
		return 0, errSlow
	}
	t.conn.SetReadDeadline(time.Now().Add(stalled)) // not all ResponseWriters have deadlines
	t.mu.Unlock()
	n, err := t.src.Read(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n += int64(n)
	switch {
	case t.evicted, errors.Is(err, os.ErrDeadlineExceeded):
		return n, errSlow
	case err == nil && t.late(slowFor):
		return n, errSlow
	case errors.As(err, new(*http.MaxBytesError)):
		return n, errLarge
	}
	return n, err
}

// late reports whether the sender is slower than minRate after a grace period. The caller holds
// t.mu.
func (t *transfer) late(grace time.Duration) bool {
	elapsed := time.Since(t.begun)
	return elapsed > grace && float64(t.n) < elapsed.Seconds()*minRate
}

// evict ends the transfer if it is slow, and reports whether it did.
func (t *transfer) evict() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.evicted && !t.late(evictAfter) {
		return false
	}
	t.evicted = true
	t.conn.SetReadDeadline(time.Now())
	return true
}

// places limits the number of concurrent transfers.
type places struct {
	limit int

	mu      sync.Mutex
	used    []*transfer
	waiting int
}

// take gives a transfer a place. It waits up to placeWait for one, and reports success.
func (p *places) take(t *transfer) bool {
	if p.try(t) {
		return true
	}
	p.mu.Lock()
	full := p.waiting >= maxWaiting
	if !full {
		p.waiting++
	}
	p.mu.Unlock()
	if full {
		return false
	}
	defer func() {
		p.mu.Lock()
		p.waiting--
		p.mu.Unlock()
	}()
	for end := time.Now().Add(placeWait); time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
		if p.try(t) {
			return true
		}
	}
	return false
}

func (p *places) try(t *transfer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.used) >= p.limit {
		i := slices.IndexFunc(p.used, (*transfer).evict)
		if i < 0 {
			return false
		}
		p.used = slices.Delete(p.used, i, i+1)
	}
	t.begun = time.Now()
	p.used = append(p.used, t)
	return true
}

func (p *places) leave(t *transfer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used = slices.DeleteFunc(p.used, func(u *transfer) bool { return u == t })
}

// upload is the body of a request, complete, in memory or in a file without a name.
type upload struct {
	io.ReadSeeker
	claim *claim
	close func()
}

// Close deletes the body and frees its place.
func (u *upload) Close() error {
	u.close()
	return nil
}

// intake stores a body while it is received.
type intake struct {
	*transfer
	file *os.File // nil if it is kept in memory
	text bytes.Buffer
	hash hash.Hash
	end  func()
}

// admit screens a request and takes a place for its body.
func (c *Console) admit(w http.ResponseWriter, r *http.Request, k *claim, limit int64) (*intake, error) {
	if err := c.screen(k); err != nil {
		return nil, err
	}
	if r.ContentLength > limit {
		return nil, errLarge
	}
	t := &transfer{src: http.MaxBytesReader(w, r.Body, limit), conn: http.NewResponseController(w)}
	in := &intake{transfer: t, hash: sha256.New()}
	where := c.small
	if r.ContentLength < 0 || r.ContentLength > smallBody {
		where = c.large
	}
	if !where.take(t) {
		return nil, errCrowded
	}
	in.end = func() { where.leave(t) }
	if where == c.small {
		return in, nil
	}
	size := r.ContentLength
	if size < 0 {
		size = limit
	}
	f, err := c.spoolFile(size)
	if err != nil {
		in.end()
		return nil, err
	}
	in.file = f
	in.end = func() { f.Close(); where.leave(t) }
	return in, nil
}

// spoolFile creates a file without a name, if the spool directory has space for it.
func (c *Console) spoolFile(size int64) (*os.File, error) {
	f, err := os.CreateTemp(c.spool, "upload")
	if err != nil {
		return nil, internal
	}
	os.Remove(f.Name())
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err == nil {
		unit := int64(fs.Bsize)
		if int64(fs.Bavail)*unit-size < min(reserve, int64(fs.Blocks)*unit/8) {
			f.Close()
			return nil, errFull
		}
	}
	return f, nil
}

// Write stores a part of the body.
func (in *intake) Write(p []byte) (int, error) {
	in.hash.Write(p)
	if in.file == nil {
		return in.text.Write(p)
	}
	if _, err := in.file.Write(p); err != nil {
		return 0, errFull
	}
	return len(p), nil
}

// done returns the body after all of it was received.
func (in *intake) done(k *claim) (*upload, error) {
	in.conn.SetReadDeadline(time.Time{})
	in.conn.SetWriteDeadline(time.Now().Add(sendBefore))
	in.hash.Sum(k.sum[:0])
	u := &upload{claim: k, close: in.end}
	if in.file == nil {
		u.ReadSeeker = bytes.NewReader(in.text.Bytes())
		return u, nil
	}
	u.ReadSeeker = in.file
	_, err := in.file.Seek(0, io.SeekStart)
	return u, err
}

// receive returns the body of a request. Callers must call authorize before they act on it.
func (c *Console) receive(w http.ResponseWriter, r *http.Request, needs permission, limit int64) (*upload, error) {
	k := newClaim(r, needs)
	in, err := c.admit(w, r, k, limit)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(in, in.transfer)
	if err == nil {
		var u *upload
		if u, err = in.done(k); err == nil {
			return u, nil
		}
	}
	in.end()
	return nil, received(err)
}

// received converts an error of receiving a body.
func received(err error) error {
	if errors.As(err, new(*refusal)) {
		return err
	}
	return &refusal{http.StatusBadRequest, "the body is cut short or not well-formed"}
}
