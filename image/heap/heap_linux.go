// Package heap is where a program's memory lies.
package heap

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// room is how much of the heap is in huge pages: its beginning, which is used first.
const room = 128 << 20

// UseHugePages has the heap grow in huge pages, where the system gives them to those who
// ask for them. With pages of 4 KiB, a build that finds all in the cache is an eighth of
// its time getting these.
func UseHugePages() {
	ask()
	// What was asked for stays so when the heap has it back; none of it was touched.
	runtime.GC()
}

func ask() {
	const huge = 2 << 20
	all := make([]byte, room)
	whole := all[-uintptr(unsafe.Pointer(&all[0]))%huge:]
	// Without them it is as it was.
	_ = unix.Madvise(whole[:len(whole)/huge*huge], unix.MADV_HUGEPAGE)
}
