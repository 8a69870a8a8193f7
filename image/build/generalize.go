package build

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"imgtool/image/edit"
	"imgtool/image/report"
	"imgtool/image/tree"
)

// hostKeysEdits add a unit that makes missing SSH host keys on the device.
//
//go:embed generalize-ssh.toml
var hostKeysEdits []byte

// generalize removes per-unit data from the root file system.
func (b *builder) generalize() error {
	findings, err := report.PerUnit(b.root.Tree, b.Board.Unit.Paths())
	if err != nil {
		return err
	}
	t := b.root.Tree.Without(nil)
	var removed []string
	hostKeys := false
	for _, f := range findings {
		if !f.Removable {
			continue
		}
		removed = append(removed, f.String())
		hostKeys = hostKeys || f.Kind == report.HostKeys
		for _, path := range f.Paths {
			name := strings.TrimPrefix(path, "/")
			if name != "etc/machine-id" {
				t.Remove(name)
				continue
			}
			// An empty file is filled in on the first boot: machine-id(5).
			n := *t.Lookup(name)
			n.Content, n.ModTime = nil, b.Time
			if err := t.Put(name, &n); err != nil {
				return err
			}
		}
	}
	if removed == nil {
		if b.Info != nil {
			b.Info("--generalize: the root file system has no per-unit data to remove")
		}
		return nil
	}
	b.Warn("removed from the root file system: " + strings.Join(removed, ", "))
	if hostKeys {
		if t, err = b.makeHostKeys(t); err != nil {
			return err
		}
	}
	b.root.Tree, b.root.Ready = t, nil
	return nil
}

// makeHostKeys adds a unit that makes SSH host keys on the device: sshd does not start without
// them.
func (b *builder) makeHostKeys(t *tree.Tree) (*tree.Tree, error) {
	for _, need := range []string{"/usr/bin/ssh-keygen", "/lib/systemd/systemd"} {
		if _, err := t.Open(need); errors.Is(err, fs.ErrNotExist) {
			b.Warn(fmt.Sprintf("sshd needs SSH host keys, and the root file system has no %s to make them on the first boot", need))
			return t, nil
		} else if err != nil {
			return nil, err
		}
	}
	edits, err := edit.Parse("generalize-ssh.toml", hostKeysEdits)
	if err != nil {
		return nil, err
	}
	return edit.Apply(t, edits, nil, b.Time, b.Warn)
}

// warnPerUnit warns of per-unit data that all units would share.
func (b *builder) warnPerUnit() error {
	t, err := b.rootTree()
	if err != nil {
		return nil // reported when all of it is read
	}
	findings, err := report.PerUnit(t, b.Board.Unit.Paths())
	if err != nil {
		return err
	}
	var removable, keys []string
	for _, f := range findings {
		if f.Removable {
			removable = append(removable, f.String())
		} else {
			keys = append(keys, f.String())
		}
	}
	if removable != nil {
		b.Warn("all units would share per-unit data: " + strings.Join(removable, ", ") + ": --generalize removes it")
	}
	if keys != nil {
		b.Warn("all units share " + strings.Join(keys, ", "))
	}
	return nil
}
