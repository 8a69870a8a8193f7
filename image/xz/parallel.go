package xz

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// Options are how [NewParallel] decompresses.
type Options struct {
	MaxDict int64  // as for [NewReader]
	Memory  int64  // limit of the memory for blocks that are decompressed at once
	Sizes   []Size // of all blocks, see [ReadSizes]; nil: the sizes are taken from the headers of blocks
}

// Parallel is a [Reader] that decompresses several blocks at once, ahead of Read. A block takes
// part if its sizes are known and its data fit into Options.Memory beside the compressed data and
// dictionaries of two blocks. The next block begins when it fits, too: these are freed at the end of
// a block, and its data as they are read. Other blocks are decompressed one after another, ahead of Read by
// some MiB.
type Parallel struct {
	jobs   chan *job // in order
	err    error     // why jobs was closed
	ctx    context.Context
	cancel context.CancelFunc
	memory *semaphore.Weighted
	queue  *semaphore.Weighted     // queueSize for the data of blocks that Read has not begun
	zeros  atomic.Pointer[content] // of the last block of zeros
	begin  func()                  // called by Read once the caller wants more than the start of the file

	cur   *job
	chunk *[]byte // from chunks; left is the end of it
	left  []byte
	n     int64 // bytes returned
}

// job is a block. err is set before out is closed.
type job struct {
	out   chan *[]byte
	err   error
	data  int64 // from Parallel.memory, for data that Read has not returned
	share int64 // from Parallel.queue
}

const (
	// queueSize is how many bytes of small blocks are decompressed ahead: while one processor
	// decompresses a block of data, another one decompresses many blocks of zeros.
	queueSize = 32 << 20
	// startSize is how much of a file is read before all processors work on the blocks after
	// it: who reads the partition table needs no more.
	startSize = 4 << 20
)

// NewParallel is like [NewReader]. The reader must be closed.
func NewParallel(r io.Reader, opt Options) (*Parallel, error) {
	x, err := NewReader(r, opt.MaxDict)
	if err != nil {
		return nil, err
	}
	x.sizes = opt.Sizes
	p := &Parallel{
		jobs:   make(chan *job, max(queueSize/chunkSize, runtime.GOMAXPROCS(0)+1)),
		memory: semaphore.NewWeighted(opt.Memory),
		queue:  semaphore.NewWeighted(queueSize),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	wanted := make(chan struct{})
	p.begin = sync.OnceFunc(func() { close(wanted) })
	go p.scan(x, opt.Memory, wanted)
	return p, nil
}

// Close ends the decompression. It does not wait for a read of the input.
func (p *Parallel) Close() error {
	p.cancel()
	return nil
}

func (p *Parallel) Read(b []byte) (int, error) {
	for len(p.left) == 0 {
		if err := p.next(); err != nil {
			p.cancel()
			return 0, err
		}
	}
	n := copy(b, p.left)
	if p.left = p.left[n:]; len(p.left) == 0 {
		p.free(p.cur, chunkSize)
		chunks.Put(p.chunk)
		p.chunk = nil
	}
	if p.n += int64(n); p.n >= startSize {
		p.begin()
	}
	return n, nil
}

// next receives the next chunk of the current block, or begins the next block.
func (p *Parallel) next() error {
	if p.cur == nil {
		j, ok := <-p.jobs
		if !ok {
			return p.err
		}
		p.cur = j
		p.queue.Release(j.share)
	}
	chunk, ok := <-p.cur.out
	if ok {
		p.chunk, p.left = chunk, *chunk
		return nil
	}
	if p.cur.err != nil {
		return p.cur.err
	}
	p.free(p.cur, p.cur.data)
	p.cur = nil
	p.begin()
	return nil
}

// free returns memory for n bytes of a block.
func (p *Parallel) free(j *job, n int64) {
	n = min(n, j.data)
	j.data -= n
	p.memory.Release(n)
}

// scan reads the structure of x, and makes a job of each block.
func (p *Parallel) scan(x *Reader, limit int64, wanted <-chan struct{}) {
	defer close(p.jobs)
	defer recoverTo(&p.err)
	running := make(chan struct{}, runtime.GOMAXPROCS(0))
	for first := true; ; {
		block, err := x.next()
		if p.err = err; err != nil {
			return
		}
		if !block {
			continue
		}
		// The chunks of a block that is decompressed ahead are all kept until it is its turn.
		b := x.block
		work, data := inChunks(x.rest())+min(b.dict, b.unpacked), inChunks(b.unpacked)
		if b.packed < 0 || b.unpacked < 0 || b.packed > limit || b.unpacked > limit || 2*work+data > limit {
			j := &job{out: make(chan *[]byte, 4)}
			if !p.send(j) {
				return
			}
			if p.unpack(x, j); j.err != nil {
				return
			}
			first = false
			continue
		}
		j := &job{out: make(chan *[]byte, data/chunkSize+1), data: data, share: min(data, queueSize/int64(runtime.GOMAXPROCS(0)+1))}
		if p.err = p.memory.Acquire(p.ctx, work+data); p.err != nil {
			return
		}
		if p.err = p.queue.Acquire(p.ctx, j.share); p.err != nil {
			return
		}
		part, err := x.detach()
		if p.err = err; err != nil {
			return
		}
		if first {
			j.out = make(chan *[]byte, 2)
		}
		if !p.send(j) {
			return
		}
		running <- struct{}{}
		go func() {
			p.unpackDetached(part, j)
			p.memory.Release(work)
			<-running
		}()
		if first {
			first = false
			select {
			case <-wanted:
			case <-p.ctx.Done():
				p.err = p.ctx.Err()
				return
			}
		}
	}
}

func (p *Parallel) send(j *job) bool {
	select {
	case p.jobs <- j:
		return true
	case <-p.ctx.Done():
		p.err = p.ctx.Err()
		return false
	}
}

// recoverTo turns a panic into an error: it must not end the program while a disk is written.
func recoverTo(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("xz: internal error: %v", r)
	}
}

// unpackDetached is unpack for a detached block. Of blocks of zeros with the same bytes, which
// images have many of, only the first is decompressed.
func (p *Parallel) unpackDetached(x *detached, j *job) {
	c := x.content()
	known := p.zeros.Load()
	if c == nil || known == nil || *c != *known {
		if zero := p.unpack(x.Reader, j); zero && c != nil {
			p.zeros.Store(c)
		}
		return
	}
	defer close(j.out)
	chunks.Put(x.data.chunks[0])
	for left := c.unpacked; left > 0; {
		chunk := newChunk(left)
		clear(*chunk)
		left -= int64(len(*chunk))
		if j.err = p.pass(j, chunk); j.err != nil {
			return
		}
	}
}

// unpack decompresses the block whose header x has read, and reports whether it is all zeros.
func (p *Parallel) unpack(x *Reader, j *job) (zero bool) {
	defer close(j.out)
	defer recoverTo(&j.err)
	if j.err = x.begin(); j.err != nil {
		return false
	}
	zero = true
	for x.block.data != nil && j.err == nil {
		chunk := newChunk(chunkSize)
		n := 0
		for n < chunkSize && x.block.data != nil && j.err == nil {
			var k int
			k, j.err = x.read((*chunk)[n:])
			n += k
		}
		if *chunk = (*chunk)[:n]; n == 0 {
			chunks.Put(chunk)
			continue
		}
		zero = zero && isZero(*chunk)
		if err := p.pass(j, chunk); err != nil {
			j.err = err
		}
	}
	return zero && j.err == nil
}

// pass passes a chunk on to Read.
func (p *Parallel) pass(j *job, chunk *[]byte) error {
	select {
	case j.out <- chunk:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}
