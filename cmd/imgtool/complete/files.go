package complete

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/seed/bundle"
)

// listing completes files that match, and directories on the way to others. Files in the
// directories of more are candidates for a word without a directory.
func listing(match func(name string) bool, more ...string) source {
	return func(r request) (list []cobra.Completion) {
		dir, _ := filepath.Split(r.word)
		dirs := []string{dir}
		if dir == "" {
			dirs = append(dirs, more...)
		}
		for i, dir := range dirs {
			entries, _ := os.ReadDir(filepath.Join(".", dir))
			if filepath.IsAbs(dir) {
				entries, _ = os.ReadDir(dir)
			}
			for _, e := range entries {
				name := e.Name()
				if strings.HasPrefix(name, ".") && !strings.HasPrefix(filepath.Base(r.word), ".") {
					continue
				}
				info, err := os.Stat(filepath.Join(dir, name))
				switch {
				case err != nil:
				case info.IsDir() && i == 0:
					list = append(list, dir+name+"/")
				case info.Mode().IsRegular() && match(name):
					list = append(list, described(dir+name, image.FormatSize(info.Size())))
				}
			}
		}
		return append(list, anyFile)
	}
}

var (
	images      = listing(isImage, "out/")
	directories = listing(func(string) bool { return false })
	seeds       = listing(func(name string) bool { return strings.HasSuffix(name, ".toml") || bundle.IsName(name) })
	documents   = named("toml")
)

func isImage(name string) bool {
	for _, suffix := range []string{".img.bz2", ".img.lz4", ".img.zip", ".raw"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	_, err := artifact.FormatOf(name)
	return err == nil
}

// named completes files whose names end in .ext.
func named(ext string) source {
	return listing(func(name string) bool { return strings.HasSuffix(name, "."+ext) })
}

// keys completes the private keys in ~/.ssh.
func keys(request) []cobra.Completion { return inSSH("id_*", false) }

// publicKeys completes the public keys in ~/.ssh.
func publicKeys(request) []cobra.Completion { return inSSH("*.pub", true) }

func inSSH(pattern string, public bool) (list []cobra.Completion) {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil
	}
	found, _ := filepath.Glob(filepath.Join(home, ".ssh", pattern))
	for _, f := range found {
		if strings.HasSuffix(f, ".pub") == public {
			list = append(list, f)
		}
	}
	return list
}
