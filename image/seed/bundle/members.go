package bundle

import (
	"archive/tar"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

const (
	maxName = 255  // NAME_MAX of Linux
	maxPath = 4095 // PATH_MAX of Linux without the final NUL
)

// members maps the paths of an archive to whether each is a directory.
type members map[string]bool

// add checks a member and returns its clean path. A file can occur more than once.
func (m members) add(h *tar.Header, depth int) (string, error) {
	name := h.Name
	var isDir bool
	switch h.Typeflag {
	case tar.TypeDir:
		isDir = true
		name = strings.TrimRight(name, "/")
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
	case tar.TypeSymlink, tar.TypeLink:
		return "", fmt.Errorf("%.60q is a link; a bundle has files and directories only", h.Name)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return "", fmt.Errorf("%.60q is a device or a pipe; a bundle has files and directories only", h.Name)
	default:
		return "", fmt.Errorf("%.60q has the unknown type %q; a bundle has files and directories only", h.Name, h.Typeflag)
	}
	switch {
	case strings.HasPrefix(h.Name, "/"):
		return "", fmt.Errorf("%.60q is an absolute path; the paths in a bundle are relative", h.Name)
	case name == "":
		return "", errors.New("a member has no name")
	case slices.Contains(strings.Split(name, "/"), ".."):
		return "", fmt.Errorf("%.60q contains .., which a path in a bundle must not", h.Name)
	case h.Size > MaxMember && !isDir:
		return "", fmt.Errorf("%.60q has %d bytes; the device takes up to %d", h.Name, h.Size, MaxMember)
	case len(name) > maxPath:
		return "", fmt.Errorf("%.60q is a path of %d bytes; a path has up to %d", h.Name, len(name), maxPath)
	}
	if name = path.Clean(name); name == "." {
		if !isDir {
			return "", fmt.Errorf("%.60q is a file; it must be a directory", h.Name)
		}
		return ".", nil
	}
	parts := strings.Split(name, "/")
	switch {
	case parts[0] != "config.toml" && parts[0] != "files":
		return "", fmt.Errorf("%.60q does not belong in a bundle, which has only config.toml and files/ at its top", h.Name)
	case parts[0] == "config.toml" && (isDir || len(parts) > 1):
		return "", errors.New("config.toml is a directory; it must be a file")
	case name == "files" && !isDir:
		return "", errors.New("files is a file; it must be a directory")
	case len(parts) > depth:
		return "", fmt.Errorf("%.60q is in %d directories; it can be in %d", h.Name, len(parts)-1, depth-1)
	}
	for i, part := range parts {
		if len(part) > maxName {
			return "", fmt.Errorf("%.60q contains a name of %d bytes; a name has up to %d", h.Name, len(part), maxName)
		}
		prefix := name[:len(strings.Join(parts[:i+1], "/"))]
		wantDir := isDir || i < len(parts)-1
		if dir, known := m[prefix]; known && dir != wantDir {
			return "", fmt.Errorf("%.60q is both a file and a directory in the archive", prefix)
		}
		m[prefix] = wantDir
	}
	return name, nil
}
