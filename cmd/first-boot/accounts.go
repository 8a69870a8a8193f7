//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	firstUser = 1000
	lastUser  = 59999
	// keysDir contains the keys of users for sshd: AuthorizedKeysFile
	// /etc/ssh/authorized_keys.d/%u. Only root can write there, so that root never writes in
	// a directory of a user.
	keysDir = "ssh/authorized_keys.d"
)

// userIDs returns the user ids of names. A name keeps its id, and new names get ids that were never
// used, so that a new user does not get the files of a deleted one.
func (s *store) userIDs(names []string) (map[string]int, error) {
	file := filepath.Join(s.dir, "user-ids.json")
	ids := map[string]int{}
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &ids)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	next := firstUser
	for name, id := range ids {
		if id < firstUser || id > lastUser {
			return nil, fmt.Errorf("%s: %s has the id %d; ids are %d to %d", file, name, id, firstUser, lastUser)
		}
		next = max(next, id+1)
	}
	known := len(ids)
	for _, name := range names {
		if ids[name] == 0 {
			ids[name] = next
			next++
		}
	}
	if next > lastUser+1 {
		return nil, fmt.Errorf("%s: all ids from %d to %d are used", file, firstUser, lastUser)
	}
	if len(ids) == known {
		return ids, nil
	}
	if text, err = json.MarshalIndent(ids, "", "  "); err != nil {
		return nil, err
	}
	// The file is replaced atomically: a truncated file would assign ids again.
	if err := os.WriteFile(file+".new", append(text, '\n'), 0o600); err != nil {
		return nil, err
	}
	if err := s.sync(); err != nil {
		return nil, err
	}
	if err := os.Rename(file+".new", file); err != nil {
		return nil, err
	}
	return ids, s.sync()
}

// accounts writes the accounts of the configuration beside the system's own.
func (d *device) accounts(files map[string]string) error {
	var users map[string]struct {
		IsAdmin bool `json:"isAdmin"`
		Shell   string
		Key     string `json:"ssh_key"`
	}
	if err := json.Unmarshal([]byte(files["users.json"]), &users); err != nil {
		return err
	}
	passwd, err := d.systemEntries("passwd")
	if err != nil {
		return err
	}
	group, err := d.systemEntries("group")
	if err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(users))
	ids, err := d.store.userIDs(names)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(d.root, "etc", keysDir)); err != nil {
		return err
	}
	passwd += fmt.Sprintf("appsvc:x:%d:%d::/data/containers:/bin/false\n", serviceID, serviceID)
	group += fmt.Sprintf("appsvc:x:%d:\n", serviceID)
	var admins []string
	for _, name := range names {
		u, id := users[name], ids[name]
		if u.Shell == "" {
			u.Shell = map[bool]string{true: "zsh", false: "bash"}[u.IsAdmin]
		}
		shell := "/bin/" + u.Shell
		if _, err := os.Stat(filepath.Join(d.root, shell)); err != nil {
			shell = "/bin/sh"
		}
		passwd += fmt.Sprintf("%s:x:%d:%d::/home/%s:%s\n", name, id, id, name, shell)
		group += fmt.Sprintf("%s:x:%d:\n", name, id)
		if u.IsAdmin {
			admins = append(admins, name)
		}
		if err := d.home(name, id); err != nil {
			return err
		}
		if u.Key == "" {
			continue
		}
		// sshd reads the file with the rights of the user.
		if err := d.etc(filepath.Join(keysDir, name), u.Key+"\n", 0o644); err != nil {
			return err
		}
	}
	group += fmt.Sprintf("wheel:x:10:%s\n", strings.Join(admins, ","))
	return errors.Join(d.etc("passwd", passwd, 0o644), d.etc("group", group, 0o644))
}

// systemEntries returns the lines of /etc/passwd or /etc/group that do not come from the
// configuration.
func (d *device) systemEntries(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(d.root, "etc", name))
	if err != nil && !os.IsNotExist(err) {
		return "", err
	}
	var kept strings.Builder
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(line, ":")
		if id, err := strconv.Atoi(fields[min(2, len(fields)-1)]); err == nil && id < firstUser && id != serviceID && fields[0] != "wheel" {
			kept.WriteString(strings.TrimRight(line, "\n") + "\n")
		}
	}
	return kept.String(), nil
}

// home creates the home directory of a user if it does not exist. Files in it are not touched:
// the user can have put links there.
func (d *device) home(name string, id int) error {
	dir := filepath.Join(d.root, "home")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("/home/%s is not a directory", name)
	case int(st.Uid) == id:
		return nil
	case st.Uid != 0:
		return fmt.Errorf("/home/%s belongs to the user %d; it must belong to %d", name, st.Uid, id)
	}
	return root.Lchown(name, id, id)
}
