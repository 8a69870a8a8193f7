// Package build is the one place where definitions meet bytes: a board, a
// layout and inputs go in, an image and its manifest come out.
package build

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/compress"
	"imgtool/image/edit"
	"imgtool/image/fat"
	"imgtool/image/gpt"
	"imgtool/image/seed/seedfile"
	"imgtool/image/simg"
	"imgtool/image/source"
	"imgtool/image/squashfs"
	"imgtool/image/starter"
	"imgtool/image/swap"
	"imgtool/image/tree"
	"imgtool/image/uboot"
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

// MissingInputsError says which inputs were not given.
type MissingInputsError struct {
	Board string
	Names []string
}

func (e *MissingInputsError) Error() string {
	list := strings.Join(e.Names, ", ")
	if len(e.Names) == 1 {
		return fmt.Sprintf("%s needs the input %s, and it is not there", e.Board, list)
	}
	return fmt.Sprintf("%s needs the inputs %s, and they are not there", e.Board, list)
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
	prefix string // of what is derived for it: nothing where the board has one medium

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

var goodID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

// check looks at what needs no input to be opened.
func (b *builder) check() (err error) {
	if err := b.checkMedia(); err != nil {
		return err
	}
	if b.Profile == "" {
		b.Profile = boards.Profiles[0]
	}
	if !slices.Contains(boards.Profiles, b.Profile) {
		return fmt.Errorf("profile %q is not known; there are %s", b.Profile, strings.Join(boards.Profiles, ", "))
	}
	for flag := range b.Flags {
		if !slices.Contains(b.Board.Options(), flag) {
			return fmt.Errorf("%s knows no %s", b.Board.Name, flag)
		}
	}
	if err := b.squashfs().Check(); err != nil {
		return err
	}
	if b.codec, err = squashfs.Codec(b.Compression); err != nil {
		return err
	}
	if b.BuildID != "" && !goodID.MatchString(b.BuildID) {
		return fmt.Errorf("build id %q: it must be 1 to 64 letters, digits and . _ + -, starting with a letter or digit", b.BuildID)
	}
	if err := checkCmdline(b.Cmdline); err != nil {
		return err
	}
	if script := b.Board.Script.Text; b.Cmdline != "" && !strings.Contains(script, cmdlineMark) {
		b.Warn(fmt.Sprintf("the kernel arguments %q are not used: %s has no boot script that takes them; change its boot configuration with --edits", b.Cmdline, b.Board.Name))
	} else if _, err := putCmdline(script, b.Cmdline); err != nil {
		return err
	}
	if b.Seed != nil {
		if err := b.checkSeed(); err != nil {
			return err
		}
	}
	inputs := b.Board.Inputs()
	none := len(b.Inputs) == 0
	if none {
		b.Inputs = map[string]string{}
	}
	var missing []string
	for _, name := range inputs {
		_, optional := b.Board.IsOptional(name)
		switch {
		case none && (!optional || b.Board.Starter.Inputs[name] != ""):
			b.Inputs[name] = "starter"
		case b.Inputs[name] == "" && !optional:
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return &MissingInputsError{b.Board.Name, missing}
	}
	for name, ref := range b.Inputs {
		if !slices.Contains(inputs, name) {
			return fmt.Errorf("%s has no input %q; it has %s", b.Board.Name, name, strings.Join(inputs, ", "))
		}
		if ref == "starter" {
			if b.Inputs[name] = b.Board.Starter.Inputs[name]; b.Inputs[name] == "" {
				return fmt.Errorf("%s has no default source for %s: pass --input %s=FILE", b.Board.Name, name, name)
			}
		}
	}
	return nil
}

func (b *builder) checkMedia() error {
	for _, name := range b.Media {
		if !slices.Contains(b.Board.MediaNames(), name) {
			return fmt.Errorf("%s has no medium %q; it has %s", b.Board.Name, name, strings.Join(b.Board.MediaNames(), ", "))
		}
	}
	for name := range b.Sizes {
		if !slices.Contains(b.Board.MediaNames(), name) {
			return fmt.Errorf("%s has no medium %q to choose the size of; it has %s", b.Board.Name, name, strings.Join(b.Board.MediaNames(), ", "))
		}
	}
	for i := range b.Board.Media {
		d := &disk{Medium: &b.Board.Media[i]}
		if len(b.Media) > 0 && !slices.Contains(b.Media, d.Name) {
			continue
		}
		if len(b.Board.Media) > 1 {
			d.prefix = d.Name + "/"
		}
		var err error
		if d.placed, err = d.Placing.Place(b.Slots, b.Sizes[d.Name]); err != nil {
			return fmt.Errorf("%s: %w", d.Name, err)
		}
		b.disks = append(b.disks, d)
	}
	return nil
}

func (b *builder) checkSeed() error {
	if b.Board.Seed.Path == "" {
		return b.Board.NoSeed()
	}
	if strings.Contains(b.Slots, "b") {
		return errors.New("an image with both slots cannot carry a seed: the device takes a seed from boot-a only on the first boot after a flash, and knows that boot by there being no boot-b; leave out --slots ab or --seed")
	}
	text, err := b.Seed.Check(b.Board.Seed.Format, b.Warn)
	b.seed = text
	return err
}

// open opens all inputs, the root file system first: others may be files in it.
func (b *builder) open(ctx context.Context) (err error) {
	defer b.openAhead(ctx)()
	if ref, ok := b.Inputs["rootfs"]; ok {
		switch {
		case b.Root != nil:
			c := *b.Root
			b.root = &c
		case strings.HasPrefix(ref, starter.Scheme):
			b.root, err = b.starter.Root(ctx, ref)
		default:
			b.root, err = b.Opener.Root(ctx, ref)
		}
		if err == nil && (len(b.Edits) > 0 || len(b.Board.Trees) > 0 || b.Generalize) && b.root.Tree == nil {
			b.root.Tree, err = treeOf(b.root.Squashfs)
		}
		if err == nil && b.Clamp && b.Root == nil && b.root.Tree != nil {
			b.clamped = b.root.Tree.Clamp(b.Time)
		}
		if err == nil && b.Generalize {
			err = b.generalize()
		}
		if err == nil && len(b.Edits) > 0 {
			b.root.Squashfs = nil
			b.root.Tree, err = edit.Apply(b.root.Tree, b.Edits, b.Vars, b.Time, b.Warn)
		}
		// What runs is one unit, and no starter has any of it.
		if err == nil && b.Root == nil && !strings.HasPrefix(ref, starter.Scheme) {
			err = b.warnPerUnit()
		}
		if err != nil {
			return fmt.Errorf("rootfs: %w", err)
		}
		if b.root.Tree != nil && b.Root == nil {
			b.warnNoInit(b.root.Tree)
		}
	}
	for _, name := range b.Board.Inputs() {
		if name == "rootfs" {
			b.inputs = append(b.inputs, artifact.Input{Name: name, SHA256: b.root.Digest, Origin: b.root.Origin})
			continue
		}
		if without, ok := b.Board.IsOptional(name); ok && b.Inputs[name] == "" {
			if without != "" && b.used(func(p layouts.Part) bool { return p.Input == name && b.Parts[p.Name] == "" }) {
				b.Warn(fmt.Sprintf("no %s: %s", name, without))
			}
			continue
		}
		f, err := b.openFile(ctx, b.Inputs[name])
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if f.Size() == 0 {
			return fmt.Errorf("%s: the file is empty", name)
		}
		b.files[name] = f
		b.inputs = append(b.inputs, artifact.Input{Name: name, SHA256: f.SHA256, Origin: f.Origin})
		if kind := b.Board.KindOf(name); !boards.LooksLike(kind, f) {
			b.Warn(fmt.Sprintf("%s is not recognised as %s: it is taken as it is", name, kind))
		}
		if r := b.Board.Recovery; r.UBoot == name {
			lacked, err := boards.LackedByUBoot(io.NewSectionReader(f, 0, f.Size()), r.Commands)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			for _, text := range lacked {
				b.Warn(name + ": " + text)
			}
		}
	}
	return b.openParts(ctx)
}

// used says whether a partition of what is built is such.
func (b *builder) used(such func(layouts.Part) bool) bool {
	return slices.ContainsFunc(b.disks, func(d *disk) bool { return slices.ContainsFunc(d.placed.Parts, such) })
}

// openAhead opens the inputs that are files of their own beside the root file system,
// until what it returns is called.
func (b *builder) openAhead(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	b.ahead = map[string]func() (*source.File, error){}
	var opening sync.WaitGroup
	for name, ref := range b.Inputs {
		if name == "rootfs" || ref == "" || strings.HasPrefix(ref, starter.Scheme) || strings.HasPrefix(ref, "rootfs:") || strings.HasPrefix(ref, "deb:") {
			continue
		}
		open := sync.OnceValues(func() (*source.File, error) { return b.Opener.File(ctx, ref) })
		b.ahead[ref] = open
		opening.Go(func() { open() })
	}
	return func() {
		cancel()
		opening.Wait()
	}
}

func (b *builder) openFile(ctx context.Context, ref string) (*source.File, error) {
	if open := b.ahead[ref]; open != nil {
		return open()
	}
	if strings.HasPrefix(ref, starter.Scheme) {
		return b.starter.File(ctx, ref)
	}
	if inside, ok := strings.CutPrefix(ref, "rootfs:"); ok {
		t := (*tree.Tree)(nil)
		if b.root != nil {
			t = b.root.Tree
		}
		if b.root != nil && t == nil {
			var err error
			if t, err = treeOf(b.root.Squashfs); err != nil {
				return nil, err
			}
		}
		if t == nil {
			return nil, fmt.Errorf("%s: there is no root file system", ref)
		}
		n, err := t.Open(inside)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
		if n.Type() != tree.Regular || n.Content == nil {
			return nil, fmt.Errorf("%s is no file with anything in it", ref)
		}
		return source.NewFile(n.Content, "")
	}
	return b.Opener.File(ctx, ref)
}

// treeOf is what is in a squashfs.
func treeOf(c image.Content) (*tree.Tree, error) {
	r, err := squashfs.Open(c, c.Size())
	if err != nil {
		return nil, err
	}
	return r.Tree()
}

// openParts opens what partitions hold by a person's word.
func (b *builder) openParts(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(b.Parts)) {
		full := name
		if !strings.Contains(name, "/") {
			var found []string
			for _, m := range b.Board.Media {
				if _, err := b.Board.Partition(m.Name + "/" + name); err == nil {
					found = append(found, m.Name+"/"+name)
				}
			}
			if len(found) != 1 {
				return fmt.Errorf("%s has %d partitions %s (%s): say which as MEDIUM/NAME", b.Board.Name, len(found), name, strings.Join(found, ", "))
			}
			full = found[0]
		}
		p, err := b.Board.Partition(full)
		if err != nil {
			return err
		}
		f, err := b.openFile(ctx, b.Parts[name])
		if err != nil {
			return fmt.Errorf("partition %s: %w", name, err)
		}
		b.inputs = append(b.inputs, artifact.Input{Name: "partition " + full, SHA256: f.SHA256, Origin: f.Origin})
		if b.parts[full], err = unsparse(f); err != nil {
			return &source.CorruptError{Name: b.Parts[name], Err: err}
		}
		if size := b.parts[full].Size(); p.Size != 0 && size > int64(p.Size) {
			return fmt.Errorf("%s: %d bytes do not fit in the partition %s, which has %d", b.Parts[name], size, full, int64(p.Size))
		}
	}
	return nil
}

// unsparse is what a file stands for, which may be an Android sparse image.
func unsparse(c image.Content) (image.Content, error) {
	head := make([]byte, 4)
	if n, _ := c.ReadAt(head, 0); n < len(head) || !simg.IsSparse(head) {
		return c, nil
	}
	m, err := simg.Open(c, c.Size())
	if err != nil {
		return nil, err
	}
	return simg.Zeroed(m)
}

// identify derives the build id, and what all identifiers come from, from
// everything that makes a difference but the seed.
func (b *builder) identify(ctx context.Context) error {
	h := sha256.New()
	// All media count, so that those built apart are of one build.
	fmt.Fprintf(h, "imgtool 1\nboard %s\n", layouts.Digest(b.Board.Source))
	for _, m := range b.Board.Media {
		fmt.Fprintf(h, "layout %s\n", layouts.Digest(m.PlacingSource))
		if size := b.Sizes[m.Name]; size != 0 {
			fmt.Fprintf(h, "size %s %d\n", m.Name, size)
		}
		// What was changed of the layout since it was read.
		if was, err := layouts.Parse(m.Layout, m.PlacingSource); err != nil || !reflect.DeepEqual(was, m.Placing) {
			for _, p := range m.Placing.Partitions {
				fmt.Fprintf(h, "partition %d %q %d %q\n", p.Number, p.Name, p.Size, p.Label)
			}
		}
	}
	for _, t := range b.Board.Trees {
		for _, s := range t.Steps {
			fmt.Fprintf(h, "edits %s\n", layouts.Digest(s.Text))
		}
	}
	if len(b.Board.Trees) > 0 {
		fmt.Fprintf(h, "profile %s\nflags %v\n", b.Profile, b.Flags)
	}
	if len(b.Vars) > 0 {
		fmt.Fprintf(h, "vars %q\n", b.Vars)
	}
	if b.EditsText != nil {
		fmt.Fprintf(h, "edits %x\n", sha256.Sum256(b.EditsText))
	}
	if b.Generalize {
		fmt.Fprintln(h, "generalize")
	}
	if b.clamped {
		fmt.Fprintln(h, "clamped")
	}
	fmt.Fprintf(h, "slots %s\ntime %d\nsquashfs %s %d\ncmdline %s\nbuild-id %s\n",
		b.Slots, b.Time, b.codec, b.squashfs().BlockSize, b.Cmdline, b.BuildID)
	for _, in := range b.inputs {
		fmt.Fprintf(h, "input %s %s\n", in.Name, in.SHA256)
	}
	b.digest = h.Sum(nil)
	if b.buildID = b.BuildID; b.buildID == "" {
		b.buildID = hex.EncodeToString(b.digest[:8])
	}
	if b.root == nil {
		return nil
	}
	return b.starter.Stamp(b.Inputs["rootfs"], b.root.Tree, b.buildID)
}

// derived is a hash of what went in and a name.
func (b *builder) derived(name string) []byte {
	sum := sha256.Sum256(append(append([]byte{}, b.digest...), name...))
	return sum[:]
}

func (b *builder) uuid(name string) uuid.UUID { return UUID(b.derived(name)) }

// UUID is one made of a hash: version 8 of RFC 9562, derived our own way.
func UUID(hash []byte) uuid.UUID {
	u := uuid.UUID(hash[:16])
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return u
}

func (b *builder) guid(name string) string { return strings.ToUpper(b.uuid("guid " + name).String()) }

func (b *builder) squashfs() squashfs.Options {
	size := b.BlockSize
	if size == 0 {
		size = 1 << 20
	}
	return squashfs.Options{Compression: b.Compression, BlockSize: size, ModTime: b.Time, Workers: b.Jobs, Cache: b.Cache}
}

// extents are all there is in the image, the squashfs last to be made.
func (b *builder) extents(ctx context.Context, d *disk) ([]image.Extent, error) {
	table := &gpt.Table{GUID: b.guid(d.prefix + "disk"), Size: d.placed.Size, FirstUsable: d.placed.FirstUsable}
	for _, p := range d.placed.Parts {
		if !p.Late {
			table.Parts = append(table.Parts, gpt.Part{Number: p.Number, Name: p.Name, Type: layouts.Types[p.Type], GUID: b.guid(d.prefix + p.Name), Off: p.Off, Len: p.Len})
		}
	}
	extents, err := table.Extents()
	if err != nil {
		return nil, err
	}
	for _, blob := range d.Blobs {
		extents = append(extents, image.Extent{Name: blob.Input, Off: blob.Sector * 512, Content: b.files[blob.Input].Content})
	}
	if extents, err = fillGaps(extents, table.Start()); err != nil {
		return nil, err
	}
	for _, p := range d.placed.Parts {
		if p.Late {
			// The device makes a file system here, and must find none.
			if p.Off < d.placed.Size {
				extents = append(extents, image.Extent{Name: p.Name + "/blank", Off: p.Off, Content: image.Zeros(min(1<<20, d.placed.Size-gpt.TailSize-p.Off))})
			}
			continue
		}
		c, err := b.partition(d, p)
		if err != nil {
			return nil, err
		}
		if c != nil {
			extents = append(extents, image.Extent{Name: p.Name, Off: p.Off, Content: c})
		}
	}
	// Before the long work, see that the rest is right.
	if _, err := image.New(d.placed.Size, extents...); err != nil {
		return nil, err
	}
	var rootfs image.Content
	for _, p := range d.placed.Parts {
		if p.Content != "rootfs" || p.Late || b.parts[d.Name+"/"+p.Name] != nil {
			continue
		}
		if rootfs == nil {
			if rootfs, err = b.rootfs(ctx, d, p); err != nil {
				return nil, err
			}
		}
		if rootfs.Size() > p.Len {
			return nil, tooLarge(p.Name, rootfs.Size(), p.Len)
		}
		extents = append(extents, image.Extent{Name: p.Name, Off: p.Off, Content: rootfs})
	}
	return extents, nil
}

// partition is what is in one that takes no long work; nil is nothing.
func (b *builder) partition(d *disk, p layouts.Part) (image.Content, error) {
	// A nil of another type would not be nil.
	some := func(m *image.Image, err error) (image.Content, error) {
		if err != nil {
			return nil, err
		}
		return m, nil
	}
	if c := b.parts[d.Name+"/"+p.Name]; c != nil {
		if c.Size() > p.Len {
			return nil, fmt.Errorf("%d bytes do not fit in the partition %s, which has %d", c.Size(), p.Name, p.Len)
		}
		return c, nil
	}
	switch p.Content {
	case "boot":
		return some(b.bootVolume(p))
	case "ext4":
		return some(b.ext4(d, p))
	case "swap":
		return some(swap.New(p.Len, b.uuid("swap "+d.prefix+p.Name), p.Label))
	case "input":
		f := b.files[p.Input]
		if f == nil {
			return nil, nil
		}
		c, err := unsparse(f)
		if err != nil {
			return nil, &source.CorruptError{Name: p.Input, Err: err}
		}
		if c.Size() > p.Len {
			return nil, fmt.Errorf("%s: %d bytes do not fit in the partition %s, which has %d", p.Input, c.Size(), p.Name, p.Len)
		}
		return c, nil
	}
	return nil, nil
}

// fillGaps puts zeros between the extents before end, so that nothing stale
// survives there.
func fillGaps(extents []image.Extent, end int64) ([]image.Extent, error) {
	slices.SortFunc(extents, func(a, b image.Extent) int { return int(a.Off/512 - b.Off/512) })
	var gaps []image.Extent
	at := int64(0)
	for i, e := range extents {
		if e.Off >= end {
			break
		}
		if e.Off < at {
			before := extents[i-1]
			return nil, fmt.Errorf("%s ends at byte %d, where %s lies already: %s starts at byte %d (sector %d)", before.Name, before.End(), e.Name, e.Name, e.Off, e.Off/512)
		}
		if e.Off > at {
			gaps = append(gaps, image.Extent{Name: "gap", Off: at, Content: image.Zeros(e.Off - at)})
		}
		at = e.End()
		if at > end {
			return nil, fmt.Errorf("%s ends at byte %d, and the first partition starts at byte %d (sector %d): it is too large", e.Name, at, end, end/512)
		}
	}
	if at < end {
		gaps = append(gaps, image.Extent{Name: "gap", Off: at, Content: image.Zeros(end - at)})
	}
	return append(extents, gaps...), nil
}

// bootVolume is the FAT file system of a boot partition. The seed is its last
// file, so that everything else has the same place without it.
func (b *builder) bootVolume(p layouts.Part) (*image.Image, error) {
	var files []fat.File
	for _, f := range b.Board.Boot {
		files = append(files, fat.File{Path: f.Path, Content: b.files[f.Input].Content})
	}
	if s := b.Board.Script; s.Path != "" {
		text := strings.NewReplacer("@BUILD_ID@", b.buildID, "@SLOT_SELECT@", b.slotSelect()).Replace(strings.TrimLeft(s.Text, "\n"))
		text, err := putCmdline(text, strings.TrimSpace("init=/sbin/init "+b.Cmdline))
		if err != nil {
			return nil, err
		}
		scr, err := uboot.Script(text, b.Time)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Path, err)
		}
		files = append(files, fat.File{Path: s.Path, Content: bytes.NewReader(scr)})
	}
	if b.Seed != nil && p.Slot == "a" {
		files = append(files, fat.File{Path: b.Board.Seed.Path, Content: bytes.NewReader(b.seed)})
	}
	v, err := fat.New(p.Len, fat.Options{Label: p.Label, Serial: binary.LittleEndian.Uint32(b.derived("fat " + p.Name)), Time: b.Time}, files)
	if errors.As(err, new(*fat.FullError)) {
		return nil, fmt.Errorf("%s: %w: give a smaller kernel or initrd, or a larger partition in the layout", p.Name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	return v, nil
}

// slotSelect is what chooses the slot: the starter's root file system marks slots good
// in its own way.
func (b *builder) slotSelect() string {
	by := b.Board.Script.SlotSelect
	if b.Inputs["rootfs"] == starter.Scheme+"rootfs" {
		by = cmp.Or(b.Board.Starter.SlotSelect, by)
	}
	return cmp.Or(by, boards.SlotSelects[0])
}

func tooLarge(part string, size, max int64) error {
	return fmt.Errorf("%s: %s of squashfs do not fit in %s (%d bytes in %d): take something out of the root file system or compress it harder, as with --compression zstd:19",
		part, human(size), human(max), size, max)
}

func human(n int64) string {
	switch {
	case n >= layouts.GiB:
		return fmt.Sprintf("%.2f GiB", float64(n)/layouts.GiB)
	case n >= layouts.MiB:
		return fmt.Sprintf("%.1f MiB", float64(n)/layouts.MiB)
	}
	return fmt.Sprintf("%d bytes", n)
}

// rootfs is the squashfs: the one given, or the tree as one, written to the output
// file at its offset in the image, or to a scratch file.
func (b *builder) rootfs(ctx context.Context, d *disk, p layouts.Part) (image.Content, error) {
	if given := b.root.Squashfs; given != nil {
		r, err := squashfs.Open(given, given.Size())
		var t *tree.Tree
		if err == nil {
			t, err = r.Tree()
		}
		if err != nil {
			return nil, &source.CorruptError{Name: "rootfs", Err: err}
		}
		if b.root.Tree == nil && b.Root == nil {
			b.warnNoInit(t)
		}
		return given, nil
	}
	root, n, first := b.root.Tree.WithoutXattrs(func(name string) bool { return name == tree.ACL || name == tree.DefaultACL })
	if n > 0 {
		b.Warn(fmt.Sprintf("rootfs: access control lists of %d files are left out, for which squashfs has no place: the first is that of %s", n, first))
	}
	b.warnTimes("rootfs", "squashfs", root, squashfsFirst, squashfsLast)
	var out ReaderWriterAt
	at := p.Off
	if b.Output != nil {
		out = b.Output(d.Name)
	}
	inPlace := out != nil
	if !inPlace {
		f, err := compress.NewScratch(b.TempDir, nil)
		if err != nil {
			return nil, fmt.Errorf("rootfs: %w", err)
		}
		b.result.scratch = append(b.result.scratch, f)
		out, at = f, 0
	}
	var total int64
	seen := map[*tree.Inode]bool{}
	for _, n := range root.All() {
		if !seen[n] {
			seen[n] = true
			total += n.Size()
		}
	}
	opt := b.squashfs()
	// They are not held on to here: once it is written, nobody needs them.
	opt.Max, opt.Sums, b.root.Sums = p.Len, b.root.Sums, nil
	size, err := squashfs.Write(ctx, io.NewOffsetWriter(out, at), root, opt, b.Phases.Start("squashfs", total))
	var large *squashfs.TooLargeError
	if errors.As(err, &large) {
		return nil, tooLarge(p.Name, large.Size, large.Max)
	}
	if err != nil {
		return nil, fmt.Errorf("rootfs: %w", err)
	}
	if inPlace {
		d.written = append(d.written, image.Span{Off: at, Len: size})
	}
	return io.NewSectionReader(out, at, size), nil
}

func (b *builder) manifest(d *disk) *artifact.Manifest {
	m := &artifact.Manifest{Board: b.Board.Name, Medium: d.Name, BuildID: b.buildID, Time: b.Time, Floor: d.placed.Floor,
		Cmdline: b.Cmdline, Info: b.Board.Info(d.Name), Inputs: b.inputs}
	if l := d.Placing; l.Disk != 0 && l.Disk == l.MinDisk {
		m.Disk = d.placed.Size
	}
	if b.root != nil && b.root.Squashfs == nil && slices.ContainsFunc(d.placed.Parts, func(p layouts.Part) bool { return p.Content == "rootfs" }) {
		m.Codec = b.codec
	}
	for _, p := range d.placed.Parts {
		part := artifact.Partition{Number: p.Number, Name: p.Name, Type: p.Type, Off: p.Off, Len: p.Len, Late: p.Late, Slot: p.Slot, Boot: p.Content == "boot"}
		if p.Late {
			part.Format = p.Format
		} else {
			part.GUID = b.guid(d.prefix + p.Name)
			part.Fill = p.Size == 0 && d.Placing.MinDisk != d.Placing.Disk
		}
		if t := b.trees[p.Tree]; t != nil && len(b.Board.State.Paths) > 0 && t.Lookup(strings.Trim(b.Board.State.Paths[0], "/")) != nil {
			part.State = b.Board.State.Paths[0]
		}
		m.Partitions = append(m.Partitions, part)
	}
	return m
}
