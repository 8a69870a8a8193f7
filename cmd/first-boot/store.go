//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"imgtool/image/seed"
	"imgtool/image/seed/api"
)

// store contains the configuration of the device, below /data. The directory config is always
// complete: a new configuration is written to a candidate directory beside it, synced, and
// exchanged with it atomically. While the file pending exists, the new configuration is on trial,
// and the previous one is in the candidate directory.
type store struct {
	dir     string
	service int    // user and group of the files of a bundle
	mounted bool   // dir must be a mounted file system; see ready
	device  string // block device that it must be on, if not empty
}

// dataDevice is the data partition of a device.
const dataDevice = "/dev/disk/by-partlabel/data"

// ready returns an error if the data file system is not mounted. Without it, files would be
// written to memory and lost at the next boot, although the device reports that it is
// provisioned.
func (s *store) ready() error {
	if !s.mounted {
		return nil
	}
	var own, above unix.Stat_t
	if err := unix.Lstat(s.dir, &own); err != nil {
		return fmt.Errorf("the data partition is not mounted: %s: %w", s.dir, err)
	}
	if err := unix.Lstat(filepath.Dir(s.dir), &above); err != nil {
		return err
	}
	if own.Dev == above.Dev {
		return fmt.Errorf("the data partition is not mounted at %s", s.dir)
	}
	if s.device != "" {
		var disk unix.Stat_t
		if err := unix.Stat(s.device, &disk); err != nil {
			return fmt.Errorf("the disk has no data partition: %s: %w", s.device, err)
		}
		if disk.Rdev != own.Dev {
			return fmt.Errorf("%s is not the file system of the data partition %s", s.dir, s.device)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.dir, &fs); err != nil {
		return err
	}
	if fs.Flags&unix.ST_RDONLY != 0 {
		return fmt.Errorf("the data partition is mounted read-only at %s", s.dir)
	}
	return nil
}

func (s *store) config() string  { return filepath.Join(s.dir, "config") }
func (s *store) other() string   { return filepath.Join(s.dir, "config.atomixos-candidate") }
func (s *store) pending() string { return filepath.Join(s.dir, "config.atomixos-promotion-pending") }
func (s *store) done() string    { return filepath.Join(s.dir, ".completed_first_boot") }

// document returns the config.toml of a directory, or nil if it is missing or invalid.
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

// prepare writes a document or bundle, which was checked, as the candidate. skipped are the
// previous files that could not be carried over.
func (s *store) prepare(from source, report func(step string)) (config *seed.Config, skipped []string, err error) {
	if err := os.RemoveAll(s.other()); err != nil {
		return nil, nil, err
	}
	report("write-candidate")
	if err := os.Mkdir(s.other(), 0o700); err != nil {
		return nil, nil, err
	}
	root, err := os.OpenRoot(s.other())
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(s.other()))
		}
	}()
	err = limits.Unpack("", from.body, func(path string, r io.Reader) error {
		if path != "config.toml" {
			return writeOwned(root, path, r, s.service)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if config, _ = seed.Check(text); config == nil {
			return errors.New("config.toml is not valid")
		}
		return nil
	})
	if err == nil && config == nil {
		err = errors.New("there is no config.toml")
	}
	if err != nil {
		return nil, nil, err
	}
	if from.keepFiles {
		report("copy-files")
		if skipped, err = s.carry(root); err != nil {
			return nil, nil, fmt.Errorf("carrying over the files of the bundle: %w", err)
		}
	}
	files := inStepOrder(config.Render())
	steps := map[string]bool{}
	for _, f := range files {
		if step := stepOf(f.Path); !steps[step] {
			steps[step] = true
			if step == "write-quadlets" {
				reportRendering(files, report)
			}
			report(step)
		}
		if err := writeOwned(root, f.Path, strings.NewReader(f.Text), 0); err != nil {
			return nil, nil, err
		}
	}
	return config, skipped, s.sync()
}

// renew rewrites the files of the configuration that differ from those rendered from its
// config.toml, such as files of an older version, and removes extra units and keys. It returns
// their paths. Each file is replaced atomically: after a power cut, the next boot continues.
func (s *store) renew(config *seed.Config) (renewed []string, err error) {
	root, err := os.OpenRoot(s.config())
	if err != nil {
		return nil, err
	}
	defer root.Close()
	made := map[string]bool{}
	for _, f := range config.Render() {
		made[f.Path] = true
		if text, err := root.ReadFile(f.Path); err == nil && string(text) == f.Text {
			continue
		}
		if err := writeOwned(root, f.Path+".new", strings.NewReader(f.Text), 0); err != nil {
			return renewed, err
		}
		if err := s.sync(); err != nil {
			return renewed, err
		}
		if err := root.Rename(f.Path+".new", f.Path); err != nil {
			return renewed, err
		}
		renewed = append(renewed, f.Path)
	}
	for _, dir := range []string{"quadlet", "ssh-authorized-keys"} {
		found, err := fs.ReadDir(root.FS(), dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return renewed, err
		}
		for _, e := range found {
			if path := dir + "/" + e.Name(); !made[path] {
				if err := root.RemoveAll(path); err != nil {
					return renewed, err
				}
				renewed = append(renewed, path)
			}
		}
	}
	if renewed == nil {
		return nil, nil
	}
	return renewed, s.sync()
}

// writeOwned writes a file below root, and creates missing directories, with a user and group who
// alone can read them. Links that lead out of root are not followed.
func writeOwned(root *os.Root, path string, r io.Reader, id int) error {
	for i, c := range path {
		if c != '/' {
			continue
		}
		err := root.Mkdir(path[:i], 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err := errors.Join(err, root.Lchown(path[:i], id, id)); err != nil {
			return err
		}
	}
	f, err := root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Chown(id, id), f.Close())
}

// stepOf returns the step of a job that writes a file.
func stepOf(path string) string {
	dir, _, _ := strings.Cut(path, "/")
	return map[string]string{"config.toml": "write-config", "admin-signers": "write-admin-signers", "users.json": "write-users", "ssh-authorized-keys": "write-users",
		"firewall-inbound.json": "write-firewall", "lan-settings.json": "write-lan", "host-network.json": "write-network", "os-upgrade.json": "write-os-upgrade",
		"health-required.json": "write-health", "activation-policy.json": "write-health", "quadlet": "write-quadlets", "quadlet-runtime.json": "write-runtime-metadata"}[dir]
}

// reportRendering reports the steps that render units. The files contain them already.
func reportRendering(files []seed.File, report func(step string)) {
	for _, kind := range []struct{ ending, step string }{{".container", "render-containers"}, {".network", "render-container-networks"},
		{".volume", "render-container-volumes"}, {".build", "render-container-builds"}} {
		if slices.ContainsFunc(files, func(f seed.File) bool {
			return strings.HasPrefix(f.Path, "quadlet/") && strings.HasSuffix(f.Path, kind.ending)
		}) {
			report(kind.step)
		}
	}
}

func inStepOrder(files []seed.File) []seed.File {
	slices.SortStableFunc(files, func(a, b seed.File) int {
		return api.StepIndex(stepOf(a.Path)) - api.StepIndex(stepOf(b.Path))
	})
	return files
}

// sync waits until everything is on the disk.
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

// mark identifies the directory on trial in the file pending, by its inode.
func mark(dir string) string {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return ""
	}
	return strconv.FormatUint(st.Ino, 10)
}

// promote makes the candidate the active configuration, on trial.
func (s *store) promote() error {
	if _, config := document(s.other()); config == nil {
		return errors.New("the candidate is not complete")
	}
	if err := os.MkdirAll(s.config(), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(s.pending(), []byte(mark(s.other())), 0o600); err != nil {
		return err
	}
	if err := s.sync(); err != nil {
		return err
	}
	return s.exchange()
}

func (s *store) exchange() error {
	if err := unix.Renameat2(unix.AT_FDCWD, s.other(), unix.AT_FDCWD, s.config(), unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("%s: %w", s.config(), err)
	}
	return s.sync()
}

// keep ends the trial and keeps the new configuration.
func (s *store) keep() error {
	err := os.Remove(s.pending())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, s.sync(), os.RemoveAll(s.other()))
}

// back ends the trial and restores the previous configuration. It reports whether there was one.
func (s *store) back() (bool, error) {
	if err := s.exchange(); err != nil {
		return false, err
	}
	_, before := document(s.config())
	return before != nil, s.keep()
}

// recover completes an interrupted operation. An interrupted trial ends with the previous
// configuration; on a device without a previous one, the first configuration stays on trial.
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

// onTrial reports whether the configuration was never applied completely.
func (s *store) onTrial() bool {
	_, err := os.Stat(s.pending())
	return err == nil
}
