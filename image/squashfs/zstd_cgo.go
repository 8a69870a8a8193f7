//go:build cgo

package squashfs

/*
#include <stddef.h>
#include <sys/mman.h>

// What is used of libzstd's zstd.h, which lies within the module that has its
// sources. A test looks whether it is still so.
typedef struct {
	unsigned windowLog, chainLog, hashLog, searchLog, minMatch, targetLength;
	int strategy;
} parameters;
typedef struct { int contentSize, checksum, noDictID; } frame;
typedef struct { parameters c; frame f; } compression;
typedef struct { void *(*alloc)(void *, size_t); void (*free)(void *, void *); void *opaque; } memory;
typedef struct ZSTD_CCtx_s context;
extern context *ZSTD_createCCtx_advanced(memory);
extern size_t ZSTD_freeCCtx(context *);
extern compression ZSTD_getParams(int level, unsigned long long size, size_t dictionary);
extern size_t ZSTD_compress_advanced(context *, void *dst, size_t capacity, const void *src, size_t size, const void *dict, size_t dictSize, compression);
extern unsigned ZSTD_isError(size_t);
extern const char *ZSTD_getErrorName(size_t);

// What the compressor works on is read all over, and is faster in huge pages, which
// lie at multiples of their size. Before it is what to unmap.
#define HUGE ((size_t)2 << 20)
#define HEAD ((size_t)64)

static void *allocate(void *_, size_t n) {
	size_t whole = n + HEAD + 2 * HUGE;
	char *p = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	char *at = (char *)(((size_t)p + HUGE - 1) & ~(HUGE - 1));
#ifdef MADV_HUGEPAGE
	madvise(at, (n + HEAD + HUGE - 1) & ~(HUGE - 1), MADV_HUGEPAGE);
#endif
	((size_t *)at)[0] = (size_t)p;
	((size_t *)at)[1] = whole;
	return at + HEAD;
}

static void release(void *_, void *p) {
	size_t *head = (size_t *)((char *)p - HEAD);
	if (p)
		munmap((void *)head[0], head[1]);
}

static context *newContext(void) {
	memory m = { allocate, release, NULL };
	return ZSTD_createCCtx_advanced(m);
}

static size_t compressBlock(context *c, void *dst, size_t capacity, const void *src, size_t size, int level, parameters own) {
	compression p = ZSTD_getParams(level, size, 0);
	if (own.strategy) {
		own.windowLog = p.c.windowLog;
		// No more places than there are bytes; a tree has two for each.
		if (own.hashLog > p.c.windowLog)
			own.hashLog = p.c.windowLog;
		unsigned chain = p.c.windowLog + (own.strategy >= 6);
		if (own.chainLog > chain)
			own.chainLog = chain;
		p.c = own;
	}
	p.f.contentSize = 1;
	p.f.checksum = 0;
	return ZSTD_compress_advanced(c, dst, capacity, src, size, NULL, 0, p);
}
*/
import "C"

import (
	"bytes"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/DataDog/zstd" // libzstd's sources
)

const (
	zstdLibrary = "libzstd 1.5.7" // the one inside the module, see the test
	zstdMax     = 22
	zstdDefault = 9
)

// search is how libzstd looks for matches: strategy, shortest match, log2 of how many
// places it looks at, length of a match that is good enough, log2 of what it has of
// places.
type search struct{ strategy, minMatch, searchLog, target, hashLog, chainLog C.uint }

// tuning is how blocks of a level are compressed, and those that are text, where
// repetitions are short and many. costs is by how many of 10,000 bytes what is compressed
// is larger than at libzstd's own level, about.
type tuning struct {
	search
	text  search
	costs int
}

// Strategies of libzstd.
const (
	lazy2   = 5
	btlazy2 = 6
	btopt   = 7
	btultra = 8
)

// Levels that tunings has.
const (
	tunedFrom = 9
	tunedTo   = 19
)

// Levels that look for matches in rows of places with the same hash: up to rowsTo in
// blocks of up to 128 KiB, up to moreRowsTo in larger ones and where tuned.
const (
	rowsFrom   = 5
	rowsTo     = 10
	moreRowsTo = 12
)

// deepTo is the last level at which libzstd 1.5.7 makes more of some blocks than 1.5.4.
const deepTo = 12

// tunings are those for the levels from tunedFrom on: for blocks of up to 128 KiB,
// then for larger ones. Each was among the fastest found that make Debian and its kernel
// modules no larger than libzstd's own, or not much. Many of those are slow for what
// they do in a block: their tables are larger than the caches of a processor.
var tunings = [2][]tuning{
	{
		{search{lazy2, 4, 3, 8, 17, 17}, search{lazy2, 4, 4, 8, 17, 17}, 17},
		{search{lazy2, 4, 5, 8, 17, 17}, search{}, 4},
		{search{lazy2, 4, 6, 8, 17, 17}, search{}, 0},
		{search{lazy2, 4, 6, 8, 17, 17}, search{}, 0},
		{search{btopt, 3, 1, 16, 16, 17}, search{btopt, 3, 3, 32, 17, 17}, 0},
		{search{btultra, 3, 2, 16, 17, 17}, search{btopt, 3, 4, 32, 17, 17}, 20},
		{search{btultra, 3, 2, 16, 17, 17}, search{btopt, 3, 4, 32, 17, 17}, 20},
		{search{btultra, 3, 5, 48, 17, 17}, search{}, 5},
		{search{btultra, 3, 6, 64, 17, 17}, search{}, 3},
		{search{btultra, 3, 6, 64, 17, 17}, search{}, 3},
		{search{btultra, 3, 6, 64, 17, 17}, search{}, 12},
	},
	{
		{search{lazy2, 4, 3, 8, 19, 19}, search{lazy2, 4, 5, 8, 19, 19}, 0},
		{search{lazy2, 4, 4, 8, 19, 19}, search{}, 0},
		{search{lazy2, 4, 5, 8, 19, 19}, search{}, 0},
		{search{lazy2, 4, 6, 8, 19, 19}, search{}, 0},
		{search{btlazy2, 4, 3, 16, 18, 19}, search{btlazy2, 4, 4, 16, 18, 20}, 0},
		{search{btlazy2, 4, 3, 16, 18, 20}, search{btlazy2, 4, 4, 16, 18, 20}, 0},
		{search{btlazy2, 4, 4, 16, 18, 19}, search{btlazy2, 4, 4, 16, 18, 20}, 0},
		{search{btultra, 3, 2, 16, 18, 19}, search{btopt, 3, 5, 64, 18, 20}, 0},
		{search{btultra, 3, 3, 32, 18, 19}, search{btopt, 3, 5, 64, 18, 20}, 0},
		{search{btultra, 3, 6, 64, 18, 20}, search{}, 3},
		{search{btultra, 3, 6, 64, 18, 20}, search{}, 7},
	},
}

// tuned says whether some blocks of a level are looked through in another way than
// libzstd's. Those of all others are its own to the byte.
func tuned(level int) bool { return level >= rowsFrom && level <= tunedTo }

// most is the effort for where little else can be gained.
func most(level int) effort {
	if level <= deepTo {
		return deep
	}
	return untuned
}

// packedSearch is how blocks are looked through that look packed: where nothing matches for
// long, what is in rows is not kept up to date. At level 9, 1.5.7 makes 0.6 % more of Java's
// .jmod files than 1.5.4 so.
var packedSearch = [2]search{{btlazy2, 4, 7, 8, 17, 18}, {btlazy2, 4, 2, 16, 18, 19}}

// searchOf is how a block of a tuned level is looked through; zero is as libzstd does.
func searchOf(level int, tuned bool, src []byte) search {
	rows := rowsTo
	if tuned || len(src) > smallBlock {
		rows = moreRowsTo
	}
	switch {
	case level <= rows && packed(src):
		if len(src) > smallBlock {
			return packedSearch[1]
		}
		return packedSearch[0]
	case !tuned || level < tunedFrom:
		return search{}
	}
	t := tuningOf(level, len(src))
	if t.text.strategy > 0 && text(src) {
		return t.text
	}
	return t.search
}

func tuningOf(level, size int) *tuning {
	if size > smallBlock {
		return &tunings[1][level-tunedFrom]
	}
	return &tunings[0][level-tunedFrom]
}

// tuningCosts is by how many of 10,000 bytes what is compressed is larger than
// with libzstd's own search.
func tuningCosts(level, blockSize int) int {
	if level < tunedFrom {
		return 0
	}
	return tuningOf(level, blockSize).costs
}

// packed says whether b looks like what was compressed before: two of its bytes are the
// same less often than one in 64 times, at 32 places that are looked at.
func packed(b []byte) bool {
	const places, each = 32, 64
	if len(b) < places*each {
		return false
	}
	var count [256]int
	for i := range places {
		at := (len(b) - each) / (places - 1) * i
		for _, c := range b[at : at+each] {
			count[c]++
		}
	}
	same := 0
	for _, n := range count {
		same += n * (n - 1)
	}
	return same*64 < places*each*(places*each-1)
}

// text says whether there are all but no zeros in b.
func text(b []byte) bool { return bytes.Count(b, []byte{0}) <= len(b)/1024 }

type zstdContext struct{ c *C.context }

// zstdEncoder makes frames as the kernel wants them: libzstd knows the size of
// what it is given, writes it in the frame and makes no window larger than it.
func zstdEncoder(level, _ int) (encoder, error) { return zstdWith(level, usual) }

// zstdWith makes them with another effort. Deep is the next level: a row of libzstd 1.5.7
// has one place less than one of 1.5.4 (15 of 16, ZSTD_row_nextIndex), and it made 0.1 %
// more of blocks of fonts.
func zstdWith(level int, e effort) (encoder, error) {
	tuned := tuned(level)
	if e == deep {
		level++
	}
	z := &zstdContext{C.newContext()}
	if z.c == nil {
		return nil, fmt.Errorf("no memory for libzstd")
	}
	runtime.SetFinalizer(z, func(z *zstdContext) { C.ZSTD_freeCCtx(z.c) })
	return func(dst, src []byte) ([]byte, error) {
		// Its finalizer frees what the C code works on.
		defer runtime.KeepAlive(z)
		if bound := zstd.CompressBound(len(src)); cap(dst) < bound {
			dst = make([]byte, bound)
		}
		dst = dst[:cap(dst)]
		var s search
		if tuned {
			s = searchOf(level, e == usual, src)
		}
		own := C.parameters{0, s.chainLog, s.hashLog, s.searchLog, s.minMatch, s.target, C.int(s.strategy)}
		n := C.compressBlock(z.c, unsafe.Pointer(unsafe.SliceData(dst)), C.size_t(len(dst)), unsafe.Pointer(unsafe.SliceData(src)), C.size_t(len(src)), C.int(level), own)
		if C.ZSTD_isError(n) != 0 {
			return nil, fmt.Errorf("libzstd: %s", C.GoString(C.ZSTD_getErrorName(n)))
		}
		return dst[:n], nil
	}, nil
}
