package sbom_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/sbom"
	"imgtool/image/sbom/sbomtest"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
)

// scan returns the packages of a tree, which must cause no warning.
func scan(t *testing.T, tr *tree.Tree) []sbom.Package {
	t.Helper()
	found, err := sbom.Scan(tr, func(text string) { t.Errorf("unexpected warning: %s", text) })
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// document returns the document of an image with packages.
func document(found []sbom.Package) []byte {
	img := sbom.Package{Info: sbom.Info{Kind: "image", Name: "board", Version: "1", Purpose: "OPERATING_SYSTEM"}, Contains: found}
	return (&sbom.Document{Name: "board-1", Image: img, Time: 1_700_000_000, Tool: "imgtool-test"}).Encode()
}

// files returns a tree with files by their paths.
func files(t *testing.T, texts map[string]string) *tree.Tree {
	t.Helper()
	tr := tree.New(0)
	for path, text := range texts {
		if err := tr.Put(path, &tree.Inode{Mode: tree.Regular | 0o644, Content: strings.NewReader(text)}); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

// list returns the packages as dpkg-query prints them with ${Package} ${Version} ${Architecture}.
func list(found []sbom.Package) (all []string) {
	for _, p := range found {
		all = append(all, p.Name+" "+p.Version+" "+p.Arch)
	}
	slices.Sort(all)
	return all
}

func lines(text string) []string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	slices.Sort(all)
	return all
}

func equal(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%d packages:\n%s\nwant %d:\n%s", len(got), strings.Join(got, "\n"), len(want), strings.Join(want, "\n"))
	}
}

// The packages of this machine's Debian are those that dpkg-query lists.
func TestDebian(t *testing.T) {
	imagetest.Need(t, "dpkg-query")
	database, err := hostfs.Read("/var/lib/dpkg", false, 0)
	if err != nil {
		t.Fatal(err)
	}
	tr := tree.New(0)
	for path, n := range database.All() {
		if path == "status" {
			if err := tr.Put("var/lib/dpkg/"+path, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	found := scan(t, tr)
	want := lines(imagetest.Run(t, "dpkg-query", "-W", "-f", `${db:Status-Status} ${Package} ${Version} ${Architecture}\n`))
	want = slices.DeleteFunc(want, func(line string) bool { return strings.HasPrefix(line, "config-files ") })
	for i, line := range want {
		_, want[i], _ = strings.Cut(line, " ")
	}
	slices.Sort(want)
	equal(t, list(found), want)
	if d := sbomtest.Read(t, document(found)); len(sbomtest.PURLs(d, "deb")) != len(want) {
		t.Errorf("the document has %d packages, dpkg-query lists %d", len(sbomtest.PURLs(d, "deb")), len(want))
	}
}

// A package that was removed is not listed, although its configuration remains; one that was
// unpacked and not configured is.
func TestDebianStates(t *testing.T) {
	imagetest.NeedRoot(t)
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, name := range []string{"kept", "removed", "purged", "unpacked"} {
		pkg := filepath.Join(dir, name)
		for path, text := range map[string]string{"etc/" + name: "x\n", "DEBIAN/conffiles": "/etc/" + name + "\n",
			"DEBIAN/control": "Package: " + name + "\nVersion: 1:2.0-3\nArchitecture: all\nSource: upper (1.9)\nMaintainer: A <a@b.org>\nDescription: x\n a: b\n"} {
			os.MkdirAll(filepath.Dir(filepath.Join(pkg, path)), 0o755)
			os.WriteFile(filepath.Join(pkg, path), []byte(text), 0o644)
		}
		imagetest.Run(t, "dpkg-deb", "--build", pkg)
	}
	dpkg := func(args ...string) {
		imagetest.Run(t, "dpkg", append([]string{"--root=" + root, "--force-not-root", "--force-bad-path", "--log=/dev/null"}, args...)...)
	}
	os.MkdirAll(filepath.Join(root, "var/lib/dpkg/updates"), 0o755)
	os.MkdirAll(filepath.Join(root, "var/lib/dpkg/info"), 0o755)
	os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o644)
	dpkg("--install", filepath.Join(dir, "kept.deb"), filepath.Join(dir, "removed.deb"), filepath.Join(dir, "purged.deb"))
	dpkg("--unpack", filepath.Join(dir, "unpacked.deb"))
	dpkg("--remove", "removed")
	dpkg("--purge", "purged")
	if text := imagetest.Run(t, "dpkg-query", "--root="+root, "-W", "-f", `${Package} ${db:Status-Status} `); text != "kept installed removed config-files unpacked unpacked " {
		t.Fatalf("dpkg has %q", text)
	}
	tr, err := hostfs.Read(root, false, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := scan(t, tr)
	equal(t, list(found), []string{"kept 1:2.0-3 all", "unpacked 1:2.0-3 all"})
	want := sbom.Info{Kind: "deb", Name: "kept", Version: "1:2.0-3", Arch: "all", Source: "upper 1.9", Supplier: "Person: A (a@b.org)",
		PURL: "pkg:deb/debian/kept@1:2.0-3?arch=all&upstream=upper%401.9"}
	if found[0].Info != want {
		t.Errorf("%+v, want %+v", found[0].Info, want)
	}
	sbomtest.Read(t, document(found))
}

// Distroless images have a file for each package.
func TestDistroless(t *testing.T) {
	found := scan(t, files(t, map[string]string{
		"etc/os-release":                      "ID=debian\nVERSION_ID=\"12\"\n",
		"var/lib/dpkg/status.d/base":          "Package: base-files\nVersion: 12.4\nArchitecture: arm64\n",
		"var/lib/dpkg/status.d/tzdata":        "Package: tzdata\nVersion: 2024a-0\nArchitecture: all\n",
		"var/lib/dpkg/status.d/base.md5sums":  "00  usr/x\n",
		"usr/share/doc/tzdata/copyright":      "This package was debianized by somebody.\n",
		"usr/share/doc/base-files/copyright":  "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-2+\n text\n",
		"usr/share/doc/base-files/changelog":  "x",
		"var/lib/dpkg/status.d/sub/directory": "not a package",
	}))
	equal(t, list(found), []string{"base-files 12.4 arm64", "tzdata 2024a-0 all"})
	if found[0].License != "GPL-2.0-or-later" || found[1].License != "" {
		t.Errorf("licenses %q and %q", found[0].License, found[1].License)
	}
	if want := "pkg:deb/debian/base-files@12.4?arch=arm64&distro=debian-12"; found[0].PURL != want {
		t.Errorf("%s, want %s", found[0].PURL, want)
	}
}

func TestAlpine(t *testing.T) {
	const database = `C:Q1abc=
P:busybox
V:1.36.1-r5
A:aarch64
L:GPL-2.0-only
o:busybox
m:Natanael Copa <ncopa@alpinelinux.org>
F:bin
R:busybox
a:0:0:755
Z:Q1def=

P:ssl_client
V:1.36.1-r5
A:aarch64
L:GPL-2.0-only AND custom
o:busybox

`
	found := scan(t, files(t, map[string]string{"lib/apk/db/installed": database, "usr/lib/os-release": "ID=alpine\nVERSION_ID=3.18.4\n"}))
	equal(t, list(found), []string{"busybox 1.36.1-r5 aarch64", "ssl_client 1.36.1-r5 aarch64"})
	if found[0].License != "GPL-2.0-only" || found[1].License != "" {
		t.Errorf("licenses %q and %q", found[0].License, found[1].License)
	}
	d := sbomtest.Read(t, document(found))
	equal(t, sbomtest.PURLs(d, "apk"), []string{"pkg:apk/alpine/busybox@1.36.1-r5?arch=aarch64&distro=alpine-3.18.4",
		"pkg:apk/alpine/ssl_client@1.36.1-r5?arch=aarch64&distro=alpine-3.18.4&upstream=busybox"})
}

// Every store path is listed, whatever its name is.
func TestNix(t *testing.T) {
	const hash = "0c6kzph7l0dcbfmjap64f0czdafn3b7x"
	tr := files(t, map[string]string{
		"nix/store/" + hash + "-glibc-2.40-66/lib/libc.so.6":              "x",
		"nix/store/" + hash + "-openssl-3.4.1-bin/bin/openssl":            "x",
		"nix/store/" + hash + "-unit-sshd.service/sshd.service":           "x",
		"nix/store/" + hash + "-nixos-system-atomixos-25.11.2026/init":    "x",
		"nix/store/" + hash + "-bash-5.2p37.drv":                          "x",
		"nix/store/.links/" + hash:                                        "x",
		"nix/store/" + strings.Replace(hash, "0", "e", 1) + "-not-a-hash": "x",
	})
	found := scan(t, tr)
	var got []string
	for _, p := range found {
		got = append(got, p.Name+"|"+p.Version+"|"+strings.TrimPrefix(p.Comment, "store path /nix/store/"+hash+"-"))
	}
	equal(t, got, []string{"bash|5.2p37.drv|bash-5.2p37.drv", "glibc|2.40-66|glibc-2.40-66", "nixos-system-atomixos|25.11.2026|nixos-system-atomixos-25.11.2026",
		"openssl|3.4.1|openssl-3.4.1-bin", "unit-sshd.service||unit-sshd.service"})
	d := sbomtest.Read(t, document(found))
	equal(t, sbomtest.PURLs(d, "nix"), []string{"pkg:nix/bash@5.2p37.drv?outputhash=" + hash, "pkg:nix/glibc@2.40-66?outputhash=" + hash,
		"pkg:nix/nixos-system-atomixos@25.11.2026?outputhash=" + hash, "pkg:nix/openssl@3.4.1?output=bin&outputhash=" + hash, "pkg:nix/unit-sshd.service?outputhash=" + hash})
}

func TestLicenses(t *testing.T) {
	const format = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"
	for text, want := range map[string]string{
		format + "Files: *\nLicense: Expat\n\nFiles: debian/*\nLicense: GPL-2+ or Apache-2.0\n": "(GPL-2.0-or-later OR Apache-2.0) AND MIT",
		format + "Files: *\nLicense: LGPL-2.1\n\nLicense: public-domain\n text\n":               "LGPL-2.1-only",
		format + "Files: *\nLicense: public-domain\n":                                           "",
		format + "Files: *\nLicense: GPL-2+ with OpenSSL exception\n":                           "",
		format + "Files: *\nLicense: GPL-2+, and MIT\n":                                         "",
		format + "Files: *\nLicense: LicenseRef-x\n":                                            "",
		format + "Files: *\n": "",
		"License: GPL-2\n":    "",
	} {
		found := scan(t, files(t, map[string]string{"var/lib/dpkg/status.d/x": "Package: x\nVersion: 1\n", "usr/share/doc/x/copyright": text}))
		if found[0].License != want {
			t.Errorf("%s: %q, want %q", text, found[0].License, want)
		}
	}
}

// Damaged databases are named.
func TestDamaged(t *testing.T) {
	for path, text := range map[string]string{
		"var/lib/dpkg/status":     "Package: a\nVersion: 1\nStatus: install ok installed\n\nVersion: 2\nStatus: install ok installed\n",
		"var/lib/dpkg/status.d/a": "Package: a\n",
		"lib/apk/db/installed":    "P:a\nV:1\n\nP:b\n",
	} {
		_, err := sbom.Scan(files(t, map[string]string{path: text}), nil)
		if err == nil || !strings.HasPrefix(err.Error(), path+": ") {
			t.Errorf("%s: %v", path, err)
		}
	}
	tr := tree.New(0)
	tr.Put("var/lib/dpkg/status", &tree.Inode{Mode: tree.Dir | 0o755})
	if _, err := sbom.Scan(tr, nil); err == nil {
		t.Error("a directory is not a database")
	}
}

// The same packages give the same bytes, others another namespace, and what has the same name has
// another identifier.
func TestDocument(t *testing.T) {
	a := []sbom.Package{{Info: sbom.Info{Kind: "file", Name: "a b", SHA256: strings.Repeat("0", 64)}}, {Info: sbom.Info{Kind: "file", Name: "a_b"}},
		{Info: sbom.Info{Kind: "file", Name: "ä\xff\x1b <&>"}, From: []sbom.Package{{Info: sbom.Debian("x", "1~2", "arm64", strings.Repeat("1", 64))}}}}
	if !bytes.Equal(document(a), document(slices.Clone(a))) {
		t.Error("the bytes differ")
	}
	one, two := sbomtest.Read(t, document(a)), sbomtest.Read(t, document(a[:2]))
	if one.DocumentNamespace == two.DocumentNamespace {
		t.Errorf("two documents have the namespace %s", one.DocumentNamespace)
	}
	if len(one.Packages) != 5 || one.CreationInfo.Created != "2023-11-14T22:13:20Z" {
		t.Errorf("%d packages, created %s", len(one.Packages), one.CreationInfo.Created)
	}
}
