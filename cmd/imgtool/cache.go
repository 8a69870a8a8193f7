package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imgtool/image/cache"
	"imgtool/image/fault"
	"imgtool/layouts"
)

// cacheSize is how large the cache of blocks may be where nobody says: some ten
// root file systems.
const cacheSize = "4GiB"

// userCache is imgtool's directory in the user's cache. Without one there is none: what
// others put into a directory that all can write to, such as /tmp, would be built.
func userCache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "imgtool"), nil
}

// cacheOptions are where compressed blocks are kept.
type cacheOptions struct {
	dir  string
	key  string
	size string
	none bool
}

func (o *cacheOptions) addDir(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.dir, "cache-dir", "", "directory of the cache (default IMGTOOL_CACHE_DIR, or imgtool/blocks in the user's cache); it must be yours and writable by nobody else")
}

func (o *cacheOptions) addFlags(cmd *cobra.Command) {
	o.addDir(cmd)
	cmd.Flags().StringVar(&o.key, "cache-key", "", "file of 32 bytes or more that authenticates the cache's entries, for a cache that is stored or shared elsewhere")
	cmd.Flags().StringVar(&o.size, "cache-size", cacheSize, "what the cache may take: what was not used for the longest goes first")
	cmd.Flags().BoolVar(&o.none, "no-cache", false, "compress everything anew, and keep nothing")
}

// path is the directory.
func (o *cacheOptions) path() (dir string, err error) {
	if dir = cmp.Or(o.dir, os.Getenv("IMGTOOL_CACHE_DIR")); dir != "" {
		return dir, nil
	}
	if dir, err = userCache(); err != nil {
		return "", err
	}
	return filepath.Join(dir, "blocks"), nil
}

// open is the cache, or nil for none. It is an error if others can write to it, or if
// it was named and cannot be used.
func (o *cacheOptions) open(u *ui) (*cache.Dir, int64, error) {
	size, err := parseCacheSize("--cache-size", o.size)
	if err != nil {
		return nil, 0, err
	}
	if o.none {
		if o.dir != "" || o.key != "" {
			return nil, 0, fault.New(fault.Usage, "--no-cache excludes --cache-dir and --cache-key")
		}
		return nil, 0, nil
	}
	dir, err := o.path()
	if err != nil {
		if o.key != "" {
			return nil, 0, fmt.Errorf("--cache-key: there is no cache: %w", err)
		}
		u.warn(fmt.Sprintf("no cache: %v", err))
		return nil, 0, nil
	}
	secret, err := o.secret(dir)
	if err != nil {
		return nil, 0, fmt.Errorf("--cache-key: %w", err)
	}
	c, err := cache.Open(dir, secret)
	var access *cache.AccessError
	if named := o.dir != "" || os.Getenv("IMGTOOL_CACHE_DIR") != ""; err != nil && !named && !errors.As(err, &access) {
		u.warn(fmt.Sprintf("no cache: %v", err))
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, cacheError(err)
	}
	return c, size, nil
}

// secret is what the key file has, or nil without one. It must be outside the cache in
// dir, as who stores that sees all of it.
func (o *cacheOptions) secret(dir string) ([]byte, error) {
	if o.key == "" {
		return nil, nil
	}
	key, err := cache.ReadKey(o.key)
	if err != nil {
		return nil, withFix(err, "")
	}
	real, err := filepath.EvalSymlinks(o.key)
	if err != nil {
		return nil, err
	}
	if inside, err := filepath.EvalSymlinks(dir); err == nil {
		real, err1 := filepath.Abs(real)
		inside, err2 := filepath.Abs(inside)
		if rel, err := filepath.Rel(inside, real); errors.Join(err, err1, err2) == nil && filepath.IsLocal(rel) {
			return nil, fault.New(fault.Usage, "%s is in the cache %s: keep the key elsewhere", o.key, dir)
		}
	}
	return key, nil
}

// cacheError says what to do about a cache that cannot be used.
func cacheError(err error) error {
	return fmt.Errorf("cache: %w", withFix(err, "name another directory with --cache-dir, or pass --no-cache"))
}

// withFix adds what makes a file or directory private, or what else helps.
func withFix(err error, other string) error {
	var access *cache.AccessError
	if !errors.As(err, &access) {
		return err
	}
	advice := []string{access.Fix, other}
	if advice = slices.DeleteFunc(advice, func(s string) bool { return s == "" }); len(advice) == 0 {
		return err
	}
	return fault.WithHint(err, "%s", strings.Join(advice, "; or "))
}

// settle ends the use of a cache: it must not grow without end, nor is a build
// worse for what cannot be kept.
func settle(c *cache.Dir, size int64, u *ui) {
	if c == nil {
		return
	}
	if _, _, damaged := c.Stats(); damaged > 0 && c.Authenticated() {
		u.warn(fmt.Sprintf("%s: %d entries were not made with this --cache-key, or are damaged: they were made anew", c.Path(), damaged))
	} else if damaged > 0 {
		u.warn(fmt.Sprintf("%s: %d damaged entries were made anew", c.Path(), damaged))
	}
	err := c.Err()
	if err == nil && c.Changed() {
		_, err = c.Trim(size)
	}
	if err != nil {
		u.warn(fmt.Sprintf("the cache is not what it could be: %v", err))
	}
}

func parseCacheSize(what, text string) (int64, error) {
	var size layouts.Bytes
	if err := size.UnmarshalText([]byte(text)); err != nil || size < 0 {
		return 0, fault.New(fault.Usage, "%s %q: it must be a size such as 500MiB or 4GiB", what, text)
	}
	return int64(size), nil
}

func newCacheCommand(u *ui) *cobra.Command {
	var opt cacheOptions
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Show or empty the cache of compressed blocks",
		Long: `Show the cache of compressed blocks: its directory, how many there are and what they
take, and when the oldest was used.

A build keeps the blocks of the root file system that it compressed, and takes those
that it finds. Whoever can write to the cache decides what is built with it: its
directory, and those above it, must belong to you or root and be writable by no other
user (exit status 5). Several builds of a user may use one at once, and it may be
deleted.

Where CI stores the cache between builds, or several machines share it, whoever can
write to that store decides too, unless the builds have a --cache-key: a file of 32
random bytes or more, readable by you alone and kept outside the cache. Entries that
were not made with it are made anew.`,
		Example: `  imgtool cache
  imgtool cache trim 1GiB
  imgtool cache clear
  imgtool build --board rock64 --cache-dir ./ci-cache --cache-key ~/cache.key --rootfs rootfs.tar --inputs boot`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return runCache(opt, u) },
	}
	opt.addDir(cmd)
	trim := &cobra.Command{
		Use:     "trim SIZE",
		Short:   "Take entries out until they take no more than SIZE, those first that were not used for the longest",
		Example: "  imgtool cache trim 1GiB",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			size, err := parseCacheSize("SIZE", args[0])
			if err != nil {
				return err
			}
			return runTrim(opt, size, u)
		},
	}
	opt.addDir(trim)
	empty := &cobra.Command{
		Use:     "clear",
		Short:   "Take all entries out",
		Example: "  imgtool cache clear",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, args []string) error { return runTrim(opt, 0, u) },
	}
	opt.addDir(empty)
	cmd.AddCommand(trim, empty)
	return cmd
}

// openThere is the cache if there is one; nothing is made.
func (o *cacheOptions) openThere() (*cache.Dir, string, error) {
	dir, err := o.path()
	if err != nil {
		return nil, "", fmt.Errorf("there is no cache: %w", err)
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && o.dir == "" && os.Getenv("IMGTOOL_CACHE_DIR") == "":
		return nil, dir, nil
	case err == nil && !info.IsDir():
		err = fmt.Errorf("%s is not a directory", dir)
	}
	if err != nil {
		return nil, "", fmt.Errorf("cache: %w", err)
	}
	c, err := cache.Open(dir, nil)
	if err != nil {
		err = fmt.Errorf("cache: %w", withFix(err, ""))
	}
	return c, dir, err
}

func runCache(opt cacheOptions, u *ui) error {
	c, path, err := opt.openThere()
	if err != nil {
		return err
	}
	var entries int
	var size int64
	var oldest time.Time
	if c != nil {
		if entries, size, oldest, err = c.Usage(); err != nil {
			return fmt.Errorf("cache: %w", err)
		}
	}
	if u.json {
		all := map[string]any{"path": path, "entries": entries, "size": size}
		if entries > 0 {
			all["oldest"] = oldest.UTC().Format(time.RFC3339)
		}
		return u.print(all)
	}
	u.printf("%s\n", path)
	if entries == 0 {
		err = u.printf("empty\n")
	} else {
		err = u.printf("%d blocks, %s, the oldest used %s\n", entries, human(size), oldest.UTC().Format("2006-01-02 15:04"))
	}
	return err
}

func runTrim(opt cacheOptions, size int64, u *ui) error {
	c, path, err := opt.openThere()
	if err != nil {
		return err
	}
	var freed int64
	if c != nil {
		if freed, err = c.Trim(size); err != nil {
			return err
		}
	}
	if u.json {
		return u.print(map[string]any{"path": path, "freed": freed})
	}
	u.say("%s: %s freed", path, human(freed))
	return nil
}
