package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"imgtool/image"
	"imgtool/image/build"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/seed/bundle"
	"imgtool/image/seed/seedfile"
)

func newSeedBundleCommand(u *ui) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "bundle DIR -o FILE",
		Short: "Pack config.toml and files/ into a bundle",
		Long: `Pack config.toml and files/ of a directory into a bundle for the device's web interface. The
name of the bundle selects the compression: .tar.zst or .tar.gz. Links and special files are
refused; files that macOS adds to directories are left out. Times come from SOURCE_DATE_EPOCH.`,
		Example: `  imgtool seed bundle ./site -o config.tar.zst`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return runSeedBundle(args[0], output, u) },
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "bundle to write, NAME.tar.zst or NAME.tar.gz")
	return cmd
}

func runSeedBundle(dir, output string, u *ui) error {
	if output == "" {
		return fault.New(fault.Usage, "name the bundle to write: -o config.tar.zst")
	}
	if !bundle.IsName(output) {
		return fault.New(fault.Usage, "%s: a bundle is called NAME.tar.zst or NAME.tar.gz", output)
	}
	if err := hostfile.CheckOutput(output); err != nil {
		return err
	}
	when, _, err := build.SourceDate()
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var b bytes.Buffer
	faults, err := bundle.Write(&b, output, root.FS(), time.Unix(when, 0))
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if err := seedfile.Faulty(filepath.Join(dir, "config.toml"), faults, u.warn); err != nil {
		return err
	}
	if err := writeNew(output, b.Bytes(), 0o600); err != nil {
		return err
	}
	if u.json {
		return u.print(map[string]any{"bundle": output, "bytes": b.Len()})
	}
	u.Infof("%s: %s", output, image.FormatSize(int64(b.Len())))
	return nil
}
