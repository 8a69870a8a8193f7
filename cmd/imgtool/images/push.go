package images

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/oci"
	"imgtool/image/volume"
)

type pushOptions struct {
	oci.PushOptions
	arch        string
	annotations []string
}

func newPushCommand(u *ui) *cobra.Command {
	var opt pushOptions
	cmd := &cobra.Command{
		Use:   "push REF IMAGE...",
		Short: "Store images in a registry",
		Long: `Check images and store them in a registry, as they are, with the files that belong to
them: manifest, block map, signature, SBOM and provenance, in the image or beside it. The images of
several media of a board become one index. REF is HOST/REPOSITORY[:TAG].

The logins of docker login, podman login and skopeo login are used. The same files give the
same digests, and files that the repository has are not sent again. Tags are set last.`,
		Example: `  imgtool push registry.example.com/boards/rock64:1.4 x.img.zst
  imgtool push registry.example.com/photon:1.4 --tag latest photon-*.img.zst`,
		SuggestFor: []string{"upload", "publish"},
		Args:       usage.Operands("reference", "image..."),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPush(cmd.Context(), args[0], args[1:], opt, u)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&opt.Tags, "tag", nil, "set this `TAG` too; may be repeated")
	f.StringArrayVar(&opt.annotations, "annotation", nil, "add an annotation `KEY=VALUE`, as org.opencontainers.image.revision=…; may be repeated")
	f.StringVar(&opt.arch, "arch", "", "the `ARCHITECTURE` of an image without a manifest, such as arm64")
	f.BoolVar(&opt.PlainHTTP, "plain-http", false, option.PlainHTTPUsage)
	return cmd
}

func runPush(ctx context.Context, ref string, paths []string, opt pushOptions, u *ui) error {
	begin := time.Now()
	opt.Reporter, opt.Annotations = u, map[string]string{}
	for _, a := range opt.annotations {
		key, value, ok := strings.Cut(a, "=")
		if !ok || key == "" {
			return fault.New(fault.Usage, "--annotation %s: write KEY=VALUE", a)
		}
		opt.Annotations[key] = value
	}
	var files []*oci.File
	for _, path := range paths {
		f, close, err := openPushed(ctx, path, u)
		if err != nil {
			return err
		}
		defer close()
		f.Arch = opt.arch
		files = append(files, f)
	}
	done, err := oci.Push(ctx, ref, files, opt.PushOptions)
	if err != nil {
		return err
	}
	if u.JSON {
		return u.Print(struct {
			*oci.Pushed
			Seconds float64 `json:"seconds"`
		}{done, time.Since(begin).Seconds()})
	}
	u.Infof("%s: %s of blobs were uploaded, in %s", done.Reference, image.FormatSize(done.Uploaded), time.Since(begin).Round(100*time.Millisecond))
	u.Infof("digest: %s", done.Digest)
	return nil
}

// openPushed opens an image file and checks it.
func openPushed(ctx context.Context, path string, u *ui) (*oci.File, func() error, error) {
	switch {
	case volume.IsRemote(path):
		return nil, nil, fault.New(fault.Usage, "%s is on a server: download it first, and name the file", volume.RemoteName(path))
	case path == "-":
		return nil, nil, fault.New(fault.Usage, "standard input is not an image file: write it to a file, whose name is kept")
	}
	s, err := volume.Open(path, u.Opening())
	if err != nil {
		return nil, nil, err
	}
	if s.IsDisk() || s.File == nil {
		s.Close()
		return nil, nil, fault.New(fault.Usage, "%s is not an image file: build one, or copy the disk to a file", path)
	}
	if err = s.Check(ctx); err == nil && s.Image == nil {
		err = s.ReadThrough(ctx, func(c volume.Chunks) volume.Chunks { return c })
	}
	if err != nil {
		s.Close()
		return nil, nil, err
	}
	f := &oci.File{Path: path, Format: s.Format, Manifest: s.Manifest, Opened: s.Opened(), Size: s.Total}
	if s.Image != nil {
		f.Size = s.Image.Size()
	}
	return f, s.Close, nil
}
