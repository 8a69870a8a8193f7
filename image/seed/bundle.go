package seed

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"imgtool/image/fault"
)

// The device's limits.
const (
	MaxUpload  = 32 << 20  // of the file itself
	MaxTar     = 256 << 20 // unpacked, with all padding
	MaxMembers = 4096      // folders count
	MaxMember  = 64 << 20

	maxName = 255       // of a file system
	maxPath = 4095      // of Linux
	maxDeep = 100       // ours, so that names stay few
	window  = 128 << 20 // of zstd, what it takes without being asked to
)

// Limits are what is taken of documents and bundles. The zero value is what an
// AtomixOS device takes.
type Limits struct {
	Document int64  // bytes of config.toml; 0 is MaxUpload, and MaxMember in a bundle
	Window   uint64 // bytes of a zstd window; 0 is 128 MiB
	Depth    int    // directories that a file of a bundle is in; 0 is 100
}

var (
	gzipNames = []string{".tar.gz", ".tgz"}
	zstdNames = []string{".tar.zst", ".tar.zstd", ".tzst"}
)

func named(name string, ends []string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(ends, func(end string) bool { return strings.HasSuffix(name, end) })
}

// IsBundleName says whether a name is one of a bundle.
func IsBundleName(name string) bool { return named(name, gzipNames) || named(name, zstdNames) }

// CorruptError is an archive that is damaged, cut short or none at all.
type CorruptError struct{ Err error }

func (e *CorruptError) Error() string { return "the archive is corrupt: " + e.Err.Error() }
func (e *CorruptError) Unwrap() error { return e.Err }
func (e *CorruptError) Kind() string  { return fault.Corrupt }

// Bundle is what a bundle, or a plain document, has in it.
type Bundle struct {
	Format  string  `json:"format"` // toml, tar.gz or tar.zst
	Members int     `json:"members"`
	Files   int     `json:"files"` // regular ones below files/
	Size    int64   `json:"size"`  // unpacked
	Config  *Config `json:"-"`     // nil if the document has faults
}

// CheckBundle judges a bundle or a plain document as the device's API does, where
// name, which may be empty, is the name it is sent under. Nothing is unpacked but
// the document, and that into memory. The faults are those of the document.
func CheckBundle(name string, r io.Reader) (*Bundle, []Fault, error) {
	return Limits{}.CheckBundle(name, r)
}

// CheckBundle is the function CheckBundle within limits.
func (l Limits) CheckBundle(name string, r io.Reader) (*Bundle, []Fault, error) {
	return l.check(name, r, false)
}

// CheckBundleFile is CheckBundle as the device's own command judges a file: it
// takes plain documents under the name *.toml only.
func CheckBundleFile(name string, r io.Reader) (*Bundle, []Fault, error) {
	return Limits{}.check(name, r, true)
}

func (l Limits) check(name string, r io.Reader, file bool) (*Bundle, []Fault, error) {
	in := bufio.NewReaderSize(&limited{r: r, left: MaxUpload, what: "the file has more than 32 MiB, which is all the device takes"}, 64<<10)
	head, err := in.Peek(512)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	if format := packing(name, head); format != "" {
		r, end, err := l.unpacked(format, in)
		if err != nil {
			return nil, nil, l.corrupt(err)
		}
		defer end()
		return l.checkArchive(&Bundle{Format: format}, r)
	}
	for _, other := range []struct{ name, magic string }{{"xz", "\xfd7zXZ\x00"}, {"bzip2", "BZh"}, {"zip", "PK\x03\x04"}} {
		if bytes.HasPrefix(head, []byte(other.magic)) {
			return nil, nil, fmt.Errorf("the device does not take %s; a bundle is a tar in gzip or zstd", other.name)
		}
	}
	if len(head) > 262 && string(head[257:262]) == "ustar" {
		return nil, nil, errors.New("the device does not take a plain tar; a bundle is a tar in gzip or zstd")
	}
	if file && !strings.HasSuffix(name, ".toml") {
		return nil, nil, errors.New("the device's command takes a plain document only if its name ends in .toml")
	}
	text, err := l.readDocument(in)
	if err != nil {
		return nil, nil, err
	}
	b := &Bundle{Format: "toml", Members: 1, Size: int64(len(text))}
	var faults []Fault
	b.Config, faults = Check(text)
	return b, faults, nil
}

// limitError is a limit that was passed, and no damage.
type limitError string

func (e limitError) Error() string { return string(e) }

// corrupt is what an archive's reader said.
func (l Limits) corrupt(err error) error {
	var limit limitError
	if errors.As(err, &limit) {
		return limit
	}
	switch {
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return fmt.Errorf("the archive needs a zstd window of more than %d MiB, which is all the device has; pack it without --long", cmp.Or(l.Window, window)>>20)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("it ends too early")
	}
	return &CorruptError{err}
}

// packing is how a bundle is packed, by its name or else by how it begins; empty if
// it is none.
func packing(name string, head []byte) string {
	switch {
	case named(name, gzipNames) || bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return "tar.gz"
	case named(name, zstdNames) || bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		return "tar.zst"
	}
	return ""
}

func (l Limits) unpacked(format string, in *bufio.Reader) (r io.Reader, end func(), err error) {
	if format == "tar.gz" {
		return &gunzip{in: in}, func() {}, nil
	}
	d, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(cmp.Or(l.Window, window)))
	if err != nil {
		return nil, nil, err
	}
	return d, d.Close, nil
}

// Unpack calls put with config.toml and the files of a bundle or document that
// CheckBundle found good, by their clean paths. The same path may come again.
func Unpack(name string, r io.Reader, put func(path string, r io.Reader) error) error {
	return Limits{}.Unpack(name, r, put)
}

// Unpack is the function Unpack for what CheckBundle found good within the limits.
func (l Limits) Unpack(name string, r io.Reader, put func(path string, r io.Reader) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return err
	}
	format := packing(name, head)
	if format == "" {
		return put("config.toml", in)
	}
	u, end, err := l.unpacked(format, in)
	if err != nil {
		return l.corrupt(err)
	}
	defer end()
	names := members{}
	for t := tar.NewReader(u); ; {
		h, err := t.Next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil && !errors.Is(err, tar.ErrInsecurePath):
			return l.corrupt(err)
		case h.Typeflag == tar.TypeXGlobalHeader:
			continue
		}
		path, err := names.add(h, cmp.Or(l.Depth, maxDeep))
		if err != nil {
			return err
		}
		if !names[path] && path != "." {
			if err := put(path, t); err != nil {
				return err
			}
		}
	}
}

// limited reads no more than so many bytes.
type limited struct {
	r    io.Reader
	left int64
	what string
}

func (l *limited) Read(p []byte) (int, error) {
	// One more byte tells whether there is more.
	n, err := l.r.Read(p[:min(int64(len(p)), l.left+1)])
	if l.left -= int64(n); l.left < 0 {
		l.left = 0
		return 0, limitError(l.what)
	}
	return n, err
}

// gunzip reads one gzip member after another, and zeros after the last, as the
// program gzip does.
type gunzip struct {
	in *bufio.Reader
	z  *gzip.Reader
}

func (g *gunzip) Read(p []byte) (int, error) {
	if g.z == nil {
		z, err := gzip.NewReader(g.in)
		if err != nil {
			return 0, noEOF(err)
		}
		g.z = z
		g.z.Multistream(false)
	}
	for {
		n, err := g.z.Read(p)
		if err != io.EOF {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
		c, err := g.in.Peek(1)
		switch {
		case err != nil:
			return 0, err
		case c[0] == 0:
			return 0, zeros(g.in)
		}
		if err := g.z.Reset(g.in); err != nil {
			return 0, fmt.Errorf("there is something after its end: %w", noEOF(err))
		}
		g.z.Multistream(false)
	}
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func zeros(in *bufio.Reader) error {
	for {
		c, err := in.ReadByte()
		if err != nil {
			return err
		}
		if c != 0 {
			return errors.New("there is something after its end")
		}
	}
}

// readDocument reads config.toml.
func (l Limits) readDocument(r io.Reader) ([]byte, error) {
	most := cmp.Or(l.Document, MaxMember)
	return io.ReadAll(&limited{r: r, left: most, what: fmt.Sprintf("config.toml has more than %d KiB, which is all the device takes", most>>10)})
}

func (l Limits) checkArchive(b *Bundle, r io.Reader) (*Bundle, []Fault, error) {
	in := &counted{r: &limited{r: r, left: MaxTar, what: "the archive has more than 256 MiB in it, which is all the device takes"}}
	names := members{}
	var text []byte
	found := false
	for t := tar.NewReader(in); ; {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, nil, l.corrupt(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if b.Members++; b.Members > MaxMembers {
			return nil, nil, fmt.Errorf("the archive has more than %d members, which is all the device takes", MaxMembers)
		}
		name, err := names.add(h, cmp.Or(l.Depth, maxDeep))
		if err != nil {
			return nil, nil, err
		}
		if name == "config.toml" {
			found = true
			if text, err = l.readDocument(t); err != nil {
				return nil, nil, l.corrupt(err)
			}
		}
	}
	// What follows the end of the tar counts, and shows whether all is whole.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return nil, nil, l.corrupt(err)
	}
	b.Size = in.n
	if b.Size == 0 {
		return nil, nil, &CorruptError{errors.New("it is empty")}
	}
	if !found {
		return nil, nil, errors.New("the archive has no config.toml at its top")
	}
	for name, folder := range names {
		if !folder && strings.HasPrefix(name, "files/") {
			b.Files++
		}
	}
	var faults []Fault
	b.Config, faults = Check(text)
	return b, faults, nil
}

type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// members are the paths of an archive, and whether each is a folder.
type members map[string]bool

// add takes a member and returns its path. The same file may come again.
func (m members) add(h *tar.Header, deep int) (string, error) {
	name := h.Name
	var folder bool
	switch h.Typeflag {
	case tar.TypeDir:
		folder = true
		name = strings.TrimRight(name, "/")
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
	case tar.TypeSymlink, tar.TypeLink:
		return "", fmt.Errorf("%q is a link; a bundle has files and folders only", clip(h.Name))
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return "", fmt.Errorf("%q is a device or a pipe; a bundle has files and folders only", clip(h.Name))
	default:
		return "", fmt.Errorf("%q is a member of the unknown kind %q; a bundle has files and folders only", clip(h.Name), h.Typeflag)
	}
	switch {
	case strings.HasPrefix(h.Name, "/"):
		return "", fmt.Errorf("%q is an absolute path; the paths in a bundle are relative", clip(h.Name))
	case name == "":
		return "", errors.New("a member has no name")
	case slices.Contains(strings.Split(name, "/"), ".."):
		return "", fmt.Errorf("%q has .. in it, which no path in a bundle may", clip(h.Name))
	case h.Size > MaxMember && !folder:
		return "", fmt.Errorf("%q has %d bytes; the device takes up to %d", clip(h.Name), h.Size, MaxMember)
	case len(name) > maxPath:
		return "", fmt.Errorf("%q is a path of %d bytes; a path has up to %d", clip(h.Name), len(name), maxPath)
	}
	if name = path.Clean(name); name == "." {
		if !folder {
			return "", fmt.Errorf("%q is a file; it must be the folder itself", clip(h.Name))
		}
		return ".", nil
	}
	parts := strings.Split(name, "/")
	switch {
	case parts[0] != "config.toml" && parts[0] != "files":
		return "", fmt.Errorf("%q does not belong in a bundle, which has config.toml and files/ at its top and nothing else", clip(h.Name))
	case parts[0] == "config.toml" && (folder || len(parts) > 1):
		return "", errors.New("config.toml is a folder; it must be a file")
	case name == "files" && !folder:
		return "", errors.New("files is a file; it must be a folder")
	case len(parts) > deep:
		return "", fmt.Errorf("%q is in %d directories; it can be in %d", clip(h.Name), len(parts)-1, deep-1)
	}
	for i, part := range parts {
		if len(part) > maxName {
			return "", fmt.Errorf("%q has a name of %d bytes in it; a name has up to %d", clip(h.Name), len(part), maxName)
		}
		sub := name[:len(strings.Join(parts[:i+1], "/"))]
		wants := folder || i < len(parts)-1
		if is, known := m[sub]; known && is != wants {
			return "", fmt.Errorf("%q is a file in one place of the archive and a folder in another", clip(sub))
		}
		m[sub] = wants
	}
	return name, nil
}

var fileToken = regexp.MustCompile(`\$\{FILES_DIR\}/([^\s:,;"']+)`)

// WriteBundle packs config.toml and files/ of a folder. The name says how: .tar.zst
// or .tar.gz, or their other spellings. The same folder and time give the same
// bytes. What macOS leaves in folders is left out. A document with faults is not
// packed; warnings are those of the document and of what packing changes.
func WriteBundle(w io.Writer, name string, dir fs.FS, modTime time.Time) ([]Fault, error) {
	found, text, err := gather(dir)
	if err != nil {
		return nil, err
	}
	c, faults := Check(text)
	if c == nil {
		return faults, nil
	}
	out := &short{w: w}
	var packed io.WriteCloser
	switch {
	case named(name, gzipNames):
		packed, err = gzip.NewWriterLevel(out, gzip.BestCompression)
	case named(name, zstdNames):
		packed, err = zstd.NewWriter(out, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	default:
		err = fmt.Errorf("%s: a bundle is called NAME.tar.zst or NAME.tar.gz", name)
	}
	if err != nil {
		return nil, err
	}
	have := map[string]bool{}
	t := tar.NewWriter(packed)
	for _, m := range found {
		h := &tar.Header{Name: m.name, Mode: 0o644, Size: m.size, ModTime: modTime, Typeflag: tar.TypeReg}
		if m.folder {
			h.Name, h.Mode, h.Typeflag = m.name+"/", 0o755, tar.TypeDir
		}
		have[m.name] = true
		if err := t.WriteHeader(h); err != nil {
			return nil, err
		}
		if m.folder {
			continue
		}
		if err := copyFile(t, dir, m.name, m.size); err != nil {
			return nil, err
		}
		if m.exec {
			faults = append(faults, newFault(1, "", true, "%s is executable; the device keeps no execute bits", m.name))
		}
	}
	if err := cmp.Or(t.Close(), packed.Close()); err != nil {
		return nil, err
	}
	for _, u := range c.root.at("containers", "container").entries() {
		for _, token := range u.eachText() {
			for _, used := range fileToken.FindAllStringSubmatch(token.text, -1) {
				if !have[path.Clean("files/"+used[1])] {
					faults = append(faults, newFault(token.line, "", true, "files/%s is used here, but is not in the bundle", shown(used[1])))
				}
			}
		}
	}
	slices.SortStableFunc(faults, func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) })
	return faults, nil
}

// entries are the values of a table.
func (v *value) entries() []*value {
	if v == nil || v.kind != table {
		return nil
	}
	var all []*value
	for _, key := range v.keys {
		all = append(all, v.table[key])
	}
	return all
}

// eachText are the strings in a value.
func (v *value) eachText() []*value {
	if v.kind == text {
		return []*value{v}
	}
	var all []*value
	for _, w := range slices.Concat(v.items, v.entries()) {
		all = append(all, w.eachText()...)
	}
	return all
}

// member is something to pack.
type member struct {
	name         string
	size         int64
	folder, exec bool
}

// gather is what a folder has for a bundle, config.toml first, and the document.
func gather(dir fs.FS) ([]member, []byte, error) {
	var found []member
	known := members{}
	total := int64(1024) // the end of a tar
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
		if _, err := known.add(h, maxDeep); err != nil {
			return err
		}
		found = append(found, member{name, h.Size, d.IsDir(), !d.IsDir() && info.Mode()&0o111 != 0})
		if len(found) > MaxMembers {
			return fmt.Errorf("there are more than %d files and folders, which is all the device takes", MaxMembers)
		}
		// A header, for a long name three more blocks and the name, and the content.
		if total += 512 + (h.Size+511)/512*512; len(name) > 100 {
			total += 3*512 + int64(len(name))
		}
		if total > MaxTar {
			return errors.New("there are more than 256 MiB of files, which is all the device takes")
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(found, func(m member) bool { return m.name == "config.toml" })
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

// short writes no more than the device takes.
type short struct {
	w io.Writer
	n int64
}

func (s *short) Write(p []byte) (int, error) {
	if s.n += int64(len(p)); s.n > MaxUpload {
		return 0, limitError("the bundle has more than 32 MiB, which is all the device takes")
	}
	return s.w.Write(p)
}
