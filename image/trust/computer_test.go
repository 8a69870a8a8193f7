package trust

import (
	"os"
	"path/filepath"
	"testing"
)

// The policy of this computer may be missing. A link to a missing file is no missing policy.
func TestMissingPolicyOfTheComputer(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "trust.toml")
	if p, err := loadComputer(file, false); p != nil || err != nil {
		t.Errorf("missing: %v, %v", p, err)
	}
	if _, err := loadComputer(file, true); err == nil {
		t.Error("missing, but named: no error")
	}
	if err := os.Symlink(filepath.Join(dir, "unmounted", "trust.toml"), file); err != nil {
		t.Fatal(err)
	}
	if _, err := loadComputer(file, false); err == nil {
		t.Error("a link to a missing file: no error")
	}
}
