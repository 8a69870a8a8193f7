package factory

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"imgtool/flash/disk"
)

// todo is the journal of a system that is provisioned from its own root: what is left to do
// there after the other media were made.
type todo struct {
	Build   string            `json:"build_id"`
	Disks   map[string]string `json:"disks"` // GUIDs of the partition tables, by medium
	Changes []change          `json:"changes"`
}

// todoSuffix is added to the name of the state file.
const todoSuffix = ".todo"

func readTodo(root *rootDir, p string) (*todo, error) {
	const restart = "remove it and the state file, and start over"
	at := root.path(p)
	text, err := root.readFile(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &disk.RefusedError{Disk: at, Reason: "it is missing, and the state file says that the media are made: remove the state file and start over"}
	}
	if err != nil {
		return nil, err
	}
	t := &todo{}
	if err := json.Unmarshal(text, t); err != nil {
		return nil, &disk.RefusedError{Disk: at, Reason: fmt.Sprintf("it is damaged (%v): %s", err, restart)}
	}
	for _, c := range t.Changes {
		for _, p := range []string{c.Path, c.Link, c.Backup} {
			if p != "" && (!fs.ValidPath(p) || p == ".") || c.Path == "" {
				return nil, &disk.RefusedError{Disk: at, Reason: fmt.Sprintf("it is damaged: %q is not a path: %s", p, restart)}
			}
		}
	}
	return t, nil
}

// write writes the journal to a file that only root can read.
func (t *todo) write(root *rootDir, p string) error {
	text, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return root.replaceFile(p, text, 0o600)
}
