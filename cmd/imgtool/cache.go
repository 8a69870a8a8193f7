package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"imgtool/image/cache"
	"imgtool/layouts"
)

// cacheSize is how large the cache of blocks may be where nobody says: some ten
// root file systems.
const cacheSize = "4GiB"

// userCache is imgtool's folder in the user's cache.
func userCache() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		// Such as nobody without a home.
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("imgtool-cache-%d", os.Getuid()))
		return dir
	}
	return filepath.Join(dir, "imgtool")
}

// cacheOptions are where compressed blocks are kept.
type cacheOptions struct {
	dir  string
	size string
	none bool
}

func (o *cacheOptions) addDir(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.dir, "cache-dir", "", "folder of the cache (default IMGTOOL_CACHE_DIR, or imgtool/blocks in the user's cache)")
}

func (o *cacheOptions) addFlags(cmd *cobra.Command) {
	o.addDir(cmd)
	cmd.Flags().StringVar(&o.size, "cache-size", cacheSize, "what the cache may take: what was not used for the longest goes first")
	cmd.Flags().BoolVar(&o.none, "no-cache", false, "compress everything anew, and keep nothing")
}

// path is the folder, and whether somebody named it.
func (o *cacheOptions) path() (dir string, named bool) {
	if dir = cmp.Or(o.dir, os.Getenv("IMGTOOL_CACHE_DIR")); dir != "" {
		return dir, true
	}
	return filepath.Join(userCache(), "blocks"), false
}

// open is the cache, or nil for none. A folder that cannot be used is an error
// only for those who named it.
func (o *cacheOptions) open(u *ui) (*cache.Dir, int64, error) {
	size, err := parseCacheSize("--cache-size", o.size)
	if err != nil {
		return nil, 0, err
	}
	if o.none {
		if o.dir != "" {
			return nil, 0, usagef("--no-cache and --cache-dir exclude each other")
		}
		return nil, 0, nil
	}
	dir, named := o.path()
	c, err := cache.Open(dir)
	if err != nil && !named {
		u.warn(fmt.Sprintf("no cache: %v", err))
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("cache: %w", err)
	}
	return c, size, nil
}

// settle ends the use of a cache: it must not grow without end, nor is a build
// worse for what cannot be kept.
func settle(c *cache.Dir, size int64, u *ui) {
	if c == nil {
		return
	}
	if _, _, damaged := c.Stats(); damaged > 0 {
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
		return 0, usagef("%s %q: it must be a size such as 500MiB or 4GiB", what, text)
	}
	return int64(size), nil
}

func newCacheCommand(u *ui) *cobra.Command {
	var opt cacheOptions
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Show or empty the cache of compressed blocks",
		Long: `Show the cache of compressed blocks: its folder, how many there are and what they
take, and when the oldest was used.

A build keeps the blocks of the root file system that it compressed, and takes those
that it finds. The folder can be kept by CI, shared by several builds at once, or
deleted. Who can write to it decides what is built with it.`,
		Example: `  imgtool cache
  imgtool cache trim 1GiB
  imgtool cache clear
  imgtool build --board rock64 --cache-dir ./ci-cache --rootfs rootfs.tar --inputs boot`,
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
func (o *cacheOptions) openThere() (*cache.Dir, error) {
	dir, named := o.path()
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !named:
		return nil, nil
	case err == nil && !info.IsDir():
		err = fmt.Errorf("%s is no folder", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	return cache.Open(dir)
}

func runCache(opt cacheOptions, u *ui) error {
	c, err := opt.openThere()
	if err != nil {
		return err
	}
	path, _ := opt.path()
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
	fmt.Fprintln(u.out, path)
	if entries == 0 {
		_, err = fmt.Fprintln(u.out, "empty")
	} else {
		_, err = fmt.Fprintf(u.out, "%d blocks, %s, the oldest used %s\n", entries, human(size), oldest.UTC().Format("2006-01-02 15:04"))
	}
	return err
}

func runTrim(opt cacheOptions, size int64, u *ui) error {
	c, err := opt.openThere()
	if err != nil {
		return err
	}
	var freed int64
	if c != nil {
		if freed, err = c.Trim(size); err != nil {
			return err
		}
	}
	path, _ := opt.path()
	if u.json {
		return u.print(map[string]any{"path": path, "freed": freed})
	}
	u.say("%s: %s freed", path, human(freed))
	return nil
}
