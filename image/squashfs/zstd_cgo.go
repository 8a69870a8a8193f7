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

enum { lazy2 = 5, btlazy2, btopt, btultra, btultra2 };

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

static size_t compressBlock(context *c, void *dst, size_t capacity, const void *src, size_t size, int level, int thin) {
	compression p = ZSTD_getParams(level, size, 0);
	if (thin) {
		int rows = p.c.strategy < btlazy2, small = size <= 128 << 10 && p.c.strategy <= btopt;
		unsigned less = (rows ? 1 : 2) + small, least = small ? 3 : 4, target = small ? 20 : 32;
		if (p.c.searchLog > least)
			p.c.searchLog = p.c.searchLog - less > least ? p.c.searchLog - less : least;
		if (p.c.targetLength > target)
			p.c.targetLength = target;
		// Rows of 16 places: there is room for a small block, and more is slow to reach.
		if (rows)
			p.c.hashLog = small ? 18 : p.c.hashLog < 20 ? p.c.hashLog : 20;
		if (p.c.strategy == btultra2)
			p.c.strategy = btultra;
	}
	p.f.contentSize = 1;
	p.f.checksum = 0;
	return ZSTD_compress_advanced(c, dst, capacity, src, size, NULL, 0, p);
}
*/
import "C"

import (
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

// thinned says whether libzstd is given less to do than at its own levels of
// these numbers: it looks in fewer places for a match, and goes over no block twice.
// That saves a fifth to a half of the time and makes blocks up to 0.9 % larger, the small ones
// most. That like ends of files lie together saves more on a root file system, so that an
// image is still no larger than one of mksquashfs at the level. Where there are few such
// ends, and before and after, a level is libzstd's to the byte.
func thinned(level int) bool { return level >= 9 && level <= 19 }

type zstdContext struct{ c *C.context }

// zstdEncoder makes frames as the kernel wants them: libzstd knows the size of
// what it is given, writes it in the frame and makes no window larger than it.
func zstdEncoder(level, _ int) (encoder, error) { return libzstd(level, thinned(level)) }

// deepZstdEncoder makes the frames of libzstd's own levels.
func deepZstdEncoder(level, _ int) (encoder, error) { return libzstd(level, false) }

func libzstd(level int, thinned bool) (encoder, error) {
	z := &zstdContext{C.newContext()}
	if z.c == nil {
		return nil, fmt.Errorf("no memory for libzstd")
	}
	runtime.SetFinalizer(z, func(z *zstdContext) { C.ZSTD_freeCCtx(z.c) })
	thin := C.int(0)
	if thinned {
		thin = 1
	}
	return func(dst, src []byte) ([]byte, error) {
		// Its finalizer frees what the C code works on.
		defer runtime.KeepAlive(z)
		if bound := zstd.CompressBound(len(src)); cap(dst) < bound {
			dst = make([]byte, bound)
		}
		dst = dst[:cap(dst)]
		n := C.compressBlock(z.c, unsafe.Pointer(unsafe.SliceData(dst)), C.size_t(len(dst)), unsafe.Pointer(unsafe.SliceData(src)), C.size_t(len(src)), C.int(level), thin)
		if C.ZSTD_isError(n) != 0 {
			return nil, fmt.Errorf("libzstd: %s", C.GoString(C.ZSTD_getErrorName(n)))
		}
		return dst[:n], nil
	}, nil
}
