package images

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image/fault"
	"imgtool/image/foreign"
	"imgtool/image/inspect"
	"imgtool/image/volume"
)

func newInspectCommand(u *ui) *cobra.Command {
	var manifest bool
	cmd := &cobra.Command{
		Use:   "inspect FILE|DISK",
		Short: "Show what is in an image, and check it",
		Long: `Show the partitions of an image or disk, the files on its boot partitions, its boot
script or menu and its file systems, and check the partition tables and boot loaders. The
exit status is 6 if a check fails. Per-unit data, such as SSH host keys, is a warning and
not a fault.

Of an update bundle of RAUC (.raucb), show the manifest, the images and the signer.

With --manifest, print the manifest of an image instead, byte for byte as it is in the image
or beside it: what signatures of the image sign, also those of ssh-keygen -Y and minisign.`,
		Example: `  imgtool inspect x.img.zst
  imgtool inspect --manifest x.img.zst > x.manifest.json
  imgtool inspect --json /dev/sdX
  imgtool inspect x.raucb`,
		SuggestFor: []string{"info", "show", "view", "describe", "dump", "print"},
		Args:       usage.Operands("image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if manifest && u.JSON {
				return fault.New(fault.Usage, "--manifest prints JSON byte for byte: leave out --json")
			}
			if manifest {
				return runInspectManifest(args[0], u)
			}
			return runInspect(cmd.Context(), args[0], u)
		},
	}
	cmd.Flags().BoolVar(&manifest, "manifest", false, "print the manifest, byte for byte")
	return option.AddRegistry(cmd, u)
}

func runInspectManifest(path string, u *ui) error {
	s, err := volume.Open(path, u.Opening())
	if err != nil {
		return err
	}
	defer s.Close()
	if s.Manifest == nil {
		return fmt.Errorf("%s: it has no manifest", path)
	}
	return u.Write(s.Manifest.Text())
}

func runInspect(ctx context.Context, path string, u *ui) error {
	s, err := volume.Open(path, u.Opening())
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Seek(ctx); err != nil {
		return err
	}
	look := inspect.Source
	if s.IsBundle() {
		look = inspect.OfBundle
	}
	r, err := look(s)
	if err == nil && !s.IsBundle() && len(r.Partitions) == 0 && r.Faults() > 0 {
		head := make([]byte, 64<<10)
		n, _ := s.Image.ReadAt(head, 0)
		err = foreign.Check(s.Format, head[:n])
	}
	if err != nil {
		return s.Wrap(err)
	}
	u.EndPhase()
	if u.JSON {
		err = u.Print(r)
	} else {
		err = u.Text(r.Text())
	}
	if err != nil {
		return err
	}
	if n := r.Faults(); n > 0 {
		return fault.New(fault.Corrupt, "%s: %d of %d checks fail", path, n, len(r.Checks))
	}
	return nil
}
