package compress

import (
	"fmt"
	"io"
	"sync"
)

const (
	aheadChunk  = 1 << 20
	aheadChunks = 4
)

// ahead reads from another reader in a goroutine, up to aheadChunks chunks ahead.
type ahead struct {
	chunks chan []byte
	free   chan []byte // chunks to use again
	quit   chan struct{}
	stop   func()
	err    error  // why chunks was closed
	left   []byte // of chunk
	chunk  []byte
}

// newAhead reads r ahead, and calls done when it has stopped reading.
func newAhead(r io.Reader, done func()) *ahead {
	a := &ahead{chunks: make(chan []byte, aheadChunks-2), free: make(chan []byte, aheadChunks), quit: make(chan struct{})}
	a.stop = sync.OnceFunc(func() { close(a.quit) })
	for range aheadChunks {
		a.free <- make([]byte, aheadChunk)
	}
	go func() {
		defer done()
		a.run(r)
	}()
	return a
}

func (a *ahead) run(r io.Reader) {
	defer close(a.chunks)
	defer func() {
		// A panic must not end the program while a disk is written.
		if p := recover(); p != nil {
			a.err = fmt.Errorf("internal error: %v", p)
		}
	}()
	for a.err == nil {
		var b []byte
		select {
		case b = <-a.free:
		case <-a.quit:
			a.err = io.ErrClosedPipe
			return
		}
		var n int
		n, a.err = ReadFull(r, b)
		if n == 0 {
			continue
		}
		select {
		case a.chunks <- b[:n]:
		case <-a.quit:
			a.err = io.ErrClosedPipe
			return
		}
	}
}

func (a *ahead) Read(p []byte) (int, error) {
	if len(a.left) == 0 {
		if a.chunk != nil {
			a.free <- a.chunk[:aheadChunk]
			a.chunk = nil
		}
		chunk, ok := <-a.chunks
		if !ok {
			return 0, a.err
		}
		a.chunk, a.left = chunk, chunk
	}
	n := copy(p, a.left)
	a.left = a.left[n:]
	return n, nil
}
