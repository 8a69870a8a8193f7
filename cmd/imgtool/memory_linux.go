package main

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// heapRoom is how much of the heap is in huge pages: its beginning, which is used first.
const heapRoom = 128 << 20

// useHugePages has the heap grow in huge pages, where the system gives them to those who
// ask for them. With pages of 4 KiB, a build that finds all in the cache is an eighth of
// its time getting these.
func useHugePages() {
	const huge = 2 << 20
	room := make([]byte, heapRoom)
	whole := room[-uintptr(unsafe.Pointer(&room[0]))%huge:]
	// Without them it is as it was.
	_ = unix.Madvise(whole[:len(whole)/huge*huge], unix.MADV_HUGEPAGE)
	runtime.KeepAlive(room)
	// What was asked for stays so when the heap has it back; none of it was touched.
	room, whole = nil, nil
	runtime.GC()
}
