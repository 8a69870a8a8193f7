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

// The packages of this machine's Debian are the packages that dpkg-query lists.
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

// A package that was removed is not listed, although its configuration remains; a package that was
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
		"var/lib/dpkg/status.d/base.md5sums":  "00  usr/share/doc/a:b\n",
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
	for _, path := range []string{"var/lib/dpkg/status", "var/lib/dpkg/status.d/a", "lib/apk/db/installed"} {
		for _, text := range []string{"\xff\xfe\x00\n", "P:a\nV:1\n\n\x00\x00\x00"} {
			_, err := sbom.Scan(files(t, map[string]string{path: text}), nil)
			if err == nil || !strings.HasPrefix(err.Error(), path+": line ") || !strings.HasSuffix(err.Error(), ": the file is damaged") {
				t.Errorf("%s: %q: %v", path, text, err)
			}
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

// The packages of a database that rpm wrote are the packages that rpm lists.
func TestRPM(t *testing.T) {
	imagetest.Need(t, "rpmbuild")
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	db := filepath.Join(root, "usr/lib/sysimage/rpm")
	os.MkdirAll(db, 0o755)
	for i, extra := range []string{"Epoch: 3\nLicense: GPL-2.0-or-later AND MIT\nVendor: Some Vendor", "License: GPLv2+"} {
		name := []string{"first", "second"}[i]
		spec := filepath.Join(dir, name+".spec")
		os.WriteFile(spec, []byte("Name: "+name+"\nVersion: 1.0\nRelease: 2.fc40\nBuildArch: noarch\nSummary: x\n"+extra+"\n%description\nx\n%files\n"), 0o644)
		imagetest.Run(t, "rpmbuild", "-bb", "--quiet", "--define", "_topdir "+dir, "--define", "_rpmdir "+dir, spec)
		imagetest.Run(t, "rpm", "-i", "--justdb", "--nodeps", "--dbpath", db, "--define", "_db_backend sqlite", filepath.Join(dir, "noarch", name+"-1.0-2.fc40.noarch.rpm"))
	}
	os.MkdirAll(filepath.Join(root, "etc"), 0o755)
	os.WriteFile(filepath.Join(root, "etc/os-release"), []byte("ID=fedora\nVERSION_ID=40\n"), 0o644)
	tr, err := hostfs.Read(root, false, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := scan(t, tr)
	want := strings.Fields(imagetest.Run(t, "rpm", "-qa", "--dbpath", db, "--define", "_db_backend sqlite"))
	slices.Sort(want)
	var got []string
	for _, p := range found {
		_, version, ok := strings.Cut(p.Version, ":")
		if !ok {
			version = p.Version
		}
		got = append(got, p.Name+"-"+version+"."+p.Arch)
	}
	equal(t, got, want)
	d := sbomtest.Read(t, document(found))
	equal(t, sbomtest.PURLs(d, "rpm"), []string{"pkg:rpm/fedora/first@1.0-2.fc40?arch=noarch&distro=fedora-40&epoch=3&upstream=first-1.0-2.fc40.src.rpm",
		"pkg:rpm/fedora/second@1.0-2.fc40?arch=noarch&distro=fedora-40&upstream=second-1.0-2.fc40.src.rpm"})
	if first := found[0]; first.License != "GPL-2.0-or-later AND MIT" || first.Supplier != "Organization: Some Vendor" || found[1].License != "" {
		t.Errorf("%+v", found)
	}
}

// The store paths of a store that Nix wrote are the paths that Nix lists, and names are split as Nix
// splits them.
func TestNixStore(t *testing.T) {
	imagetest.Need(t, "nix-store")
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	os.Mkdir(root, 0o755)
	names := []string{"glibc-2.40-66", "unit-sshd.service", "nixos-system-atomixos-25.11.2026", "python3.12-foo-1.0", "7zip-22.01", "source", "linux-6.12.1-modules-shrunk",
		"a-B-c", "etc-os-release", "x-+1", "initrd-linux-6.12.1"}
	var args []string
	var split strings.Builder
	for _, name := range names {
		file := filepath.Join(dir, name)
		os.WriteFile(file, []byte(name), 0o644)
		args = append(args, file)
		split.WriteString(`(let d = builtins.parseDrvName "` + name + `"; in d.name + "|" + d.version)`)
	}
	t.Setenv("NIX_CONFIG", "build-users-group =\nexperimental-features = nix-command")
	t.Setenv("NIX_STATE_DIR", filepath.Join(dir, "state"))
	imagetest.Run(t, "nix-store", append([]string{"--store", root, "--add"}, args...)...)
	want := lines(imagetest.Run(t, "nix", "path-info", "--all", "--store", root))
	tr, err := hostfs.Read(root, false, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := scan(t, tr)
	var got, gotSplit []string
	for _, p := range found {
		got = append(got, strings.TrimPrefix(p.Comment, "store path "))
		gotSplit = append(gotSplit, p.Name+"|"+p.Version)
	}
	slices.Sort(got)
	equal(t, got, want)
	text := imagetest.Run(t, "nix-instantiate", "--store", "dummy://", "--eval", "-E", `builtins.concatStringsSep " " [`+split.String()+`]`)
	wantSplit := strings.Fields(strings.Trim(text, "\"\n"))
	slices.Sort(wantSplit)
	slices.Sort(gotSplit)
	equal(t, gotSplit, wantSplit)
	if d := sbomtest.Read(t, document(found)); len(sbomtest.PURLs(d, "nix")) != len(names) {
		t.Errorf("the document has %d store paths of %d", len(sbomtest.PURLs(d, "nix")), len(names))
	}
}

func TestOCI(t *testing.T) {
	const digest = "sha256:244fd47e07d10"
	for ref, want := range map[string]string{
		"docker://localhost:5000/os/Root:1.2": "pkg:oci/root@" + digest + "?repository_url=localhost:5000%2Fos%2FRoot&tag=1.2",
		"oci://example.org/os@" + digest:      "pkg:oci/os@" + digest + "?repository_url=example.org%2Fos",
		"layout":                              "pkg:oci/layout@" + digest,
	} {
		if got := sbom.OCI(ref, digest); got != want {
			t.Errorf("%s: %s, want %s", ref, got, want)
		}
	}
}
