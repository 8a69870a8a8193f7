// Package suggest finds the name that a user probably meant.
package suggest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
)

// Closest returns the known name that is most like word, or "" if none is like it. Case does not
// count. A name is like word if it begins with it, or if it is the same but for a third of its
// letters, at most three. People rarely mistype the first letter, so another one counts more.
func Closest(word string, known []string) string {
	word = strings.ToLower(word)
	if word == "" {
		return ""
	}
	best, least := "", 2*min(3, (len(word)+2)/3)+2
	for _, name := range known {
		if name == "" {
			continue
		}
		lower := strings.ToLower(name)
		cost := 2 * levenshtein.Distance(word, lower, nil)
		if lower[0] != word[0] {
			cost += 3
		}
		if isSwapped(word, lower) {
			cost = 2
		}
		if cost < least {
			best, least = name, cost
		}
	}
	if best != "" || len(word) < 2 {
		return best
	}
	if i := slices.IndexFunc(known, func(name string) bool { return strings.HasPrefix(strings.ToLower(name), word) }); i >= 0 {
		return known[i]
	}
	return ""
}

// isSwapped reports whether two neighbouring letters of a are swapped in b.
func isSwapped(a, b string) bool {
	for i := 1; i < len(a) && len(a) == len(b); i++ {
		if a[i-1] != b[i-1] {
			return a[i-1] == b[i] && a[i] == b[i-1] && a[i+1:] == b[i+1:]
		}
	}
	return false
}

// File returns the path of a file that exists and is most like path, or "" if none is like it: a
// name in the same directory, or for "sdb" the device /dev/sdb.
func File(path string) string {
	dir, name := filepath.Split(path)
	if _, err := os.Stat(filepath.Join("/dev", name)); err == nil && dir == "" && name != "" {
		return filepath.Join("/dev", name)
	}
	f, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return ""
	}
	defer f.Close()
	list, _ := f.Readdirnames(1000)
	list = slices.DeleteFunc(list, func(s string) bool { return s == name })
	slices.Sort(list)
	if like := Closest(name, list); like != "" {
		return dir + like
	}
	return ""
}

// Missing returns a clause that ends an error about a file that does not exist: where its symbolic
// link points, or the question whether a file with a name like it was meant.
func Missing(path string) string {
	if to, err := os.Readlink(path); err == nil {
		return "; it is a symbolic link to " + to
	}
	return Question(File(path))
}

// DidYouMean returns a clause that ends an error about word, such as "; did you mean rock64?",
// or "" if no known name is like it.
func DidYouMean(word string, known []string) string {
	return Question(Closest(word, known))
}

// Question returns a clause that asks whether one of the names was meant, or "" for none.
func Question(names ...string) string {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == "" })
	if len(names) == 0 {
		return ""
	}
	return "; did you mean " + Or(names) + "?"
}

// Or returns names as "a, b or c".
func Or(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// Unknown returns the text of an error about a name of some kind that is not among those known:
// `unknown type "swpa"; did you mean swap? (known: esp, swap)`.
func Unknown(kind, name string, known []string) string {
	list := strings.Join(known, ", ")
	if list == "" {
		list = "none"
	}
	return fmt.Sprintf("unknown %s %.80q%s (known: %s)", kind, name, DidYouMean(name, known), list)
}
