package tree

// Loss is a kind of metadata that the source of a tree has and the tree has no place
// for.
type Loss struct {
	What  string // in the plural
	N     int    // of paths that had it
	First string // the first of them, and what it was
}

// Losses are what is left out of the tree, by kind and in the order it was found.
func (t *Tree) Losses() []Loss { return t.losses }

// AddTrailing counts n bytes for [Tree.Trailing].
func (t *Tree) AddTrailing(n int64) { t.trailing += n }

// Trailing is how many bytes follow the end of the archives that the tree was read
// from, from the first on that is not zero. They are not read.
func (t *Tree) Trailing() int64 { return t.trailing }

// AddLoss counts a path that lost something of a kind; detail says what it was, or is "".
func (t *Tree) AddLoss(what, path, detail string) {
	for i := range t.losses {
		if t.losses[i].What == what {
			t.losses[i].N++
			return
		}
	}
	if detail != "" {
		path += " (" + detail + ")"
	}
	t.losses = append(t.losses, Loss{what, 1, path})
}

// Clamp makes times after limit that time, and says whether there were any. It changes
// the nodes, so nothing but the tree may have them yet.
func (t *Tree) Clamp(limit int64) (any bool) {
	for _, n := range t.All() {
		if n.ModTime > limit {
			n.ModTime, any = limit, true
		}
	}
	return any
}
