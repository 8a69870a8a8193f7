package boards

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"testing"

	"imgtool/layouts"
)

// Built-in definitions keep their former digests, because a build ID must not change with a
// comment. A row without a definition must be removed.
func TestFormerDigests(t *testing.T) {
	rows := layouts.FormerDigests()
	check := func(name string, text []byte) {
		sum := sha256.Sum256(text)
		digest := hex.EncodeToString(sum[:])
		if former, ok := rows[digest]; ok {
			if layouts.Digest(text) != former {
				t.Errorf("the digest of %s is not its former one", name)
			}
			delete(rows, digest)
		} else if layouts.Digest(text) != digest {
			t.Errorf("the digest of %s is not its SHA-256", name)
		}
	}
	err := fs.WalkDir(builtin, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := builtin.ReadFile(path)
		check(path, text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range layouts.Names() {
		text, err := layouts.Source(name)
		if err != nil {
			t.Fatal(err)
		}
		check(name, text)
	}
	for digest := range rows {
		t.Errorf("no built-in definition has the digest %s: remove the row", digest)
	}
}
