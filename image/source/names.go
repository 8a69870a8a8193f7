package source

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// within is a reference to an image in a layout or archive: oci:PATH:NAME, oci:PATH:@NUMBER or
// oci:PATH@DIGEST.
type within struct {
	ref, path string
	name      string // NAME, @NUMBER or @DIGEST, or ""
}

// splitName splits a reference into a path and the name of an image. Names contain colons and
// slashes too, so the path is the longest prefix that exists, or ends at the first colon.
func (o *Opener) splitName(ref, rest string) within {
	for i := len(rest); i > 0; i = strings.LastIndexAny(rest[:i], ":@") {
		path := rest[:i]
		if _, err := os.Stat(o.path(path)); err == nil {
			return within{ref, path, strings.TrimPrefix(rest[i:], ":")}
		}
	}
	path, name, _ := strings.Cut(rest, ":")
	return within{ref, path, name}
}

// held is an entry of a layout or archive.
type held struct {
	full  []string // names with registry or repository
	short string   // a tag, which need not be unique; "" if there is none
	id    string   // digest
}

func heldOf(d v1.Descriptor) held {
	h := held{id: d.Digest.String()}
	short, full := d.Annotations["org.opencontainers.image.ref.name"], d.Annotations["io.containerd.image.name"]
	switch {
	case full != "":
		h.full, h.short = []string{full}, short
	case short != "":
		h.full = []string{short}
	}
	return h
}

// matchers report whether a name refers to an image: exactly, normalized, or by tag. A matcher
// is used only if the ones before it match no image.
var matchers = []func(h held, want string) bool{
	func(h held, want string) bool { return h.id == want || slices.Contains(h.full, want) },
	func(h held, want string) bool {
		return h.short == want || slices.ContainsFunc(h.full, func(n string) bool { return normal(n) == normal(want) })
	},
	func(h held, want string) bool {
		return slices.ContainsFunc(h.full, func(n string) bool { return strings.HasSuffix(n, ":"+want) })
	},
}

// normal returns a name with registry and tag, as Docker completes it.
func normal(s string) string {
	ref, err := name.ParseReference(s, name.WeakValidation)
	if err != nil {
		return s
	}
	return ref.Name()
}

// pick returns the indexes of the images that the reference selects.
func (w within) pick(all []held) ([]int, error) {
	if digits, ok := strings.CutPrefix(w.name, "@"); ok && !strings.Contains(digits, ":") {
		i, err := strconv.Atoi(digits)
		if err != nil || i < 0 || i >= len(all) {
			return nil, fmt.Errorf("%s: there is no image number %s: the %d images begin with @0", w.ref, digits, len(all))
		}
		return []int{i}, nil
	}
	want := strings.TrimPrefix(w.name, "@")
	var picked []int
	exact := false
	for n := 0; n < len(matchers) && len(picked) == 0; n++ {
		for i, h := range all {
			if want == "" || matchers[n](h, want) {
				picked, exact = append(picked, i), want != "" && n == 0
			}
		}
	}
	switch {
	case want != "" && len(picked) == 0:
		return nil, fmt.Errorf("%s: there is no image %s, only %s", w.ref, want, w.list(all))
	case !exact && w.several(all, picked):
		return nil, fmt.Errorf("%s: several images: choose one: %s", w.ref, w.list(all))
	}
	return picked, nil
}

// several reports whether different images with different names were picked. Images of the
// same name are for different platforms.
func (w within) several(all []held, picked []int) bool {
	ids, names := map[string]bool{}, map[string]bool{}
	for _, i := range picked {
		ids[all[i].id] = true
		if len(all[i].full) > 0 {
			names[all[i].full[0]] = true
		}
	}
	return len(ids) > 1 && len(names) > 1
}

// list returns references to all images.
func (w within) list(all []held) string {
	var refs []string
	for _, h := range all {
		ref := "oci:" + w.path + "@" + h.id
		if len(h.full) > 0 {
			ref = "oci:" + w.path + ":" + h.full[0]
		}
		if !slices.Contains(refs, ref) {
			refs = append(refs, ref)
		}
	}
	if len(refs) == 0 {
		return "none"
	}
	return strings.Join(refs, ", ")
}
