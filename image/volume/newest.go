package volume

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
)

// outDir is where builds write images by default.
const outDir = "out"

// Newest returns the latest image in out/. It refuses to choose among the images that
// one build made for several media. usage is how the user names another image, for
// errors.
func Newest(usage string) (string, error) {
	var newest string
	var latest fs.FileInfo
	for _, pattern := range []string{"*.img", "*.img.zst", "*.img.xz", "*.img.gz", "*.simg"} {
		files, _ := filepath.Glob(filepath.Join(outDir, pattern))
		for _, f := range files {
			if info, err := os.Stat(f); err == nil && info.Mode().IsRegular() && (latest == nil || info.ModTime().After(latest.ModTime())) {
				newest, latest = f, info
			}
		}
	}
	if newest == "" {
		return "", fault.New(fault.Usage, "there is no image in out/: name one with %s, or build one with imgtool build", usage)
	}
	all := sameBuild(newest)
	if len(all) > 1 {
		return "", fault.New(fault.Usage, "the newest build in out/ has several images, %s: choose one with %s", strings.Join(all, ", "), usage)
	}
	return newest, nil
}

// sameBuild returns the images of the build that an image is from, sorted.
func sameBuild(path string) []string {
	m := readManifest(path)
	if m == nil {
		return []string{path}
	}
	all := []string{path}
	files, _ := filepath.Glob(artifact.ManifestPath(filepath.Join(filepath.Dir(path), "*")))
	for _, f := range files {
		other := strings.TrimSuffix(f, artifact.ManifestPath(""))
		if o := readManifest(other); o != nil && o.BuildID == m.BuildID && o.Board == m.Board && o.Medium != m.Medium {
			all = append(all, other)
		}
	}
	slices.Sort(all)
	return all
}

// readManifest returns the manifest beside an image, or nil if it cannot be used.
func readManifest(path string) *artifact.Manifest {
	b, err := hostfile.ReadFile(artifact.ManifestPath(path), artifact.MaxManifest)
	if err != nil {
		return nil
	}
	m, _ := artifact.ParseManifest(b) // nil if it is invalid
	return m
}
