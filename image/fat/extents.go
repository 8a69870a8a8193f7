package fat

import (
	"fmt"
	"io"
	"iter"

	"imgtool/image"
)

// Image returns the file system as an image of size bytes with the extents of [New]:
// everything before the first cluster, each directory and each file. Free clusters are not
// part of an extent.
func (f *FS) Image(size int64) (*image.Image, error) {
	w := f.walk()
	extents := []image.Extent{{Name: "fat", Content: io.NewSectionReader(f.r, 0, f.dataOff)}}
	add := func(name string, clusters []uint32, length int64) {
		for first, n := range rows(clusters) {
			part := min(n*f.cluster, length)
			extents = append(extents, image.Extent{Name: name, Off: w.clusterOff(first), Content: io.NewSectionReader(f.r, w.clusterOff(first), part)})
			length -= part
		}
	}
	root, err := w.all(func(path string, it *item, clusters []uint32) error {
		length := it.size
		if it.dir {
			length = int64(len(clusters)) * f.cluster
		}
		add(path, clusters, length)
		return nil
	})
	if err != nil {
		return nil, err
	}
	add(root.name(), root.clusters, int64(len(root.raw)))
	return image.New(size, extents...)
}

// all returns the root directory, and calls visit for each file and directory below it with
// its clusters.
func (w *walker) all(visit func(path string, it *item, clusters []uint32) error) (*directory, error) {
	root, err := w.load(nil, "", nil)
	if err != nil {
		return nil, fmt.Errorf("reading the root directory: %w", err)
	}
	return root, w.below(root, visit)
}

func (w *walker) below(d *directory, visit func(path string, it *item, clusters []uint32) error) (err error) {
	for _, it := range d.items {
		path := d.join(it.name)
		if w.names += int64(len(path)) + 128; w.names > maxNames {
			return errNames
		}
		sub := &directory{}
		if it.dir {
			sub, err = w.load(it, path, d)
		} else if it.first != 0 {
			sub.clusters, err = w.chain(it.first, w.clusters)
		}
		if err != nil {
			return fmt.Errorf("reading %q: %w", path, err)
		}
		if err := visit(path, it, sub.clusters); err != nil {
			return err
		}
		if err := w.below(sub, visit); err != nil {
			return err
		}
	}
	return nil
}

// rows returns the first cluster and the length of each run of consecutive clusters.
func rows(clusters []uint32) iter.Seq2[uint32, int64] {
	return func(yield func(uint32, int64) bool) {
		for len(clusters) > 0 {
			n := 1
			for n < len(clusters) && clusters[n] == clusters[n-1]+1 {
				n++
			}
			if !yield(clusters[0], int64(n)) {
				return
			}
			clusters = clusters[n:]
		}
	}
}
