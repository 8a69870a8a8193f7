package tree

// Loss is a kind of metadata that the source of a tree has and the tree cannot hold.
type Loss struct {
	What  string // in the plural, such as "file flags"
	N     int    // number of paths that had it
	First string // the first of these paths, and its value
}

// Losses returns what was left out of the tree, in the order in which it was found.
func (t *Tree) Losses() []Loss { return t.losses }

// AddLoss records that path lost metadata of the given kind. Detail is its value, or "".
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

// Trailing returns how many bytes follow the end of the archives that the tree was read
// from, without zeros directly after the end. These bytes are not read.
func (t *Tree) Trailing() int64 { return t.trailing }

// AddTrailing adds n to the bytes that [Tree.Trailing] returns.
func (t *Tree) AddTrailing(n int64) { t.trailing += n }

// Clamp sets times after limit to limit and reports whether there were any. It changes
// the inodes, so no other tree may share them yet.
func (t *Tree) Clamp(limit int64) (any bool) {
	for _, n := range t.All() {
		if n.ModTime > limit {
			n.ModTime, any = limit, true
		}
	}
	return any
}
