package pending_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"imgtool/image/pending"
)

// Of several processes that continue a file, one has it, and none gets one that another has
// completed.
func TestContinueIsExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 300 {
				f, err := pending.Continue(path, "id")
				if err != nil {
					continue // another one has it
				}
				if info, err := f.Stat(); err != nil || info.Size() != 0 {
					t.Errorf("it has content: %v, %v", info.Size(), err)
				}
				if _, err := f.WriteString("complete"); err != nil {
					t.Error(err)
				}
				if err := f.Commit(); err != nil {
					t.Error(err)
				}
				f.Cleanup()
			}
		})
	}
	wg.Wait()
	if b, err := os.ReadFile(path); string(b) != "complete" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := os.Lstat(pending.PartPath(path, "id")); err == nil {
		t.Error("the part is left")
	}
}
