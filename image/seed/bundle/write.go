package bundle

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"imgtool/image/seed"
)

// Write packs config.toml and files/ of a directory. The name selects the format: .tar.zst
// or .tar.gz, or their other spellings. The same directory and time give the same bytes.
// Files that macOS adds to directories are left out. A document with faults is not packed.
// Warnings refer to the document, or to changes that packing makes.
func Write(w io.Writer, name string, dir fs.FS, modTime time.Time) ([]seed.Fault, error) {
	entries, text, err := collect(dir)
	if err != nil {
		return nil, err
	}
	c, faults := seed.Check(text)
	if c == nil {
		return faults, nil
	}
	packed, err := compressor(name, &limitedWriter{w: w, left: seed.MaxUpload, message: "the bundle has more than 32 MiB; the device takes up to 32 MiB"})
	if err != nil {
		return nil, err
	}
	included := map[string]bool{}
	t := tar.NewWriter(packed)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o644, Size: e.size, ModTime: modTime, Typeflag: tar.TypeReg}
		if e.dir {
			h.Name, h.Mode, h.Typeflag = e.name+"/", 0o755, tar.TypeDir
		}
		included[e.name] = true
		if err := t.WriteHeader(h); err != nil {
			return nil, err
		}
		if e.dir {
			continue
		}
		if err := copyFile(t, dir, e.name, e.size); err != nil {
			return nil, err
		}
		if e.exec {
			faults = append(faults, seed.Fault{Line: 1, Warning: true, Text: e.name + " is executable; the device keeps no execute bits"})
		}
	}
	if err := cmp.Or(t.Close(), packed.Close()); err != nil {
		return nil, err
	}
	faults = append(faults, c.MissingFiles(func(path string) bool { return included[path] })...)
	slices.SortStableFunc(faults, func(a, b seed.Fault) int { return cmp.Compare(a.Line, b.Line) })
	return faults, nil
}

func compressor(name string, w io.Writer) (io.WriteCloser, error) {
	switch {
	case hasSuffix(name, gzipNames):
		return gzip.NewWriterLevel(w, gzip.BestCompression)
	case hasSuffix(name, zstdNames):
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	}
	return nil, fmt.Errorf("%s: a bundle is called NAME.tar.zst or NAME.tar.gz", name)
}

type entry struct {
	name      string
	size      int64
	dir, exec bool
}

// collect lists the files and directories to pack, config.toml first, and reads config.toml.
func collect(dir fs.FS) ([]entry, []byte, error) {
	var found []entry
	known := members{}
	total := int64(1024) // the two zero blocks at the end of a tar
	err := fs.WalkDir(dir, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := path.Base(name)
		switch {
		case name == ".":
			return nil
		case strings.HasPrefix(base, "._") || base == ".DS_Store":
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: info.Size()}
		switch m := info.Mode(); {
		case m.IsDir():
			h.Typeflag, h.Size = tar.TypeDir, 0
		case m&fs.ModeSymlink != 0:
			h.Typeflag = tar.TypeSymlink
		case !m.IsRegular():
			h.Typeflag = tar.TypeFifo
		}
		if _, err := known.add(h, maxDepth); err != nil {
			return err
		}
		found = append(found, entry{name, h.Size, d.IsDir(), !d.IsDir() && info.Mode()&0o111 != 0})
		if len(found) > MaxMembers {
			return fmt.Errorf("there are more than %d files and directories; the device takes up to %d", MaxMembers, MaxMembers)
		}
		// A header and the content, each in blocks of 512 bytes; a long name takes up to
		// three more blocks and the name itself.
		if total += 512 + (h.Size+511)/512*512; len(name) > 100 {
			total += 3*512 + int64(len(name))
		}
		if total > MaxTar {
			return errors.New("there are more than 256 MiB of files; the device takes up to 256 MiB")
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(found, func(e entry) bool { return e.name == "config.toml" })
	if i < 0 {
		return nil, nil, errors.New("there is no config.toml at the top")
	}
	found = slices.Concat(found[i:i+1], found[:i], found[i+1:])
	text, err := fs.ReadFile(dir, "config.toml")
	if err == nil && int64(len(text)) != found[0].size {
		err = errors.New("config.toml changed while it was read")
	}
	return found, text, err
}

func copyFile(w io.Writer, dir fs.FS, name string, size int64) error {
	f, err := dir.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(w, io.LimitReader(f, size))
	if err == nil && n < size {
		err = fmt.Errorf("%s changed while it was read", name)
	}
	return err
}
