package xz

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"

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
	chunks sync.Pool
	begin  func() // called by Read once the caller wants more than the start of the file

	cur   *job
	chunk *[]byte // from chunks; left is the end of it
	left  []byte
	n     int64 // bytes returned
}

// job is a block. err is set before out is closed.
type job struct {
	out  chan *[]byte
	err  error
	data int64 // from Parallel.memory, for data that Read has not returned
}

const (
	chunkSize = 1 << 20
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
	p := &Parallel{jobs: make(chan *job, runtime.GOMAXPROCS(0)), memory: semaphore.NewWeighted(opt.Memory)}
	p.chunks.New = func() any { b := make([]byte, chunkSize); return &b }
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
		p.free(p.cur, int64(len(*p.chunk)))
		p.chunks.Put(p.chunk)
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
		work := b.packed + min(b.dict, b.unpacked)
		if b.packed < 0 || b.unpacked < 0 || b.packed > limit || b.unpacked > limit || 2*work+b.unpacked > limit {
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
		if p.err = p.memory.Acquire(p.ctx, work+b.unpacked); p.err != nil {
			return
		}
		part, err := x.detach()
		if p.err = err; err != nil {
			return
		}
		j := &job{out: make(chan *[]byte, b.unpacked/chunkSize+1), data: b.unpacked}
		if first {
			j.out = make(chan *[]byte, 2)
		}
		if !p.send(j) {
			return
		}
		running <- struct{}{}
		go func() {
			p.unpack(part, j)
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

// unpack decompresses the block whose header x has read.
func (p *Parallel) unpack(x *Reader, j *job) {
	defer close(j.out)
	defer recoverTo(&j.err)
	if j.err = x.begin(); j.err != nil {
		return
	}
	for x.block.data != nil && j.err == nil {
		chunk := p.chunks.Get().(*[]byte)
		b := (*chunk)[:0]
		for len(b) < chunkSize && x.block.data != nil && j.err == nil {
			var n int
			n, j.err = x.read(b[len(b):chunkSize])
			b = b[:len(b)+n]
		}
		*chunk = b[:len(b):chunkSize]
		if len(b) == 0 {
			continue
		}
		select {
		case j.out <- chunk:
		case <-p.ctx.Done():
			j.err = p.ctx.Err()
		}
	}
}

// detach reads the data of the block whose header was read, and returns a reader for the
// block alone.
func (x *Reader) detach() (*Reader, error) {
	b := x.block
	size := b.packed + -b.packed&3 + checkSize(x.check)
	var data bytes.Buffer
	if n, err := io.CopyN(&data, counted{x}, size); n < size {
		return nil, unexpectedEOF(err)
	}
	x.blocks.add(b.begin-b.start+b.packed+checkSize(x.check), b.unpacked)
	x.block = block{}
	b.start, b.begin = b.start-b.begin, 0
	return &Reader{in: bufio.NewReader(io.MultiReader(&data, wrongSize{})), check: x.check, maxDict: x.maxDict, blocks: newRecords(), block: b}, nil
}

// wrongSize is read after the data of a detached block: a block that needs more of them is longer
// than its header or the index says.
type wrongSize struct{}

func (wrongSize) Read([]byte) (int, error) { return 0, errSize }
