//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"imgtool/image/seed"
)

// store is what a device keeps of its configuration, below /data. The folder
// config is always whole: a new one is made beside it, written out to the disk, and
// takes its place in one step. While pending is there, the new one is on trial, and
// the old one is where it was made.
type store struct {
	dir     string
	service int // user and group of the files of a bundle
}

func (s *store) config() string  { return filepath.Join(s.dir, "config") }
func (s *store) other() string   { return filepath.Join(s.dir, "config.atomixos-candidate") }
func (s *store) pending() string { return filepath.Join(s.dir, "config.atomixos-promotion-pending") }
func (s *store) done() string    { return filepath.Join(s.dir, ".completed_first_boot") }

// document is a folder's config.toml if the device takes it, else nil.
func document(dir string) ([]byte, *seed.Config) {
	text, err := os.ReadFile(filepath.Join(dir, "config.toml"))
	if err != nil {
		return nil, nil
	}
	c, _ := seed.Check(text)
	if c == nil {
		return nil, nil
	}
	return text, c
}

// prepare writes a document or bundle, which was judged, as the candidate.
func (s *store) prepare(name string, body io.Reader, report func(step string)) (*seed.Config, error) {
	if err := os.RemoveAll(s.other()); err != nil {
		return nil, err
	}
	report("write-candidate")
	var config *seed.Config
	files := map[string][2]int{filepath.Join(s.other(), "files"): {0o700, s.service}}
	err := seed.Unpack(name, body, func(path string, r io.Reader) error {
		if path == "config.toml" {
			text, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			if config, _ = seed.Check(text); config == nil {
				return errors.New("config.toml is not valid")
			}
			return nil
		}
		for dir := filepath.Dir(path); dir != "files"; dir = filepath.Dir(dir) {
			files[filepath.Join(s.other(), dir)] = [2]int{0o700, s.service}
		}
		file := filepath.Join(s.other(), path)
		files[file] = [2]int{0o600, s.service}
		return writeFile(file, r, 0o600)
	})
	if err == nil && config == nil {
		err = errors.New("there is no config.toml")
	}
	if err != nil {
		return nil, err
	}
	for _, f := range config.Render() {
		if step := stepOf(f.Path); step != "" {
			report(step)
		}
		if err := writeFile(filepath.Join(s.other(), f.Path), strings.NewReader(f.Text), 0o600); err != nil {
			return nil, err
		}
	}
	for path, a := range files {
		if err := os.Chown(path, a[1], a[1]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return config, s.sync()
}

// stepOf is the step of a job that writes a file.
func stepOf(path string) string {
	dir, _, _ := strings.Cut(path, "/")
	return map[string]string{"config.toml": "write-config", "admin-signers": "write-admin-signers", "users.json": "write-users",
		"firewall-inbound.json": "write-firewall", "lan-settings.json": "write-lan", "host-network.json": "write-network", "os-upgrade.json": "write-os-upgrade",
		"health-required.json": "write-health", "quadlet-runtime.json": "write-runtime-metadata"}[dir]
}

func writeFile(path string, r io.Reader, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// sync waits until all is on the disk.
func (s *store) sync() error {
	f, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("%s: sync: %w", s.dir, err)
	}
	return nil
}

// mark is what pending says: which folder is on trial.
func mark(dir string) string {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return ""
	}
	return strconv.FormatUint(st.Ino, 10)
}

// promote makes the candidate the configuration, on trial.
func (s *store) promote() error {
	if _, config := document(s.other()); config == nil {
		return errors.New("the candidate is not whole")
	}
	if err := os.MkdirAll(s.config(), 0o700); err != nil {
		return err
	}
	if err := writeFile(s.pending(), strings.NewReader(mark(s.other())), 0o600); err != nil {
		return err
	}
	if err := s.sync(); err != nil {
		return err
	}
	return s.exchange()
}

// exchange swaps configuration and candidate.
func (s *store) exchange() error {
	if err := unix.Renameat2(unix.AT_FDCWD, s.other(), unix.AT_FDCWD, s.config(), unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("%s: %w", s.config(), err)
	}
	return s.sync()
}

// keep ends the trial: the configuration stays.
func (s *store) keep() error {
	err := os.Remove(s.pending())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, s.sync(), os.RemoveAll(s.other()))
}

// back ends the trial: the configuration of before is there again, if there was
// one. It says whether.
func (s *store) back() (bool, error) {
	if err := s.exchange(); err != nil {
		return false, err
	}
	_, before := document(s.config())
	return before != nil, s.keep()
}

// recover ends what was interrupted. A trial is over: the device has what it had
// before it, or if that was nothing the first configuration, still on trial.
func (s *store) recover() error {
	want, err := os.ReadFile(s.pending())
	if errors.Is(err, fs.ErrNotExist) {
		return os.RemoveAll(s.other())
	}
	if err != nil {
		return err
	}
	_, config := document(s.config())
	_, other := document(s.other())
	promoted := string(want) == mark(s.config())
	switch {
	case promoted && other != nil:
		_, err := s.back()
		return err
	case !promoted && config != nil:
		return s.keep()
	case !promoted && other != nil:
		return s.exchange()
	}
	return nil
}

// onTrial says whether the configuration was never applied to its end.
func (s *store) onTrial() bool {
	_, err := os.Stat(s.pending())
	return err == nil
}
