// Package build makes the images of a board from its definition and its inputs.
//
// [Build] returns images as values. [Prepare] and [Job.Run] do the same for a command line,
// and save the images.
package build

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/edit"
	"imgtool/image/provenance"
	"imgtool/image/sbom"
	"imgtool/image/seed/seedfile"
	"imgtool/image/source"
	"imgtool/image/squashfs"
	"imgtool/image/starter"
	"imgtool/image/tree"
	"imgtool/image/volume"
	"imgtool/layouts"
)

// DefaultTime is the time of everything that is made, unless another is given: 2026-01-01
// UTC.
const DefaultTime = 1767225600

// Options are the inputs of a build.
type Options struct {
	Board       *boards.Board
	Media       []string          // media to build; none: all
	Sizes       map[string]int64  // of disks to fill, by medium
	Profile     string            // of boards.Profiles; "" is the first
	Flags       map[string]bool   // options of the board's steps
	Vars        map[string]string // of edits; they override the board's
	Root        *source.Root      // an open root file system; its input is then a name only
	Allow       []string          // paths that trees may have although the board forbids them
	Edits       []edit.Edit       // of the root file system, applied first
	EditsText   []byte            // the text of Edits
	Generalize  bool              // remove per-unit data from the root file system
	Slots       string            // a or ab; "" is a
	Parts       map[string]string // content of partitions, by medium/partition or partition
	Inputs      map[string]string // references by name; empty: the starter
	Compression string            // of the squashfs, as squashfs.Options has it
	BlockSize   int
	Packed      bool           // leave no gaps in the squashfs, as squashfs.Options has it
	Like        string         // a place in an earlier image, or "cache": keep blocks of its squashfs where they are; "": none
	Volume      volume.Options // how Like is opened
	BuildID     string         // empty: derived from the inputs
	Cmdline     string         // more kernel arguments
	Seed        *seedfile.Seed // nil: none
	Time        int64          // seconds since 1970
	Clamp       bool           // set later times of files to Time
	Jobs        int            // blocks to compress in parallel; 0: one per processor
	Cache       squashfs.Cache // of compressed blocks; nil: none
	TempDir     string         // for scratch files
	Output      Output         // nil: none
	Opener      *source.Opener
	SBOM        bool   // describe the images: Image.SBOM
	Provenance  bool   // state how they were built: Image.Provenance
	Version     string // of imgtool, for these two
	Warn        func(string)
	Info        func(string) // nil: nothing is reported
	Phases      image.Phases
}

// Output returns the file that the image of a medium will be saved to, so that
// the squashfs is written there at its offset instead of to a scratch file, or
// nil. See [Image.Written].
type Output func(medium string) ReaderWriterAt

// ReaderWriterAt is an image file that is being written.
type ReaderWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// Result has an image for each medium. The images read from inputs and scratch files until
// Close.
type Result struct {
	Images  []Image
	Trees   map[string]*tree.Tree // the board's, by name
	scratch []io.Closer

	Private bool    // only the owner can read an earlier image, of which the new one has parts
	last    *record // of the squashfs, in the cache; nil if it is not there
	lastKey [sha256.Size]byte
}

// Image is the image of a medium.
type Image struct {
	*image.Image
	Manifest *artifact.Manifest
	Written  []image.Span // ranges that the file of Options.Output holds already

	SBOM       *sbom.Document        // without file name and checksum of the image; nil unless asked for
	Provenance *provenance.Statement // without subject; nil unless asked for
}

// Close releases the scratch files.
func (r *Result) Close() {
	for _, f := range r.scratch {
		f.Close()
	}
}

// builder is the state of a Build. The fields are set in this order.
type builder struct {
	Options
	disks   []*disk
	starter *starter.System

	root   *source.Root
	trees  map[string]*tree.Tree
	parts  map[string]image.Content // by medium/partition
	files  map[string]*source.File
	ahead  map[string]func() (*source.File, error) // by reference
	inputs []artifact.Input

	like     *squashfs.Reader // an earlier root file system, or nil
	likeName string
	last     *record // of like, if it comes from the cache

	clamped bool   // some file was later than Time, which no digest of an input includes
	seed    []byte // the text for the device
	buildID string

	installed map[string][]sbom.Package // in partitions, by medium/partition
	verity    *artifact.Verity          // of the root file system; nil if it has none
	digest    []byte                    // of all inputs and options except the seed
	codec     string
	result    *Result
}

type disk struct {
	*boards.Medium
	placed *layouts.Placed
	prefix string // of names that identifiers are derived from; empty if the board has one medium

	written []image.Span // as in Image
}

// Check checks the options as [Build] does, before anything else is done.
func Check(opt Options) error {
	opt.Inputs, opt.Warn = maps.Clone(opt.Inputs), func(string) {}
	return (&builder{Options: opt}).check()
}

// Build checks all options and inputs, then makes the images. It makes the squashfs last, so
// that most faults of inputs are found before the long compression.
func Build(ctx context.Context, opt Options) (_ *Result, err error) {
	b := &builder{Options: opt, result: &Result{}, files: map[string]*source.File{}, trees: map[string]*tree.Tree{}, parts: map[string]image.Content{},
		starter: starter.New(starter.Options{Board: opt.Board, Vars: opt.Vars, Time: opt.Time, Packages: opt.Opener.Packages})}
	b.Slots = cmp.Or(b.Slots, "a")
	if b.Warn == nil {
		b.Warn = func(string) {}
	}
	defer func() {
		if err != nil {
			b.result.Close()
		}
	}()
	if err := b.check(); err != nil {
		return nil, err
	}
	if err := b.open(ctx); err != nil {
		return nil, err
	}
	if err := b.identify(ctx); err != nil {
		return nil, err
	}
	if err := b.buildTrees(); err != nil {
		return nil, err
	}
	b.result.Trees = b.trees
	if err := b.scan(); err != nil {
		return nil, err
	}
	for _, d := range b.disks {
		extents, err := b.extents(ctx, d)
		if err == nil {
			var img *image.Image
			if img, err = image.New(d.placed.Size, extents...); err == nil {
				b.result.Images = append(b.result.Images, Image{img, b.manifest(d), d.written, b.bom(d), b.provenance(d)})
			}
		}
		if err != nil && d.prefix != "" {
			err = fmt.Errorf("%s: %w", d.Name, err)
		}
		if err != nil {
			return nil, err
		}
	}
	return b.result, nil
}
