package volume

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"imgtool/image"
	"imgtool/image/compress"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/remote"
)

// sumsName is the file of SHA-256 sums in the directory of an image.
const sumsName = "SHA256SUMS"

// maxSums is the size of the largest such file, in bytes.
const maxSums = 16 << 20

// fetchChecked fetches the whole file into a scratch file and compares its SHA-256, if one is
// given, so that nothing is done with a file that is not the right one. Then it is as a local file.
func (s *Source) fetchChecked(ctx context.Context) (err error) {
	want, origin := "", ""
	if s.opt.SHA256 != "" || s.opt.Sums {
		if want, origin, err = s.expected(ctx); err != nil {
			return err
		}
	}
	r, err := s.remote.Stream(ctx, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	s.opt.Reporter.Infof("%s: it is fetched into a scratch file first, to check it", s.Name)
	if err := s.spool(ctx, r, want, origin); err != nil {
		return err
	}
	return s.loadURL(ctx)
}

// spoolStdin does the same for standard input.
func (s *Source) spoolStdin(ctx context.Context, r io.Reader) error {
	if s.opt.Sums {
		return fault.New(fault.Usage, "standard input has no %s beside it: use --sha256", sumsName)
	}
	if err := s.spool(ctx, hostfile.NewReader(s.Name, r), s.opt.SHA256, "--sha256"); err != nil {
		return err
	}
	return s.load()
}

// spool copies a stream into a scratch file, which becomes the file of the source if its
// SHA-256 is as expected, if that is given.
func (s *Source) spool(ctx context.Context, r io.Reader, want, origin string) error {
	f, err := compress.NewScratch("", s.opt.Scratch)
	if err != nil {
		return err
	}
	phase := "fetching"
	if s.Archive {
		phase = "unpacking"
	}
	h := sha256.New()
	in := image.NewReader(ctx, r, s.opt.Reporter.Phase(phase, max(0, s.size)))
	_, err = io.CopyBuffer(io.MultiWriter(f, h), in, make([]byte, 1<<20))
	s.opt.Reporter.EndPhase()
	if err == nil && want != "" {
		err = compareSum(h.Sum(nil), want, origin)
	}
	if err == nil {
		s.Info, err = f.File().Stat()
	}
	if large, ok := errors.AsType[*compress.TooLargeError](err); ok {
		err = fmt.Errorf("it has more bytes than the %d that --max-unpacked allows for scratch files: give a larger limit", large.Max)
	}
	if err != nil {
		f.Close()
		return err
	}
	s.File, s.size = f.File(), f.Size()
	return nil
}

// checkSum compares the SHA-256 of a local file.
func (s *Source) checkSum(ctx context.Context) error {
	want, origin, err := s.expected(ctx)
	if err != nil {
		return err
	}
	h := sha256.New()
	in := image.NewReader(ctx, s.contents(), s.opt.Reporter.Phase("comparing its SHA-256", s.size))
	_, err = io.CopyBuffer(h, in, make([]byte, 1<<20))
	s.opt.Reporter.EndPhase()
	if err != nil {
		return err
	}
	return compareSum(h.Sum(nil), want, origin)
}

func compareSum(got []byte, want, origin string) error {
	if hex.EncodeToString(got) != strings.ToLower(want) {
		return corrupt("its SHA-256 is %x, %s says %s: it is damaged, or another file", got, origin, want)
	}
	return nil
}

// expected returns the SHA-256 that the file should have, and where it is from.
func (s *Source) expected(ctx context.Context) (sum, origin string, err error) {
	if s.opt.SHA256 != "" {
		return s.opt.SHA256, "--sha256", nil
	}
	var text []byte
	base := filepath.Base(s.Name)
	if s.remote != nil {
		base = s.remote.Base()
		origin = remote.Name(s.Name[:strings.LastIndexByte(s.Name, '/')+1] + sumsName)
		text, err = s.remote.InDirectory(ctx, sumsName, maxSums)
		if status, ok := errors.AsType[*remote.StatusError](err); ok && status.Missing() {
			err = fs.ErrNotExist
		}
	} else {
		origin = filepath.Join(filepath.Dir(s.Name), sumsName)
		text, err = hostfile.ReadFile(origin, maxSums)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", fault.New(fault.Input, "--sha256sums: there is no %s", origin)
	}
	if err != nil {
		return "", "", err
	}
	sums := findSums(text, base)
	switch len(sums) {
	case 0:
		return "", "", fault.New(fault.Input, "--sha256sums: %s has no line for %s", origin, base)
	case 1:
		return sums[0], origin, nil
	}
	return "", "", fault.New(fault.Input, "--sha256sums: %s has different sums for %s, such as %s and %s", origin, base, sums[0], sums[1])
}

// sumLine matches the lines of sha256sum, of sha256sum --tag and of openssl dgst.
var sumLine = regexp.MustCompile(`^(?:([0-9A-Fa-f]{64})[ \t]+\*?(.+)|SHA(?:2-)?256 ?\((.+)\) ?= ([0-9A-Fa-f]{64}))$`)

// findSums returns the different sums of the file with a name. If there are none, it returns those
// of files with this name in other directories: sums are often made one directory higher.
func findSums(text []byte, name string) []string {
	var here, elsewhere []string
	for line := range strings.Lines(strings.TrimPrefix(string(text), "\ufeff")) {
		m := sumLine.FindStringSubmatch(strings.TrimRight(line, "\r\n"))
		if m == nil {
			continue
		}
		sum := strings.ToLower(cmp.Or(m[1], m[4]))
		switch listed := path.Clean(cmp.Or(m[2], m[3])); {
		case listed == name:
			here = append(here, sum)
		case path.Base(listed) == name:
			elsewhere = append(elsewhere, sum)
		}
	}
	if len(here) == 0 {
		here = elsewhere
	}
	slices.Sort(here)
	return slices.Compact(here)
}
