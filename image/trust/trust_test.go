package trust_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/imagetest"
	"imgtool/image/sign"
	"imgtool/image/sshkey"
	"imgtool/image/trust"
	"imgtool/image/volume"
)

func TestMain(m *testing.M) {
	os.Setenv(trust.FileVariable, "")
	os.Exit(m.Run())
}

// save saves an image of three pieces of noise, which a seed gives.
func save(t testing.TB, name string, seed uint64) string {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	noise := make([]byte, 3*image.PieceSize)
	for i := 0; i < len(noise); i += 64 { // compresses well
		noise[i] = byte(r.Uint32())
	}
	img, err := image.New(5*image.PieceSize, image.Extent{Name: "noise", Content: bytes.NewReader(noise)})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	m := &artifact.Manifest{Board: "test", BuildID: fmt.Sprint(seed), Floor: img.Size(), Inputs: []artifact.Input{}, Partitions: []artifact.Partition{}}
	if err := artifact.Save(t.Context(), path, img, m, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

// keys are the key files of a test, and the files of signers that allow each.
type keys struct{ dir string }

func newKeys(t testing.TB) keys {
	imagetest.Need(t, "minisign")
	k := keys{t.TempDir()}
	for _, name := range []string{"ssh", "ssh-other"} {
		imagetest.Run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", k.path(name))
		write(t, k.path(name+".signers"), "a@example.com "+read(t, k.path(name+".pub")))
	}
	for _, name := range []string{"minisign", "minisign-other"} {
		imagetest.Run(t, "minisign", "-G", "-W", "-p", k.path(name+".signers"), "-s", k.path(name))
	}
	return k
}

func (k keys) path(name string) string { return filepath.Join(k.dir, name) }

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (k keys) sign(t testing.TB, name, path string) {
	t.Helper()
	key, err := sign.FindKey(t.Context(), &sshkey.Keyring{ID: k.path(name)})
	if err != nil {
		t.Fatal(err)
	}
	s := trust.Signing{Key: key, Comment: func(string) string { return "timestamp:1" }}
	if _, err := s.Sign(t.Context(), path, volume.Options{}); err != nil {
		t.Fatal(err)
	}
}

// judge returns the reason for which an image is not accepted, "corrupt" if its content is, or "".
func judge(t testing.TB, path string, opt trust.Options, board *boards.Board) string {
	t.Helper()
	opt.Warn = func(text string) { t.Error(text) }
	p, err := trust.NewPolicy(opt, board)
	if err != nil {
		t.Fatal(err)
	}
	err = accept(t.Context(), path, p)
	if err == nil {
		return ""
	}
	t.Log(err)
	if strings.Contains(fault.Hint(err), "://") {
		t.Errorf("the hint %q is to sign an image on a server", fault.Hint(err))
	}
	if refused, ok := errors.AsType[*sign.Error](err); ok {
		return refused.Reason
	}
	if fault.Kind(err) != fault.Corrupt {
		t.Errorf("%v is of the kind %q", err, fault.Kind(err))
	}
	return "corrupt"
}

// accept does what flash does before it opens a disk.
func accept(ctx context.Context, path string, p *trust.Policy) error {
	src, err := volume.Open(path, volume.Options{Spool: p.Required()})
	if err != nil {
		return err
	}
	defer src.Close()
	if _, err := p.Check(src); err != nil {
		return err
	}
	if err := src.CheckPieces(ctx); err != nil {
		return err
	}
	if err := src.Check(ctx); err != nil || src.Image != nil {
		return err
	}
	return src.ReadThrough(ctx, func(c volume.Chunks) volume.Chunks { return c })
}

// forge takes an .img.zst apart, lets edit change its frames, and puts it together again with the
// checksums that belong to it, as an attacker does.
func forge(t testing.TB, path string, edit func(frames [][]byte, sizes []uint32)) {
	t.Helper()
	le, file := binary.LittleEndian, []byte(read(t, path))
	n := int(le.Uint32(file[len(file)-9:]))
	table := file[len(file)-9-8*n:]
	var frames [][]byte
	var sizes []uint32
	at := 0
	for i := range n {
		packed := int(le.Uint32(table[8*i:]))
		frames, sizes = append(frames, file[at:at+packed:at+packed]), append(sizes, le.Uint32(table[8*i+4:]))
		at += packed
	}
	edit(frames, sizes)
	const manifest, attachment = 0x184D2A50, 0x184D2A52
	content, attached := sha256.New(), sha256.New()
	var sums []byte
	var out, entries []byte
	hasAttached := false
	for i, f := range frames {
		switch le.Uint32(f) {
		case manifest:
			sum := sha256.Sum256(f)
			sums = sum[:]
		case attachment:
			attached.Write(f)
			hasAttached = true
		default:
			if i < n-1 {
				content.Write(f)
			}
		}
		entries = le.AppendUint32(le.AppendUint32(entries, uint32(len(f))), sizes[i])
	}
	entries = append(le.AppendUint32(entries, uint32(n)), 0)
	entries = append(entries, file[len(file)-4:]...)
	end := append(le.AppendUint32(le.AppendUint32(nil, 0x184D2A5E), uint32(len(entries))), entries...)
	last := sha256.Sum256(end)
	sums = append(content.Sum(sums), last[:]...)
	if hasAttached {
		sums = attached.Sum(sums)
	}
	for _, f := range frames[:n-1] {
		out = append(out, f...)
	}
	out = append(le.AppendUint32(le.AppendUint32(out, 0x184D2A51), uint32(len(sums))), sums...)
	write(t, path, string(append(out, end...)))
}

func TestForgeKeepsAFile(t *testing.T) {
	k := newKeys(t)
	path := save(t, "x.img.zst", 1)
	k.sign(t, "ssh", path)
	before := read(t, path)
	forge(t, path, func([][]byte, []uint32) {})
	if read(t, path) != before {
		t.Error("the test forges another file than the program writes")
	}
}

// Every change of an image is found before a disk is written, also one whose checksums were
// adapted.
func TestMatrix(t *testing.T) {
	k := newKeys(t)
	for _, kind := range []string{"ssh", "minisign"} {
		for _, format := range []string{"x.img.zst", "x.img", "x.img.gz", "x.img.xz"} {
			t.Run(kind+" "+format, func(t *testing.T) { testMatrix(t, k, kind, format) })
		}
	}
}

func testMatrix(t *testing.T, k keys, kind, format string) {
	opt := trust.Options{Signers: []string{k.path(kind + ".signers")}}
	wants := func(what, path string, opt trust.Options, want string) {
		t.Helper()
		if got := judge(t, path, opt, nil); got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	path := save(t, format, 1)
	wants("not signed", path, opt, sign.Unsigned)
	k.sign(t, kind+"-other", path)
	wants("signed by another key", path, opt, sign.UnknownSigner)
	k.sign(t, kind, path)
	wants("signed by both", path, opt, "")
	wants("signed by both", path, trust.Options{Signers: []string{k.path(kind + "-other.signers")}}, "")

	revoked := opt
	revoked.Revoked = k.path(map[string]string{"ssh": "ssh.pub", "minisign": "minisign.signers"}[kind])
	wants("revoked", path, revoked, sign.Revoked)

	other := save(t, format, 2)
	k.sign(t, kind, other)
	signatures := func(path string) []byte {
		src, err := volume.Open(path, volume.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		_, all, err := src.Signed()
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if format != "x.img.zst" {
		suffix := map[string]string{"ssh": ".sig", "minisign": ".minisig"}[kind]
		mine, its := artifact.ManifestPath(path), artifact.ManifestPath(other)
		kept := read(t, mine+suffix)
		write(t, mine+suffix, read(t, its+suffix))
		wants("the signature of another image", path, opt, sign.Mismatch)
		write(t, mine+suffix, kept)
		manifest := read(t, mine)
		write(t, mine, strings.Replace(manifest, `"board": "test"`, `"board": "tesu"`, 1))
		wants("an altered manifest", path, opt, sign.Mismatch)
		write(t, mine, manifest+"\n")
		wants("a line end more", path, opt, sign.Mismatch)
		write(t, mine, manifest)
		content := []byte(read(t, path))
		content[len(content)/3] ^= 1
		write(t, path, string(content))
		wants("an altered byte", path, opt, "corrupt")
		write(t, path, read(t, other))
		wants("the content of another image", path, opt, "corrupt")
		write(t, mine, read(t, its))
		wants("another image, signed before", path, opt, sign.Mismatch)
		return
	}
	forged := func(what, want string, edit func(frames [][]byte, sizes []uint32)) {
		t.Helper()
		whole := read(t, path)
		forge(t, path, edit)
		wants(what, path, opt, want)
		write(t, path, whole)
	}
	forged("an altered manifest", sign.Mismatch, func(frames [][]byte, _ []uint32) {
		frames[1] = bytes.Replace(frames[1], []byte(`"board": "test"`), []byte(`"board": "tesu"`), 1)
	})
	forged("swapped frames", "corrupt", func(frames [][]byte, _ []uint32) { frames[2], frames[3] = frames[3], frames[2] })
	forged("an altered byte", "corrupt", func(frames [][]byte, _ []uint32) {
		d, _ := zstd.NewReader(nil)
		data, err := d.DecodeAll(frames[2], nil)
		if err != nil {
			t.Fatal(err)
		}
		data[12345] ^= 1
		e, _ := zstd.NewWriter(nil)
		frames[2] = e.EncodeAll(data, nil)
	})
	if err := artifact.Attach(t.Context(), path, artifact.Signature, signatures(other)); err != nil {
		t.Fatal(err)
	}
	wants("the signature of another image", path, opt, sign.Mismatch)
	if err := artifact.Attach(t.Context(), path, artifact.Signature, nil); err != nil {
		t.Fatal(err)
	}
	wants("the signature removed", path, opt, sign.Unsigned)
}

// No corruption of a signed image is accepted and none of its signature either.
func TestCorruptions(t *testing.T) {
	k := newKeys(t)
	path := save(t, "x.img.zst", 1)
	k.sign(t, "ssh", path)
	k.sign(t, "minisign", path)
	whole := []byte(read(t, path))
	n := 300
	if os.Getenv("SOAK") != "" {
		n = 10000
	}
	p, err := trust.NewPolicy(trust.Options{Signers: []string{k.path("ssh.signers")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range n {
		altered := bytes.Clone(whole)
		at := r.IntN(len(altered))
		if r.IntN(2) == 0 {
			at = len(altered) - 1 - r.IntN(2000) // signatures, sums and table
		}
		altered[at] ^= byte(1 + r.IntN(255))
		write(t, path, string(altered))
		if err := accept(t.Context(), path, p); err == nil {
			t.Errorf("byte %d of %d can be %#x instead of %#x", at, len(whole), altered[at], whole[at])
		} else if fault.Kind(err) != fault.Corrupt {
			t.Errorf("byte %d of %d: %v is of the kind %q", at, len(whole), err, fault.Kind(err))
		}
	}
}

// A manifest that is replaced after its signature was checked is not used.
func TestReplacedManifest(t *testing.T) {
	k := newKeys(t)
	path, other := save(t, "x.img.gz", 1), save(t, "y.img.gz", 2)
	k.sign(t, "ssh", path)
	p, err := trust.NewPolicy(trust.Options{Signers: []string{k.path("ssh.signers")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	zst, otherZst := save(t, "x.img.zst", 1), save(t, "y.img.zst", 2)
	k.sign(t, "ssh", zst)
	for path, other := range map[string]string{path: other, zst: otherZst} {
		src, err := volume.Open(path, volume.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		if _, err := p.Check(src); err != nil {
			t.Fatal(err)
		}
		write(t, path, read(t, other)) // the same file
		if path == zst {
			if err := src.Restart(); err == nil || !strings.Contains(err.Error(), "replaced after") {
				t.Errorf("the manifest is another: %v", err)
			}
			continue
		}
		if err := src.ReadThrough(t.Context(), func(c volume.Chunks) volume.Chunks { return c }); fault.Kind(err) != fault.Corrupt {
			t.Errorf("the content is another: %v", err)
		}
	}
}

// Images on servers are checked as files, also where the server sends them from front to back only.
func TestServers(t *testing.T) {
	k := newKeys(t)
	opt := trust.Options{Signers: []string{k.path("ssh.signers")}}
	for _, ranges := range []bool{true, false} {
		for _, format := range []string{"x.img.zst", "x.img", "x.img.gz"} {
			path := save(t, format, 1)
			files := http.FileServer(http.Dir(filepath.Dir(path)))
			sent := 0
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !ranges {
					r.Header.Del("Range")
					w = &unranged{w}
				}
				files.ServeHTTP(&counted{w, &sent}, r)
			}))
			defer s.Close()
			wants := func(what, want string) {
				t.Helper()
				if got := judge(t, s.URL+"/"+format, opt, nil); got != want {
					t.Errorf("%s, ranges %v, %s: got %q, want %q", format, ranges, what, got, want)
				}
			}
			wants("not signed", sign.Unsigned)
			if size := len(read(t, path)); ranges && sent > size/2 && size > 1<<20 {
				t.Errorf("%s: %d of %d bytes were sent before it was refused", format, sent, size)
			}
			k.sign(t, "ssh-other", path)
			wants("signed by another", sign.UnknownSigner)
			k.sign(t, "ssh", path)
			wants("signed", "")
			if format == "x.img.zst" {
				forge(t, path, func(frames [][]byte, _ []uint32) {
					frames[1] = bytes.Replace(frames[1], []byte(`"board": "test"`), []byte(`"board": "tesu"`), 1)
				})
				wants("an altered manifest", sign.Mismatch)
			}
		}
	}
}

// unranged does not say that ranges can be requested.
type unranged struct{ http.ResponseWriter }

func (w *unranged) WriteHeader(status int) {
	w.Header().Del("Accept-Ranges")
	w.ResponseWriter.WriteHeader(status)
}

type counted struct {
	http.ResponseWriter
	n *int
}

func (w *counted) Write(p []byte) (int, error) {
	*w.n += len(p)
	return w.ResponseWriter.Write(p)
}

// Policies of the user, of a board and of this computer all apply.
func TestPolicies(t *testing.T) {
	k := newKeys(t)
	path := save(t, "x.img.zst", 1)
	k.sign(t, "ssh", path)
	definition := func(trust string) *boards.Board {
		t.Helper()
		rock64, err := boards.Get("rock64")
		if err != nil {
			t.Fatal(err)
		}
		b, err := boards.Parse("mine.toml", []byte(string(rock64.Source)+"\n[trust]\n"+trust), os.DirFS(k.dir))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	line := func(name string) string {
		return fmt.Sprintf("%q", strings.TrimSpace(read(t, k.path(name+".signers"))))
	}
	required := definition("required = true\nallowed-signers = \"ssh.signers\"")
	inline := definition("required = true\nallowed-signers = [" + line("ssh-other") + ", " + line("ssh") + "]")
	wrong := definition("required = true\nallowed-signers = \"ssh-other.signers\"")
	offered := definition("allowed-signers = \"ssh-other.signers\"")
	revoked := definition("required = true\nallowed-signers = \"ssh.signers\"\nrevoked = \"ssh.pub\"")
	ssh := trust.Options{Signers: []string{k.path("ssh.signers")}}
	for name, c := range map[string]struct {
		opt      trust.Options
		board    *boards.Board
		computer string
		want     string
	}{
		"none":                                {},
		"the board":                           {board: required},
		"the board, with lines":               {board: inline},
		"the board, another signer":           {board: wrong, want: sign.UnknownSigner},
		"the board, revoked":                  {board: revoked, want: sign.Revoked},
		"a flag does not weaken the board":    {opt: ssh, board: wrong, want: sign.UnknownSigner},
		"the board requires none":             {board: offered},
		"the board requires none, the user":   {opt: trust.Options{Require: true}, board: offered, want: sign.UnknownSigner},
		"the computer":                        {computer: "required = true\nallowed-signers = \"ssh.signers\""},
		"the computer, another signer":        {computer: "required = true\nallowed-signers = \"ssh-other.signers\"", want: sign.UnknownSigner},
		"a flag does not weaken the computer": {opt: ssh, computer: "required = true\nallowed-signers = \"ssh-other.signers\"", want: sign.UnknownSigner},
		"nor does a board":                    {board: required, computer: "required = true\nallowed-signers = \"ssh-other.signers\"", want: sign.UnknownSigner},
		"another principal":                   {opt: trust.Options{Principal: "b@example.com"}, board: required, want: sign.WrongPrincipal},
	} {
		t.Run(name, func(t *testing.T) {
			if c.computer != "" {
				file := filepath.Join(k.dir, "trust.toml")
				write(t, file, c.computer)
				t.Setenv(trust.FileVariable, file)
			}
			if got := judge(t, path, c.opt, c.board); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestPolicyFaults(t *testing.T) {
	k := newKeys(t)
	for text, want := range map[string]string{
		"required = true":               "allowed-signers must say whose",
		"allowed-signers = \"missing\"": `no file "missing"`,
		"allowed-signers = \"../x\"":    "must be the name of a file in the directory",
		"allowed-signers = 7":           "it must be the name of a file, or a list of lines",
		"allowed-signers = [7]":         "is not a line",
		"allowed-signers = [\"a b c\"]": "trust.toml:1: ",
		"":                              "it has no allowed-signers",
		"required = false":              "it has no allowed-signers",
		"revoked = \"ssh.pub\"":         "revoked has no effect without allowed-signers",
		"allowed-signers = []":          "has no signer",
		"allowed-signer = \"x\"":        `unknown key "allowed-signer"`,
		"allowed-signers = \"ssh.signers\"\nrevoked = \"no\"": `no file "no"`,
	} {
		file := k.path("trust.toml")
		write(t, file, text)
		if _, err := boards.LoadTrust(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	t.Setenv(trust.FileVariable, k.path("none"))
	if _, err := trust.NewPolicy(trust.Options{}, nil); err == nil || !strings.Contains(err.Error(), "the policy of this computer") {
		t.Errorf("a missing file that the variable names: %v", err)
	}
}
