package tarfs_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"imgtool/image/imagetest"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
	"imgtool/image/tree/tarfs"
	"imgtool/image/tree/treetest"
)

const modTime = 1700000000

func fromTar(data []byte) (*tree.Tree, error) {
	return tarfs.Read(bytes.NewReader(data), int64(len(data)), modTime)
}

func file(name, data string) tar.Header {
	e := treetest.Header(tar.TypeReg, name)
	e.Size, e.Uname = int64(len(data)), data // carries the data to pack
	return e
}
func dir(name string) tar.Header { e := treetest.Header(tar.TypeDir, name); e.Mode = 0o755; return e }
func symlink(name, target string) tar.Header {
	e := treetest.Header(tar.TypeSymlink, name)
	e.Mode, e.Linkname = 0o777, target
	return e
}
func hardlink(name, target string) tar.Header {
	e := treetest.Header(tar.TypeLink, name)
	e.Linkname = target
	return e
}

// everything makes a directory with every kind of file that a tar can hold.
func everything(t testing.TB) string {
	t.Helper()
	d := t.TempDir()
	treetest.Must(t, os.Chmod(d, 0o751))
	treetest.WriteFile(t, d+"/etc/passwd", "root")
	treetest.WriteFile(t, d+"/empty", "")
	treetest.WriteFile(t, d+"/big", strings.Repeat("0123456789", 5000))
	treetest.WriteFile(t, d+"/"+strings.Repeat("long/", 20)+strings.Repeat("n", 90), "long in parts")
	treetest.WriteFile(t, d+"/ümläut \n\\ name", "odd")
	treetest.Must(t, os.Chmod(d+"/etc/passwd", 0o600))
	treetest.Must(t, os.Link(d+"/etc/passwd", d+"/etc/passwd-"))
	treetest.Must(t, os.Symlink("../big", d+"/etc/link"))
	treetest.Must(t, unix.Mkfifo(d+"/fifo", 0o640))
	treetest.WriteFile(t, d+"/bin/su", "su")
	treetest.Must(t, unix.Chmod(d+"/bin/su", 0o4755))
	treetest.Must(t, os.Mkdir(d+"/tmp", 0))
	treetest.Must(t, unix.Chmod(d+"/tmp", 0o1777))
	if os.Geteuid() == 0 {
		treetest.Must(t, unix.Mknod(d+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		treetest.Must(t, unix.Mknod(d+"/loop300", unix.S_IFBLK|0o660, int(unix.Mkdev(7, 300))))
		treetest.Must(t, os.Lchown(d+"/etc/link", 12, 34))
		treetest.Must(t, os.Lchown(d+"/bin", 100000, 5))
	}
	old := time.Unix(1234567890, 987654321)
	treetest.Must(t, os.Chtimes(d+"/etc/passwd", old, old))
	treetest.Must(t, os.Chtimes(d+"/tmp", time.Unix(-2, 5e8), time.Unix(-2, 5e8)))
	return d
}

func TestGNUTar(t *testing.T) {
	d := everything(t)
	xattr := unix.Lsetxattr(d+"/etc/passwd", "user.comment", []byte("a=b%3D\x00c"), 0) == nil
	xattr = xattr && unix.Lsetxattr(d+"/etc/passwd", "user.a=b%c%3D", []byte("1"), 0) == nil
	treetest.Must(t, os.Chtimes(d+"/etc/passwd", time.Unix(1234567890, 1), time.Unix(1234567890, 1)))
	if os.Geteuid() == 0 {
		treetest.Must(t, unix.Setxattr(d+"/bin/su", "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
		treetest.Must(t, unix.Lsetxattr(d+"/tmp", "trusted.t", nil, 0))
	}
	fromDir := func() *tree.Tree {
		tr, err := hostfs.Read(d, true, modTime)
		treetest.Must(t, err)
		return tr
	}
	for _, format := range []string{"pax", "gnu", "ustar", "v7"} {
		t.Run(format, func(t *testing.T) {
			want, args := treetest.Dump(t, fromDir()), []string{"--format=" + format, "-cf", filepath.Join(t.TempDir(), "x.tar"), "-C", d}
			if format == "pax" {
				if !xattr {
					t.Log("the file system does not support extended attributes")
				}
				args = append(args, "--xattrs", "--xattrs-include=*")
			} else {
				want = regexp.MustCompile(` (user|security|trusted)\..*`).ReplaceAllString(want, "")
			}
			if format == "v7" {
				// It knows neither, and only names of up to 99 bytes.
				args = append(args, "--exclude=./long", "--exclude=./fifo", "--exclude=./null", "--exclude=./loop300")
				want = regexp.MustCompile(`(?m)^(long|fifo|null|loop300)[ /].*\n`).ReplaceAllString(want, "")
			}
			if format == "ustar" || format == "v7" {
				// Octal digits have no sign.
				args = append(args, "--mtime=@77")
				want = regexp.MustCompile(` @\S+`).ReplaceAllString(want, " @77")
			}
			imagetest.Run(t, "tar", append(args, ".")...)
			data, err := os.ReadFile(args[2])
			treetest.Must(t, err)
			got, err := fromTar(data)
			treetest.Must(t, err)
			if d := cmp.Diff(want, treetest.Dump(t, got)); d != "" {
				t.Error(d)
			}
			if format == "pax" {
				if a, b := treetest.Digest(t, got), treetest.Digest(t, fromDir()); a != b {
					t.Errorf("digest of the tar %s, of the directory %s", a, b)
				}
				extracted(t, args[2], got)
			}
		})
	}
}

// extracted extracts a tar with GNU tar and compares the result with a tree.
func extracted(t *testing.T, path string, got *tree.Tree) {
	if os.Geteuid() != 0 {
		return
	}
	x := t.TempDir()
	imagetest.Run(t, "tar", "-xpf", path, "--xattrs", "--xattrs-include=*", "-C", x)
	want, err := hostfs.Read(x, true, modTime)
	treetest.Must(t, err)
	if d := cmp.Diff(treetest.Dump(t, want), treetest.Dump(t, got)); d != "" {
		t.Error("GNU tar sees it otherwise:", d)
	}
}

func TestSparseFiles(t *testing.T) {
	d := t.TempDir()
	f, err := os.Create(d + "/sparse")
	treetest.Must(t, err)
	// More pieces than a header of the old format has room for.
	for i := range 40 {
		_, err := f.WriteAt([]byte(fmt.Sprintf("piece %d", i)), int64(i)*20000+7)
		treetest.Must(t, err)
	}
	treetest.Must(t, f.Truncate(40*20000+999))
	f.Close()
	hole, err := os.Create(d + "/hole")
	treetest.Must(t, err)
	treetest.Must(t, hole.Truncate(100000))
	hole.Close()
	treetest.WriteFile(t, d+"/zz", "after")
	want, err := hostfs.Read(d, false, modTime)
	treetest.Must(t, err)
	for _, format := range [][]string{
		{"--format=gnu"}, {"--format=pax", "--sparse-version=0.0"}, {"--format=pax", "--sparse-version=0.1"}, {"--format=pax", "--sparse-version=1.0"},
	} {
		path := filepath.Join(t.TempDir(), "x.tar")
		imagetest.Run(t, "tar", append(format, "--sparse", "--owner=0", "--group=0", "-cf", path, "-C", d, ".")...)
		data, err := os.ReadFile(path)
		treetest.Must(t, err)
		if len(data) > 400000 {
			t.Fatalf("%v: the tar is not sparse", format)
		}
		got, err := fromTar(data)
		treetest.Must(t, err)
		if a, b := treetest.Digest(t, got), treetest.Digest(t, want); a != b {
			t.Errorf("%v: %s", format, cmp.Diff(treetest.Dump(t, want), treetest.Dump(t, got)))
		}
		cuts(t, data)
	}
}

func TestEntriesThroughLinks(t *testing.T) {
	root := tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o1770, Uid: 3, Gid: 4, ModTime: time.Unix(9, 0)}
	for _, c := range []struct {
		name    string
		entries []tar.Header
		want    string
	}{
		{"leading dots and slashes", []tar.Header{root, file("./a", "1"), file("/b", "2"), file(".//./c//d", "3")},
			"/ 41770 3:4 @9\na 100644 0:0 @1 \"1\"\nb 100644 0:0 @1 \"2\"\nc 40755 0:0 @1700000000\nc/d 100644 0:0 @1 \"3\"\n"},
		{"later ones replace earlier ones", []tar.Header{file("a", "1"), file("a", "2"), dir("d"), symlink("d", "a"), symlink("e", "a"), dir("e"), file("e/f", "3")},
			"a 100644 0:0 @1 \"2\"\nd 120777 0:0 @1 -> a\ne 40755 0:0 @1\ne/f 100644 0:0 @1 \"3\"\n"},
		{"a directory after what is in it", []tar.Header{file("d/f", "1"), dir("d/")},
			"d 40755 0:0 @1\nd/f 100644 0:0 @1 \"1\"\n"},
		{"a hard link keeps what it linked", []tar.Header{file("a", "1"), hardlink("b", "./a"), file("a", "2"), hardlink("b2", "b"), hardlink("b", "b")},
			"a 100644 0:0 @1 \"2\"\nb 100644 0:0 @1 \"1\"\nb2 = b\n"},
		{"hard links to links and devices", []tar.Header{symlink("a", "x"), hardlink("b", "a"), treetest.Header(tar.TypeFifo, "f"), hardlink("g", "f")},
			"a 120777 0:0 @1 -> x\nb = a\nf 10644 0:0 @1\ng = f\n"},
		{"a merged usr", []tar.Header{symlink("bin", "usr/bin"), symlink("sbin", "/usr/bin/"), symlink("s", "../sbin"), file("bin/a", "1"), file("sbin/b", "2"), file("s/c", "3"), hardlink("bin/d", "sbin/a")},
			"bin 120777 0:0 @1 -> usr/bin\ns 120777 0:0 @1 -> ../sbin\nsbin 120777 0:0 @1 -> /usr/bin/\nusr 40755 0:0 @1700000000\nusr/bin 40755 0:0 @1700000000\n" +
				"usr/bin/a 100644 0:0 @1 \"1\"\nusr/bin/b 100644 0:0 @1 \"2\"\nusr/bin/c 100644 0:0 @1 \"3\"\nusr/bin/d = usr/bin/a\n"},
		{"a link that climbs stays inside", []tar.Header{symlink("l", "../../.."), file("l/a", "1")},
			"a 100644 0:0 @1 \"1\"\nl 120777 0:0 @1 -> ../../..\n"},
		{"extended attributes of both kinds", []tar.Header{
			{Typeflag: tar.TypeReg, Name: "a", ModTime: time.Unix(1, 0), PAXRecords: map[string]string{
				"SCHILY.xattr.user.b": "\x00=\n", "LIBARCHIVE.xattr.user.b": "bm8", "LIBARCHIVE.xattr.user.a%20c": "AAE", "LIBARCHIVE.xattr.user.p": "cGFk\nZA==",
				"SCHILY.xattr.system.posix_acl_access": "x", "SCHILY.xattr.security.capability": "y", "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.": "z", "SCHILY.acl.access": "w"}}},
			"a 100000 0:0 @1 \"\" security.capability=\"y\" system.posix_acl_access=\"x\" trusted.overlay.opaque=\"y\" user.a c=\"\\x00\\x01\" user.b=\"\\x00=\\n\" user.p=\"padd\"\n"},
		{"global headers are for all that follow", []tar.Header{{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"comment": "x", "mtime": "5"}}, file("a", "1")},
			"a 100644 0:0 @5 \"1\"\n"},
		{"times are floored", []tar.Header{{Typeflag: tar.TypeReg, Name: "a", ModTime: time.Unix(-5, 5e8), Format: tar.FormatPAX}, {Typeflag: tar.TypeReg, Name: "b", ModTime: time.Unix(5, 999999999), Format: tar.FormatPAX}},
			"a 100000 0:0 @-5 \"\"\nb 100000 0:0 @5 \"\"\n"},
		{"type bits in the mode", []tar.Header{{Typeflag: tar.TypeReg, Name: "a", Mode: 0o106755, ModTime: time.Unix(1, 0)}}, "a 106755 0:0 @1 \"\"\n"},
	} {
		tr, err := fromTar(treetest.Tar(t, c.entries...))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got := strings.TrimPrefix(treetest.Dump(t, tr), "/ 40755 0:0 @1700000000\n")
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

func TestBadTars(t *testing.T) {
	dev := treetest.Header(tar.TypeChar, "dev")
	dev.Devmajor = 5000
	uid := file("a", "")
	uid.Uid, uid.Format = -1, tar.FormatGNU
	xattr := file("a", "")
	xattr.PAXRecords = map[string]string{"LIBARCHIVE.xattr.user.x": "!!!"}
	big := file("a", "")
	big.PAXRecords = map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 1<<16+1)}
	for _, c := range []struct {
		want    string
		entries []tar.Header
	}{
		{"a/../b: a path with .. in it", []tar.Header{file("a/../b", "")}},
		{"h: hard link: ../etc/passwd: a path with .. in it", []tar.Header{hardlink("h", "../etc/passwd")}},
		{"d/h: hard link to a, which does not exist", []tar.Header{dir("d"), hardlink("d/h", "./a"), file("a", "")}},
		{"h: hard link to d, which is a directory", []tar.Header{dir("d"), hardlink("h", "d/")}},
		{"f/x: its parent f is not a directory", []tar.Header{file("f", ""), file("f/x", "")}},
		{"l/x: its parent f is not a directory", []tar.Header{file("f", ""), symlink("l", "f"), file("l/x", "")}},
		{"l/x: more than 40 symbolic links on the way", []tar.Header{symlink("l", "m"), symlink("m", "l"), file("l/x", "")}},
		{"bin: not a directory, but the tar has entries in it already", []tar.Header{file("bin/x", ""), symlink("bin", "usr/bin")}},
		{`"": the root of a tree must be a directory`, []tar.Header{file("./", "")}},
		{`"": the root of a tree must be a directory`, []tar.Header{symlink("/", "x")}},
		{"dev: device 5000:0 is larger than 4095:1048575", []tar.Header{dev}},
		{"a: user -1 is not in 0 to 4294967294", []tar.Header{uid}},
		{"damaged at byte 0, at a: extended attribute user.x: illegal base64 data at input byte 0", []tar.Header{xattr}},
		{"a: extended attribute user.x: a value of 65537 bytes is longer than 65536", []tar.Header{big}},
		{strings.Repeat("n", 60) + "…: a name of 256 bytes is longer than 255", []tar.Header{file(strings.Repeat("n", 256), "")}},
	} {
		if c.want == `"": the root of a tree must be a directory` && c.entries[0].Typeflag == tar.TypeReg {
			c.entries[0].Name = "." // with a slash it would be a directory
		}
		_, err := fromTar(treetest.Tar(t, c.entries...))
		if err == nil || err.Error() != c.want {
			t.Errorf("%v\nwant %s", err, c.want)
		}
	}
	for name, data := range map[string]string{
		"nothing": "", "text": strings.Repeat("hello\n", 1000), "short": "x", "zeros, but few": strings.Repeat("\x00", 511), "a squashfs": "hsqs" + strings.Repeat("\x01", 1000),
	} {
		if _, err := fromTar([]byte(data)); err != tarfs.ErrNotTar {
			t.Errorf("%s: %v", name, err)
		}
	}
	if tr, err := fromTar(make([]byte, 10240)); err != nil || tr.Len() != 1 {
		t.Errorf("an empty tar: %v", err)
	}
	data := treetest.Tar(t, file("a", "1"), file("b", "2"))
	data[1024+20] ^= 1
	var damaged *tarfs.CorruptError
	if _, err := fromTar(data); !errors.As(err, &damaged) || err.Error() != "damaged at byte 1024, at a: invalid tar header" {
		t.Errorf("a damaged header: %v", err)
	}
}

// cuts truncates a tar at many places.
func cuts(t *testing.T, data []byte) {
	t.Helper()
	end := len(bytes.TrimRight(data, "\x00"))
	end = (end+511)/512*512 + 512 // the first zero block
	step := 512
	for n := 512; n < end; n += step {
		for _, at := range []int{n, n + 100} {
			_, err := fromTar(data[:min(at, end-1)])
			var damaged *tarfs.CorruptError
			if !errors.As(err, &damaged) || !errors.Is(err, io.ErrUnexpectedEOF) || !strings.HasPrefix(err.Error(), "cut short at byte ") {
				t.Fatalf("cut at %d of %d: %v", at, len(data), err)
			}
		}
	}
	if _, err := fromTar(data[:end]); err != nil {
		t.Errorf("cut after the first zero block: %v", err)
	}
}

func TestTruncatedTars(t *testing.T) {
	long := file(strings.Repeat("long/", 40)+"x", "data")
	last := file("last", strings.Repeat("\x00", 3000)) // ends as a tar does
	last.Format = tar.FormatPAX
	data := treetest.Tar(t, dir("d"), file("d/a", strings.Repeat("x", 2000)), long, symlink("l", strings.Repeat("t", 200)), last)
	// trimming zeros must not eat into the last file
	data[len(data)-1024-1] = 'x'
	cuts(t, data)
	data[len(data)-1024-1] = 0
	if _, err := fromTar(data[:len(data)-1024]); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("zeros of a file taken for the end: %v", err)
	}
	_, err := fromTar(data[:3000])
	if want := "cut short at byte 3000, at d/a"; err == nil || err.Error() != want && err.Error() != "cut short at byte 2560, at d/a" {
		t.Errorf("%v, want %s", err, want)
	}
}

type failing struct {
	r   io.ReaderAt
	at  int64
	err error
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.at {
		return 0, f.err
	}
	return f.r.ReadAt(p, off)
}

func TestReadErrorIsNotCorruption(t *testing.T) {
	data := treetest.Tar(t, file("a", "1"), file("b", strings.Repeat("x", 5000)), file("c", ""))
	bad := errors.New("input/output error")
	for at := int64(0); at < int64(len(data)); at += 512 {
		_, err := tarfs.Read(failing{bytes.NewReader(data), at, bad}, int64(len(data)), 0)
		var damaged *tarfs.CorruptError
		// Contents of files are not read.
		if errors.As(err, &damaged) || err != nil && !errors.Is(err, bad) || err == nil && at < int64(len(data))-1024 && at > 7000 {
			t.Errorf("at %d: %v", at, err)
		}
	}
}

// summed corrects the checksums of headers, which a fuzzer would not find.
func summed(data []byte) []byte {
	data = bytes.Clone(data)
	for rest := data; len(rest) >= 512; rest = rest[512:] {
		head := rest[:512]
		if string(head[257:262]) != "ustar" {
			continue
		}
		copy(head[148:156], "        ")
		n := 0
		for _, b := range head {
			n += int(b)
		}
		copy(head[148:156], fmt.Sprintf("%06o\x00 ", n))
	}
	return data
}

func FuzzRead(f *testing.F) {
	*tarfs.MaxSparse = 1 << 16
	f.Add(treetest.Tar(f, dir("d"), file("d/a", "x"), hardlink("b", "d/a"), symlink("l", "d"), file("l/c", "y")))
	f.Add(treetest.Tar(f, treetest.Header(tar.TypeChar, "n"), treetest.Header(tar.TypeFifo, "f"), tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("n", 120), Format: tar.FormatGNU},
		tar.Header{Typeflag: tar.TypeReg, Name: "p", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}))
	d := f.TempDir()
	s, err := os.Create(d + "/s")
	treetest.Must(f, err)
	s.WriteAt([]byte("x"), 40000)
	s.Close()
	for _, format := range [][]string{{"--format=gnu"}, {"--format=pax", "--sparse-version=0.1"}, {"--format=pax", "--sparse-version=1.0"}} {
		f.Add([]byte(imagetest.Run(f, "tar", append(format, "--sparse", "-b1", "-cf", "-", "-C", d, "s")...)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = summed(data)
		tr, err := fromTar(data)
		if err != nil {
			return
		}
		for path, n := range tr.All() {
			if path != "" {
				up := tr.Lookup(strings.TrimSuffix(path[:strings.LastIndexByte(path, '/')+1], "/"))
				if up == nil || up.Type() != tree.Dir {
					t.Fatalf("%q has no directory", path)
				}
			}
			if n.Size() > int64(len(data))+1<<16 {
				t.Fatalf("%q has %d bytes", path, n.Size())
			}
			if _, err := tr.Open(path); err == nil && n.Type() != tree.Symlink && tr.Lookup(path) == nil {
				t.Fatalf("%q opens", path)
			}
		}
		treetest.Digest(t, tr)
		// A tar that Read accepts can be applied to its own tree.
		if err := tarfs.ApplyLayer(tr, bytes.NewReader(data), int64(len(data))); err != nil && !strings.Contains(err.Error(), "hard link") && !strings.Contains(err.Error(), "not a directory") && !strings.Contains(err.Error(), "symbolic links") {
			t.Fatal(err)
		}
	})
}
