package source_test

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/source"
	"imgtool/image/tree"
)

// archive is a Debian archive in a directory, and a configuration of apt with only that archive.
type archive struct {
	t   testing.TB
	dir string
}

func newArchive(t *testing.T) *archive {
	for _, program := range []string{"apt-get", "dpkg-deb", "dpkg-scanpackages"} {
		imagetest.Need(t, program)
	}
	a := &archive{t: t, dir: t.TempDir()}
	conf := t.TempDir()
	write(t, conf+"/sources.list", "deb [trusted=yes] copy:"+a.dir+" ./\n")
	write(t, conf+"/apt.conf", fmt.Sprintf("Dir::Etc::sourcelist \"%s/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n", conf))
	t.Setenv("APT_CONFIG", conf+"/apt.conf")
	a.publish()
	return a
}

// add builds a package of the files with the given compression.
func (a *archive) add(name, version, packed, depends string, files ...string) {
	a.t.Helper()
	d := a.t.TempDir()
	write(a.t, d+"/DEBIAN/control", fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: arm64\nMaintainer: nobody <nobody@example.com>\nDepends: %s\nDescription: for a test\n more of it\n", name, version, depends))
	if depends == "" {
		control, err := os.ReadFile(d + "/DEBIAN/control")
		must(a.t, err)
		write(a.t, d+"/DEBIAN/control", strings.Replace(string(control), "Depends: \n", "", 1))
	}
	for _, f := range files {
		if path, target, ok := strings.Cut(f, "->"); ok {
			must(a.t, os.MkdirAll(filepath.Dir(d+"/"+path), 0o755))
			must(a.t, os.Symlink(target, d+"/"+path))
			continue
		}
		write(a.t, d+"/"+f, "content of "+f)
	}
	imagetest.Run(a.t, "dpkg-deb", "--root-owner-group", "-Z"+packed, "--build", d, fmt.Sprintf("%s/%s_%s.deb", a.dir, name, version))
}

func (a *archive) publish() {
	a.t.Helper()
	cmd := exec.Command("dpkg-scanpackages", "--multiversion", ".")
	cmd.Dir = a.dir
	out, err := cmd.Output()
	must(a.t, err)
	write(a.t, a.dir+"/Packages", string(out))
}

func TestPackagesFromArchive(t *testing.T) {
	a := newArchive(t)
	a.add("loader", "1:2.0~rc1+dfsg-3", "xz", "libc6 (>= 2.3)", "usr/lib/loader/board/idbloader.img", "usr/lib/loader/board/u-boot.itb", "usr/lib/loader/latest->board", "bin/old", "usr/sbin/new", "usr/lib/loader/out->/etc/out")
	a.add("zipped", "1", "zstd", "", "data")
	a.add("gzipped", "1", "gzip", "", "data")
	a.add("bare", "1", "none", "", "data")
	a.add("kernel-6.1.0-1", "6.1-1", "xz", "kmod", "boot/vmlinuz-6.1.0-1", "boot/config-6.1.0-1", "lib/modules/6.1.0-1/kernel/a.ko")
	a.add("kernel-6.1.0-2", "6.1-2", "xz", "kmod", "boot/vmlinuz-6.1.0-2", "lib/modules/6.1.0-2/kernel/a.ko")
	a.add("kernel", "6.1-1", "xz", "kernel-6.1.0-1 (= 6.1-1)", "usr/share/doc/kernel/copyright")
	a.add("two", "1", "xz", "kernel-6.1.0-1 (= 6.1-1), kernel-6.1.0-2 (= 6.1-2)", "usr/share/doc/two/copyright")
	a.add("circle", "1", "xz", "circle (= 1)", "usr/share/doc/circle/copyright")
	a.publish()
	cache := t.TempDir()
	o := opener(t, source.Options{CacheDir: cache})

	for ref, want := range map[string]string{
		"deb:loader/usr/lib/loader/board/u-boot.itb":    "usr/lib/loader/board/u-boot.itb; deb loader 1:2.0~rc1+dfsg-3",
		"deb:loader/usr/lib/loader/*/idbloader.img":     "usr/lib/loader/board/idbloader.img; deb loader 1:2.0~rc1+dfsg-3",
		"deb:loader//usr/lib/loader/latest/u-boot.itb/": "usr/lib/loader/board/u-boot.itb; deb loader 1:2.0~rc1+dfsg-3",
		"deb:loader/usr/bin/old":                        "bin/old; deb loader 1:2.0~rc1+dfsg-3",
		"deb:loader/sbin/n*":                            "usr/sbin/new; deb loader 1:2.0~rc1+dfsg-3",
		"deb:zipped/data":                               "data; deb zipped 1",
		"deb:gzipped/data":                              "data; deb gzipped 1",
		"deb:bare/data":                                 "data; deb bare 1",
		"deb:kernel/boot/vmlinuz-*":                     "boot/vmlinuz-6.1.0-1; deb kernel-6.1.0-1 6.1-1",
		"deb:kernel/usr/share/doc/kernel/copyright":     "usr/share/doc/kernel/copyright; deb kernel 6.1-1",
	} {
		f, err := o.File(t.Context(), ref)
		if err != nil {
			t.Error(err)
			continue
		}
		got := contents(t, f)
		if strings.TrimPrefix(got, "content of ")+"; "+f.Origin != want || f.SHA256 != sum(got) {
			t.Errorf("%s: %q %s, want %s", ref, got, f.Origin, want)
		}
	}
	for ref, want := range map[string]string{
		"deb:loader/nope":               "file does not exist in loader 1:2.0~rc1+dfsg-3",
		"deb:kernel/nope":               "file does not exist in kernel and kernel-6.1.0-1 6.1-1",
		"deb:two/boot/vmlinuz-*":        "file does not exist in two 1",
		"deb:circle/nope":               "file does not exist: more than 4 meta packages: circle and circle and circle and circle and circle",
		"deb:loader/usr/lib/loader":     "not a regular file in loader 1:2.0~rc1+dfsg-3",
		"deb:kernel-6.1.0-1/boot/*":     "2 files in kernel-6.1.0-1 match: boot/config-6.1.0-1, boot/vmlinuz-6.1.0-1",
		"deb:nope/x":                    "package nope: apt-cache: No packages found",
		"deb:-oDir=x/x":                 `package "-oDir": invalid package name`,
		"deb:loader/usr/lib/loader/out": "usr/lib/loader/out: etc: file does not exist",
	} {
		_, err := o.File(t.Context(), ref)
		if err == nil || err.Error() != ref+": "+want {
			t.Errorf("%v\nwant %s: %s", err, ref, want)
		}
		if strings.Contains(want, "does not exist") != errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v is or is not fs.ErrNotExist", err)
		}
	}

	p, err := o.Package(t.Context(), "kernel")
	must(t, err)
	if p.Name != "kernel-6.1.0-1" || p.Version != "6.1-1" || p.Tree.Lookup("lib/modules/6.1.0-1/kernel/a.ko") == nil {
		t.Errorf("%+v", p)
	}
	if n := p.Tree.Lookup("boot/vmlinuz-6.1.0-1"); n.UID != 0 || n.GID != 0 || n.Type() != tree.Regular {
		t.Errorf("%+v", n)
	}

	// An upgrade: the lists are new enough, so the old version is used until it cannot be downloaded.
	a.add("kernel", "6.1-2", "xz", "kernel-6.1.0-2 (= 6.1-2)", "usr/share/doc/kernel/copyright")
	a.publish()
	o = opener(t, source.Options{CacheDir: cache})
	if p, err := o.Package(t.Context(), "kernel"); err != nil || p.Name != "kernel-6.1.0-1" {
		t.Error(p, err)
	}
	a.add("new", "1", "xz", "", "data")
	a.publish()
	if f, err := o.File(t.Context(), "deb:new/data"); err != nil || f.Origin != "deb new 1" {
		t.Error(f, err)
	}
	o = opener(t, source.Options{CacheDir: cache})
	if p, err := o.Package(t.Context(), "kernel"); err != nil || p.Name != "kernel-6.1.0-2" {
		t.Error(p, err)
	}

	// Without the archive, the cache is used.
	must(t, os.RemoveAll(a.dir))
	yesterday(t, cache)
	o = opener(t, source.Options{CacheDir: cache})
	if p, err := o.Package(t.Context(), "kernel"); err != nil || p.Name != "kernel-6.1.0-2" {
		t.Error(p, err)
	}
	// A damaged file in the cache is not.
	debs, err := filepath.Glob(cache + "/deb/*")
	must(t, err)
	for _, d := range debs {
		data, err := os.ReadFile(d)
		must(t, err)
		if h := sha256.Sum256(data); filepath.Base(d) != hex.EncodeToString(h[:])+".deb" {
			t.Errorf("%s in the cache is something else", d)
		}
		data[len(data)/2] ^= 1
		write(t, d, string(data))
	}
	o = opener(t, source.Options{CacheDir: cache})
	_, err = o.Package(t.Context(), "kernel")
	if err == nil || !strings.HasPrefix(err.Error(), "package kernel: fetching the package lists: apt-get: ") || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
}

func TestPackagesAreDownloadedAtOnce(t *testing.T) {
	a := newArchive(t)
	a.add("one", "1", "xz", "libc6 (>= 2.3), libz1 | zlib, two:any (= 1)", "data")
	a.add("two", "1", "xz", "", "data")
	a.publish()
	o := opener(t, source.Options{CacheDir: t.TempDir()})
	for range 2 {
		all, err := o.Packages(t.Context(), "two", "one")
		must(t, err)
		if got := fmt.Sprintf("%s %s %v %v", all[0].Name, all[1].Name, all[0].Depends, all[1].Depends); got != "two one [] [libc6 libz1 two]" {
			t.Error(got)
		}
	}
	if _, err := o.Packages(t.Context(), "one", "nope"); err == nil || !strings.HasPrefix(err.Error(), "package nope: apt-cache: ") {
		t.Error(err)
	}

	// One of several packages does not match the lists.
	data, err := os.ReadFile(a.dir + "/two_1.deb")
	must(t, err)
	data[len(data)-10] ^= 1
	write(t, a.dir+"/two_1.deb", string(data))
	o = opener(t, source.Options{CacheDir: t.TempDir()})
	if _, err := o.Packages(t.Context(), "one", "two"); err == nil || !strings.HasPrefix(err.Error(), "package two: ") || !strings.Contains(err.Error(), "ash Sum mismatch") {
		t.Error(err)
	}
}

// A user who can write the lists decides which packages are installed.
func TestPackageCacheMustBePrivate(t *testing.T) {
	a := newArchive(t)
	a.add("one", "1", "xz", "", "data")
	a.publish()
	for _, name := range []string{"", "apt-arm64", "deb"} {
		cache := t.TempDir()
		dir := filepath.Join(cache, name)
		must(t, os.MkdirAll(dir, 0o755))
		must(t, os.Chmod(dir, 0o777))
		o := opener(t, source.Options{CacheDir: cache})
		if _, err := o.File(t.Context(), "deb:one/data"); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), dir+" has mode 0777") {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// Without a cache, packages are downloaded and nothing is left.
func TestPackagesWithoutCache(t *testing.T) {
	a := newArchive(t)
	a.add("one", "1", "xz", "", "data")
	a.publish()
	scratch := t.TempDir()
	o := source.NewOpener(source.Options{Arch: "arm64", TempDir: scratch})
	f, err := o.File(t.Context(), "deb:one/data")
	must(t, err)
	if got := contents(t, f); got != "content of data" {
		t.Errorf("%q", got)
	}
	dirs, err := filepath.Glob(scratch + "/imgtool-packages-*")
	must(t, err)
	if len(dirs) != 1 {
		t.Fatal(dirs)
	}
	if info, err := os.Stat(dirs[0]); err != nil || info.Mode().Perm()&0o066 != 0 {
		t.Error(info.Mode(), err)
	}
	must(t, o.Close())
	if left, _ := os.ReadDir(scratch); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

func yesterday(t *testing.T, cache string) {
	t.Helper()
	stamps, err := filepath.Glob(cache + "/apt-*/refreshed")
	must(t, err)
	if len(stamps) != 1 {
		t.Fatal(stamps)
	}
	must(t, os.Remove(stamps[0]))
}

func TestPackageDigestIsVerified(t *testing.T) {
	a := newArchive(t)
	a.add("xx", "1", "xz", "", "data")
	a.publish()
	data, err := os.ReadFile(a.dir + "/xx_1.deb")
	must(t, err)
	data[len(data)-10] ^= 1
	write(t, a.dir+"/xx_1.deb", string(data))
	o := opener(t, source.Options{CacheDir: t.TempDir()})
	_, err = o.File(t.Context(), "deb:xx/data")
	if err == nil || !strings.Contains(err.Error(), "apt-get: ") || !strings.Contains(err.Error(), "ash Sum mismatch") {
		t.Error(err)
	}
}

func TestNoAptError(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	o := opener(t, source.Options{CacheDir: t.TempDir()})
	var none *source.NoAptError
	if _, err := o.File(t.Context(), "deb:xx/data"); !errors.As(err, &none) || none.Package != "xx" {
		t.Error(err)
	}
	if _, err := o.Package(t.Context(), "yy"); !errors.As(err, &none) || none.Package != "yy" {
		t.Error(err)
	}
}

// TestPackagesAsUnprivilegedUser runs itself as another user.
func TestPackagesAsUnprivilegedUser(t *testing.T) {
	if cache := os.Getenv("IMGTOOL_TEST_CACHE"); cache != "" {
		o := source.NewOpener(source.Options{Arch: "arm64", CacheDir: cache})
		defer o.Close()
		f, err := o.File(t.Context(), "deb:xx/data")
		must(t, err)
		if os.Geteuid() == 0 || contents(t, f) != "content of data" {
			t.Error(os.Geteuid(), f)
		}
		return
	}
	imagetest.NeedRoot(t)
	a := newArchive(t)
	a.add("xx", "1", "xz", "", "data")
	a.publish()
	self, err := os.Executable()
	must(t, err)
	data, err := os.ReadFile(self)
	must(t, err)
	exe := t.TempDir() + "/test"
	must(t, os.WriteFile(exe, data, 0o755))
	cache := t.TempDir()
	must(t, os.Chmod(filepath.Dir(cache), 0o755))
	must(t, os.Chown(cache, 65534, 65534))
	cmd := exec.Command(exe, "-test.run=^TestPackagesAsUnprivilegedUser$")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "IMGTOOL_TEST_CACHE="+cache, "HOME="+cache, "TMPDIR=/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestPackagesFromDebian fetches 60 MB from the host's archive the first time.
func TestPackagesFromDebian(t *testing.T) {
	imagetest.Long(t)
	imagetest.Need(t, "apt-get")
	if id, err := os.ReadFile("/etc/os-release"); err != nil || !strings.Contains(string(id), "\nID=debian") {
		imagetest.Skip(t, "not a Debian, which has arm64 in its archive")
	}
	cache, err := os.UserCacheDir()
	must(t, err)
	o := opener(t, source.Options{CacheDir: cache + "/imgtool"})
	f, err := o.File(t.Context(), "deb:busybox-static/bin/busybox")
	must(t, err)
	if e, err := elf.NewFile(f); err != nil || e.Machine != elf.EM_AARCH64 || !strings.HasPrefix(f.Origin, "deb busybox-static 1:1.") {
		t.Error(f.Origin, err)
	}
	f, err = o.File(t.Context(), "deb:linux-image-arm64/boot/vmlinuz-*")
	must(t, err)
	if magic := contents(t, f)[56:60]; magic != "ARMd" || !strings.HasPrefix(f.Origin, "deb linux-image-6.1.0-") {
		t.Errorf("%q, %s", magic, f.Origin)
	}
	p, err := o.Package(t.Context(), "linux-image-arm64")
	must(t, err)
	release := strings.TrimSuffix(strings.TrimPrefix(p.Name, "linux-image-"), "-unsigned")
	if _, err := p.Tree.Open("lib/modules/" + release + "/kernel"); err != nil {
		t.Error(err)
	}
}

// Names and versions in untrusted lists are not passed to apt as options.
func TestPackageNamesAreNotAptOptions(t *testing.T) {
	for what, fields := range map[string]string{
		"a name":            "Package: -oAPT::Get::AllowUnauthenticated=true\nVersion: 1\n",
		"another name":      "Package: other\nVersion: 1\n",
		"a version":         "Package: evil\nVersion: -o=x\n",
		"a version of two":  "Package: evil\nVersion: 1 --option\n",
		"a path as version": "Package: evil\nVersion: ../1\n",
		"a dependency":      "Package: evil\nVersion: 1\nDepends: evil (= -oDir=x)\n",
	} {
		bin, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
		record := fields + "SHA256: " + strings.Repeat("0", 64) + "\n"
		write(t, bin+"/record", record)
		for _, program := range []string{"apt-get", "apt-cache"} {
			write(t, bin+"/"+program, fmt.Sprintf("#!/bin/sh\necho \"$0\" \"$@\" >> %s\ncase $0 in *cache) cat %s/record;; *) case \"$*\" in *download*) exit 100;; esac;; esac\n", log, bin))
			must(t, os.Chmod(bin+"/"+program, 0o755))
		}
		t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
		_, err := opener(t, source.Options{CacheDir: t.TempDir(), Arch: "arm64"}).Packages(t.Context(), "evil")
		if err == nil {
			t.Errorf("%s: no error", what)
		}
		said, rerr := os.ReadFile(log)
		must(t, rerr)
		for line := range strings.Lines(string(said)) {
			_, args, found := strings.Cut(line, " download ")
			if !found {
				_, args, found = strings.Cut(line, " show ")
			}
			if !found {
				continue
			}
			_, names, found := strings.Cut(args, "-- ")
			if !found || strings.Contains(" "+names, " -") || strings.Contains(names, "other") || strings.Contains(names, "AllowUnauth") {
				t.Errorf("%s: %s", what, line)
			}
		}
	}
}
