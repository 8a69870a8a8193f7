package oci

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
)

// File is an image file to push.
type File struct {
	Path     string
	Format   artifact.Format
	Manifest *artifact.Manifest // nil if it has none
	Size     int64              // of the image, not of the file; 0 if it is not known
	Opened   *artifact.Opened   // nil for a file that can only be read from front to back
	Arch     string             // of an image without a manifest

	layer v1.Descriptor
	parts []filePart
}

type filePart struct {
	*Part
	data []byte
}

// arch returns the architecture that the config of the image states.
func (f *File) arch() (string, error) {
	if f.Manifest == nil {
		if f.Arch == "" {
			return "", fault.New(fault.Usage, "%s has no manifest, so its architecture is not known: name it with --arch, as in --arch arm64", f.Path)
		}
		return f.Arch, nil
	}
	info, err := boards.InfoOf(f.Manifest.Board, f.Manifest.Medium, f.Manifest.Info)
	if err != nil {
		return "", fmt.Errorf("%s: %w", f.Path, err)
	}
	if f.Arch != "" && f.Arch != info.Arch {
		return "", fault.New(fault.Usage, "--arch is %s, the board %s of %s is %s: leave it out", f.Arch, f.Manifest.Board, f.Path, info.Arch)
	}
	return info.Arch, nil
}

func (f *File) medium() string {
	if f.Manifest == nil {
		return ""
	}
	return f.Manifest.Medium
}

func (f *File) board() string {
	if f.Manifest == nil {
		return ""
	}
	return f.Manifest.Board
}

// read computes the digest of the file and reads the files that belong to it.
func (f *File) read(ctx context.Context, p image.Progress) error {
	if err := checkTitle(filepath.Base(f.Path)); err != nil {
		return fmt.Errorf("%s: its name cannot be that of a layer: %w", f.Path, err)
	}
	if err := f.readParts(); err != nil {
		return err
	}
	in, err := hostfile.Open(f.Path)
	if err != nil {
		return err
	}
	defer in.Close()
	h := sha256.New()
	n, err := io.Copy(h, image.NewReader(ctx, hostfile.NewReader(f.Path, in), p))
	if err != nil {
		return err
	}
	f.layer = v1.Descriptor{MediaType: layerTypes[f.Format], Size: n, Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}}
	size := ""
	if f.Size > 0 {
		size = strconv.FormatInt(f.Size, 10)
	}
	sums := map[string]string{}
	for _, part := range f.parts {
		sums[part.Name] = sum(part.data).Hex
	}
	f.layer.Annotations = annotations(title, filepath.Base(f.Path), unpackedSize, size)
	if f.Manifest != nil {
		f.layer.Annotations[manifestSHA256] = sum(f.Manifest.Text()).Hex
	}
	if s := sums["block map"]; s != "" {
		f.layer.Annotations[bmapSHA256] = s
	}
	return nil
}

// readParts reads the files that belong to the image: attached to it, or beside it.
func (f *File) readParts() error {
	for i := range Parts {
		p := &Parts[i]
		data, err := f.readPart(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("the %s of %s: %w", p.Name, f.Path, err)
		}
		f.parts = append(f.parts, filePart{p, data})
	}
	return nil
}

func (f *File) readPart(p *Part) ([]byte, error) {
	if f.Opened != nil {
		data, err := f.Opened.Attachment(p.Name)
		if !errors.Is(err, fs.ErrNotExist) {
			return data, err
		}
	}
	return hostfile.ReadFile(p.Path(f.Path), p.Limit)
}

// config returns the config of the image.
func (f *File) config() (blob, error) {
	arch, err := f.arch()
	if err != nil {
		return blob{}, err
	}
	// The layer is no tar whose uncompressed form would have a digest of its own.
	config := struct {
		Created      string `json:"created,omitempty"`
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		RootFS       struct {
			Type    string    `json:"type"`
			DiffIDs []v1.Hash `json:"diff_ids"`
		} `json:"rootfs"`
	}{Created: timeOf(f.Manifest), Architecture: arch, OS: "linux"}
	config.RootFS.Type = "layers"
	config.RootFS.DiffIDs = []v1.Hash{f.layer.Digest}
	return encode(types.OCIConfigJSON, config)
}

// about returns the annotations of the image's manifest. more are the user's.
func (f *File) about(more map[string]string) map[string]string {
	name, _, err := artifact.Split(filepath.Base(f.Path))
	if err != nil {
		name = filepath.Base(f.Path)
	}
	a := annotations(title, name, created, timeOf(f.Manifest), board, f.board(), medium, f.medium())
	if f.Manifest != nil {
		a[description] = fmt.Sprintf("disk image of %s for %s", f.board(), f.medium())
		if f.Manifest.BuildID != "" {
			a[version] = f.Manifest.BuildID
		}
	}
	for k, v := range more {
		a[k] = v
	}
	return a
}

// checkTitle checks a name that a file gets in a directory.
func checkTitle(name string) error {
	bad := strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == '/' || r == '\\' || r == '\uFFFD' })
	switch {
	case name == "":
		return errors.New("it is empty")
	case len(name) > 200:
		return fmt.Errorf("it has %d bytes, the limit is 200", len(name))
	case bad || strings.HasPrefix(name, "."):
		return fmt.Errorf("%q is not the plain name of a file", name)
	}
	return nil
}

// private reports whether only the owner can read the file, as one with secrets.
func (f *File) private() bool {
	info, err := os.Stat(f.Path)
	return err == nil && info.Mode().Perm()&0o077 == 0
}

func sum(data []byte) v1.Hash {
	s := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(s[:])}
}

// checkSet checks that files can be in one index, and puts them in order.
func checkSet(files []*File) error {
	byMedium := map[string]*File{}
	for _, f := range files {
		if len(files) > 1 && f.Manifest == nil {
			return fmt.Errorf("%s has no manifest, so its board and medium are not known: push it alone", f.Path)
		}
		if first := files[0]; f.board() != first.board() {
			return fault.New(fault.WrongBoard, "%s is for the board %s, %s for %s: push them to different repositories", first.Path, cmp.Or(first.board(), "?"), f.Path, f.board())
		}
		if other := byMedium[f.medium()]; other != nil {
			return fmt.Errorf("%s and %s are both for the medium %s of %s: push only one", other.Path, f.Path, f.medium(), f.board())
		}
		byMedium[f.medium()] = f
	}
	return nil
}
