package source

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/image/cache"
	"imgtool/image/registry"
)

// apt runs the host's apt with a separate state in the user's cache, so that it needs no
// privileges and does not change the host's packages.
type apt struct {
	o *Opener

	mu        sync.Mutex
	packages  map[string]*Package // fetched, by NAME and NAME=VERSION
	records   map[string]*record  // found by gather, by NAME
	refreshed bool                // the lists were fetched by this Opener, or that failed
	program   string
	dir       string
	options   []string
}

// debianArch has Debian's names of architectures that differ from GOARCH.
var debianArch = map[string]string{"386": "i386", "arm": "armhf", "ppc64le": "ppc64el", "mipsle": "mipsel", "mips64le": "mips64el"}

// listsAge is the age at which package lists are fetched again.
const listsAge = 24 * time.Hour

// get fetches a package, NAME or NAME=VERSION, and fetches newer lists if it is not in the lists
// or can no longer be downloaded.
func (a *apt) get(ctx context.Context, name string) (*Package, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.packages[name]; p != nil {
		return p, nil
	}
	bare, version, exact := strings.Cut(name, "=")
	if !packageName.MatchString(bare) {
		return nil, fmt.Errorf("package %q: invalid package name", bare)
	}
	if exact && !packageVersion.MatchString(version) {
		return nil, fmt.Errorf("package %s: invalid version %q", bare, version)
	}
	unlock, err := a.setUp(ctx, bare)
	if err != nil {
		return nil, err
	}
	defer unlock()

	stale := a.refreshOld(ctx)
	p, err := a.fetch(ctx, name)
	if err != nil && !a.refreshed && !errors.As(err, new(*CorruptError)) && ctx.Err() == nil {
		// The package may be newer than the lists, or its version may have been replaced.
		stale = a.refresh(ctx)
		p, err = a.fetch(ctx, name)
	}
	if err != nil && stale != nil && !errors.As(err, new(*CorruptError)) {
		err = stale // fetching the lists failed: that is the reason
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", bare, err)
	}
	a.packages[name] = p
	return p, nil
}

// gather downloads packages to the cache. It ignores errors, because get reports them for each
// package.
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
	a.refreshOld(ctx)
	out, err := a.show(ctx, names)
	if err != nil {
		return
	}
	var missing []*record
	for text := range strings.SplitSeq(string(out), "\n\n") {
		r, err := parseRecord(text)
		// The lists may contain packages with names that were not requested.
		if err != nil || a.records[r.name] != nil || !slices.Contains(names, r.name) {
			continue
		}
		a.records[r.name] = r
		if _, err := os.Stat(a.file(r)); err != nil {
			missing = append(missing, r)
		}
	}
	if len(missing) > 0 {
		a.download(ctx, missing...)
	}
}

// setUp creates the separate state and locks it.
func (a *apt) setUp(ctx context.Context, name string) (unlock func(), err error) {
	if a.program, err = exec.LookPath("apt-get"); err != nil {
		return nil, &NoAptError{name}
	}
	if a.o.opt.CacheDir == "" {
		// Only for this Opener.
		dir, err := os.MkdirTemp(a.o.opt.TempDir, "imgtool-packages-")
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", name, err)
		}
		a.o.opt.CacheDir = dir
		a.o.keep(func() error { return os.RemoveAll(dir) })
	}
	// apt runs in other directories.
	dir, err := filepath.Abs(a.o.opt.CacheDir)
	if err != nil {
		return nil, err
	}
	arch := cmp.Or(debianArch[a.o.arch()], a.o.arch())
	a.dir = filepath.Join(dir, "apt-"+arch)
	// Another user who can write the lists could make apt fetch any package.
	for _, d := range []string{a.dir, a.debs()} {
		if err := cache.MakePrivate(d); err != nil {
			return nil, fmt.Errorf("package %s: %w", name, err)
		}
	}
	if sandboxUser() >= 0 {
		// apt's sandbox user needs access to the download directory.
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
		"-oDir::Cache::pkgcache=pkgcache.bin", // the apt configuration of container images disables it
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

func (a *apt) stamp() string { return filepath.Join(a.dir, "refreshed") }
func (a *apt) debs() string  { return filepath.Join(filepath.Dir(a.dir), "deb") }

// refreshOld fetches the package lists if they are old.
func (a *apt) refreshOld(ctx context.Context) error {
	if fi, err := os.Stat(a.stamp()); err == nil && time.Since(fi.ModTime()) <= listsAge {
		return nil
	}
	return a.refresh(ctx)
}

func (a *apt) refresh(ctx context.Context) error {
	a.refreshed, a.records = true, map[string]*record{}
	if _, err := a.run(ctx, a.dir, a.program, "-oAPT::Update::Error-Mode=any", "update"); err != nil {
		return fmt.Errorf("fetching the package lists: %w", err)
	}
	return os.WriteFile(a.stamp(), []byte("\n"), 0o644)
}

// run runs a program of apt and returns its output. The error is the last error message of the
// program.
func (a *apt) run(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	cmd := command(ctx, program, append(slices.Clone(a.options), args...)...)
	cmd.Dir = dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%s: %s", filepath.Base(program), cmp.Or(lastError(errs.String()), err.Error()))
	}
	return out.Bytes(), nil
}

func command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// lastError returns the last error message in the output of apt, or its last line.
func lastError(stderr string) string {
	var last, e string
	for line := range strings.Lines(stderr) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		last = line
		// apt ends with general advice.
		if rest, ok := strings.CutPrefix(line, "E: "); ok && (e == "" || !strings.HasPrefix(rest, "Some index files failed")) {
			e = rest
		}
	}
	return cmp.Or(e, last)
}

// fetch finds a package in the lists, downloads it unless the cache has it, and unpacks it.
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
	return &Package{Deb{r.name, r.version, r.arch, r.sha256}, t, r.depends, r.exact}, nil
}

func (a *apt) file(r *record) string { return filepath.Join(a.debs(), r.sha256+".deb") }

// cached opens a package in the cache. A file with the wrong digest is removed, and the error is
// [fs.ErrNotExist].
func (a *apt) cached(ctx context.Context, r *record) (*os.File, error) {
	f, err := os.Open(a.file(r))
	if err != nil {
		return nil, err
	}
	sum, err := hash(ctx, f)
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

// download downloads packages to the cache and verifies their digests.
func (a *apt) download(ctx context.Context, rs ...*record) error {
	tmp, err := os.MkdirTemp(a.debs(), "tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	uid := sandboxUser()
	if uid >= 0 {
		if err := os.Lchown(tmp, uid, 0); err != nil {
			return err
		}
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
		return fmt.Errorf("apt-get download created %d files, not %d", len(files), len(rs))
	}
	byDigest := map[string]string{}
	sum := ""
	for _, file := range files {
		if err = takeOver(file, uid); err == nil {
			sum, err = hashFile(ctx, file)
		}
		if err != nil {
			return err
		}
		byDigest[sum] = file
	}
	for _, r := range rs {
		if byDigest[r.sha256] == "" {
			return &CorruptError{r.name + " " + r.version, &registry.MismatchError{What: "digest", Got: "sha256:" + sum, Want: "sha256:" + r.sha256}}
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
	return hash(ctx, f)
}
