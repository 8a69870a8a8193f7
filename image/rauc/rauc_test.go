package rauc_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"imgtool/image"
	"imgtool/image/cms"
	"imgtool/image/cms/cmstest"
	"imgtool/image/fault"
	"imgtool/image/imagetest"
	"imgtool/image/rauc"
	"imgtool/image/squashfs"
)

func random(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

var (
	rootfs = append(random(1, 300<<10), make([]byte, 100<<10)...)
	boot   = append(bytes.Repeat([]byte("boot "), 8192), random(2, 40<<10)...)
	hook   = []byte("#!/bin/sh\nexit 0\n")
)

// options returns the options of a bundle with two images and hooks.
func options(t testing.TB, by *cmstest.Identity, others ...*x509.Certificate) rauc.Options {
	return rauc.Options{
		Manifest: rauc.Manifest{Compatible: "test-board", Version: "1.2", Build: "b17", Description: ` two\words`, HookFile: "hook.sh", Hooks: []string{"install-check"},
			Images: []rauc.Image{
				{Class: "boot", File: "boot.vfat", Hooks: []string{"pre-install", "post-install"}},
				{Class: "rootfs", File: "rootfs.squashfs", Adaptive: []string{rauc.BlockHashIndex}},
			}},
		Images:   map[string]image.Content{"boot.vfat": bytes.NewReader(boot), "rootfs.squashfs": bytes.NewReader(rootfs)},
		Hook:     bytes.NewReader(hook),
		Signer:   cms.Signer{Key: by.Key, Cert: by.Cert, Others: others, Time: by.Cert.NotBefore},
		Squashfs: squashfs.Options{ModTime: 1767225600, BlockSize: 4096},
	}
}

func create(t testing.TB, opt rauc.Options) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.raucb")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, size, err := rauc.Create(t.Context(), f, opt, nil)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != size {
		t.Fatalf("the bundle has %d bytes, and Create returned %d (%v)", info.Size(), size, err)
	}
	return path
}

// open opens a bundle and verifies it.
func verify(path string, trust rauc.Trust) (*rauc.Bundle, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	x, err := rauc.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	trust.Time = time.Now()
	if trust.Purpose == "" {
		trust.Purpose = cms.SMIMESign
	}
	return x, x.Verify(context.Background(), trust, nil)
}

// rauc runs rauc without the configuration of this machine.
func runRauc(t testing.TB, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(imagetest.Need(t, "rauc"), args...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustRauc(t testing.TB, args ...string) string {
	t.Helper()
	out, err := runRauc(t, args...)
	if err != nil {
		t.Fatalf("rauc %q: %v\n%s", args, err, out)
	}
	return out
}

// RAUC reads and extracts bundles, with and without an intermediate certificate.
func TestRAUCAcceptsIt(t *testing.T) {
	ca := cmstest.Issue(t, cmstest.EC(t), nil, nil)
	middle := cmstest.Issue(t, cmstest.EC(t), ca, cmstest.CA)
	ring := cmstest.File(t, ca.Cert)
	for _, opt := range []rauc.Options{options(t, cmstest.Issue(t, cmstest.RSA(t), ca, nil)), options(t, cmstest.Issue(t, cmstest.EC(t), middle, nil), middle.Cert)} {
		path := create(t, opt)
		info := mustRauc(t, "info", "--keyring", ring, "--output-format", "shell", path)
		for _, want := range []string{"RAUC_MF_COMPATIBLE='test-board'", "RAUC_MF_VERSION='1.2'", `RAUC_MF_DESCRIPTION=' two\words'`, "RAUC_MF_BUILD='b17'", "RAUC_MF_HOOKS='install-check'"} {
			if !strings.Contains(info, want) {
				t.Errorf("rauc info has no line %s:\n%s", want, info)
			}
		}
		dir := filepath.Join(t.TempDir(), "extracted")
		mustRauc(t, "extract", "--keyring", ring, path, dir)
		for name, want := range map[string][]byte{"boot.vfat": boot, "rootfs.squashfs": rootfs, "hook.sh": hook} {
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s was not extracted as it is (%v)", name, err)
			}
		}
		if info, err := os.Stat(filepath.Join(dir, "hook.sh")); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("the hook has the mode %v (%v)", info.Mode(), err)
		}
		if _, err := verify(path, rauc.Trust{Keyring: []*x509.Certificate{ca.Cert}, Compatible: "test-board"}); err != nil {
			t.Error(err)
		}
		again, other := create(t, opt), create(t, opt)
		if imagetest.Run(t, "cmp", again, other); t.Failed() {
			t.Error("the same options give other bytes")
		}
	}
}

// RAUC's own bundles are read, and their indexes are the same as ours.
func TestBundlesOfRAUC(t *testing.T) {
	ca := cmstest.Issue(t, cmstest.EC(t), nil, nil)
	leaf := cmstest.Issue(t, cmstest.RSA(t), ca, nil)
	ours := filepath.Join(t.TempDir(), "ours")
	imagetest.Run(t, "unsquashfs", "-d", ours, create(t, options(t, leaf)))
	for _, format := range []string{rauc.Plain, rauc.Verity} {
		dir, path := t.TempDir(), filepath.Join(t.TempDir(), "x.raucb")
		manifest := "[update]\ncompatible=test-board\nversion=1.2\n\n[bundle]\nformat=" + format + "\n\n[hooks]\nfilename=hook.sh\n\n" +
			"[image.boot]\nfilename=boot.vfat\nhooks=post-install\n\n[image.rootfs]\nfilename=rootfs.squashfs\nadaptive=block-hash-index\n"
		for name, b := range map[string][]byte{"boot.vfat": boot, "rootfs.squashfs": rootfs, "hook.sh": hook, rauc.ManifestName: []byte(manifest)} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		mustRauc(t, "bundle", "--cert", cmstest.File(t, leaf.Cert), "--key", cmstest.File(t, leaf.Key), dir, path)
		b, err := verify(path, rauc.Trust{Keyring: []*x509.Certificate{ca.Cert}, Compatible: "test-board"})
		if err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		want := []rauc.Image{{Class: "boot", File: "boot.vfat", Size: int64(len(boot)), Hooks: []string{"post-install"}},
			{Class: "rootfs", File: "rootfs.squashfs", Size: int64(len(rootfs)), Adaptive: []string{rauc.BlockHashIndex}}}
		for i := range want {
			want[i].SHA256 = b.Manifest.Images[i].SHA256
		}
		if b.Format != format || !slices.EqualFunc(b.Manifest.Images, want, func(a, b rauc.Image) bool {
			return a.Name() == b.Name() && a.File == b.File && a.Size == b.Size && slices.Equal(a.Hooks, b.Hooks) && a.Index() == b.Index()
		}) {
			t.Errorf("%s: got %s, %+v", format, b.Format, b.Manifest.Images)
		}
		theirs := filepath.Join(t.TempDir(), "theirs")
		imagetest.Run(t, "unsquashfs", "-d", theirs, path)
		imagetest.Run(t, "cmp", filepath.Join(ours, "rootfs.squashfs.block-hash-index"), filepath.Join(theirs, "rootfs.squashfs.block-hash-index"))
		for _, at := range []int64{5000, b.Payload - 4096, -100} {
			flip(t, path, at)
			if _, err := verify(path, rauc.Trust{Keyring: []*x509.Certificate{ca.Cert}}); fault.Kind(err) != fault.Corrupt {
				t.Errorf("%s: byte %d changed: got %v", format, at, err)
			}
			flip(t, path, at)
		}
	}
}

// flip changes a byte of a file, counted from the end if at is negative.
func flip(t testing.TB, path string, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if at < 0 {
		at += int64(len(b))
	}
	b[at] ^= 0x10
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A byte that is changed anywhere is refused by RAUC and by Verify.
func TestBothRefuseFlippedBytes(t *testing.T) {
	ca := cmstest.Issue(t, cmstest.EC(t), nil, nil)
	path := create(t, options(t, cmstest.Issue(t, cmstest.EC(t), ca, nil)))
	ring := cmstest.File(t, ca.Cert)
	trust := rauc.Trust{Keyring: []*x509.Certificate{ca.Cert}}
	b, err := verify(path, trust)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	signature := b.Payload + b.Manifest.Hashes
	places := map[string][]int64{"squashfs": {0, 20, 4096, b.Payload / 2, b.Payload - 1}, "hash tree": {b.Payload, b.Payload + 40, b.Payload + 4097, signature - 1},
		"signature": {signature, signature + 100, signature + 900, info.Size() - 9, info.Size() - 60}, "size": {info.Size() - 8, info.Size() - 2, info.Size() - 1}}
	for name, all := range places {
		for _, at := range all {
			flip(t, path, at)
			if _, err := verify(path, trust); fault.Kind(err) != fault.Corrupt {
				t.Errorf("%s, byte %d: got %v", name, at, err)
			}
			// Unlike info, extract checks the payload.
			if out, err := runRauc(t, "extract", "--keyring", ring, path, filepath.Join(t.TempDir(), "x")); err == nil {
				t.Errorf("%s, byte %d: rauc extract succeeds\n%s", name, at, out)
			}
			flip(t, path, at)
		}
	}
}

// A bundle whose signer is not trusted is refused by RAUC and by Verify.
func TestBothRefuseSigners(t *testing.T) {
	ca, other := cmstest.Issue(t, cmstest.EC(t), nil, nil), cmstest.Issue(t, cmstest.EC(t), nil, nil)
	past := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	future := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }
	server := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	for _, c := range []struct {
		by     *cmstest.Identity
		change func(*x509.Certificate)
		want   string
	}{
		{ca, nil, ""}, {other, nil, "not trusted"}, {ca, past, "expired"}, {ca, future, "not valid before"}, {ca, server, "not trusted"},
	} {
		path := create(t, options(t, cmstest.Issue(t, cmstest.EC(t), c.by, c.change)))
		_, err := verify(path, rauc.Trust{Keyring: []*x509.Certificate{ca.Cert}})
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || fault.Kind(err) != fault.Corrupt) {
			t.Errorf("got %v, want %q", err, c.want)
		}
		if out, err := runRauc(t, "info", "--keyring", cmstest.File(t, ca.Cert), path); (err == nil) != (c.want == "") {
			t.Errorf("%s: rauc info: %v\n%s", c.want, err, out)
		}
		if _, err := verify(path, rauc.Trust{}); err != nil {
			t.Errorf("%s: without a keyring: %v", c.want, err)
		}
	}
}

func TestCompatible(t *testing.T) {
	path := create(t, options(t, cmstest.Issue(t, cmstest.EC(t), nil, func(c *x509.Certificate) { c.KeyUsage = 0 })))
	if _, err := verify(path, rauc.Trust{Compatible: "other"}); fault.Kind(err) != fault.WrongBoard {
		t.Errorf("another compatible string: %v", err)
	}
}

func TestDamage(t *testing.T) {
	path := create(t, options(t, cmstest.Issue(t, cmstest.EC(t), nil, nil)))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	is := func(b []byte) bool { return rauc.Is(bytes.NewReader(b), int64(len(b))) }
	if !is(b) {
		t.Error("a bundle is not recognized")
	}
	for n := range 300 {
		short := b[:len(b)*n/300]
		if _, err := rauc.Open(bytes.NewReader(short), int64(len(short))); fault.Kind(err) != fault.Corrupt {
			t.Errorf("cut to %d bytes: %v", len(short), err)
		}
		if is(short) {
			t.Errorf("cut to %d bytes it is a bundle", len(short))
		}
	}
	for _, n := range []uint64{0, 1, 1 << 20, 1 << 63} {
		binary.BigEndian.PutUint64(b[len(b)-8:], n)
		if _, err := rauc.Open(bytes.NewReader(b), int64(len(b))); fault.Kind(err) != fault.Corrupt {
			t.Errorf("a signature of %d bytes: %v", n, err)
		}
	}
}

func TestManifestErrors(t *testing.T) {
	for _, c := range []struct {
		change func(*rauc.Manifest)
		want   string
	}{
		{func(m *rauc.Manifest) { m.Compatible = "" }, "compatible is missing"},
		{func(m *rauc.Manifest) { m.Compatible = "a\xff" }, "compatible is \"a\\xff\": it must be one line of UTF-8"},
		{func(m *rauc.Manifest) { m.Version = "1\n2" }, "version is "},
		{func(m *rauc.Manifest) { m.Description = "\x1b[2J" }, "description is "},
		{func(m *rauc.Manifest) { m.Images = nil }, "there is no image"},
		{func(m *rauc.Manifest) { m.HookFile = "" }, "no file with them"},
		{func(m *rauc.Manifest) { m.Hooks = []string{"install"} }, `RAUC has no hook "install"`},
		{func(m *rauc.Manifest) { m.Images[0].Hooks = []string{"install", "pre-install"} }, "replaces the others"},
		{func(m *rauc.Manifest) { m.Images[1].Class = "boot" }, "two images are for the slots boot"},
		{func(m *rauc.Manifest) { m.Images[1].File = "boot.vfat" }, "cannot have the file name"},
		{func(m *rauc.Manifest) { m.Images[1].File = "../x.img" }, "cannot have the file name"},
		{func(m *rauc.Manifest) { m.Images[1].File = "rootfs" }, "by the end of its name"},
		{func(m *rauc.Manifest) { m.Images[1].Adaptive = []string{"x"} }, "no adaptive method"},
		{func(m *rauc.Manifest) { m.HookFile = rauc.ManifestName }, "cannot have the name"},
	} {
		m := options(t, cmstest.Issue(t, cmstest.EC(t), nil, nil)).Manifest
		c.change(&m)
		if err := m.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	opt := options(t, cmstest.Issue(t, cmstest.EC(t), nil, nil))
	opt.Images["rootfs.squashfs"] = bytes.NewReader(rootfs[:5000])
	if _, _, err := rauc.Create(t.Context(), nil, opt, nil); err == nil || !regexp.MustCompile(`rootfs.squashfs: it has 5000 bytes.* multiple of 4096`).MatchString(err.Error()) {
		t.Errorf("got %v", err)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte("[update]\ncompatible=x\n[bundle]\nformat=plain\n[image.a]\nfilename=\\sx.img\nhooks=a;b;\nsize=1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := rauc.ParseManifest(text)
		if err != nil {
			return
		}
		once := m.Encode()
		again, err := rauc.ParseManifest(once)
		if err != nil {
			t.Skip() // only the parser accepts some values
		}
		if twice := again.Encode(); !bytes.Equal(once, twice) {
			t.Errorf("encoded again it is\n%s\nnot\n%s", twice, once)
		}
	})
}
