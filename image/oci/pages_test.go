package oci_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/oci"
)

// paged serves the list of referrers in pages of one entry, preceded by a number of entries of
// another type. link makes the header Link of a page from the path and the number of the next.
func paged(others int, link func(path string, next int) string) handler {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		var index map[string]any
		json.Unmarshal(rec.Body.Bytes(), &index)
		list, _ := index["manifests"].([]any)
		slices.SortFunc(list, func(a, b any) int { // the server has no order
			return strings.Compare(fmt.Sprint(a.(map[string]any)["digest"]), fmt.Sprint(b.(map[string]any)["digest"]))
		})
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		switch {
		case page < others:
			text := fmt.Sprintf("%s %d", r.URL.Path, page)
			index["manifests"] = []any{map[string]any{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digestOf([]byte(text)), "size": 10, "artifactType": "application/vnd.example"}}
		case page-others < len(list):
			index["manifests"] = list[page-others:][:1]
		default:
			index["manifests"] = []any{}
		}
		if page+1 < others+len(list) {
			w.Header().Add("Link", `</v2/other>; rel="first", </v2/a,b>; title="x, <y>; rel=next"`)
			w.Header().Add("Link", link(r.URL.Path, page+1))
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		json.NewEncoder(w).Encode(index)
	}
}

// All pages of a list of referrers are read, however the link to the next one is written.
func TestReferrersInPages(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.img.zst")
	saved(t, path, "sd")
	must(t, artifact.Attach(t.Context(), path, artifact.Signature, []byte("signed")))
	s := newServer(t, registry.WithReferrersSupport(true))
	_, err := oci.Push(t.Context(), s.host+"/toy:1", []*oci.File{opened(t, path)}, pushing())
	must(t, err)
	for _, link := range []func(string, int) string{
		func(p string, n int) string { return fmt.Sprintf(`<%s?page=%d>; rel="next"`, p, n) },
		func(p string, n int) string { return fmt.Sprintf(`<%s%s?page=%d>; rel=next`, s.url, p, n) },
		func(p string, n int) string { return fmt.Sprintf(`<https://%s%s?page=%d>; rel="next"`, s.host, p, n) },
		func(p string, n int) string { return fmt.Sprintf(`<?page=%d>;title="a;b,c" ; REL="last Next"`, n) },
		func(p string, n int) string {
			return fmt.Sprintf(`<%s?page=1>; rel="prev",<%s?page=%d>; rel="next"`, p, p, n)
		},
	} {
		s.set(on("GET", "/referrers/", 0, paged(0, link)))
		got := t.TempDir()
		_, err := oci.Pull(t.Context(), s.host+"/toy:1", pulling(got))
		must(t, err)
		if b, err := os.ReadFile(filepath.Join(got, "x.img.zst.manifest.json.sig")); string(b) != "signed" {
			t.Errorf("%s: the signature is %q, %v", link("PATH", 2), b, err)
		}
		if n := s.sent("GET", "/referrers/"); n != 3 {
			t.Errorf("%s: %d pages were requested, not 3", link("PATH", 2), n)
		}
	}
}

// Manifests of other programs that refer to an image are not read, and are not counted.
func TestReferrersOfOtherTypesAreSkipped(t *testing.T) {
	dir := t.TempDir()
	s := newServer(t, registry.WithReferrersSupport(true))
	_, err := oci.Push(t.Context(), s.host+"/toy:1", []*oci.File{saved(t, filepath.Join(dir, "x.img.zst"), "sd")}, pushing())
	must(t, err)
	next := func(p string, n int) string { return fmt.Sprintf(`<%s?page=%d>; rel="next"`, p, n) }
	s.set(on("GET", "/referrers/", 0, paged(998, next)))
	got := t.TempDir()
	_, err = oci.Pull(t.Context(), s.host+"/toy:1", pulling(got))
	must(t, err)
	sameFiles(t, got, dir, "x.img.zst", "x.img.zst.bmap", "x.img.zst.manifest.json")
	if n := s.sent("GET", "/manifests/"); n != 3 {
		t.Errorf("%d manifests were read, not 3: the image's and two of parts", n)
	}
}

// A list of referrers that is not a list, or has no end, ends the pull with one sentence.
func TestFaultsOfPages(t *testing.T) {
	dir := t.TempDir()
	file := saved(t, filepath.Join(dir, "x.img.zst"), "sd")
	next := func(p string, n int) string { return fmt.Sprintf(`<%s?page=%d>; rel="next"`, p, n) }
	// second is what is served instead of the second page.
	second := func(do handler) handler {
		pages := paged(0, next)
		return func(w http.ResponseWriter, r *http.Request, h http.Handler) {
			if r.URL.Query().Get("page") == "1" {
				do(w, r, h)
				return
			}
			pages(w, r, h)
		}
	}
	full := strings.Repeat(" ", 10<<20)
	for _, c := range []struct {
		name       string
		do         handler
		kind, want string
	}{
		{"the same page again", paged(5, func(p string, n int) string { return next(p, 1) }), fault.Corrupt, "has no end: page 3 is the same as one before"},
		{"the first page again", paged(5, func(p string, n int) string { return "<" + p + `>; rel="next"` }), fault.Corrupt, "has no end: page 2 is the same as one before"},
		{"new pages without end", paged(1<<30, next), fault.Corrupt, "has more than 1000 pages"},
		{"large pages", changedList(next, full), fault.Input, "has more than 16777216 bytes"},
		{"a page on another server", paged(5, func(p string, n int) string { return `<https://example.com/v2/x>; rel="next"` }), fault.Refused, "a next page on another server, example.com: this is refused"},
		{"a page on another port", paged(5, func(p string, n int) string { return `<//127.0.0.1:1/v2/x>; rel="next"` }), fault.Refused, "a next page on another server"},
		{"a page that is no URL", paged(5, func(p string, n int) string { return `<%zz>; rel="next"` }), fault.Corrupt, "a next page that is not a valid URL"},
		{"a page that is missing", second(status(404)), fault.Input, "has no page 2 (status 404)"},
		{"a page that is refused", second(status(403)), fault.Permission, "denies access with status 403"},
		{"a page that fails", second(status(503)), fault.Input, "keeps responding with status 503"},
		{"a page that is no list", second(changed(func([]byte) []byte { return []byte("hello") })), fault.Corrupt, "referrers of sha256:"},
		{"an endless page", second(endless), fault.Input, "larger than the limit of 16777216 bytes"},
		{"a page that is cut", second(cut), fault.Gone, "closed the connection"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, registry.WithReferrersSupport(true))
			_, err := oci.Push(t.Context(), s.host+"/toy:1", []*oci.File{file}, pushing())
			must(t, err)
			s.set(on("GET", "/referrers/", 0, c.do))
			got := t.TempDir()
			_, err = oci.Pull(t.Context(), s.host+"/toy:1", pulling(got))
			sentence(t, err, c.kind, c.want)
			if entries, _ := os.ReadDir(got); len(entries) > 0 {
				t.Errorf("%v was written", entries)
			}
		})
	}
}

// changedList serves pages without entries and with much space.
func changedList(next func(string, int) string, space string) handler {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		w.Header().Set("Link", next(r.URL.Path, page+1))
		fmt.Fprint(w, `{"schemaVersion":2,"manifests":[]`+space+`}`)
	}
}
