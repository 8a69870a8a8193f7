package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/build"
	"imgtool/image/cache"
	"imgtool/image/compress"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/progress"
	"imgtool/image/source"
	"imgtool/image/tree/sums"
	"imgtool/image/volume"
)

// File is an image that was built and saved.
type File struct {
	Path     string `json:"path"`
	Manifest string `json:"manifest"` // its path
	Bmap     string `json:"bmap"`     // its path
	Board    string `json:"board"`
	Medium   string `json:"medium"`
	BuildID  string `json:"build_id"`
	Size     int64  `json:"size"`      // of the image, in bytes
	Content  int64  `json:"content"`   // of it, what is written
	FileSize int64  `json:"file_size"` // of the file

	SHA256      string `json:"sha256,omitempty"`       // of the file
	ImageSHA256 string `json:"image_sha256,omitempty"` // of the image, decompressed
	SBOM        string `json:"sbom,omitempty"`         // its path
	Provenance  string `json:"provenance,omitempty"`   // its path

	Allocated  int64       `json:"-"` // of the file, on its disk
	Partitions []Partition `json:"-"`
}

// Partition describes how full a partition is.
type Partition struct {
	Number   int
	Name     string
	Len      int64
	Used     int64
	Deferred bool // made by the device on its first boot
}

// Run builds the images and saves each, with its manifest and block map. It calls saved
// after each. blocks is the cache of compressed blocks, or nil; Run settles it.
func (j *Job) Run(ctx context.Context, blocks *cache.Dir, scratch *compress.Budget, r progress.Reporter, saved func(File) error) error {
	files := map[string]*artifact.RawFile{} // by medium
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	j.Output = func(medium string) build.ReaderWriterAt {
		path := j.path(medium)
		if format, err := artifact.FormatOf(path); err != nil || format != artifact.Raw {
			return nil
		}
		f, err := artifact.CreateRaw(path)
		if err != nil {
			return nil // save reports it
		}
		files[medium] = f
		return f
	}
	return j.Images(ctx, blocks, scratch, r, func(img build.Image) error {
		file, err := j.save(ctx, img, files[img.Manifest.Medium])
		if err == nil {
			err = saved(file)
		}
		return err
	})
}

// Images builds the images and calls use with each, as [Job.Run] does, but saves none.
func (j *Job) Images(ctx context.Context, blocks *cache.Dir, scratch *compress.Budget, r progress.Reporter, use func(build.Image) error) error {
	warn := func(text string) { r.Warnf("%s", text) }
	j.Warn, j.Phases = warn, r.Phase
	j.Info = func(text string) { r.Infof("%s", text) }
	j.Volume = volume.Options{Scratch: scratch, Reporter: r, Context: ctx}
	var memo *sums.Memo
	if blocks != nil {
		j.Cache = blocks
		memo = sums.OpenMemo(blocks)
	}
	settle := sync.OnceFunc(func() {
		memo.Save()
		blocks.Settle(warn)
	})
	defer settle()
	packages, err := cache.UserDir()
	if err != nil {
		packages = "" // packages are fetched each time
	}
	j.Opener = source.NewOpener(source.Options{Arch: j.Board.Arch, KeepOwners: j.keepOwners, ModTime: j.Time, Clamp: j.Clamp,
		CacheDir: packages, TempDir: j.TempDir, Memo: memo, Unpacked: scratch, Warn: warn})
	defer j.Opener.Close()
	if err := j.checkOptions(); err != nil {
		return err
	}
	if len(j.Inputs) == 0 && len(j.Board.Starter.Inputs) > 0 {
		r.Infof("no inputs given: building a small starter system from Debian's packages")
	}
	result, err := build.Build(ctx, j.Options)
	if err != nil {
		return withHint(err, j.Board)
	}
	defer result.Close()
	result.Remember(blocks)
	// Everything is compressed: update the cache while the images are written.
	go settle()
	j.private = result.Private
	for _, img := range result.Images {
		if err := use(img); err != nil {
			return err
		}
	}
	return nil
}

// save writes one image, to raw if it is not nil.
func (j *Job) save(ctx context.Context, img build.Image, raw *artifact.RawFile) (File, error) {
	m := img.Manifest
	if j.output == "" {
		j.output = filepath.Join("out", fmt.Sprintf("%s-%s.img.zst", j.Board.Name, m.BuildID))
		if err := os.MkdirAll("out", 0o777); err != nil {
			return File{}, err
		}
	}
	path := j.path(m.Medium)
	m.Private = j.Seed != nil || j.private
	opt := artifact.Options{Phases: j.Phases, ImageSHA256: j.imageSHA256, Documents: documents(img), Raw: raw, Written: img.Written}
	saved, err := opt.Save(ctx, path, img.Image, m)
	if err != nil {
		return File{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return File{}, err
	}
	file := File{Path: path, Manifest: artifact.ManifestPath(path), Bmap: artifact.BmapPath(path), Board: m.Board, Medium: m.Medium, BuildID: m.BuildID,
		SHA256: saved.SHA256, ImageSHA256: m.ImageSHA256, Size: img.Size(), Content: img.ContentSize(), FileSize: info.Size(), Allocated: info.Size(), Partitions: partitions(img.Image, m)}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		file.Allocated = st.Blocks * 512
	}
	if format, err := artifact.FormatOf(path); err == nil && format == artifact.Raw {
		file.ImageSHA256 = saved.SHA256
	}
	return file, j.nameDocuments(img, &file)
}

// partitions returns how full each partition is.
func partitions(img *image.Image, m *artifact.Manifest) (all []Partition) {
	for _, p := range m.Partitions {
		part := Partition{Number: p.Number, Name: p.Name, Len: p.Len, Deferred: p.Late}
		for s := range img.Spans() {
			part.Used += max(0, min(s.End(), p.Off+p.Len)-max(s.Off, p.Off))
		}
		all = append(all, part)
	}
	return all
}

func (j *Job) path(medium string) string {
	if j.output != "" && len(j.Board.Media) > 1 {
		return artifact.MediumPath(j.output, medium)
	}
	return j.output
}

// checkOutputs checks, without making a file, that images and scratch files can be written.
func (j *Job) checkOutputs() error {
	if err := hostfile.CheckOutput(filepath.Join(os.TempDir(), "imgtool-scratch")); err != nil {
		return fmt.Errorf("scratch files go to TMPDIR: %w", err)
	}
	if j.output == "" {
		if _, err := os.Stat("out"); errors.Is(err, fs.ErrNotExist) {
			return hostfile.CheckOutput("out")
		}
		return hostfile.CheckOutput(filepath.Join("out", j.Board.Name+".img.zst"))
	}
	for _, medium := range j.Board.MediaNames() {
		if len(j.Media) > 0 && !slices.Contains(j.Media, medium) {
			continue
		}
		path := j.path(medium)
		files := []string{path, artifact.ManifestPath(path), artifact.BmapPath(path)}
		if j.SBOM {
			files = append(files, artifact.SBOMPath(path))
		}
		if j.Provenance {
			files = append(files, artifact.ProvenancePath(path))
		}
		for _, file := range files {
			if err := hostfile.CheckOutput(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// withHint adds to the error of a build what to do about it.
func withHint(err error, board *boards.Board) error {
	var missing *build.MissingInputsError
	if errors.As(err, &missing) {
		var flags []string
		for _, name := range missing.Names {
			if name == "rootfs" {
				flags = append(flags, "--rootfs REF")
			} else {
				flags = append(flags, "--input "+name+"=REF")
			}
		}
		hint := "put them into the directory of --inputs under these names, or pass " + strings.Join(flags, " ")
		if len(board.Starter.Inputs) > 0 {
			hint += "; REF may be starter for the board's default source"
		}
		return fault.WithHint(err, "%s", hint)
	}
	if errors.As(err, new(*source.NoAptError)) {
		return fault.WithHint(err, "pass the inputs instead: --inputs DIR with %s", strings.Join(board.Inputs(), ", "))
	}
	return err
}
