package starter

import (
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/source"
	"imgtool/image/tree"
)

// library is a shared library or a program whose dependencies must be added.
type library struct {
	image.Content
	name string // of the file
}

// programs adds programs of Debian packages to a directory, and the shared libraries they
// need to lib, the last directory in which the loader looks. It finds the libraries in the
// packages of the programs and in the packages that these depend on, and returns the packages
// it took a file from.
func (b *treeBuilder) programs(ctx context.Context, packages *packages, dir string, list []boards.Program) (from []*source.Package, err error) {
	if len(list) == 0 || b.err != nil {
		return nil, b.err
	}
	take := func(pkg *source.Package) {
		if !slices.Contains(from, pkg) {
			from = append(from, pkg)
		}
	}
	var names []string
	for _, prog := range list {
		first, _, _ := strings.Cut(prog.Package, "|")
		names = append(names, first)
	}
	if _, err := packages.gather(ctx, names); err != nil {
		return nil, err
	}
	var pool []*source.Package // packages to search, in order
	var todo []library
	for _, prog := range list {
		pkg, c, err := packages.file(ctx, prog)
		if prog.Optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !slices.Contains(pool, pkg) {
			pool = append(pool, pkg)
		}
		take(pkg)
		name := path.Base(prog.Path)
		into := cmp.Or(prog.Dir, dir)
		b.parents(into)
		b.file(into+"/"+name, 0o755, c)
		todo = append(todo, library{c, name})
	}
	placed := map[string]bool{}
	for len(todo) > 0 {
		needed, err := todo[0].needs()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", todo[0].name, err)
		}
		for _, file := range needed {
			if placed[file] {
				continue
			}
			name := path.Base(file)
			pkg, c := libraryIn(pool, name)
			for c == nil {
				n := len(pool)
				if pool, err = packages.deeper(ctx, pool); err != nil {
					return nil, err
				}
				if len(pool) == n {
					return nil, fmt.Errorf("%s needs %s, which is not in the packages it depends on", todo[0].name, name)
				}
				pkg, c = libraryIn(pool[n:], name)
			}
			placed[file] = true
			take(pkg)
			b.file(file, 0o755, c)
			todo = append(todo, library{c, name})
		}
		todo = todo[1:]
	}
	return from, b.err
}

// needs returns the paths of the loader and of the shared libraries that an ELF file needs.
func (l library) needs() (paths []string, err error) {
	f, err := elf.NewFile(l)
	if err != nil {
		return nil, err
	}
	names, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		paths = append(paths, "lib/"+name)
	}
	for _, prog := range f.Progs {
		if prog.Type == elf.PT_INTERP {
			loader := make([]byte, prog.Filesz)
			if _, err := prog.ReadAt(loader, 0); err != nil {
				return nil, err
			}
			paths = append(paths, strings.Trim(string(loader), "/\x00"))
		}
	}
	return paths, nil
}

// libraryIn returns the first file of a name in a directory lib, or nil.
func libraryIn(pool []*source.Package, name string) (*source.Package, image.Content) {
	for _, pkg := range pool {
		for file, n := range pkg.Tree.All() {
			if path.Base(file) != name || !strings.Contains("/"+file, "/lib/") || n.Type() == tree.Dir {
				continue
			}
			if n, err := pkg.Tree.Open(file); err == nil && n.Content != nil {
				return pkg, n.Content
			}
		}
	}
	return nil, nil
}

// file returns a program from the first of its packages that has it. Without any the error
// is [fs.ErrNotExist].
func (p *packages) file(ctx context.Context, prog boards.Program) (*source.Package, image.Content, error) {
	var tried []string
	for name := range strings.SplitSeq(prog.Package, "|") {
		pkg, err := p.get(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		// A package may be older than the move of bin and sbin into usr.
		for _, file := range []string{prog.Path, strings.TrimPrefix(prog.Path, "usr/")} {
			n, err := pkg.Tree.Open(file)
			if err == nil && n.Content != nil {
				return pkg, n.Content, nil
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, nil, fmt.Errorf("package %s: %w", name, err)
			}
		}
		tried = append(tried, pkg.Name+" "+pkg.Version)
	}
	return nil, nil, fmt.Errorf("no /%s in %s: %w", prog.Path, strings.Join(tried, " or "), fs.ErrNotExist)
}

// deeper returns packages and the packages with libraries that they depend on.
func (p *packages) deeper(ctx context.Context, pool []*source.Package) ([]*source.Package, error) {
	var names []string
	for _, pkg := range pool {
		for _, name := range pkg.Depends {
			if !slices.Contains(names, name) && !slices.Contains(pool, p.loaded[name]) && (strings.HasPrefix(name, "lib") || strings.HasPrefix(name, "zlib")) {
				names = append(names, name)
			}
		}
	}
	more, err := p.gather(ctx, names)
	return append(pool, more...), err
}

// packages are Debian packages, each opened once.
type packages struct {
	open   func(ctx context.Context, names ...string) ([]*source.Package, error)
	loaded map[string]*source.Package
}

func (p *packages) get(ctx context.Context, name string) (*source.Package, error) {
	all, err := p.gather(ctx, []string{name})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// gather returns packages. It opens all new packages at once.
func (p *packages) gather(ctx context.Context, names []string) (all []*source.Package, err error) {
	lacking := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return p.loaded[name] != nil })
	opened, err := p.open(ctx, lacking...)
	if err != nil {
		return nil, err
	}
	for i, name := range lacking {
		p.loaded[name] = opened[i]
	}
	for _, name := range names {
		all = append(all, p.loaded[name])
	}
	return all, nil
}
