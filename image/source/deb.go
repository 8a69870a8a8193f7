package source

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/blakesmith/ar"

	"imgtool/image"
	"imgtool/image/compress"
	"imgtool/image/tree"
	"imgtool/image/tree/tarfs"
)

// Package is a Debian package.
type Package struct {
	Deb
	Tree    *tree.Tree // the files it installs
	Depends []string   // names of its dependencies; the first of alternatives

	exact []string // dependencies on exactly one version, as NAME=VERSION
}

// NoAptError says that a package is needed on a machine without apt.
type NoAptError struct{ Package string }

func (e *NoAptError) Error() string {
	return fmt.Sprintf("package %s: apt-get, which would fetch it, is not installed", e.Package)
}

// Package fetches a package for the architecture of the board from the archives that apt is
// configured for on this machine. For a meta package, which has only documentation and depends on
// exactly one version of another package, it returns that one, such as the kernel that
// linux-image-arm64 depends on.
func (o *Opener) Package(ctx context.Context, name string) (*Package, error) {
	p, err := o.apt.get(ctx, name)
	for range 4 {
		if err != nil || len(p.exact) != 1 || !isMeta(p.Tree) {
			break
		}
		p, err = o.apt.get(ctx, p.exact[0])
	}
	return p, err
}

// Packages is like [Opener.Package] for several packages, which are downloaded at once.
func (o *Opener) Packages(ctx context.Context, names ...string) ([]*Package, error) {
	o.apt.gather(ctx, names)
	var all []*Package
	for _, name := range names {
		p, err := o.Package(ctx, name)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

func isMeta(t *tree.Tree) bool {
	for p, n := range t.All() {
		if n.Type() != tree.Dir && !strings.HasPrefix(p, "usr/share/doc/") && !strings.HasPrefix(p, "usr/share/lintian/") && !strings.HasPrefix(p, "usr/share/bug/") {
			return false
		}
	}
	return true
}

// debFile opens a file of a package: PACKAGE/PATH. A * in PATH matches any part of a name.
func (o *Opener) debFile(ctx context.Context, ref, rest string) (*File, error) {
	name, pattern, _ := strings.Cut(rest, "/")
	pattern = strings.Trim(pattern, "/")
	if name == "" || pattern == "" {
		return nil, fmt.Errorf("%s: it must be deb:PACKAGE/PATH", ref)
	}
	p, err := o.apt.get(ctx, name)
	tried := name
	for range 4 {
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
		var found []string
		if found, err = match(p.Tree, pattern); err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
		switch {
		case len(found) > 1:
			return nil, fmt.Errorf("%s: %d files in %s match: %s", ref, len(found), p.Name, strings.Join(found[:min(5, len(found))], ", "))
		case len(found) == 1:
			n, err := p.Tree.Open(found[0])
			if err == nil && n.Type() != tree.Regular {
				err = fmt.Errorf("not a regular file in %s %s", p.Name, p.Version)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", ref, err)
			}
			file, err := newFile(ctx, ref, contentOf(n), "deb "+p.Name+" "+p.Version)
			if err != nil {
				return nil, err
			}
			file.Debs = []Deb{p.Deb}
			return file, nil
		case len(p.exact) != 1:
			return nil, fmt.Errorf("%s: %w in %s %s", ref, fs.ErrNotExist, tried, p.Version)
		}
		p, err = o.apt.get(ctx, p.exact[0])
		if p != nil {
			tried += " and " + p.Name
		}
	}
	return nil, fmt.Errorf("%s: %w: more than 4 meta packages: %s", ref, fs.ErrNotExist, tried)
}

// match returns the paths that match a pattern. Depending on the age of a package, bin, sbin and
// lib are in usr or not.
func match(t *tree.Tree, pattern string) ([]string, error) {
	forms := []string{pattern}
	if inner, ok := strings.CutPrefix(pattern, "usr/"); ok {
		forms = append(forms, inner)
	} else {
		forms = append(forms, "usr/"+pattern)
	}
	for i, f := range forms {
		if top, _, _ := strings.Cut(strings.TrimPrefix(f, "usr/"), "/"); i > 0 && top != "bin" && top != "sbin" && top != "lib" {
			continue
		}
		if !strings.Contains(f, "*") {
			if _, err := t.Open(f); err == nil {
				return []string{f}, nil
			} else if !errors.Is(err, fs.ErrNotExist) || t.Lookup(f) != nil {
				return nil, err // a link out of the package
			}
			continue
		}
		glob := strings.NewReplacer(`\`, `\\`, `[`, `\[`, `?`, `\?`).Replace(f)
		var found []string
		for p, n := range t.All() {
			if ok, _ := path.Match(glob, p); ok && n.Type() != tree.Dir {
				found = append(found, p)
			}
		}
		if len(found) > 0 {
			return found, nil
		}
	}
	return nil, nil
}

// unpack reads the files of a package, an ar archive with debian-binary, control.tar and
// data.tar (deb(5)). The tars are compressed in several formats.
func (a *apt) unpack(ctx context.Context, f *os.File) (*tree.Tree, error) {
	magic := make([]byte, len(ar.GLOBAL_HEADER))
	if _, err := f.ReadAt(magic, 0); err != nil || string(magic) != ar.GLOBAL_HEADER {
		return nil, errors.New("not a Debian package")
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	at := io.NewSectionReader(f, 0, fi.Size())
	in := ar.NewReader(at)
	for {
		hdr, err := in.Next()
		if err == io.EOF {
			return nil, errors.New("not a Debian package: no data.tar in it")
		}
		if err != nil {
			return nil, fmt.Errorf("not a Debian package: %w", err)
		}
		name := strings.TrimSuffix(hdr.Name, "/")
		if !strings.HasPrefix(name, "data.tar") {
			continue
		}
		off, _ := at.Seek(0, io.SeekCurrent)
		if hdr.Size < 0 || hdr.Size > fi.Size()-off {
			return nil, &CorruptError{name, errors.New("cut short")}
		}
		var c image.Content = io.NewSectionReader(f, off, hdr.Size)
		dpkg, derr := exec.LookPath("dpkg-deb")
		if head, err := image.Head(c, 512); err != nil {
			return nil, err
		} else if compress.Detect(head) == compress.XZ && derr == nil {
			// dpkg-deb is twice as fast as the xz package, and is installed with apt.
			c, err = a.fsysTar(ctx, dpkg, f)
			if err != nil {
				return nil, err
			}
		} else if c, err = a.o.unpack(ctx, filepath.Base(f.Name()), io.NewSectionReader(c, 0, c.Size()), layerLike, nil); err != nil {
			return nil, err
		}
		return tarfs.Read(c, c.Size(), a.o.opt.ModTime)
	}
}

func (a *apt) fsysTar(ctx context.Context, dpkg string, deb *os.File) (image.Content, error) {
	cmd := command(ctx, dpkg, "--fsys-tarfile", deb.Name())
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c, err := a.o.unpack(ctx, filepath.Base(deb.Name()), out, layerLike, nil)
	out.Close()
	if werr := cmd.Wait(); werr != nil && (err == nil || errors.Is(err, tarfs.ErrNotTar)) && ctx.Err() == nil {
		err = fmt.Errorf("dpkg-deb: %s", cmp.Or(lastError(errs.String()), werr.Error()))
	}
	return c, err
}
