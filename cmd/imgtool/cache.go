package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image"
)

func newCacheCommand(u *ui) *cobra.Command {
	var opt option.Cache
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Show or empty the cache of compressed blocks",
		Long: `Show the cache of compressed blocks: its directory, the number of blocks, their size
and when the oldest was used.

A build stores the compressed blocks of the root file system, and uses blocks
that are stored already. Anyone who can write to the cache controls the builds that use it:
its directory, and those above it, must belong to you or root and be writable by no
other user (exit status 5). Several builds of a user may use a cache at the same time,
and it may be deleted.

If CI stores the cache between builds, or several machines share it, anyone who can write
to that store controls the builds too, unless they have a --cache-key: a file of 32 random
bytes or more, readable only by you and kept outside the cache. Entries that were made
without it are not used.`,
		Example: `  imgtool cache
  imgtool cache trim 1GiB
  imgtool cache clear
  imgtool build --board rock64 --cache-dir ./ci-cache --cache-key ~/cache.key`,
		SuggestFor: []string{"clean", "clear", "prune", "gc"},
		Args:       usage.None(""),
		RunE:       func(cmd *cobra.Command, args []string) error { return runCache(opt, u) },
	}
	opt.AddDir(cmd)
	trim := &cobra.Command{
		Use:        "trim SIZE",
		Short:      "Remove the entries used least recently until the cache has SIZE or less",
		Example:    "  imgtool cache trim 1GiB",
		SuggestFor: []string{"shrink", "prune", "gc"},
		Args:       usage.Operands("size"),
		RunE: func(cmd *cobra.Command, args []string) error {
			size, err := option.ParseCacheSize("SIZE", args[0])
			if err != nil {
				return err
			}
			return runTrim(opt, size, u)
		},
	}
	opt.AddDir(trim)
	empty := &cobra.Command{
		Use:        "clear",
		Short:      "Remove all entries",
		Example:    "  imgtool cache clear",
		SuggestFor: []string{"clean", "empty", "rm", "remove", "delete"},
		Args:       usage.None(""),
		RunE:       func(cmd *cobra.Command, args []string) error { return runTrim(opt, 0, u) },
	}
	opt.AddDir(empty)
	cmd.AddCommand(trim, empty)
	return cmd
}

func runCache(opt option.Cache, u *ui) error {
	c, path, err := opt.Existing()
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
	if u.JSON {
		all := map[string]any{"path": path, "entries": entries, "size": size}
		if entries > 0 {
			all["oldest"] = oldest.UTC().Format(time.RFC3339)
		}
		return u.Print(all)
	}
	u.Printf("%s\n", path)
	if entries == 0 {
		err = u.Printf("empty\n")
	} else {
		err = u.Printf("%d blocks, %s, the oldest used %s\n", entries, image.FormatSize(size), oldest.UTC().Format("2006-01-02 15:04"))
	}
	return err
}

func runTrim(opt option.Cache, size int64, u *ui) error {
	c, path, err := opt.Existing()
	if err != nil {
		return err
	}
	var freed int64
	if c != nil {
		if freed, err = c.Trim(size); err != nil {
			return err
		}
	}
	if u.JSON {
		return u.Print(map[string]any{"path": path, "freed": freed})
	}
	u.Infof("%s: %s freed", path, image.FormatSize(freed))
	return nil
}
