package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/build"
	"imgtool/image/edit"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/source"
	"imgtool/image/tree/sums"
	"imgtool/layouts"
)

// maxJobs bounds the memory that a mistyped --jobs asks for: each takes up to 30 MB.
const maxJobs = 256

type buildOptions struct {
	board       string
	inputsDir   string
	inputs      []string
	rootfs      string
	output      string
	slots       string
	compression string
	blockSize   string
	cmdline     string
	buildID     string
	seed        seedOptions
	keepOwners  bool
	layout      string
	media       []string
	sizes       []string
	profile     string
	edits       string
	vars        []string
	keepKeys    bool
	parts       []string
	provision   string
	generalize  bool
	jobs        int
	cache       cacheOptions
}

func newBuildCommand(u *ui) *cobra.Command {
	var opt buildOptions
	cmd := &cobra.Command{
		Use:   "build --board NAME|FILE.toml",
		Short: "Build a disk image from a board's definition",
		Long: `Build a disk image from a board's definition. Needs no root.

With no inputs at all, a small starter system is built from Debian's packages.
Otherwise every input the board uses is looked for by its name in --inputs and
taken from --input and --rootfs, which come first.

A reference (REF) is a path, or
  rootfs:/PATH           a file in the root file system
  deb:PACKAGE/PATH       a file in a Debian package of the board's architecture
  starter                the board's default source
and for --rootfs also a folder, a tar (.tar, .gz, .xz, .zst), a squashfs that is
ready, an OCI layout or archive, a docker archive, oci:PATH:NAME or oci:PATH@DIGEST
for one image of several, or docker://HOST/NAME:TAG.

A board with several media gets an image for each: -o photon.img is photon-emmc.img,
photon-sd.img and photon-nvme.img. --medium builds one of them; --size says how large
a disk is that a medium's last partition shall fill.

The image's name decides its form: .img, .img.zst, .img.xz, .img.gz, or .simg for
Android's sparse form. Beside it
lie NAME.manifest.json and NAME.bmap. Times come from SOURCE_DATE_EPOCH, and
files of a later time get that one; scratch files lie in TMPDIR, and take no more than
--max-unpacked for what is unpacked.

What was compressed is kept in a cache (imgtool cache), so that after a small change
little is compressed anew. The image is the same with it and without.`,
		Example: `  imgtool build --board rock64
  imgtool build --board rock64 --inputs ./boot --rootfs rootfs.tar -o x.img.zst
  imgtool build --board ./mine.toml --rootfs docker://localhost:5000/os:1 \
      --input Image=rootfs:/boot/vmlinuz --inputs ./boot --seed config.toml
  imgtool build --board photon-nx --rootfs l4t.tar -o photon.img.zst`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return runBuild(cmd.Context(), opt, u) },
	}
	f := cmd.Flags()
	f.StringVar(&opt.board, "board", "", "a board's name, or the path of its definition")
	f.StringVar(&opt.inputsDir, "inputs", "", "folder with the inputs under the names the board uses")
	f.StringArrayVar(&opt.inputs, "input", nil, "NAME=REF, one input; may be repeated")
	f.StringVar(&opt.rootfs, "rootfs", "", "REF of the root file system")
	f.StringVarP(&opt.output, "output", "o", "", "image to write (default out/BOARD-BUILDID.img.zst)")
	f.StringVar(&opt.slots, "slots", "a", "slots in the image: a, or ab")
	f.StringVar(&opt.compression, "compression", "zstd", "of the root file system: CODEC[:LEVEL]")
	f.StringVar(&opt.blockSize, "block-size", "1MiB", "of the root file system, 4KiB to 1MiB")
	f.StringVar(&opt.cmdline, "cmdline", "", "kernel arguments to add")
	f.StringVar(&opt.buildID, "build-id", "", "build id (default: from the inputs)")
	f.StringVar(&opt.seed.file, "seed", "", "config.toml for the device's first boot")
	opt.seed.addFlags(cmd)
	f.StringVar(&opt.layout, "layout", "", "another layout of the board, such as ab-squashfs")
	f.StringArrayVar(&opt.media, "medium", nil, "build this medium alone; may be repeated")
	f.StringArrayVar(&opt.sizes, "size", nil, "MEDIUM=N, the disk to fill: bytes, or with KiB, MiB, GiB or s for sectors")
	f.StringArrayVar(&opt.parts, "partition", nil, "[MEDIUM/]NAME=REF, what a partition holds, raw or Android sparse; may be repeated")
	f.StringVar(&opt.profile, "profile", "", "production (default) or development, which leaves the lockdown out")
	f.StringVar(&opt.edits, "edits", "", "file of edits of the root file system, see docs/edits.md")
	f.StringArrayVar(&opt.vars, "var", nil, "NAME=TEXT, a variable of the board's edits or of --edits; may be repeated")
	f.BoolVar(&opt.generalize, "generalize", false, "take SSH host keys, machine IDs, random seeds and other data of one unit out of the root file system")
	f.BoolVar(&opt.keepKeys, "keep-registration-keys", false, "leave the unit's registration keys on the recovery card")
	f.StringVar(&opt.provision, "provision-conf", "", "factory_provision.conf with sizes, labels and lists")
	f.IntVar(&opt.jobs, "jobs", 0, "blocks to compress at once (default: as many as there are processors); the image is the same")
	opt.cache.addFlags(cmd)
	f.BoolVar(&opt.keepOwners, "keep-owners", false, "keep the owners of a root file system that is a folder")
	return cmd
}

func runBuild(ctx context.Context, opt buildOptions, u *ui) error {
	begin := time.Now()
	if opt.board == "" {
		return fault.New(fault.Usage, "say which board: --board NAME, one of %s, or --board ./FILE.toml", strings.Join(boards.Names(), ", "))
	}
	board, err := loadLayout(opt.board, opt.layout)
	if err != nil {
		return err
	}
	if opt.output != "" {
		if _, err := artifact.FormatOf(opt.output); err != nil {
			return fault.As(fault.Usage, err)
		}
	}
	if opt.jobs < 0 || opt.jobs > maxJobs {
		return fault.New(fault.Usage, "--jobs %d: it must be 1 to %d, or 0 for as many as there are processors", opt.jobs, maxJobs)
	}
	if err := checkOutputs(opt, board); err != nil {
		return err
	}
	when, clamp, err := sourceDate()
	if err != nil {
		return err
	}
	o := build.Options{Board: board, Slots: opt.slots, Compression: opt.compression, Cmdline: opt.cmdline, BuildID: opt.buildID,
		Time: when, Clamp: clamp, TempDir: os.Getenv("TMPDIR"), Warn: u.warn, Phases: u.phases}
	o.Media, o.Profile, o.Generalize = opt.media, opt.profile, opt.generalize
	if o.Sizes, err = parseSizes(opt.sizes); err != nil {
		return err
	}
	if o.Vars, err = parsePairs("--var", opt.vars); err != nil {
		return err
	}
	if o.Parts, err = parsePairs("--partition", opt.parts); err != nil {
		return err
	}
	if opt.keepKeys {
		o.Flags = map[string]bool{"keep-registration-keys": true}
	}
	if opt.edits != "" {
		if o.EditsText, err = hostfile.ReadStream(opt.edits, hostfile.Text); err == nil {
			o.Edits, err = edit.Parse(opt.edits, o.EditsText)
		}
		if err != nil {
			return fmt.Errorf("edits: %w", err)
		}
	}
	if opt.provision != "" {
		if err := applyConf(&o, opt.provision, u); err != nil {
			return err
		}
	}
	if o.BlockSize, err = parseBlockSize(opt.blockSize); err != nil {
		return err
	}
	if o.Inputs, err = gatherInputs(opt, board); err != nil {
		return err
	}
	if opt.output != "" {
		refs := []string{opt.seed.file, opt.seed.values, opt.board}
		for _, ref := range o.Inputs {
			refs = append(refs, ref)
		}
		for _, ref := range refs {
			a, err1 := os.Stat(ref)
			b, err2 := os.Stat(opt.output)
			if err1 == nil && err2 == nil && os.SameFile(a, b) {
				return fault.New(fault.Usage, "%s is an input and would be written over: give another name with -o", opt.output)
			}
		}
	}
	if opt.seed.given() {
		if o.Seed, err = opt.seed.read(); err != nil {
			return err
		}
	}
	o.Jobs = opt.jobs
	kept, keep, err := opt.cache.open(u)
	if err != nil {
		return err
	}
	var memo *sums.Memo
	if kept != nil {
		o.Cache = kept
		memo = sums.OpenMemo(kept)
	}
	settled := sync.OnceFunc(func() {
		memo.Save()
		settle(kept, keep, u)
	})
	defer settled()
	packages, err := userCache()
	if err != nil {
		packages = "" // packages are fetched again each time
	}
	o.Opener = source.NewOpener(source.Options{Arch: board.Arch, KeepOwners: opt.keepOwners, ModTime: when, Clamp: clamp,
		CacheDir: packages, TempDir: o.TempDir, Memo: memo, Unpacked: &u.unpacked, Warn: u.warn})
	defer o.Opener.Close()

	if len(o.Inputs) == 0 && len(board.Inputs()) > 0 {
		u.say("no inputs given: building a small starter system from Debian's packages")
	}
	imagePath := func(medium string) string {
		if opt.output != "" && len(board.Media) > 1 {
			return withMedium(opt.output, medium)
		}
		return opt.output
	}
	files := map[string]*artifact.RawFile{} // by medium
	o.Output = func(medium string) build.ReaderWriterAt {
		path := imagePath(medium)
		if format, err := artifact.FormatOf(path); err != nil || format != artifact.Raw {
			return nil
		}
		f, err := artifact.CreateRaw(path)
		if err != nil {
			return nil // Save reports it
		}
		files[medium] = f
		return f
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	r, err := build.Build(ctx, o)
	if err != nil {
		return explain(err, board)
	}
	defer r.Close()
	// Nothing more is compressed, and an image is waited for.
	go settled()

	type built struct {
		Path     string `json:"path"`
		Manifest string `json:"manifest"`
		Bmap     string `json:"bmap"`
		Board    string `json:"board"`
		Medium   string `json:"medium"`
		BuildID  string `json:"build_id"`
		Size     int64  `json:"size"`
		Content  int64  `json:"content"`
		FileSize int64  `json:"file_size"`
	}
	var all []built
	for _, img := range r.Images {
		if opt.output == "" {
			opt.output = filepath.Join("out", fmt.Sprintf("%s-%s.img.zst", board.Name, img.Manifest.BuildID))
			if err := os.MkdirAll("out", 0o777); err != nil {
				return err
			}
		}
		path := imagePath(img.Manifest.Medium)
		img.Manifest.Private = o.Seed != nil
		if f := files[img.Manifest.Medium]; f != nil {
			err = f.Save(ctx, img.Image, img.Written, img.Manifest, u.phases)
		} else {
			err = artifact.Save(ctx, path, img.Image, img.Manifest, u.phases)
		}
		if err != nil {
			return err
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		all = append(all, built{path, artifact.ManifestPath(path), artifact.BmapPath(path), img.Manifest.Board, img.Manifest.Medium,
			img.Manifest.BuildID, img.Size(), img.ContentSize(), info.Size()})
		if u.json {
			continue
		}
		size := human(info.Size())
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Blocks*512 < info.Size() {
			size = human(st.Blocks*512) + " on disk"
		}
		name := board.Name
		if len(board.Media) > 1 {
			name += " " + img.Manifest.Medium
		}
		u.say("%s build %s: %s image with %s of content, a file of %s, in %s", name, img.Manifest.BuildID,
			human(img.Size()), human(img.ContentSize()), size, time.Since(begin).Round(100*time.Millisecond))
		for _, e := range partitionSizes(img.Image, img.Manifest) {
			u.say("  %s", e)
		}
		if err := u.printf("%s\n", path); err != nil {
			return err
		}
	}
	if !u.json {
		return nil
	}
	u.endPhase()
	if len(board.Media) == 1 {
		return u.print(all[0])
	}
	return u.print(all)
}

// checkOutputs says why an image, or a scratch file, cannot be written, before anything is
// built. It makes nothing.
func checkOutputs(opt buildOptions, board *boards.Board) error {
	if err := hostfile.CheckOutput(filepath.Join(os.TempDir(), "imgtool-scratch")); err != nil {
		return fmt.Errorf("scratch files go to TMPDIR: %w", err)
	}
	if opt.output == "" {
		if _, err := os.Stat("out"); errors.Is(err, fs.ErrNotExist) {
			return hostfile.CheckOutput("out")
		}
		return hostfile.CheckOutput(filepath.Join("out", board.Name+".img.zst"))
	}
	images := []string{opt.output}
	if len(board.Media) > 1 {
		images = nil
		for _, medium := range board.MediaNames() {
			if len(opt.media) == 0 || slices.Contains(opt.media, medium) {
				images = append(images, withMedium(opt.output, medium))
			}
		}
	}
	for _, path := range images {
		for _, file := range []string{path, artifact.ManifestPath(path), artifact.BmapPath(path)} {
			if err := hostfile.CheckOutput(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// withMedium puts the name of a medium before the ending of an image's name.
func withMedium(path, medium string) string {
	base, suffix, _ := artifact.Split(path)
	return base + "-" + medium + suffix
}

// loadLayout loads a board with another of its layouts, or its own.
func loadLayout(name, layout string) (*boards.Board, error) {
	if layout == "" {
		return loadBoard(name)
	}
	others := boards.Layouts(name)
	if !slices.Contains(others, layout) {
		if len(others) == 0 {
			return nil, fault.New(fault.Usage, "%s has no other layout", name)
		}
		return nil, fault.New(fault.Usage, "%s has no layout %q; it has %s", name, layout, strings.Join(others, ", "))
	}
	return boards.Get(name + "." + layout)
}

func parsePairs(flag string, list []string) (map[string]string, error) {
	pairs := map[string]string{}
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, fault.New(fault.Usage, "%s %q: it must be NAME=VALUE", flag, text)
		}
		pairs[name] = value
	}
	return pairs, nil
}

func parseSizes(list []string) (map[string]int64, error) {
	pairs, err := parsePairs("--size", list)
	if err != nil {
		return nil, err
	}
	sizes := map[string]int64{}
	for name, text := range pairs {
		var size layouts.Bytes
		if err := size.UnmarshalText([]byte(text)); err != nil || size%512 != 0 || size == 0 {
			return nil, fault.New(fault.Usage, "--size %s=%s: it must be whole sectors, such as 16000000000 or 31116288s", name, text)
		}
		sizes[name] = int64(size)
	}
	return sizes, nil
}

// sourceDate is the time that all that is made has, and whether later times of files
// become that one.
func sourceDate() (when int64, clamp bool, err error) {
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if epoch == "" {
		return build.DefaultTime, false, nil
	}
	when, err = strconv.ParseInt(epoch, 10, 64)
	if err != nil || when < 0 || when > 1<<32-1 {
		return 0, false, fault.New(fault.Usage, "SOURCE_DATE_EPOCH is %q; it must be seconds since 1970, up to %d", epoch, int64(1<<32-1))
	}
	return when, true, nil
}

// partitionSizes says how full each partition of an image is.
func partitionSizes(img *image.Image, m *artifact.Manifest) []string {
	var lines []string
	wide := 10
	for _, p := range m.Partitions {
		wide = max(wide, len(p.Name))
	}
	for _, p := range m.Partitions {
		if p.Late {
			lines = append(lines, fmt.Sprintf("%2d %-*s made by the device on its first boot", p.Number, wide, p.Name))
			continue
		}
		var n int64
		for s := range img.Spans() {
			n += max(0, min(s.End(), p.Off+p.Len)-max(s.Off, p.Off))
		}
		lines = append(lines, fmt.Sprintf("%2d %-*s %s of %s", p.Number, wide, p.Name, human(n), human(p.Len)))
	}
	return lines
}

// loadBoard returns a built-in board, or reads a definition from a path.
func loadBoard(name string) (*boards.Board, error) {
	if !strings.HasSuffix(name, ".toml") && !strings.ContainsRune(name, filepath.Separator) {
		return boards.Get(name)
	}
	text, err := hostfile.ReadStream(name, hostfile.Text)
	if err != nil {
		return nil, fmt.Errorf("board definition: %w", err)
	}
	return boards.Parse(name, text, hostfile.DirFS(filepath.Dir(name)))
}

func parseBlockSize(s string) (int, error) {
	for _, n := range []int{4, 8, 16, 32, 64, 128, 256, 512, 1024} {
		if s == fmt.Sprintf("%dKiB", n) || s == fmt.Sprintf("%dK", n) || s == strconv.Itoa(n<<10) || n == 1024 && (s == "1MiB" || s == "1M") {
			return n << 10, nil
		}
	}
	return 0, fmt.Errorf("block size %q: it must be a power of two from 4KiB to 1MiB", s)
}

// gatherInputs is where each input comes from. Nothing given is nothing.
func gatherInputs(opt buildOptions, board *boards.Board) (map[string]string, error) {
	refs := map[string]string{}
	if opt.inputsDir != "" {
		info, err := os.Stat(opt.inputsDir)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is no folder", opt.inputsDir)
		}
		if err != nil {
			return nil, fmt.Errorf("inputs: %w", err)
		}
		for _, name := range board.Inputs() {
			for _, suffix := range inputSuffixes(name) {
				path := filepath.Join(opt.inputsDir, name+suffix)
				if _, err := os.Lstat(path); err == nil && refs[name] == "" {
					refs[name] = path
				}
			}
		}
	}
	for _, in := range opt.inputs {
		name, ref, ok := strings.Cut(in, "=")
		if !ok || name == "" || ref == "" {
			return nil, fault.New(fault.Usage, "--input %s: write it as NAME=REF", in)
		}
		refs[name] = ref
	}
	if opt.rootfs != "" {
		refs["rootfs"] = opt.rootfs
	}
	if len(refs) == 0 && opt.inputsDir != "" {
		return nil, fmt.Errorf("%s has none of the inputs %s uses: %s", opt.inputsDir, board.Name, strings.Join(board.Inputs(), ", "))
	}
	return refs, nil
}

// inputSuffixes are what a root file system's name may end in.
func inputSuffixes(name string) []string {
	if name != "rootfs" {
		return []string{""}
	}
	return []string{"", ".tar", ".tar.zst", ".tar.xz", ".tar.gz", ".squashfs"}
}

// explain adds what to do to an error of a build.
func explain(err error, board *boards.Board) error {
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
		return fault.WithHint(err, "put them into the folder of --inputs under these names, or pass %s; REF may be starter for the board's default source", strings.Join(flags, " "))
	}
	var noApt *source.NoAptError
	if errors.As(err, &noApt) {
		return fault.WithHint(err, "pass the inputs instead: --inputs DIR with %s", strings.Join(board.Inputs(), ", "))
	}
	return err
}
