package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/zstd"

	"imgtool/image/seed"
	"imgtool/image/seed/bundle"
	"imgtool/image/seed/seedtest"
)

const minimal = seedtest.Minimal

// m is a member of an archive.
type m struct {
	name string
	body string
	kind byte
	size int64 // of zeros, if there is no body
}

func file(name, body string) m { return m{name: name, body: body, kind: tar.TypeReg} }
func dir(name string) m        { return m{name: name, kind: tar.TypeDir} }

var config = file("config.toml", minimal)

type nothing struct{}

func (nothing) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// raw writes a ustar header without checking its fields, and the body.
func raw(w io.Writer, f m) {
	var h [512]byte
	copy(h[:], f.name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	size := max(f.size, int64(len(f.body)))
	for i := range int64(11) {
		h[124+i] = '0' + byte(size>>(3*(10-i))&7)
	}
	copy(h[136:], "00000000000\x00        ")
	h[156] = f.kind
	copy(h[257:], "ustar\x0000")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	for i := range 6 {
		h[148+i] = '0' + byte(sum>>(3*(5-i))&7)
	}
	h[154] = 0
	w.Write(h[:])
	io.WriteString(w, f.body)
	io.CopyN(w, nothing{}, size-int64(len(f.body))+(512-size%512)%512)
}

// tarOf returns a complete archive.
func tarOf(all ...m) []byte {
	var b bytes.Buffer
	for _, f := range all {
		raw(&b, f)
	}
	b.Write(make([]byte, 1024))
	return b.Bytes()
}

// withHeaders returns an archive written by archive/tar.
func withHeaders(all ...*tar.Header) []byte {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	for _, h := range all {
		body := ""
		if h.Name == "config.toml" {
			body = minimal
		}
		h.Size = int64(len(body))
		if err := t.WriteHeader(h); err != nil {
			panic(err)
		}
		io.WriteString(t, body)
	}
	t.Close()
	return b.Bytes()
}

func gz(p []byte) []byte {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	z.Write(p)
	z.Close()
	return b.Bytes()
}

func zst(p []byte) []byte {
	z, _ := zstd.NewWriter(nil)
	return z.EncodeAll(p, nil)
}

// zstWindow returns a frame of raw blocks with a window of 2^n bytes.
func zstWindow(n int, p []byte) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, byte(n-10) << 3}
	for len(p) > 0 {
		k := min(len(p), 100<<10)
		h := uint32(k) << 3
		if k == len(p) {
			h |= 1
		}
		b = append(b, byte(h), byte(h>>8), byte(h>>16))
		b = append(b, p[:k]...)
		p = p[k:]
	}
	return b
}

func many(n int) []byte {
	all := []m{config}
	for i := range n - 1 {
		all = append(all, file(fmt.Sprintf("files/%d", i), ""))
	}
	return tarOf(all...)
}

// padded returns a gzip of an archive of total bytes: files of 60 MiB, and then zeros.
func padded(total int64) []byte {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	c := &counter{w: z}
	raw(c, config)
	for i := 0; total-c.n > 62<<20; i++ {
		raw(c, m{name: "files/" + string(rune('a'+i)), kind: '0', size: 60 << 20})
	}
	io.CopyN(c, nothing{}, total-c.n)
	z.Close()
	return b.Bytes()
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func comment(n int) string {
	return minimal + "#" + strings.Repeat("x", n-len(minimal)-2) + "\n"
}

func TestCheckAgreesWithDevice(t *testing.T) {
	const targz = "config.tar.gz"
	long := strings.Repeat("d", 100)
	usual := tarOf(config)
	with := func(f ...m) []byte { return gz(tarOf(append([]m{config}, f...)...)) }
	only := func(f ...m) []byte { return gz(tarOf(f...)) }
	type row struct {
		id, name string
		accept   bool
		data     []byte
	}
	rows := []row{
		{"targz", targz, true, gz(usual)},
		{"tgz", "config.tgz", true, gz(usual)},
		{"tarzst", "config.tar.zst", true, zst(usual)},
		{"tarzstd", "config.tar.zstd", true, zst(usual)},
		{"tzst", "config.tzst", true, zst(usual)},
		{"upper", "CONFIG.TAR.GZ", true, gz(usual)},
		{"gz-as-zstname", "config.tar.zst", true, gz(usual)},
		{"zst-as-gzname", targz, false, zst(usual)},
		{"zst-noname", "", true, zst(usual)},
		{"gz-as-toml-bytes", "config.toml", true, gz(usual)},
		{"toml-txt-bytes", "config.txt", true, []byte(minimal)},
		{"plain-tar-bytes", "config.tar", false, usual},
		{"xz", "config.tar.xz", false, []byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46")},
		{"bz2", "config.tar.bz2", false, []byte("BZh91AY&SY")},
		{"gz-not-tar", targz, false, gz([]byte(strings.Repeat("some text\n", 100)))},
		{"toml-gz", "config.toml.gz", false, gz([]byte(minimal))},
		{"empty", targz, false, nil},
		{"empty-tar", targz, false, gz(make([]byte, 10240))},
		{"truncated", targz, false, gz(usual)[:200]},
		{"gz-trailing-junk", targz, false, append(gz(usual), "junk"...)},
		{"gz-trailing-zeros", targz, true, append(gz(usual), make([]byte, 512)...)},
		{"gz-two-members", targz, true, append(gz(usual[:700]), gz(usual[700:])...)},
		{"zst-trailing-junk", "config.tar.zst", false, append(zst(usual), "junk"...)},
		{"zst-two-frames", "config.tar.zst", true, append(zst(usual[:700]), zst(usual[700:])...)},
		{"zst-skippable", "config.tar.zst", true, append([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"), zst(usual)...)},
		{"zst-long27", "config.tar.zst", true, zstWindow(27, usual)},
		{"zst-long28", "config.tar.zst", false, zstWindow(28, usual)},
		{"zst-long31", "config.tar.zst", false, zstWindow(31, usual)},
		{"dot-prefix", targz, true, only(dir("./"), file("./config.toml", minimal), dir("./files"))},
		{"dot-file", targz, false, with(file(".", ""))},
		{"with-files", targz, true, with(dir("files/"), dir("files/a/"), file("files/a/b", "b"))},
		{"files-implicit-dirs", targz, true, with(file("files/a/b/c", "c"))},
		{"files-empty-dir", targz, true, with(dir("files"))},
		{"nested-top", targz, false, only(dir("x/"), file("x/config.toml", minimal))},
		{"extra-top", targz, false, with(file("README", "x"))},
		{"appledouble", targz, false, only(file("._config.toml", "x"), config)},
		{"dsstore-in-files", targz, true, with(file("files/.DS_Store", "x"))},
		{"case-config", targz, false, only(file("Config.toml", minimal))},
		{"files-upper", targz, false, with(file("Files/a", "x"))},
		{"no-config", targz, false, only(file("files/a", "x"))},
		{"files-is-file", targz, false, with(file("files", "x"))},
		{"file-then-child", targz, false, with(file("files/a", "x"), file("files/a/b", "x"))},
		{"config-is-dir", targz, false, only(dir("config.toml/"))},
		{"abs", targz, false, with(file("/etc/passwd", "x"))},
		{"dotdot", targz, false, with(file("files/a/../b", "x"))},
		{"dotdot-lead", targz, false, with(file("../x", "x"))},
		{"dotdot-in-name", targz, true, with(file("files/a..b", "x"))},
		{"backslash", targz, true, with(file(`files/a\..\b`, "x"))},
		{"empty-name", targz, false, with(file("", "x"))},
		{"symlink", targz, false, with(m{name: "files/a", kind: tar.TypeSymlink})},
		{"hardlink", targz, false, with(m{name: "files/a", kind: tar.TypeLink})},
		{"fifo", targz, false, with(m{name: "files/a", kind: tar.TypeFifo})},
		{"chardev", targz, false, with(m{name: "files/a", kind: tar.TypeChar})},
		{"blockdev", targz, false, with(m{name: "files/a", kind: tar.TypeBlock})},
		{"contiguous", targz, true, with(m{name: "files/a", kind: tar.TypeCont, body: "x"})},
		{"unknown-type", targz, false, with(m{name: "files/a", kind: 'Z', body: "x"})},
		{"dup-last-bad", targz, false, with(file("config.toml", "version = 2\n"))},
		{"dup-last-good", targz, true, only(file("config.toml", "version = 2\n"), config)},
		{"bad-config", targz, false, only(file("config.toml", "version = 2\n"))},
		{"nonutf8-config", targz, false, only(file("config.toml", minimal+"# \xff\n"))},
		{"nonutf8-toml", "config.toml", false, []byte(minimal + "# \xff\n")},
		{"nonutf8-member", targz, true, with(file("files/\xff\xfe", "x"))},
		{"pax", targz, true, gz(withHeaders(&tar.Header{Name: "config.toml", Mode: 0o644, Format: tar.FormatPAX, PAXRecords: map[string]string{"comment": "x"}}))},
		{"pax-global", targz, true, gz(withHeaders(&tar.Header{Name: "pax_global_header", Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}},
			&tar.Header{Name: "config.toml", Mode: 0o644}))},
		{"gnu-longname", targz, true, gz(withHeaders(&tar.Header{Name: "config.toml", Mode: 0o644},
			&tar.Header{Name: "files/" + long + "/" + long, Mode: 0o644, Format: tar.FormatGNU}))},
		{"name-too-long", targz, false, gz(withHeaders(&tar.Header{Name: "config.toml", Mode: 0o644},
			&tar.Header{Name: "files/" + strings.Repeat("n", 256), Mode: 0o644, Format: tar.FormatPAX}))},
		{"ustar", targz, true, gz(withHeaders(&tar.Header{Name: "config.toml", Mode: 0o644, Format: tar.FormatUSTAR}))},
		{"setuid", targz, true, gz(withHeaders(&tar.Header{Name: "config.toml", Mode: 0o4755}))},
		{"n4096", targz, true, gz(many(4096))},
		{"n4097", targz, false, gz(many(4097))},
		{"m64", targz, true, with(m{name: "files/a", kind: '0', size: 64 << 20})},
		{"m64+1", targz, false, with(m{name: "files/a", kind: '0', size: 64<<20 + 1})},
		{"config-2M-comment", targz, true, only(file("config.toml", comment(2<<20)))},
		{"total-240", targz, true, padded(240 << 20)},
		{"total-300", targz, false, padded(300 << 20)},
		{"tar-exactly-256M-cut", targz, true, padded(256 << 20)},
		{"tar-256M+1", targz, false, padded(256<<20 + 1)},
		{"upload-32M", "config.toml", true, []byte(comment(32 << 20))},
		{"upload-32M+1", "config.toml", false, []byte(comment(32<<20 + 1))},
	}
	if len(rows) != 79 {
		t.Fatalf("%d cases", len(rows))
	}
	damaged := map[string]bool{"zst-as-gzname": true, "gz-not-tar": true, "toml-gz": true, "empty": true, "truncated": true,
		"gz-trailing-junk": true, "zst-trailing-junk": true}
	accepted := 0
	for _, r := range rows {
		t.Run(r.id, func(t *testing.T) {
			b, faults, err := bundle.Check(r.name, bytes.NewReader(r.data))
			ok := err == nil && b.Config != nil
			t.Log(err, errorsOf(faults))
			if ok != r.accept {
				t.Errorf("accepted: %v; %v %v", ok, err, errorsOf(faults))
			}
			if is := errors.As(err, new(*bundle.CorruptError)); is != damaged[r.id] {
				t.Errorf("corrupt: %v: %v", is, err)
			}
			if ok {
				accepted++
			}
		})
	}
	if accepted != 36 {
		t.Errorf("accepted %d, want 36", accepted)
	}
}

// Unpacking stops at the limit.
func TestCheckRefusesBombEarly(t *testing.T) {
	var b bytes.Buffer
	z, _ := zstd.NewWriter(&b, zstd.WithEncoderLevel(zstd.SpeedFastest))
	raw(z, config)
	raw(z, m{name: "files/a", kind: '0', size: 60 << 20})
	io.CopyN(z, nothing{}, 4<<30)
	z.Close()
	all := b.Len()
	if _, _, err := bundle.Check("x.tar.zst", &b); err == nil || !strings.Contains(err.Error(), "256 MiB") {
		t.Error(err)
	}
	if read := all - b.Len(); read > all/2 {
		t.Errorf("%d of %d bytes were read", read, all)
	}
}

func TestWriteThenCheck(t *testing.T) {
	used := minimal + `Volume = ["${FILES_DIR}/site:/site:ro", "${FILES_DIR}/gone:/gone"]` + "\n"
	dir := fstest.MapFS{
		"config.toml":    {Data: []byte(used), Mode: 0o600},
		"._config.toml":  {Data: []byte("x")},
		".DS_Store":      {Data: []byte("x")},
		"files/site/a":   {Data: []byte("a"), Mode: 0o755},
		"files/site/._a": {Data: []byte("x")},
		"files/" + strings.Repeat("long", 30) + "/" + strings.Repeat("name", 40): {Data: []byte("b")},
	}
	for _, name := range []string{"config.tar.zst", "config.tgz"} {
		var a, b bytes.Buffer
		when := time.Unix(1700000000, 0)
		faults, err := bundle.Write(&a, name, dir, when)
		if err != nil || len(errorsOf(faults)) > 0 {
			t.Fatal(err, faults)
		}
		if _, err := bundle.Write(&b, name, dir, when); err != nil || !bytes.Equal(a.Bytes(), b.Bytes()) {
			t.Errorf("%s: not the same twice: %v", name, err)
		}
		var words []string
		for _, f := range faults {
			words = append(words, f.Text)
		}
		want := "files/site/a is executable; the device keeps no execute bits\nfiles/gone is used here, but is not in the bundle"
		if got := strings.Join(words, "\n"); got != want {
			t.Errorf("warnings:\n%s\nwant:\n%s", got, want)
		}
		got, faults, err := bundle.Check(name, &a)
		if err != nil || got.Config == nil || got.Files != 2 || got.Members != 6 {
			t.Errorf("%s: %+v %v %v", name, got, errorsOf(faults), err)
		}
	}
	for bad, text := range map[string]fs.FS{
		"there is no config.toml":  fstest.MapFS{"files/a": {}},
		"is a link":                fstest.MapFS{"config.toml": {Data: []byte(minimal)}, "files/l": {Mode: fs.ModeSymlink, Data: []byte("x")}},
		"does not belong":          fstest.MapFS{"config.toml": {Data: []byte(minimal)}, "notes.txt": {}},
		"is a device or a pipe":    fstest.MapFS{"config.toml": {Data: []byte(minimal)}, "files/p": {Mode: fs.ModeNamedPipe}},
		"a bundle is called NAME.": fstest.MapFS{"config.toml": {Data: []byte(minimal)}},
	} {
		name := "x.tar.gz"
		if strings.HasPrefix(bad, "a bundle") {
			name = "x.zip"
		}
		if _, err := bundle.Write(io.Discard, name, text, time.Time{}); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("want %q: %v", bad, err)
		}
	}
	faults, err := bundle.Write(io.Discard, "x.tgz", fstest.MapFS{"config.toml": {Data: []byte("version = 2\n")}}, time.Time{})
	if err != nil || len(errorsOf(faults)) != 4 {
		t.Error(err, faults)
	}
}

// summed corrects the checksums of the headers of a tar, so that mutated headers are read, too.
func summed(data []byte) []byte {
	data = bytes.Clone(data)
	for h := data; len(h) >= 512; h = h[512:] {
		if string(h[257:262]) != "ustar" {
			continue
		}
		copy(h[148:], "        ")
		sum := 0
		for _, c := range h[:512] {
			sum += int(c)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	}
	return data
}

func FuzzBundle(f *testing.F) {
	f.Add("x.tar.gz", tarOf(config, file("files/a", "x")))
	f.Add("x.tar.zst", tarOf(config, m{name: "files/l", kind: tar.TypeSymlink}))
	f.Add("x.tar.gz", tarOf(config, dir("files"), file("files/../a", "x")))
	f.Add("x.tar.gz", tarOf(dir("./"), config, file("files/a", "x"), dir("files/a")))
	f.Add("x.tar.gz", withHeaders(&tar.Header{Name: "files/" + strings.Repeat("n", 200), Typeflag: tar.TypeReg, Format: tar.FormatPAX},
		&tar.Header{Name: "files/" + strings.Repeat("n", 150), Typeflag: tar.TypeDir, Format: tar.FormatGNU}))
	f.Add("config.toml", []byte(minimal))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		if len(data) > 1<<20 {
			return
		}
		// As a bundle itself, and as the content of one.
		right := summed(data)
		for _, p := range [][]byte{data, gz(data), zst(data), gz(right)} {
			b, faults, err := bundle.Check(name, bytes.NewReader(p))
			if err == nil && (b.Config == nil) != (len(errorsOf(faults)) > 0) {
				t.Errorf("%+v %v", b, faults)
			}
		}
		// An accepted archive contains no paths or links that lead outside.
		if b, _, err := bundle.Check("x.tar.gz", bytes.NewReader(gz(right))); err == nil {
			n := 0
			for r := tar.NewReader(bytes.NewReader(right)); ; {
				h, err := r.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if h.Typeflag == tar.TypeXGlobalHeader {
					continue
				}
				n++
				if strings.HasPrefix(h.Name, "/") || slices.Contains(strings.Split(h.Name, "/"), "..") || h.Linkname != "" && strings.ContainsRune("12", rune(h.Typeflag)) {
					t.Errorf("%+v is taken", h)
				}
			}
			if n != b.Members {
				t.Errorf("%d members, and %d", n, b.Members)
			}
		}
	})
}

// errorsOf returns the faults that are not warnings.
func errorsOf(faults []seed.Fault) []string {
	var all []string
	for _, f := range faults {
		if !f.Warning {
			all = append(all, f.String())
		}
	}
	return all
}
