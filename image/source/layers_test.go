package source_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"imgtool/image/imagetest"
	"imgtool/image/source"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
	"imgtool/image/tree/tarfs"
)

// randomLayers returns layers that change much of the preceding ones: files become
// directories and directories files, and hard links have targets that are replaced or
// removed. Programs could have written each of them.
func randomLayers(t testing.TB, seed uint64) (layers [][]string) {
	rng := rand.New(rand.NewPCG(seed, 6))
	name := func() string { return string("abcd"[rng.IntN(4)]) }
	path := func() string {
		p := name()
		for range rng.IntN(3) {
			p += "/" + name()
		}
		return p
	}
	below := func(p, q string) bool { return p == q || strings.HasPrefix(p, q+"/") }
	lower := tree.New(0)
	apply := func(tr *tree.Tree, lines []string) error {
		r, err := layerOf(t, lines...).Uncompressed()
		must(t, err)
		data, err := io.ReadAll(r)
		must(t, err)
		return tarfs.ApplyLayer(tr, strings.NewReader(string(data)), int64(len(data)))
	}
	for range 2 + rng.IntN(4) {
		var lines, gone, made []string
		for range 3 + rng.IntN(14) {
			p := path()
			line := ""
			switch k := rng.IntN(20); {
			case k < 6:
				line = p + "=" + fmt.Sprint(rng.IntN(1000))
			case k < 10:
				line = p + "/"
			case k < 12:
				line = p + "->" + path()
			case k < 15:
				line = p + "==" + path()
			case k < 19:
				dir, base := "", p
				if i := strings.LastIndexByte(p, '/'); i >= 0 {
					dir, base = p[:i+1], p[i+1:]
				}
				line = dir + ".wh." + base + "="
			default:
				line = p + "/.wh..wh..opq="
			}
			// No program writes a layer that has a path twice, removes a path that it has, or
			// links to a path that it removes.
			what := strings.ReplaceAll(strings.TrimSuffix(strings.TrimSuffix(line, "="), "/.wh..wh..opq"), ".wh.", "")
			_, target, linked := strings.Cut(line, "==")
			if strings.Contains(line, ".wh.") {
				if lower.Lookup(what) == nil || slices.ContainsFunc(made, func(m string) bool { return below(m, what) || below(what, m) }) {
					continue
				}
				if strings.HasSuffix(line, ".wh..wh..opq=") && lower.Lookup(what).Type() != tree.Dir {
					continue
				}
				gone = append(gone, what)
			} else {
				if slices.Contains(made, p) || slices.ContainsFunc(gone, func(g string) bool { return below(p, g) || linked && below(target, g) }) {
					continue
				}
				// Paths through symbolic links are not tested here.
				if slices.ContainsFunc(lines, func(l string) bool {
					return strings.Contains(l, "->") && below(p, l[:strings.Index(l, "->")]) && !below(l[:strings.Index(l, "->")], p)
				}) {
					continue
				}
				made = append(made, p)
			}
			// A link that replaces a directory removes its files.
			now := lower.Without(nil)
			must(t, apply(now, lines))
			if to, err := now.Resolve(target, false); linked && (err != nil || below(to, p)) {
				continue
			}
			if apply(now, []string{line}) == nil {
				lines = append(lines, line)
			}
		}
		if err := apply(lower, lines); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, lines)
	}
	return layers
}

func TestRandomLayersEqualUmoci(t *testing.T) {
	imagetest.NeedRoot(t)
	imagetest.Need(t, "umoci")
	seeds := 12
	if os.Getenv("SOAK") != "" {
		seeds = 1000
	}
	for seed := range uint64(seeds) {
		lines := randomLayers(t, seed)
		var layers []v1.Layer
		for _, l := range lines {
			layers = append(layers, layerOf(t, l...))
		}
		d := layoutOf(t, imageOf(t, "arm64", layers...), layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "x"}))
		bundle := t.TempDir() + "/bundle"
		t.Logf("seed %d: %q", seed, lines)
		imagetest.Run(t, "umoci", "unpack", "--image", d+":x", bundle)
		want, err := hostfs.Read(bundle+"/rootfs", true, 0)
		must(t, err)
		got, err := opener(t, source.Options{}).Root(t.Context(), d)
		must(t, err)
		if d := cmp.Diff(dump(t, want), dump(t, got.Tree)); d != "" {
			t.Errorf("seed %d: layers %q: %s", seed, lines, d)
		}
	}
}
