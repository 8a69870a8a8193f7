package starter

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"imgtool/image/compress"
	"imgtool/image/source"
	"imgtool/image/tree"
)

// module is a kernel module, decompressed.
type module struct {
	name string
	data []byte
}

// modulesWithDependencies returns modules of a kernel and the modules they depend on, in
// the order in which they must be loaded. Dependencies are read from the modules, because
// a package has no modules.dep. Modules that are built in or missing are left out.
func modulesWithDependencies(kernel *source.Package, names []string) (_ []module, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("package %s: %w", kernel.Name, err)
		}
	}()
	files := map[string]*tree.Inode{}
	ext := map[string]string{}
	for p, n := range kernel.Tree.All() {
		base := path.Base(p)
		name, rest, ok := strings.Cut(base, ".ko")
		if !ok || n.Type() != tree.Regular || !strings.Contains(p, "lib/modules/") {
			continue
		}
		name = strings.ReplaceAll(name, "-", "_")
		files[name], ext[name] = n, rest
	}
	if len(files) == 0 {
		return nil, errors.New("no kernel module below lib/modules")
	}
	var out []module
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		n := files[name]
		if seen[name] || n == nil {
			return nil
		}
		seen[name] = true
		data, err := unpackModule(n, ext[name])
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		depends, err := moduleDepends(data)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, d := range depends {
			if err := add(d); err != nil {
				return err
			}
		}
		out = append(out, module{name, data})
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// maxModule bounds the size of a decompressed kernel module. The largest have some 10 MiB.
const maxModule = 256 << 20

func unpackModule(n *tree.Inode, ext string) ([]byte, error) {
	format, ok := map[string]compress.Format{"": compress.None, ".xz": compress.XZ, ".zst": compress.Zstd, ".gz": compress.Gzip}[ext]
	if !ok {
		return nil, fmt.Errorf("unknown compression %s", ext)
	}
	r, err := compress.NewReader(io.NewSectionReader(n.Content, 0, n.Size()), format)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(compress.Limit(r, maxModule))
}

// moduleDepends returns the names in depends and in softdep=pre of .modinfo.
func moduleDepends(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, nil
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	var depends []string
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			depends = append(depends, strings.Split(list, ",")...)
		}
		// Dependencies without a symbol.
		if list, ok := strings.CutPrefix(field, "softdep=pre:"); ok {
			list, _, _ = strings.Cut(list, "post:")
			depends = append(depends, strings.Fields(list)...)
		}
	}
	return slices.DeleteFunc(depends, func(s string) bool { return s == "" }), nil
}
