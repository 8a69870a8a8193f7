package option

import (
	"github.com/spf13/cobra"

	"imgtool/image/cache"
	"imgtool/image/fault"
	"imgtool/layouts"
)

// cacheSize is the default size of the cache, which holds about ten root file systems.
const cacheSize = "4GiB"

// Cache says which cache of compressed blocks to use.
type Cache struct {
	cache.Options
	size string
}

// AddDir adds the flag with the directory of the cache.
func (o *Cache) AddDir(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.Dir, "cache-dir", "", "`DIR` of the cache, writable by you only (default IMGTOOL_CACHE_DIR, or imgtool/blocks in the user's cache)")
}

func (o *Cache) AddFlags(cmd *cobra.Command) {
	o.AddDir(cmd)
	cmd.Flags().StringVar(&o.Key, "cache-key", "", "`FILE` of 32 bytes or more that authenticates the cache's entries, for a cache that is stored or shared elsewhere")
	cmd.Flags().StringVar(&o.size, "cache-size", cacheSize, "`SIZE` of the cache: entries that were not used for the longest time are removed first")
	cmd.Flags().BoolVar(&o.None, "no-cache", false, "compress everything, and store nothing")
}

// Open opens the cache, or returns nil for none.
func (o *Cache) Open(u *ui) (_ *cache.Dir, err error) {
	if o.Max, err = ParseCacheSize("--cache-size", o.size); err != nil {
		return nil, err
	}
	return o.Options.Open(u.Warn)
}

func ParseCacheSize(what, text string) (int64, error) {
	var size layouts.Bytes
	if err := size.UnmarshalText([]byte(text)); err != nil || size < 0 {
		return 0, fault.New(fault.Usage, "%s %q: it must be a size such as 500MiB or 4GiB", what, text)
	}
	return int64(size), nil
}
