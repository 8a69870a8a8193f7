// Package job is a build as a command line describes it: it checks the request, builds the images
// and saves them.
package job

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"imgtool/boards"
	"imgtool/image/artifact"
	"imgtool/image/build"
	"imgtool/image/edit"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/source"
	"imgtool/layouts"
)

// maxJobs bounds the memory that a mistyped --jobs takes: each job needs up to 30 MB.
const maxJobs = 256

// Request is a build as a command line describes it: boards and files by their names, lists
// as NAME=VALUE.
type Request struct {
	Board         string // a name or the path of a definition
	Layout        string // another layout of a built-in board; empty: its own
	InputsDir     string // directory with inputs under the names that the board uses
	Inputs        []string
	Rootfs        string
	Output        string   // empty: a name in out/
	Keep          []string // more files that are read and must not be overwritten
	Media         []string
	Sizes         []string
	Vars          []string
	Parts         []string
	Profile       string
	Slots         string
	Compression   string
	BlockSize     string
	Align         bool   // begin blocks of the squashfs at multiples of 4 KiB
	Like          string // an earlier image
	Cmdline       string
	BuildID       string
	Edits         string // file of edits
	ProvisionConf string // factory_provision.conf
	Generalize    bool
	KeepKeys      bool // leave registration keys on the recovery card
	KeepOwners    bool
	Jobs          int
	SBOM          bool
	Provenance    bool
	ImageSHA256   bool   // state the SHA-256 of the decompressed image, too
	Version       string // of imgtool
}

// Job is a checked request. Seed may be set before [Job.Run].
type Job struct {
	build.Options
	output      string
	keepOwners  bool
	imageSHA256 bool
	private     bool // the image has parts of an earlier image that only its owner can read
}

// Prepare checks a request, and that its outputs can be written. It writes nothing.
func Prepare(r Request, warn func(string)) (*Job, error) {
	board, err := boards.LoadLayout(r.Board, r.Layout)
	if err != nil {
		return nil, err
	}
	if r.Output != "" {
		if _, err := artifact.FormatOf(r.Output); err != nil {
			return nil, fault.As(fault.Usage, err)
		}
	}
	if r.Jobs < 0 || r.Jobs > maxJobs {
		return nil, fault.New(fault.Usage, "--jobs %d: it must be 1 to %d, or 0 for as many as there are processors", r.Jobs, maxJobs)
	}
	j := &Job{output: r.Output, keepOwners: r.KeepOwners, imageSHA256: r.ImageSHA256, Options: build.Options{Board: board, Media: r.Media, Slots: r.Slots, Profile: r.Profile,
		Compression: r.Compression, Packed: !r.Align, Like: r.Like, Cmdline: r.Cmdline, BuildID: r.BuildID, Generalize: r.Generalize, Jobs: r.Jobs, TempDir: os.Getenv("TMPDIR"), Warn: warn,
		SBOM: r.SBOM, Provenance: r.Provenance, Version: r.Version}}
	if err := j.checkOutputs(); err != nil {
		return nil, err
	}
	if j.Time, j.Clamp, err = SourceDate(); err != nil {
		return nil, err
	}
	if err := j.parse(r); err != nil {
		return nil, err
	}
	if j.Inputs, err = r.gatherInputs(board); err != nil {
		return nil, err
	}
	if err := j.checkOptions(); err != nil {
		return nil, err
	}
	return j, j.checkOverwrite(append(r.Keep, r.Board))
}

// checkOptions checks the options, before anything else is done.
func (j *Job) checkOptions() error {
	if err := build.Check(j.Options); err != nil {
		return withHint(err, j.Board)
	}
	return cmp.Or(missing("", j.Inputs), missing("partition ", j.Parts))
}

// missing returns the error of the first reference to a file that does not exist.
func missing(what string, refs map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		ref := refs[name]
		if ref == "starter" || strings.HasPrefix(ref, "rootfs:") || !source.IsPath(ref) {
			continue
		}
		if _, err := os.Stat(ref); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s%s: %w", what, name, cmp.Or(source.CheckScheme(ref), err))
		}
	}
	return nil
}

// parse sets the options that are texts or files.
func (j *Job) parse(r Request) (err error) {
	if j.Sizes, err = parseSizes(r.Sizes); err != nil {
		return err
	}
	if j.Vars, err = parsePairs("--var", r.Vars); err != nil {
		return err
	}
	if j.Parts, err = parsePairs("--partition", r.Parts); err != nil {
		return err
	}
	if r.KeepKeys {
		j.Flags = map[string]bool{"keep-registration-keys": true}
	}
	if r.Edits != "" {
		if j.EditsText, err = hostfile.ReadStream(r.Edits, hostfile.Text); err == nil {
			j.Edits, err = edit.Parse(r.Edits, j.EditsText)
		}
		if err != nil {
			return fmt.Errorf("edits: %w", err)
		}
	}
	if r.ProvisionConf != "" {
		if err := j.ApplyConf(r.ProvisionConf); err != nil {
			return err
		}
	}
	j.BlockSize, err = ParseBlockSize("--block-size", r.BlockSize)
	return err
}

// SourceDate returns the time of everything that is made, in seconds since 1970: the value of
// SOURCE_DATE_EPOCH, or [build.DefaultTime]. With clamp, later times of files become this one.
func SourceDate() (when int64, clamp bool, err error) {
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

func parsePairs(flag string, list []string) (map[string]string, error) {
	pairs := map[string]string{}
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, fault.New(fault.Usage, "%s %q: it must be NAME=VALUE", flag, text)
		}
		if _, again := pairs[name]; again {
			return nil, fault.New(fault.Usage, "%s %s is given twice", flag, name)
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

// ParseBlockSize returns the size of the blocks of a squashfs, which a flag gives.
func ParseBlockSize(flag, s string) (int, error) {
	for _, n := range []int{4, 8, 16, 32, 64, 128, 256, 512, 1024} {
		if s == fmt.Sprintf("%dKiB", n) || s == fmt.Sprintf("%dK", n) || s == strconv.Itoa(n<<10) || n == 1024 && (s == "1MiB" || s == "1M") {
			return n << 10, nil
		}
	}
	return 0, fault.New(fault.Usage, "%s is %q; it must be a power of two from 4KiB to 1MiB", flag, s)
}

// gatherInputs returns where each input comes from, or nothing if none is given. Inputs
// that are named come before those in the directory.
func (r *Request) gatherInputs(board *boards.Board) (map[string]string, error) {
	refs := map[string]string{}
	if r.InputsDir != "" {
		info, err := os.Stat(r.InputsDir)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is not a directory", r.InputsDir)
		}
		if err != nil {
			return nil, fmt.Errorf("inputs: %w", err)
		}
		for _, name := range board.Inputs() {
			for _, suffix := range inputSuffixes(name) {
				path := filepath.Join(r.InputsDir, name+suffix)
				if _, err := os.Lstat(path); err == nil && refs[name] == "" {
					refs[name] = path
				}
			}
		}
	}
	named := map[string]bool{}
	for _, in := range r.Inputs {
		name, ref, _ := strings.Cut(in, "=")
		if name == "" || ref == "" {
			return nil, fault.New(fault.Usage, "--input %s: write it as NAME=REF", in)
		}
		if named[name] {
			return nil, fault.New(fault.Usage, "--input %s is given twice", name)
		}
		refs[name], named[name] = ref, true
	}
	if r.Rootfs != "" {
		if named["rootfs"] {
			return nil, fault.New(fault.Usage, "--rootfs and --input rootfs are the same input: give one of them")
		}
		refs["rootfs"] = r.Rootfs
	}
	if len(refs) == 0 && r.InputsDir != "" {
		return nil, fmt.Errorf("%s has none of the inputs %s uses: %s", r.InputsDir, board.Name, strings.Join(board.Inputs(), ", "))
	}
	return refs, nil
}

// inputSuffixes returns the endings that a file with an input may have.
func inputSuffixes(name string) []string {
	if name != "rootfs" {
		return []string{""}
	}
	return []string{"", ".tar", ".tar.zst", ".tar.xz", ".tar.gz", ".squashfs"}
}

// checkOverwrite refuses an output that is also an input.
func (j *Job) checkOverwrite(files []string) error {
	out, err := os.Stat(j.output)
	if err != nil {
		return nil // it does not exist, or has no name yet
	}
	for _, file := range slices.AppendSeq(files, maps.Values(j.Inputs)) {
		if in, err := os.Stat(file); err == nil && os.SameFile(in, out) {
			return fault.New(fault.Usage, "%s is an input and would be overwritten: give another name with -o", j.output)
		}
	}
	return nil
}
