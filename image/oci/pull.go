package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/pending"
	"imgtool/image/progress"
)

// PullOptions are how images are pulled.
type PullOptions struct {
	Options
	Output   string // file or directory; empty: the working directory
	Force    bool   // replace files that differ
	Reporter progress.Reporter
}

// Pulled is an image that [Pull] wrote.
type Pulled struct {
	Path   string   `json:"path"`
	Board  string   `json:"board,omitempty"`
	Medium string   `json:"medium,omitempty"`
	Digest string   `json:"digest"`    // of its manifest
	Layer  string   `json:"layer"`     // the digest of the file
	Size   int64    `json:"file_size"` // of the file
	Beside []string `json:"beside"`    // files that belong to it, written beside it
	Had    bool     `json:"had"`       // the file was there
	// Resumed is how many bytes of the file an earlier pull had fetched.
	Resumed int64 `json:"resumed,omitempty"`
}

// Pull writes the images that a reference names, with the files that belong to them, under the
// names that they had. Everything is verified, and a file gets its name when it is complete.
func Pull(ctx context.Context, ref string, opt PullOptions) ([]Pulled, error) {
	images, err := Find(ctx, ref, opt.Options)
	if err != nil {
		return nil, err
	}
	var pulls []*pull
	for _, i := range images {
		p := &pull{image: i, opt: opt}
		if err := p.plan(ctx, len(images) > 1); err != nil {
			return nil, err
		}
		for _, other := range pulls {
			if other.path == p.path {
				return nil, fmt.Errorf("%s: the images of %s and %s have the same name, %s: pull one with --medium", ref, other.image.Medium, i.Medium, filepath.Base(p.path))
			}
		}
		pulls = append(pulls, p)
	}
	defer opt.Reporter.EndPhase()
	var all []Pulled
	for _, p := range pulls {
		if err := p.run(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
		all = append(all, p.done())
	}
	return all, nil
}

// pull is the pull of one image.
type pull struct {
	image *Image
	opt   PullOptions
	path  string
	had   bool              // the file is there
	files map[string][]byte // that belong to it, by path
	names []string          // the paths, in order
	stale []string          // files of another image beside it

	resumed int64 // bytes that an earlier pull had fetched
}

// plan finds out which files are written, and checks that they may be.
func (p *pull) plan(ctx context.Context, several bool) error {
	i := p.image
	if err := p.choosePath(several); err != nil {
		return err
	}
	if err := hostfile.CheckOutput(p.path); err != nil {
		return err
	}
	parts, err := i.parts(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", i.Reference, err)
	}
	p.files = map[string][]byte{}
	var differ []string
	for _, part := range Parts {
		at, data := part.Path(p.path), parts[part.Name]
		old, err := hostfile.ReadFile(at, part.Limit)
		switch {
		case errors.Is(err, fs.ErrNotExist) && data == nil:
		case data == nil:
			p.stale = append(p.stale, at)
			differ = append(differ, at)
		case err == nil && string(old) == string(data):
		case !errors.Is(err, fs.ErrNotExist):
			differ = append(differ, at)
			fallthrough
		default:
			p.files[at] = data
			p.names = append(p.names, at)
		}
	}
	same, err := p.hasImage(ctx)
	if p.had = same; err != nil {
		return err
	}
	if _, err := os.Lstat(p.path); err == nil && !same {
		differ = append([]string{p.path}, differ...)
	}
	if len(differ) > 0 && !p.opt.Force {
		verb := "is"
		if len(differ) > 1 {
			verb = "are"
		}
		return fault.New(fault.Refused, "%s %s there, with other content than in %s: replace it with --force, or write to another place with --output", strings.Join(differ, " and "), verb, i.Reference)
	}
	return nil
}

// choosePath chooses the path of the image.
func (p *pull) choosePath(several bool) error {
	out, i := p.opt.Output, p.image
	info, err := os.Stat(out)
	isDir := out == "" || strings.HasSuffix(out, "/") || err == nil && info.IsDir()
	if !isDir {
		if several {
			return fault.New(fault.Usage, "%s has several images, and --output %s is not a directory: choose one with --medium", i.Reference, out)
		}
		p.path = out
		return nil
	}
	name := i.Layer.Annotations[title]
	if name == "" {
		return fmt.Errorf("%s: the image has no file name: give one with --output FILE", i.Reference)
	}
	if err := checkTitle(name); err != nil {
		return fault.New(fault.Corrupt, "%s: the file name of the image is refused: %w: give another one with --output FILE", i.Reference, err)
	}
	p.path = filepath.Join(out, name)
	return nil
}

// hasImage reports whether the file is there with the right content.
func (p *pull) hasImage(ctx context.Context) (bool, error) {
	info, err := os.Stat(p.path)
	if err != nil || info.Size() != p.image.Layer.Size {
		return false, nil
	}
	f, err := hostfile.Open(p.path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, image.NewReader(ctx, hostfile.NewReader(p.path, f), p.opt.Reporter.Phase("comparing", info.Size()))); err != nil {
		return false, err
	}
	return hex.EncodeToString(h.Sum(nil)) == p.image.Layer.Digest.Hex, nil
}

// run writes the files. The image is last: when it is visible, so are the files that belong to it.
func (p *pull) run(ctx context.Context) error {
	var out *pending.File
	if !p.had {
		var err error
		if out, err = p.create(); err != nil {
			return err
		}
		defer out.Cleanup()
		if err := p.download(ctx, out); err != nil {
			return err
		}
	}
	for _, at := range p.names {
		if err := artifact.WriteBeside(at, p.files[at]); err != nil {
			return err
		}
	}
	for _, at := range p.stale {
		if err := os.Remove(at); err != nil {
			return err
		}
	}
	if out == nil {
		return nil
	}
	if err := out.Commit(); err != nil {
		return fmt.Errorf("%s: %w", out.Path, err)
	}
	return nil
}

func (p *pull) done() Pulled {
	i := p.image
	return Pulled{Path: p.path, Board: i.Board, Medium: i.Medium, Digest: i.Digest.String(), Layer: i.Layer.Digest.String(), Size: i.Layer.Size, Beside: append([]string{}, p.names...), Had: p.had, Resumed: p.resumed}
}
