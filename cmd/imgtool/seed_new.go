package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imgtool/image"
	"imgtool/image/build"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/seed"
	"imgtool/image/seed/bundle"
	"imgtool/image/seed/seedfile"
)

type seedNewOptions struct {
	seed.Answers
	output string
}

func newSeedNewCommand(u *ui) *cobra.Command {
	var opt seedNewOptions
	cmd := &cobra.Command{
		Use:   "new",
		Short: "Write a seed from a few answers",
		Long: `Write a config.toml with one admin and one container. imgtool asks for required values that
are not given by flags.`,
		Example: `  imgtool seed new -o config.toml
  imgtool seed new --user ops --ssh-key ~/.ssh/id_ed25519.pub --container web \
      --image registry.example/web:1 --publish 8080:80 > config.toml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return runSeedNew(cmd.Context(), opt, u) },
	}
	f := cmd.Flags()
	f.StringVar(&opt.User, "user", "", "name of the admin")
	f.StringVar(&opt.Key, "ssh-key", "", "the admin's public key, or the file with it")
	f.StringVar(&opt.Container, "container", "", "name of the container")
	f.StringVar(&opt.Image, "image", "", "reference of the container's image")
	f.BoolVar(&opt.Privileged, "privileged", false, "run the container as root, on the host's network")
	f.StringArrayVar(&opt.Publish, "publish", nil, "HOSTPORT:PORT of the container; may be repeated")
	f.StringVar(&opt.LAN, "lan", "", "the device's address on the LAN, with prefix")
	f.StringVar(&opt.Start, "dhcp-start", "", "first address for clients on the LAN")
	f.StringVar(&opt.End, "dhcp-end", "", "last address for clients on the LAN")
	f.StringVar(&opt.Update, "update-url", "", "https address of the update server")
	f.StringVarP(&opt.output, "output", "o", "", "file to write (default: standard output)")
	return cmd
}

func runSeedNew(ctx context.Context, opt seedNewOptions, u *ui) error {
	if opt.output != "" {
		if err := hostfile.CheckOutput(opt.output); err != nil {
			return err
		}
	}
	for _, q := range []struct {
		answer             *string
		question, fallback string
	}{
		{&opt.User, "Name of the admin [ops]: ", "ops"},
		{&opt.Key, "The admin's SSH public key, or the file with it: ", ""},
		{&opt.Container, "Name of the container [app]: ", "app"},
		{&opt.Image, "Reference of its image: ", ""},
	} {
		if *q.answer != "" {
			continue
		}
		line, err := u.answer(ctx, q.question, "pass --user, --ssh-key, --container and --image")
		if err != nil {
			return err
		}
		*q.answer = cmp.Or(line, q.fallback)
	}
	if opt.Key != "" && !strings.Contains(opt.Key, " ") {
		key, err := seedfile.ReadPublicKey(opt.Key)
		if err != nil {
			return err
		}
		opt.Key = key
	}
	text, faults := seed.New(opt.Answers)
	if err := seedfile.Faulty("seed", faults, u.warn); err != nil {
		return err
	}
	if opt.output == "" {
		return u.write(text)
	}
	return writeNew(opt.output, text, 0o600)
}

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
