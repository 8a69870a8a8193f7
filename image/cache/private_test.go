package cache_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"imgtool/image/cache"
	"imgtool/image/imagetest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mkdir makes a directory with a mode, regardless of the umask.
func mkdir(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	must(t, os.MkdirAll(path, 0o755))
	must(t, os.Chmod(path, mode))
}

// A user who can write to the directory or a parent could change what is built.
func TestDirectoryWritableByOthersIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		imagetest.Skip(t, "only root can make directories of other users")
	}
	const other = 65534
	for name, test := range map[string]struct {
		make func(t *testing.T, top string) // makes top/a/b, or some of it
		why  string                         // and the directory it is about; "" is none
	}{
		"nothing is there": {func(*testing.T, string) {}, ""},
		"all is mine":      {func(t *testing.T, top string) { mkdir(t, top+"/a/b", 0o755) }, ""},
		"another's": {func(t *testing.T, top string) {
			mkdir(t, top+"/a/b", 0o755)
			must(t, os.Chown(top+"/a/b", other, other))
		}, "/a/b belongs to user 65534"},
		"above is another's": {func(t *testing.T, top string) {
			mkdir(t, top+"/a/b", 0o755)
			must(t, os.Chown(top+"/a", other, other))
		}, "/a belongs to user 65534"},
		"of the group":        {func(t *testing.T, top string) { mkdir(t, top+"/a/b", 0o775) }, "/a/b has mode 0775"},
		"of all":              {func(t *testing.T, top string) { mkdir(t, top+"/a/b", 0o757) }, "/a/b has mode 0757"},
		"sticky itself":       {func(t *testing.T, top string) { mkdir(t, top+"/a/b", 0o777|fs.ModeSticky) }, "/a/b has mode 0777"},
		"above is of all":     {func(t *testing.T, top string) { mkdir(t, top+"/a/b", 0o755); mkdir(t, top+"/a", 0o777) }, "/a has mode 0777"},
		"above is of a group": {func(t *testing.T, top string) { mkdir(t, top+"/a", 0o770) }, "/a has mode 0770"},
		"above is sticky":     {func(t *testing.T, top string) { mkdir(t, top+"/a", 0o777|fs.ModeSticky) }, ""},
		"another's in a sticky": {func(t *testing.T, top string) {
			mkdir(t, top+"/a", 0o777|fs.ModeSticky)
			mkdir(t, top+"/a/b", 0o755)
			must(t, os.Chown(top+"/a/b", other, other))
		}, "/a/b belongs to user 65534"},
		"my link": {func(t *testing.T, top string) {
			mkdir(t, top+"/real/b", 0o755)
			must(t, os.Symlink("real", top+"/a"))
		}, ""},
		"my link to another's": {func(t *testing.T, top string) {
			mkdir(t, top+"/real/b", 0o755)
			must(t, os.Chown(top+"/real", other, other))
			must(t, os.Symlink("sub/../real", top+"/a"))
			mkdir(t, top+"/sub", 0o755)
		}, "/real belongs to user 65534"},
		"my link at the end, to a directory of all": {func(t *testing.T, top string) {
			mkdir(t, top+"/real", 0o777)
			mkdir(t, top+"/a", 0o755)
			must(t, os.Symlink(top+"/real", top+"/a/b"))
		}, "/real has mode 0777"},
		"my link at the end, to above a directory": {func(t *testing.T, top string) {
			mkdir(t, top+"/real/sub", 0o755)
			mkdir(t, top+"/real", 0o777|fs.ModeSticky)
			mkdir(t, top+"/a", 0o755)
			must(t, os.Symlink("../real/sub/..", top+"/a/b"))
		}, "/real has mode 0777"},
		"another's link": {func(t *testing.T, top string) {
			mkdir(t, top+"/real/b", 0o755)
			must(t, os.Symlink("real", top+"/a"))
			must(t, os.Lchown(top+"/a", other, other))
		}, "/a belongs to user 65534"},
	} {
		t.Run(name, func(t *testing.T) {
			top, err := filepath.EvalSymlinks(t.TempDir())
			must(t, err)
			test.make(t, top)
			d, err := cache.Open(top+"/a/b", nil)
			if test.why == "" {
				must(t, err)
				if d.Put(key(1), data(1)); !bytes.Equal(d.Get(nil, key(1)), data(1)) {
					t.Error("it keeps nothing")
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), top+test.why) || !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%v, not %s", err, test.why)
			}
		})
	}
}

// For an ordinary user, parents may belong to root, but not below a directory that all
// users can write to. The cache itself must belong to the user.
func TestParentDirectoriesMayBelongToRoot(t *testing.T) {
	if path := os.Getenv("OPEN_CACHE"); path != "" {
		if _, err := cache.Open(path, nil); err != nil {
			fmt.Println("refused:", err)
		}
		return
	}
	if os.Geteuid() != 0 {
		imagetest.Skip(t, "only root can be another user")
	}
	top, err := os.MkdirTemp("/tmp", "cache-")
	must(t, err)
	defer os.RemoveAll(top)
	program := top + "/test"
	b, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	must(t, os.WriteFile(program, b, 0o755))
	mkdir(t, top, 0o755)
	must(t, os.Chown(top, 65534, 65534)) // it is in /tmp
	mkdir(t, top+"/sticky", 0o777|fs.ModeSticky)
	mkdir(t, top+"/sticky/root/mine", 0o755)
	must(t, os.Chown(top+"/sticky/root/mine", 65534, 65534))
	mkdir(t, top+"/sticky/1/mine", 0o755)
	must(t, os.Chown(top+"/sticky/1/mine", 65534, 65534))
	must(t, os.Chown(top+"/sticky/1", 1, 1))
	mkdir(t, top+"/root/mine", 0o755)
	must(t, os.Chown(top+"/root/mine", 65534, 65534))
	for path, want := range map[string]string{
		"/root/mine":        "",
		"/root/mine/new":    "",
		"/sticky/new":       "",
		"/root":             "/root belongs to user 0, not to the current user 65534",
		"/sticky/root/mine": "",
		"/sticky/1/mine":    "/sticky/1 belongs to user 1, not to the current user 65534",
	} {
		cmd := exec.Command(program, "-test.run", t.Name())
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), "OPEN_CACHE="+top+path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		_, why, refused := strings.Cut(string(out), "refused: ")
		if err != nil || refused != (want != "") || refused && !strings.HasPrefix(why, top+want) {
			t.Errorf("%s: %v %s, not %q", path, err, out, want)
		}
	}
}

// MakePrivate makes directories with mode 0700.
func TestNewDirectoryIsPrivate(t *testing.T) {
	path := t.TempDir() + "/a/b"
	open(t, path)
	for _, dir := range []string{path, filepath.Dir(path)} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v %v", dir, info.Mode(), err)
		}
	}
}

// plant replaces an entry by a file or link.
func plant(t *testing.T, path string, i int, put func(at string) error) {
	t.Helper()
	name := fmt.Sprintf("%x", key(i))
	os.Remove(filepath.Join(path, name[:2], name))
	must(t, put(filepath.Join(path, name[:2], name)))
}

// A directory that was writable by others once may have entries of theirs.
func TestEntriesOfOtherUsersAreIgnored(t *testing.T) {
	if os.Geteuid() != 0 {
		imagetest.Skip(t, "only root can make files of other users")
	}
	elsewhere := t.TempDir()
	good := open(t, elsewhere)
	good.Put(key(1), data(1))
	entry, err := os.ReadFile(files(t, elsewhere)[0])
	must(t, err)
	for name, put := range map[string]func(at string) error{
		"another's": func(at string) error {
			return errors.Join(os.WriteFile(at, entry, 0o644), os.Chown(at, 65534, 65534))
		},
		"of the group":        func(at string) error { return errors.Join(os.WriteFile(at, entry, 0o644), os.Chmod(at, 0o664)) },
		"a link to elsewhere": func(at string) error { return os.Symlink(files(t, elsewhere)[0], at) },
		"a directory as a link": func(at string) error {
			os.Remove(filepath.Dir(at))
			return os.Symlink(filepath.Dir(files(t, elsewhere)[0]), filepath.Dir(at))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			d := open(t, path)
			d.Put(key(1), data(1))
			plant(t, path, 1, put)
			if got := d.Get(nil, key(1)); got != nil {
				t.Errorf("%q was taken", got)
			}
			if d.Put(key(1), data(1)); d.Err() == nil && !bytes.Equal(d.Get(nil, key(1)), data(1)) {
				t.Error("it is not kept again")
			}
		})
	}
	if len(files(t, elsewhere)) != 1 || !bytes.Equal(good.Get(nil, key(1)), data(1)) {
		t.Error("what is elsewhere was changed")
	}
}

// Get returns entries that were stored with the same secret and key only.
func TestEntriesAreAuthenticated(t *testing.T) {
	path := t.TempDir()
	secret, wrong := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	get := func(secret []byte, i int) ([]byte, int64) {
		t.Helper()
		d, err := cache.Open(path, secret)
		must(t, err)
		return d.Get(nil, key(i)), d.Damaged()
	}
	put := func(secret []byte, i int) string {
		t.Helper()
		d, err := cache.Open(path, secret)
		must(t, err)
		d.Put(key(i), data(i))
		must(t, d.Err())
		name := fmt.Sprintf("%x", key(i))
		return filepath.Join(path, name[:2], name)
	}
	for name, forge := range map[string]func() error{
		"put without a secret": func() error { put(nil, 1); return nil },
		"put with another":     func() error { put(wrong, 1); return nil },
		"another entry":        func() error { other := put(secret, 2); return os.Rename(other, put(secret, 1)) },
		"another entry with this one's name in it": func() error {
			b, err := os.ReadFile(put(secret, 2))
			k := key(1)
			copy(b[16:], k[:])
			return errors.Join(err, os.WriteFile(put(secret, 1), b, 0o644))
		},
		"a bit": func() error {
			at := put(secret, 1)
			b, err := os.ReadFile(at)
			b[len(b)-1] ^= 1
			return errors.Join(err, os.WriteFile(at, b, 0o644))
		},
		"cut short": func() error {
			at := put(secret, 1)
			info, err := os.Stat(at)
			return errors.Join(err, os.Truncate(at, info.Size()-1))
		},
	} {
		must(t, forge())
		if got, bad := get(secret, 1); got != nil || bad != 1 {
			t.Errorf("%s: %q was taken, %d are bad", name, got, bad)
		}
		put(secret, 1)
		if got, bad := get(secret, 1); !bytes.Equal(got, data(1)) || bad != 0 {
			t.Errorf("%s, after rewriting: %q, %d are bad", name, got, bad)
		}
	}
	if got, _ := get(nil, 1); got != nil {
		t.Errorf("without the secret: %q", got)
	}
	// No secret is in the directory.
	put(secret, 3)
	for _, file := range files(t, path) {
		if b, err := os.ReadFile(file); err != nil || bytes.Contains(b, secret) {
			t.Errorf("%s has the secret: %v", file, err)
		}
	}
}

func TestReadKeyChecksOwnerModeAndSize(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, size int, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, bytes.Repeat([]byte{7}, size), 0o600))
		must(t, os.Chmod(path, mode))
		return path
	}
	if k, err := cache.ReadKey(file("good", 32, 0o400)); err != nil || len(k) != 32 {
		t.Error(k, err)
	}
	for path, want := range map[string]string{
		file("short", 31, 0o600):      "short has 31 bytes; a key has 32 to 65536",
		file("long", 1<<20, 0o600):    "long has 1048576 bytes; a key has 32 to 65536",
		file("read", 32, 0o640):       "read has mode 0640: others than its owner can use it",
		file("write", 32, 0o602):      "write has mode 0602: others than its owner can use it",
		dir:                           " is not a regular file",
		filepath.Join(dir, "nothing"): "no such file or directory",
	} {
		if _, err := cache.ReadKey(path); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%v, not %s", err, want)
		}
	}
	if os.Geteuid() == 0 {
		path := file("other", 32, 0o600)
		must(t, os.Chown(path, 65534, 65534))
		if _, err := cache.ReadKey(path); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("a key of another user: %v", err)
		}
	}
}
