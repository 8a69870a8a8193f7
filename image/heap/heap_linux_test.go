package heap_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"imgtool/image/heap"
	"imgtool/image/imagetest"
)

// What a build allocates lies where the kernel was asked for huge pages.
func TestTheHeapIsInHugePages(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		imagetest.Skip(t, "the kernel has no huge pages")
	}
	heap.UseHugePages()
	b := make([]byte, 16<<20)
	at := uintptr(unsafe.Pointer(&b[0])) + 8<<20
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	here := false
	for lines := bufio.NewScanner(bytes.NewReader(maps)); lines.Scan(); {
		var from, to uintptr
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x ", &from, &to); n == 2 {
			here = from <= at && at < to
		}
		if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && here {
			if !strings.Contains(flags+" ", " hg ") {
				t.Errorf("the flags of where it is are%s", flags)
			}
			b[0] = 1
			return
		}
	}
	t.Error("it is nowhere")
}
