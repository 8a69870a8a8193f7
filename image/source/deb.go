package source

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/blakesmith/ar"
	"golang.org/x/sys/unix"

	"imgtool/image"
	"imgtool/image/cache"
	"imgtool/image/compress"
	"imgtool/image/tree"
	"imgtool/image/tree/tarfs"
)

// Package is a Debian package: what it would put into a root file system.
type Package struct {
	Tree    *tree.Tree
	Name    string
	Version string
	Depends []string // the names of the packages it needs, of alternatives the first

	exact []string // of those with exactly one version, as NAME=VERSION
}

// NoAptError says that a package was asked for on a machine without apt.
type NoAptError struct{ Package string }

func (e *NoAptError) Error() string {
	return fmt.Sprintf("package %s: this machine has no apt-get to fetch it with", e.Package)
}

// Names and versions as Debian's policy has them (5.6.1 and 5.6.12). They leave no room
// for options of apt or for other releases.
var (
	packageName    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	packageVersion = regexp.MustCompile(`^(?:[0-9]+:)?[A-Za-z0-9][A-Za-z0-9.+~-]*$`)
)

// Package fetches a package for the board's architecture from the archives this
// machine's apt is set up for. In place of a package that holds nothing but
// documentation and needs exactly one version of another it returns the other,
// such as the kernel that linux-image-arm64 stands for.
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

// Packages is Package for several, which apt is asked for at once.
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

// debFile opens PACKAGE/PATH, where a * in PATH stands for any part of a name.
func (o *Opener) debFile(ctx context.Context, ref, rest string) (*File, error) {
	name, pattern, _ := strings.Cut(rest, "/")
	pattern = strings.Trim(pattern, "/")
	if name == "" || pattern == "" {
		return nil, fmt.Errorf("%s: not deb:PACKAGE/PATH", ref)
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
			if err != nil {
				return nil, fmt.Errorf("%s: %w", ref, err)
			}
			if n.Type() != tree.Regular {
				return nil, fmt.Errorf("%s: not a regular file in %s %s", ref, p.Name, p.Version)
			}
			c := n.Content
			if c == nil {
				c = image.Zeros(0)
			}
			sum, err := hash(ctx, c)
			if err != nil {
				return nil, named(ref, err)
			}
			return &File{c, sum, "deb " + p.Name + " " + p.Version}, nil
		case len(p.exact) != 1:
			return nil, fmt.Errorf("%s: %w in %s %s", ref, fs.ErrNotExist, tried, p.Version)
		}
		p, err = o.apt.get(ctx, p.exact[0])
		if p != nil {
			tried += " and " + p.Name
		}
	}
	return nil, fmt.Errorf("%s: %w: packages that each stand for another: %s", ref, fs.ErrNotExist, tried)
}

// match returns what a pattern names. A package may be older or newer than the
// move of bin, sbin and lib into usr.
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
				return nil, err // a link that leads out of the package
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

// apt is the host's apt with a state of its own in the user's cache, so that it
// needs no rights and the host's packages are not touched.
type apt struct {
	o *Opener

	mu        sync.Mutex
	packages  map[string]*Package // by NAME and NAME=VERSION
	records   map[string]*record  // of packages that were gathered, by NAME
	refreshed bool                // by this Opener, whether or not it worked
	program   string
	dir       string
	options   []string
}

// debianArch is Go's name of an architecture in Debian's words.
func debianArch(arch string) string {
	switch arch {
	case "386":
		return "i386"
	case "arm":
		return "armhf"
	case "ppc64le":
		return "ppc64el"
	case "mipsle":
		return "mipsel"
	case "mips64le":
		return "mips64el"
	}
	return arch
}

const listsAge = 24 * time.Hour

func (a *apt) get(ctx context.Context, name string) (*Package, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.packages[name]; p != nil {
		return p, nil
	}
	bare, version, exact := strings.Cut(name, "=")
	if !packageName.MatchString(bare) {
		return nil, fmt.Errorf("package %q: not a name of a package", bare)
	}
	if exact && !packageVersion.MatchString(version) {
		return nil, fmt.Errorf("package %s: %q is not a version of a package", bare, version)
	}
	unlock, err := a.setUp(ctx, bare)
	if err != nil {
		return nil, err
	}
	defer unlock()

	var stale error
	if fi, err := os.Stat(a.stamp()); err != nil || time.Since(fi.ModTime()) > listsAge {
		stale = a.refresh(ctx)
	}
	var p *Package
	for {
		if p, err = a.fetch(ctx, name); err == nil || ctx.Err() != nil {
			break
		}
		var damaged *CorruptError
		if errors.As(err, &damaged) {
			break
		}
		if a.refreshed {
			// Why there are no lists says more than that the package is not in them.
			if stale != nil {
				err = stale
			}
			break
		}
		// It may be newer than the lists, or replaced since.
		stale = a.refresh(ctx)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", bare, err)
	}
	if a.packages == nil {
		a.packages = map[string]*Package{}
	}
	a.packages[name] = p
	return p, nil
}

// gather fetches packages into the cache, as far as it can: what is wrong with one is
// said by get.
func (a *apt) gather(ctx context.Context, names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return !packageName.MatchString(name) || a.packages[name] != nil || a.records[name] != nil
	})
	if len(names) == 0 {
		return
	}
	unlock, err := a.setUp(ctx, names[0])
	if err != nil {
		return
	}
	defer unlock()
	if fi, err := os.Stat(a.stamp()); err != nil || time.Since(fi.ModTime()) > listsAge {
		a.refresh(ctx)
	}
	out, err := a.show(ctx, names)
	if err != nil {
		return
	}
	if a.records == nil {
		a.records = map[string]*record{}
	}
	var lacking []*record
	for text := range strings.SplitSeq(string(out), "\n\n") {
		r, err := parseRecord(text)
		// A list may have a package under a name that was not asked for.
		if err != nil || a.records[r.name] != nil || !slices.Contains(names, r.name) {
			continue
		}
		a.records[r.name] = r
		if _, err := os.Stat(a.file(r)); err != nil {
			lacking = append(lacking, r)
		}
	}
	if len(lacking) > 0 {
		a.download(ctx, lacking...)
	}
}

// setUp makes the private state and locks it.
func (a *apt) setUp(ctx context.Context, name string) (unlock func(), err error) {
	if a.program, err = exec.LookPath("apt-get"); err != nil {
		return nil, &NoAptError{name}
	}
	if a.o.opt.CacheDir == "" {
		// For this Opener alone.
		dir, err := os.MkdirTemp(a.o.opt.TempDir, "imgtool-packages-")
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", name, err)
		}
		a.o.opt.CacheDir = dir
		a.o.keep(closer(func() error { return os.RemoveAll(dir) }))
	}
	// apt runs in other folders.
	dir, err := filepath.Abs(a.o.opt.CacheDir)
	if err != nil {
		return nil, err
	}
	arch := debianArch(a.o.arch())
	a.dir = filepath.Join(dir, "apt-"+arch)
	// Lists that another user can write to could name any package.
	for _, d := range []string{a.dir, a.debs()} {
		if err := cache.MakePrivate(d); err != nil {
			return nil, fmt.Errorf("package %s: %w", name, err)
		}
	}
	if sandbox().uid >= 0 {
		// apt's sandbox user must be able to reach what it downloads into.
		for _, d := range []string{dir, a.dir, a.debs()} {
			if err := os.Chmod(d, 0o711); err != nil {
				return nil, err
			}
		}
	}
	for _, d := range []string{"lists/partial", "state", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	a.options = []string{
		"-oAPT::Architecture=" + arch,
		"-oAPT::Architectures=" + arch,
		"-oAcquire::http::Timeout=30",
		"-oAcquire::https::Timeout=30",
		"-oAcquire::Retries=3",
		"-oDir::State=" + filepath.Join(a.dir, "state"),
		"-oDir::State::Lists=" + filepath.Join(a.dir, "lists"),
		"-oDir::State::status=/dev/null",
		"-oDir::Cache=" + filepath.Join(a.dir, "cache"),
		"-oDir::Cache::pkgcache=pkgcache.bin", // images for containers turn it off
		"-oAcquire::Languages=none",
	}
	f, err := os.OpenFile(filepath.Join(a.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

type closer func() error

func (c closer) Close() error { return c() }

func (a *apt) stamp() string { return filepath.Join(a.dir, "refreshed") }
func (a *apt) debs() string  { return filepath.Join(filepath.Dir(a.dir), "deb") }

func (a *apt) refresh(ctx context.Context) error {
	a.refreshed, a.records = true, map[string]*record{}
	if _, err := a.run(ctx, a.dir, a.program, "-oAPT::Update::Error-Mode=any", "update"); err != nil {
		return fmt.Errorf("fetching the lists of packages: %w", err)
	}
	now := time.Now()
	if err := os.WriteFile(a.stamp(), nil, 0o644); err != nil {
		return err
	}
	return os.Chtimes(a.stamp(), now, now)
}

// run runs a program of apt and returns what it says. Its error is apt's last
// complaint.
func (a *apt) run(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, append(slices.Clone(a.options), args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = 5 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%s: %s", filepath.Base(program), cmp.Or(complaint(errs.String()), err.Error()))
	}
	return out.Bytes(), nil
}

// complaint is the last line that says what is wrong.
func complaint(stderr string) string {
	var last, e string
	for line := range strings.Lines(stderr) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		last = line
		// The last of all is advice that apt gives whatever happened.
		if rest, ok := strings.CutPrefix(line, "E: "); ok && (e == "" || !strings.HasPrefix(rest, "Some index files failed")) {
			e = rest
		}
	}
	return cmp.Or(e, last)
}

// record is what a package list says of a package.
type record struct {
	name, version, sha256 string
	depends, exact        []string
}

func (a *apt) show(ctx context.Context, names []string) ([]byte, error) {
	return a.run(ctx, a.dir, filepath.Join(filepath.Dir(a.program), "apt-cache"), append([]string{"show", "--no-all-versions", "--"}, names...)...)
}

func (a *apt) record(ctx context.Context, name string) (*record, error) {
	if r := a.records[name]; r != nil {
		return r, nil
	}
	out, err := a.show(ctx, []string{name})
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(string(out), "\n\n")
	r, err := parseRecord(first)
	if bare, _, _ := strings.Cut(name, "="); err == nil && r.name != bare {
		err = errNoRecord
	}
	return r, err
}

var errNoRecord = errors.New("apt-cache: no such package, or only others that provide it")

func parseRecord(text string) (*record, error) {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") {
			fields[k] = strings.TrimSpace(v)
		}
	}
	r := &record{name: fields["Package"], version: fields["Version"], sha256: strings.ToLower(fields["SHA256"])}
	if r.name == "" || r.version == "" {
		return nil, errNoRecord
	}
	if !packageName.MatchString(r.name) || !packageVersion.MatchString(r.version) {
		return nil, fmt.Errorf("the list of packages has %.60q in version %.60q, which is no name and version of a package", r.name, r.version)
	}
	if sum, err := hex.DecodeString(r.sha256); err != nil || len(sum) != sha256.Size {
		return nil, fmt.Errorf("%s: the list of packages has no SHA-256 of it", r.version)
	}
	for _, field := range []string{"Pre-Depends", "Depends"} {
		for dep := range strings.SplitSeq(fields[field], ",") {
			if name := dependsName.FindString(strings.TrimSpace(dep)); name != "" {
				r.depends = append(r.depends, name)
			}
			if m := exactDepends.FindStringSubmatch(strings.TrimSpace(dep)); m != nil && field == "Depends" && packageVersion.MatchString(m[2]) {
				r.exact = append(r.exact, m[1]+"="+m[2])
			}
		}
	}
	return r, nil
}

var dependsName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+`)

var exactDepends = regexp.MustCompile(`^([a-z0-9][a-z0-9+.-]+)(?::[a-z0-9]+)? \(= ([^()|]+)\)$`)

// fetch finds a package in the lists and unpacks it, from the cache if it is
// there as the lists say.
func (a *apt) fetch(ctx context.Context, name string) (*Package, error) {
	r, err := a.record(ctx, name)
	if err != nil {
		return nil, err
	}
	f, err := a.cached(ctx, r)
	if errors.Is(err, fs.ErrNotExist) {
		if err = a.download(ctx, r); err == nil {
			f, err = a.cached(ctx, r)
		}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t, err := a.unpack(ctx, f)
	if err != nil {
		return nil, named(r.name+" "+r.version, err)
	}
	return &Package{t, r.name, r.version, r.depends, r.exact}, nil
}

func (a *apt) file(r *record) string { return filepath.Join(a.debs(), r.sha256+".deb") }

// cached opens a package in the cache, which is no longer there if it is not
// what it should be.
func (a *apt) cached(ctx context.Context, r *record) (*os.File, error) {
	f, err := os.Open(a.file(r))
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	sum, err := hash(ctx, io.NewSectionReader(f, 0, fi.Size()))
	if err == nil && sum != r.sha256 {
		if err = os.Remove(f.Name()); err == nil {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (a *apt) download(ctx context.Context, rs ...*record) error {
	tmp, err := os.MkdirTemp(a.debs(), "tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	user := sandbox()
	if err := user.own(tmp); err != nil {
		return err
	}
	args := []string{"download", "--"}
	for _, r := range rs {
		args = append(args, r.name+"="+r.version)
	}
	if _, err := a.run(ctx, tmp, a.program, args...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil {
		return err
	}
	if len(files) != len(rs) {
		return fmt.Errorf("apt-get download left %d files, not %d", len(files), len(rs))
	}
	if err := user.disown(files); err != nil {
		return err
	}
	byDigest := map[string]string{}
	sum := ""
	for _, file := range files {
		if sum, err = hashFile(ctx, file); err != nil {
			return err
		}
		byDigest[sum] = file
	}
	for _, r := range rs {
		if byDigest[r.sha256] == "" {
			return &CorruptError{r.name + " " + r.version, &mismatchError{"digest", "sha256:" + sum, "sha256:" + r.sha256}}
		}
		if err := os.Rename(byDigest[r.sha256], a.file(r)); err != nil {
			return err
		}
	}
	return nil
}

func hashFile(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	return hash(ctx, io.NewSectionReader(f, 0, fi.Size()))
}

// unpack reads the tar inside a package: an ar archive of debian-binary,
// control.tar and data.tar, the tars packed in one way or another.
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
		if head, err := headOf(c); err != nil {
			return nil, err
		} else if compress.Detect(head) == compress.XZ && derr == nil {
			// Twice as fast, and there wherever apt is.
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
	cmd := exec.CommandContext(ctx, dpkg, "--fsys-tarfile", deb.Name())
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = 5 * time.Second
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
		err = fmt.Errorf("dpkg-deb: %s", cmp.Or(complaint(errs.String()), werr.Error()))
	}
	return c, err
}
