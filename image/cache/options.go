package cache

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"imgtool/image/fault"
)

// dirVariable names the environment variable with the directory of the cache.
const dirVariable = "IMGTOOL_CACHE_DIR"

// Options say which cache a build uses.
type Options struct {
	Dir  string // empty: the value of IMGTOOL_CACHE_DIR, or blocks in [UserDir]
	Key  string // file with the key that authenticates the entries; empty: none
	Max  int64  // what the entries may take, in bytes
	None bool   // use no cache
}

// UserDir returns imgtool's directory in the user's cache. A directory that all users can
// write to, such as /tmp, is not a default: others could change what is built.
func UserDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "imgtool"), nil
}

// path returns the directory, and whether the user named it.
func (o Options) path() (dir string, named bool, err error) {
	if dir = cmp.Or(o.Dir, os.Getenv(dirVariable)); dir != "" {
		return dir, true, nil
	}
	if dir, err = UserDir(); err != nil {
		return "", false, err
	}
	return filepath.Join(dir, "blocks"), false, nil
}

// Open opens the cache, and makes its directory. It returns nil with None, and with a
// warning if the default directory cannot be used. A directory that others can write to,
// and a named directory that cannot be used, are errors.
func (o Options) Open(warn func(string)) (*Dir, error) {
	if o.None {
		if o.Dir != "" || o.Key != "" {
			return nil, fault.New(fault.Usage, "--no-cache excludes --cache-dir and --cache-key")
		}
		return nil, nil
	}
	dir, named, err := o.path()
	if err != nil {
		if o.Key != "" {
			return nil, fmt.Errorf("--cache-key: there is no cache: %w", err)
		}
		warn(fmt.Sprintf("no cache: %v", err))
		return nil, nil
	}
	secret, err := o.secret(dir)
	if err != nil {
		return nil, fmt.Errorf("--cache-key: %w", err)
	}
	d, err := Open(dir, secret)
	switch {
	case err == nil:
		d.max = o.Max
		return d, nil
	case !named && !errors.As(err, new(*AccessError)):
		warn(fmt.Sprintf("no cache: %v", err))
		return nil, nil
	}
	return nil, fmt.Errorf("cache: %w", withAdvice(err, "name another directory with --cache-dir, or pass --no-cache"))
}

// Existing opens the cache if there is one, and returns its directory. It makes nothing.
func (o Options) Existing() (*Dir, string, error) {
	dir, named, err := o.path()
	if err != nil {
		return nil, "", fmt.Errorf("there is no cache: %w", err)
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !named:
		return nil, dir, nil
	case err == nil && !info.IsDir():
		err = fmt.Errorf("%s is not a directory", dir)
	}
	if err != nil {
		return nil, "", fmt.Errorf("cache: %w", err)
	}
	d, err := Open(dir, nil)
	if err != nil {
		err = fmt.Errorf("cache: %w", withAdvice(err, ""))
	}
	return d, dir, err
}

// secret returns the content of the key file, or nil without one. The file must be outside
// of the cache: the system that stores the cache can read all of it.
func (o Options) secret(dir string) ([]byte, error) {
	if o.Key == "" {
		return nil, nil
	}
	key, err := ReadKey(o.Key)
	if err != nil {
		return nil, withAdvice(err, "")
	}
	real, err := filepath.EvalSymlinks(o.Key)
	if err != nil {
		return nil, err
	}
	if inside, err := filepath.EvalSymlinks(dir); err == nil {
		real, err1 := filepath.Abs(real)
		inside, err2 := filepath.Abs(inside)
		if rel, err := filepath.Rel(inside, real); errors.Join(err, err1, err2) == nil && filepath.IsLocal(rel) {
			return nil, fault.New(fault.Usage, "%s is in the cache %s: keep the key elsewhere", o.Key, dir)
		}
	}
	return key, nil
}

// withAdvice adds to an [AccessError] how to fix it, or what else helps.
func withAdvice(err error, other string) error {
	var access *AccessError
	if !errors.As(err, &access) {
		return err
	}
	advice := slices.DeleteFunc([]string{access.Fix, other}, func(s string) bool { return s == "" })
	if len(advice) == 0 {
		return err
	}
	return fault.WithHint(err, "%s", strings.Join(advice, "; or "))
}

// Settle ends the use of a cache that [Options.Open] returned: it removes entries until
// the cache has its size again, and warns of damaged entries and failed writes. d may be
// nil.
func (d *Dir) Settle(warn func(string)) {
	if d == nil {
		return
	}
	if damaged := d.Damaged(); damaged > 0 && d.mac != nil {
		warn(fmt.Sprintf("%s: %d entries were damaged or not made with this --cache-key: they were replaced", d.path, damaged))
	} else if damaged > 0 {
		warn(fmt.Sprintf("%s: %d damaged entries were replaced", d.path, damaged))
	}
	err := d.Err()
	if err == nil && d.Changed() {
		_, err = d.Trim(d.max)
	}
	if err != nil {
		warn(fmt.Sprintf("the cache was not updated: %v", err))
	}
}
