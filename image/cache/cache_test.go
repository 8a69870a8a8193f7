package cache_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"imgtool/image/cache"
)

func key(i int) [sha256.Size]byte { return sha256.Sum256(fmt.Append(nil, i)) }

func data(i int) []byte { return bytes.Repeat(fmt.Append(nil, i, " "), 100+i) }

func open(t *testing.T, path string) *cache.Dir {
	t.Helper()
	d, err := cache.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// files lists the files of entries.
func files(t *testing.T, path string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(path, "??", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestPutAndGet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	d := open(t, path)
	for i := range 50 {
		if d.Get(nil, key(i)) != nil {
			t.Fatal("something was there")
		}
		d.Put(key(i), data(i))
	}
	d.Put(key(99), nil)
	d = open(t, path)
	buf := make([]byte, 200)
	for i := range 50 {
		if got := d.Get(buf, key(i)); !bytes.Equal(got, data(i)) {
			t.Fatalf("%d: %q", i, got)
		}
	}
	// Nothing is something, too.
	if got := d.Get(nil, key(99)); got == nil || len(got) != 0 {
		t.Errorf("%v", got)
	}
	if n := d.Damaged(); n != 0 {
		t.Error(n)
	}
	if n, size, _, err := d.Usage(); n != 51 || size < 51*4096 || err != nil {
		t.Error(n, size, err)
	}
}

// A damaged entry counts as missing, is removed, and can be stored again.
func TestDamagedEntriesAreRemoved(t *testing.T) {
	for name, damage := range map[string]func(path string, b []byte) error{
		"a bit":       func(path string, b []byte) error { b[len(b)/2] ^= 4; return os.WriteFile(path, b, 0o644) },
		"its length":  func(path string, b []byte) error { return os.WriteFile(path, append(b, 0), 0o644) },
		"cut short":   func(path string, b []byte) error { return os.Truncate(path, int64(len(b)-1)) },
		"cut at head": func(path string, b []byte) error { return os.Truncate(path, 20) },
		"empty":       func(path string, b []byte) error { return os.Truncate(path, 0) },
		"very large":  func(path string, b []byte) error { return os.Truncate(path, 1<<40) },
		"the magic":   func(path string, b []byte) error { b[0] ^= 1; return os.WriteFile(path, b, 0o644) },
		"the key":     func(path string, b []byte) error { b[20] ^= 1; return os.WriteFile(path, b, 0o644) },
		"a fifo":      func(path string, b []byte) error { os.Remove(path); return syscall.Mkfifo(path, 0o644) },
		"a directory": func(path string, b []byte) error { os.Remove(path); return os.Mkdir(path, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			d := open(t, path)
			d.Put(key(1), data(1))
			entry := files(t, path)[0]
			b, err := os.ReadFile(entry)
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(entry, b); err != nil {
				t.Fatal(err)
			}
			if got := d.Get(nil, key(1)); got != nil {
				t.Fatalf("%q", got)
			}
			if n := d.Damaged(); n != 1 {
				t.Error(n)
			}
			d.Put(key(1), data(1))
			if got := d.Get(nil, key(1)); !bytes.Equal(got, data(1)) {
				t.Errorf("%q, %v", got, d.Err())
			}
		})
	}
}

// A file with the content of another entry is damaged.
func TestEntryUnderAnotherKeyIsDamaged(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	d.Put(key(1), data(1))
	b, _ := os.ReadFile(files(t, path)[0])
	name := fmt.Sprintf("%x", key(2))
	os.Mkdir(filepath.Join(path, name[:2]), 0o755)
	if err := os.WriteFile(filepath.Join(path, name[:2], name), b, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := d.Get(nil, key(2)); got != nil {
		t.Errorf("%q", got)
	}
}

// The least recently used entries are removed first; files that are no entries stay.
func TestTrim(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	for i := range 10 {
		d.Put(key(i), make([]byte, 100_000))
	}
	for i := range 10 {
		name := fmt.Sprintf("%x", key(i))
		old := time.Now().Add(-time.Duration(100-i) * time.Hour)
		if err := os.Chtimes(filepath.Join(path, name[:2], name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	// The oldest is used, and so the newest.
	d.Get(nil, key(0))
	foreign := []string{"notes", "ab/readme", "zz/" + fmt.Sprintf("%x", key(77)), "partial-new"}
	for _, name := range append(foreign, "partial-old") {
		os.Mkdir(filepath.Dir(filepath.Join(path, name)), 0o755)
		if err := os.WriteFile(filepath.Join(path, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-48 * time.Hour)
	os.Chtimes(filepath.Join(path, "partial-old"), old, old)
	if freed, err := d.Trim(2 << 20); freed != 0 || err != nil {
		t.Error(freed, err)
	}
	freed, err := d.Trim(350_000)
	if err != nil || freed < 7*100_000 || freed > 7*110_000 {
		t.Error(freed, err)
	}
	for i := range 10 {
		if there, want := d.Get(nil, key(i)) != nil, i == 0 || i > 7; there != want {
			t.Errorf("%d: %v", i, there)
		}
	}
	if _, err := d.Trim(0); err != nil {
		t.Error(err)
	}
	if n, _, _, _ := d.Usage(); n != 0 {
		t.Errorf("%d are left", n)
	}
	for _, name := range foreign {
		if _, err := os.Stat(filepath.Join(path, name)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(path, "partial-old")); err == nil {
		t.Error("a beginning of two days ago is still there")
	}
}

// Get never returns wrong data while others put, get and trim.
func TestConcurrentUse(t *testing.T) {
	path := t.TempDir()
	var g sync.WaitGroup
	for range 8 {
		d := open(t, path)
		g.Go(func() {
			for i := range 400 {
				k := i * 7 % 50
				if got := d.Get(nil, key(k)); got == nil {
					d.Put(key(k), data(k))
				} else if !bytes.Equal(got, data(k)) {
					t.Errorf("%d: %q", k, got)
				}
				if i%50 == 49 {
					if _, err := d.Trim(100_000); err != nil {
						t.Error(err)
					}
				}
			}
			if d.Err() != nil || d.Damaged() != 0 {
				t.Error(d.Err(), d.Damaged())
			}
		})
	}
	g.Wait()
}

// Err returns the first failed write; Get and Put go on without harm.
func TestUnwritableDirectory(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	name := fmt.Sprintf("%x", key(1))
	if err := os.WriteFile(filepath.Join(path, name[:2]), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d.Put(key(1), data(1))
	if d.Err() == nil {
		t.Error("no error")
	}
	if d.Get(nil, key(1)) != nil || d.Changed() {
		t.Error("something was kept")
	}
	if all, _ := filepath.Glob(filepath.Join(path, "partial-*")); len(all) > 0 {
		t.Errorf("%v are left behind", all)
	}
	if _, err := cache.Open(filepath.Join(path, name[:2]), nil); err == nil {
		t.Error("a file was opened as a cache")
	}
}
