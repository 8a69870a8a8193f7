// Package source opens the inputs of a build: files and directories, Debian packages, and
// container images in directories, archives and registries ([Opener.File], [Opener.Root],
// [Opener.Package]). No other package of the build runs programs or uses the network.
//
// Files and trees can be read until the [Opener] is closed. All digests that a source states
// have been verified. Compressed streams are unpacked to scratch files without a name,
// packages are kept in the user's cache; nothing else is stored.
package source

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"imgtool/image"
	"imgtool/image/compress"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/rauc"
	"imgtool/image/remote"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
	"imgtool/image/tree/sums"
	"imgtool/image/tree/tarfs"
)

// Options are the options of an [Opener].
type Options struct {
	Dir        string           // base of relative paths; "" is the working directory
	Arch       string           // GOARCH of the board; "" is the GOARCH of this machine, and accepts a single image of any
	KeepOwners bool             // of files in directories; otherwise all are owned by 0:0
	ModTime    int64            // of directories that an archive lacks
	Clamp      bool             // limit the times of files to ModTime
	Memo       *sums.Memo       // of blocks of files; may be nil
	CacheDir   string           // of imgtool in the user's cache; "" keeps packages for this Opener only
	TempDir    string           // for scratch files; "" is the default
	Unpacked   *compress.Budget // for scratch files; may be nil
	Network    remote.Network   // timeouts of registries
	Warn       func(string)     // receives warnings; may be nil
}

// Opener opens references to inputs. Its methods may be called concurrently.
type Opener struct {
	opt Options

	mu   sync.Mutex
	open []func() error // close what is open

	apt apt
}

// NewOpener returns an Opener. The caller must call Close.
func NewOpener(opt Options) *Opener {
	o := &Opener{opt: opt}
	o.apt = apt{o: o, packages: map[string]*Package{}, records: map[string]*record{}}
	return o
}

// Close closes all files. Content from the Opener can no longer be read.
func (o *Opener) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, close := range o.open {
		errs = append(errs, close())
	}
	o.open = nil
	return errors.Join(errs...)
}

func (o *Opener) keep(close func() error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open = append(o.open, close)
}

// CorruptError says that an input is damaged: malformed, cut short, or with the wrong digest.
type CorruptError struct {
	Name string // the reference, and the part that is damaged
	Err  error
}

func (e *CorruptError) Error() string { return e.Name + ": " + e.Err.Error() }
func (e *CorruptError) Unwrap() error { return e.Err }
func (e *CorruptError) Kind() string  { return fault.Corrupt }

// named adds a name to an error. It keeps a *CorruptError, and turns the error of a damaged tar into one.
func named(name string, err error) error {
	if !errors.As(err, new(*CorruptError)) && errors.As(err, new(*tarfs.CorruptError)) {
		return &CorruptError{name, err}
	}
	return fmt.Errorf("%s: %w", name, err)
}

// File is an input file.
type File struct {
	image.Content
	SHA256 string // hexadecimal
	Origin string // such as "deb u-boot-rockchip 2023.01+dfsg-2+deb12u1"; "" for a path
	Debs   []Deb  // packages that it, or a part of it, was taken from
}

// Deb identifies a Debian package.
type Deb struct{ Name, Version, Arch, SHA256 string }

// Layer identifies a layer of a container image. In archives of "docker save" it has a digest
// only, which is of the uncompressed layer.
type Layer struct {
	MediaType string
	Digest    string // as "sha256:…"
	Size      int64
}

// Root is a root file system: a tree, or a file system that is ready. The other field is nil.
type Root struct {
	Tree   *tree.Tree
	Ready  *File
	Format string          // of Ready: "squashfs" or "erofs"
	Digest string          // of the tree or of Ready, hexadecimal
	Sums   *sums.Checksums // of the files of the tree
	Origin string          // such as "oci sha256:…", the digest of the manifest; "" for a path
	Layers []Layer         // of a container image
	Debs   []Deb           // packages that files of the tree were taken from
}

// File opens PATH or deb:PACKAGE/PATH.
func (o *Opener) File(ctx context.Context, ref string) (*File, error) {
	if rest, ok := strings.CutPrefix(ref, "deb:"); ok {
		return o.debFile(ctx, ref, rest)
	}
	f, fi, err := o.openPath(ref, ref)
	if err != nil {
		return nil, err
	}
	return newFile(ctx, ref, io.NewSectionReader(f, 0, fi.Size()), "")
}

// Root opens a root file system: the path of a directory, a tar that may be compressed, a
// squashfs or erofs, an OCI image layout, an archive of one, or an archive of "docker save";
// oci:PATH:NAME to choose between several images; or docker://HOST/REPOSITORY:TAG in a registry.
// The kind of a file is detected from its content.
func (o *Opener) Root(ctx context.Context, ref string) (*Root, error) {
	r, err := o.root(ctx, ref)
	if err != nil {
		return nil, err
	}
	if r.Tree != nil && o.opt.Clamp {
		r.Tree.Clamp(o.opt.ModTime)
	}
	if r.Ready != nil {
		r.Digest = r.Ready.SHA256
	} else if r.Digest, r.Sums, err = sums.Digest(ctx, r.Tree, sums.Options{Memo: o.opt.Memo}); err != nil {
		return nil, named(ref, err)
	}
	if r.Tree != nil && o.opt.Warn != nil {
		for _, l := range r.Tree.Losses() {
			o.opt.Warn(fmt.Sprintf("%s: %s of %d files are left out: the first is %s", ref, l.What, l.N, l.First))
		}
		if n := r.Tree.Trailing(); n > 0 {
			o.opt.Warn(fmt.Sprintf("%s: %d bytes after the end of the archive are not read: if that is a second archive, join the two with tar --concatenate", ref, n))
		}
	}
	return r, nil
}

func (o *Opener) root(ctx context.Context, ref string) (*Root, error) {
	for _, scheme := range []string{"docker://", "oci://"} {
		if rest, ok := strings.CutPrefix(ref, scheme); ok {
			return o.registry(ctx, ref, rest)
		}
	}
	if rest, ok := strings.CutPrefix(ref, "oci:"); ok {
		r, err := o.rootPath(ctx, o.splitName(ref, rest))
		if err == nil && r.Origin == "" {
			return nil, fmt.Errorf("%s: not an OCI layout", ref)
		}
		return r, err
	}
	r, err := o.rootPath(ctx, within{ref: ref, path: ref})
	if errors.Is(err, fs.ErrNotExist) {
		err = cmp.Or(CheckScheme(ref), err)
	}
	if errors.Is(err, fs.ErrNotExist) && o.looksRemote(ref) {
		return o.registry(ctx, ref, ref)
	}
	return r, err
}

// CheckScheme returns an error for a reference that does not name a file and is written like one
// that is read from elsewhere.
func CheckScheme(ref string) error {
	switch scheme, _, _ := strings.Cut(ref, ":"); scheme {
	case "http", "https", "ftp", "s3":
		return fmt.Errorf("%s: URLs are not read: download the file and give its path", ref)
	case "docker":
		return fmt.Errorf("%s: write an image in a registry as docker://HOST/REPOSITORY:TAG", ref)
	}
	return nil
}

// looksRemote reports whether ref is HOST/REPOSITORY with a tag or digest, and there is no
// directory HOST. Otherwise a mistyped path would be looked up in a registry.
func (o *Opener) looksRemote(ref string) bool {
	host, rest, ok := strings.Cut(ref, "/")
	if !ok || host == "" || strings.HasPrefix(host, ".") || host != "localhost" && !strings.ContainsAny(host, ".:") {
		return false
	}
	if !strings.ContainsAny(rest[strings.LastIndexByte(rest, '/')+1:], ":@") {
		return false
	}
	_, err := os.Lstat(o.path(host))
	return err != nil
}

func (o *Opener) path(ref string) string {
	if filepath.IsAbs(ref) {
		return ref
	}
	return filepath.Join(o.opt.Dir, ref)
}

// openPath opens a regular file. It stays open until Close.
func (o *Opener) openPath(ref, path string) (*os.File, fs.FileInfo, error) {
	fi, err := o.stat(ref, path)
	if err != nil {
		return nil, nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file, but %s", ref, hostfile.Kind(fi.Mode()))
	}
	f, err := hostfile.Open(o.path(path))
	if err != nil {
		return nil, nil, reason(ref, err)
	}
	o.keep(f.Close)
	if fi, err = f.Stat(); err != nil {
		return nil, nil, reason(ref, err)
	}
	return f, fi, nil
}

func (o *Opener) stat(ref, path string) (fs.FileInfo, error) {
	if path == "" {
		return nil, errors.New("no path is given")
	}
	fi, err := os.Stat(o.path(path))
	if err != nil {
		return nil, reason(ref, err)
	}
	return fi, nil
}

// reason replaces the path in an error with the reference.
func reason(ref string, err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return &fs.PathError{Op: pe.Op, Path: ref, Err: pe.Err}
	}
	return fmt.Errorf("%s: %w", ref, err)
}

// IsPath reports whether a reference is a path of this computer.
func IsPath(ref string) bool {
	for _, prefix := range []string{"deb:", "oci:", "docker://"} {
		if strings.HasPrefix(ref, prefix) {
			return false
		}
	}
	return true
}

func (o *Opener) rootPath(ctx context.Context, in within) (*Root, error) {
	ref, path := in.ref, in.path
	fi, err := o.stat(ref, path)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		dir := o.path(path)
		if isLayout(dir) {
			return o.layout(ctx, in, nil, func(name string) (io.ReadCloser, error) { return o.openInDir(dir, name) })
		}
		t, err := hostfs.Read(dir, o.opt.KeepOwners, o.opt.ModTime)
		if err != nil {
			return nil, err
		}
		return &Root{Tree: t}, nil
	}
	f, fi, err := o.openPath(ref, path)
	if err != nil {
		return nil, err
	}
	whole := io.NewSectionReader(f, 0, fi.Size())
	var c image.Content = whole
	kind, err := sniff(c)
	if err != nil {
		return nil, named(ref, err)
	}
	if kind == packed {
		if c, err = o.unpack(ctx, ref, whole, rootLike, nil); err != nil {
			return nil, named(ref, err)
		}
		if kind, err = sniff(c); err != nil {
			return nil, named(ref, err)
		}
	}
	switch kind {
	case squash, erofsImage:
		if rauc.Is(c, c.Size()) {
			err := fault.New(fault.Input, "%s is an update bundle, not a root file system", ref)
			return nil, fault.WithHint(err, "the root file system in it is written to a file with imgtool cat %s:rootfs > rootfs.squashfs", ref)
		}
		file, err := newFile(ctx, ref, c, "")
		if err != nil {
			return nil, err
		}
		return &Root{Ready: file, Format: formats[kind]}, nil
	case tarball:
	default:
		return nil, noRoot(ref)
	}
	t, err := tarfs.Read(c, c.Size(), o.opt.ModTime)
	if errors.Is(err, tarfs.ErrNotTar) {
		return nil, noRoot(ref)
	}
	if err != nil {
		return nil, named(ref, err)
	}
	if isLayoutArchive(t) {
		return o.layout(ctx, in, t, func(name string) (io.ReadCloser, error) { return openIn(t, name) })
	}
	if images := dockerImages(t); len(images) > 0 {
		return o.dockerArchive(ctx, in, t, images)
	}
	return &Root{Tree: t}, nil
}

func noRoot(ref string) error {
	return fmt.Errorf("%s: not a directory, tar, squashfs, erofs or container image", ref)
}

// NewFile returns content as a file. It reads all of it for the digest.
func NewFile(c image.Content, origin string) (*File, error) {
	sum, err := hash(context.Background(), io.NewSectionReader(c, 0, c.Size()))
	return &File{Content: c, SHA256: sum, Origin: origin}, err
}

func newFile(ctx context.Context, ref string, c image.Content, origin string) (*File, error) {
	sum, err := hash(ctx, io.NewSectionReader(c, 0, c.Size()))
	if err != nil {
		return nil, named(ref, err)
	}
	return &File{Content: c, SHA256: sum, Origin: origin}, nil
}

// hash returns the SHA-256 in hexadecimal.
func hash(ctx context.Context, r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, image.NewReader(ctx, r, nil)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
