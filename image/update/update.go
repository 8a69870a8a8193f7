// Package update makes update bundles for RAUC of images, as the definition of the board
// describes them.
package update

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/cms"
	"imgtool/image/compose"
	"imgtool/image/erofs"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/rauc"
	"imgtool/image/squashfs"
	"imgtool/image/verity"
	"imgtool/image/volume"
)

// Options are how a bundle is made.
type Options struct {
	Board  *boards.Board
	Output string // empty: a name in out/

	Compatible, Version, Description string // replace the board's

	Signer  cms.Signer
	Keyring []*x509.Certificate // that devices trust; empty: unknown
	Purpose cms.Purpose         // of their keyring

	Compression string // of the payload, as squashfs.Options has it
	BlockSize   int
	Jobs        int
	Time        int64 // of all files, in seconds since 1970; of the signature, if the certificate is valid then
}

// File is a bundle that was made.
type File struct {
	Path     string `json:"path"`
	Board    string `json:"board"`
	BuildID  string `json:"build_id,omitempty"`
	FileSize int64  `json:"file_size"`
	Signer   string `json:"signer"`
	*rauc.Manifest
}

// Check checks the options before anything is built.
func (opt *Options) Check() error {
	if err := opt.Board.CheckBundles(); err != nil {
		return err
	}
	m := opt.manifest("")
	if err := m.Check(); err != nil {
		return fault.As(fault.Usage, err)
	}
	if len(opt.Keyring) > 0 {
		if err := cms.CheckTrust(opt.Signer.Cert, opt.Signer.Others, opt.Keyring, time.Now(), opt.Purpose); err != nil {
			return fault.As(fault.Input, fmt.Errorf("devices with this keyring would refuse the bundle: %w", err))
		}
	}
	if opt.Output == "" {
		return nil
	}
	if !strings.HasSuffix(opt.Output, rauc.Suffix) {
		return fault.New(fault.Usage, "%s: the name must end in %s", opt.Output, rauc.Suffix)
	}
	return hostfile.CheckOutput(opt.Output)
}

// Save makes a bundle of an image. Nothing is left of it after an error.
func Save(ctx context.Context, src *volume.Source, opt Options, phases image.Phases) (*File, error) {
	if err := opt.Check(); err != nil {
		return nil, err
	}
	if src.IsBundle() {
		return nil, fault.New(fault.Input, "%s is an update bundle already, and not a disk image", src.Name)
	}
	m := opt.manifest(src.BuildID())
	if m.Version == "" {
		return nil, fault.New(fault.Usage, "%s has no build ID: say which version it is with --bundle-version", src.Name)
	}
	if err := opt.checkImage(src); err != nil {
		return nil, err
	}
	contents, err := opt.contents(src)
	if err != nil {
		return nil, src.Wrap(err)
	}
	path, err := opt.path(src)
	if err != nil {
		return nil, err
	}
	out, err := artifact.CreateRaw(path)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	signer := opt.Signer
	signer.Time = time.Unix(opt.Time, 0)
	if signer.Time.Before(signer.Cert.NotBefore) {
		signer.Time = signer.Cert.NotBefore
	}
	if signer.Time.After(signer.Cert.NotAfter) {
		return nil, fault.New(fault.Input, "the bundle is made at %s, by SOURCE_DATE_EPOCH, and the certificate expired at %s", signer.Time.UTC().Format(time.DateTime), signer.Cert.NotAfter.UTC().Format(time.DateTime))
	}
	create := rauc.Options{Manifest: m, Images: contents, Signer: signer,
		Squashfs: squashfs.Options{Compression: opt.Compression, BlockSize: opt.BlockSize, ModTime: opt.Time, Workers: opt.Jobs}}
	if opt.Board.RAUC.HookText != nil {
		create.Hook = bytes.NewReader(opt.Board.RAUC.HookText)
	}
	made, size, err := rauc.Create(ctx, out, create, phases)
	if err == nil {
		err = out.Commit()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &File{Path: path, Board: opt.Board.Name, BuildID: src.BuildID(), FileSize: size, Signer: cms.Name(signer.Cert), Manifest: made}, nil
}

// manifest returns the manifest for an image with a build ID.
func (opt *Options) manifest(build string) rauc.Manifest {
	m := opt.Board.RAUC.Manifest()
	m.Build = build
	m.Compatible = cmp.Or(opt.Compatible, m.Compatible)
	m.Description = cmp.Or(opt.Description, m.Description)
	m.Version = cmp.Or(opt.Version, m.Version, m.Build)
	return m
}

// checkImage refuses the image of another board or medium, and one with a seed.
func (opt *Options) checkImage(src *volume.Source) error {
	if m := src.Manifest; m != nil {
		want := opt.Board.RAUC.Images[0].Medium
		switch {
		case m.Board != opt.Board.Name:
			return fault.New(fault.WrongBoard, "%s is an image for %s, and the board is %s", src.Name, m.Board, opt.Board.Name)
		case m.Medium != want:
			return fault.New(fault.WrongBoard, "%s is an image of the medium %s, and bundles of %s are made of %s", src.Name, m.Medium, opt.Board.Name, want)
		}
	}
	if opt.Board.Seed.Path == "" {
		return nil
	}
	seed, err := compose.ReadSeed(src, opt.Board)
	if err == nil && seed != nil {
		err = fault.New(fault.Refused, "%s has a seed, which is for one device and would get onto all that install the bundle: build it without --seed", src.Name)
	}
	return err
}

// contents returns what is written to the slots, by the names of the files.
func (opt *Options) contents(src *volume.Source) (map[string]image.Content, error) {
	l, err := src.Locate(volume.Place{File: src.Name})
	if err != nil {
		return nil, err
	}
	contents := map[string]image.Content{}
	for _, i := range opt.Board.RAUC.Images {
		l.Part = i.Partition
		part, err := l.Section()
		if err != nil {
			return nil, err
		}
		used, err := trimmed(part)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", i.Partition, err)
		}
		contents[i.File] = used
	}
	return contents, nil
}

// trimmed returns a partition without the space after a squashfs or erofs and its hash tree of
// dm-verity, which no device reads.
func trimmed(part *io.SectionReader) (image.Content, error) {
	kind, err := volume.Detect(part)
	if err != nil {
		return nil, err
	}
	var used int64
	switch kind {
	case "squashfs":
		fs, err := squashfs.Open(part, part.Size())
		if err != nil {
			return nil, err
		}
		used = fs.Summary().BytesUsed
	case "erofs":
		fs, err := erofs.Open(part, part.Size())
		if err != nil {
			return nil, err
		}
		used = fs.Summary().BytesUsed
	default:
		return part, nil
	}
	size := (used + verity.BlockSize - 1) / verity.BlockSize * verity.BlockSize
	if size+verity.BlockSize < part.Size() {
		head := make([]byte, verity.BlockSize)
		if _, err := image.ReadFull(part, head, size); err != nil {
			return nil, err
		}
		if s, err := verity.ParseSuperblock(head); err == nil && s.Blocks*verity.BlockSize == size {
			size += verity.BlockSize + verity.TreeSize(size)
		}
	}
	return io.NewSectionReader(part, 0, min(size, part.Size())), nil
}

// path returns the name of the bundle.
func (opt *Options) path(src *volume.Source) (string, error) {
	if opt.Output != "" {
		return opt.Output, nil
	}
	path := filepath.Join("out", fmt.Sprintf("%s-%s%s", opt.Board.Name, cmp.Or(src.BuildID(), "update"), rauc.Suffix))
	if err := os.MkdirAll("out", 0o777); err != nil {
		return "", err
	}
	return path, hostfile.CheckOutput(path)
}

// BoardOf returns the board that is named, or else the board of an image's manifest.
func BoardOf(name string, src *volume.Source) (*boards.Board, error) {
	if src.IsBundle() {
		return nil, fault.New(fault.Input, "%s is an update bundle already, and not a disk image", src.Name)
	}
	if name == "" && src.Manifest == nil {
		return nil, fault.New(fault.Usage, "%s has no manifest that names its board: say which it is with --board", src.Name)
	}
	if name != "" {
		return boards.Load(name)
	}
	b, err := boards.Get(src.Manifest.Board)
	if err != nil {
		return nil, fault.New(fault.Usage, "%s is an image for %s, which is not a built-in board: pass its definition with --board", src.Name, src.Manifest.Board)
	}
	return b, nil
}
