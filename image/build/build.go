// Package build is the one place where definitions meet bytes: a board, a
// layout and inputs go in, an image and its manifest come out.
package build

import (
	"context"
	"fmt"
	"io"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/edit"
	"imgtool/image/seed/seedfile"
	"imgtool/image/source"
	"imgtool/image/squashfs"
	"imgtool/image/starter"
	"imgtool/image/tree"
	"imgtool/layouts"
)

// DefaultTime is what everything made is dated when no time is given:
// 2026-01-01 UTC.
const DefaultTime = 1767225600

// Options is what an image is built from.
type Options struct {
	Board       *boards.Board
	Media       []string          // those to build; none is all the board has
	Sizes       map[string]int64  // by medium, of disks that are to be filled
	Profile     string            // one of boards.Profiles; "" is the first
	Flags       map[string]bool   // of what the board's steps ask for
	Vars        map[string]string // for edits, over the board's
	Root        *source.Root      // the root file system, if it is open already; then its input is a name for it
	Allow       []string          // paths that trees may have though the board forbids them
	Edits       []edit.Edit       // of the root file system, before all else
	EditsText   []byte            // what Edits were read from
	Generalize  bool              // take what each unit must have of its own out of the root file system
	Slots       string            // a or ab; "" is a
	Parts       map[string]string // what partitions hold, by medium/partition, or partition
	Inputs      map[string]string // by name, the root file system is "rootfs"; empty builds the starter
	Compression string            // of the squashfs, as squashfs.Options has it
	BlockSize   int
	BuildID     string         // "" is derived from the inputs
	Cmdline     string         // added to the kernel's arguments
	Seed        *seedfile.Seed // nil is none
	Time        int64          // seconds since 1970
	Clamp       bool           // times of files after Time become Time
	Jobs        int            // blocks that are compressed at once; 0 is as many as there are processors
	Cache       squashfs.Cache // of compressed blocks; nil is none
	TempDir     string         // for scratch files, which have no name
	Output      Output         // nil is none
	Opener      *source.Opener
	Warn        func(string)
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

// Result is what was built, an image for each medium. It reads from inputs and
// scratch files: Close only when it is written.
type Result struct {
	Images  []Image
	Trees   map[string]*tree.Tree // of the board, by name
	scratch []io.Closer
}

// Image is that of one medium.
type Image struct {
	*image.Image
	Manifest *artifact.Manifest
	Written  []image.Span // ranges that the file of Options.Output holds already
}

// Close releases the scratch files.
func (r *Result) Close() {
	for _, f := range r.scratch {
		f.Close()
	}
}

// builder is the state of one Build, in the order it comes about.
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

	clamped bool   // times of files were later than Time, which no digest of an input says
	seed    []byte // as the device gets it
	buildID string
	digest  []byte // of all inputs and options but the seed
	codec   string
	result  *Result
}

// disk is a medium on its way.
type disk struct {
	*boards.Medium
	placed *layouts.Placed
	prefix string // of names that identifiers are derived from; empty if the board has one medium

	written []image.Span // as in Image
}

// Build checks everything, then makes the images. What the inputs can be blamed
// for is found before the squashfs is made, as far as can be.
func Build(ctx context.Context, opt Options) (_ *Result, err error) {
	b := &builder{Options: opt, result: &Result{}, files: map[string]*source.File{}, trees: map[string]*tree.Tree{}, parts: map[string]image.Content{},
		starter: starter.New(starter.Options{Board: opt.Board, Vars: opt.Vars, Time: opt.Time, Packages: opt.Opener.Packages})}
	if b.Slots == "" {
		b.Slots = "a"
	}
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
	if err := b.plant(); err != nil {
		return nil, err
	}
	b.result.Trees = b.trees
	for _, d := range b.disks {
		extents, err := b.extents(ctx, d)
		if err == nil {
			var img *image.Image
			if img, err = image.New(d.placed.Size, extents...); err == nil {
				b.result.Images = append(b.result.Images, Image{img, b.manifest(d), d.written})
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
