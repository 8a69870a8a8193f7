package configs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/usage"
	"imgtool/image"
	"imgtool/image/build/job"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/pending"
	"imgtool/image/seed"
	"imgtool/image/seed/bundle"
	"imgtool/image/seed/seedfile"
)

type seedNewOptions struct {
	seed.Answers
	output string
	force  bool
}

func newSeedNewCommand(u *ui) *cobra.Command {
	var opt seedNewOptions
	cmd := &cobra.Command{
		Use:   "new",
		Short: "Write a seed from a few answers",
		Long: `Write a config.toml with one admin and one container. imgtool asks for required values that
are not given by flags, and asks again if the device would refuse an answer.`,
		Example: `  imgtool seed new -o config.toml
  imgtool seed new --user ops --ssh-key ~/.ssh/id_ed25519.pub --container web \
      --image registry.example/web:1 --publish 8080:80 > config.toml`,
		SuggestFor: []string{"create", "make", "init", "generate"},
		Args:       usage.None("-o names the file to write"),
		RunE:       func(cmd *cobra.Command, args []string) error { return runSeedNew(cmd.Context(), opt, u) },
	}
	f := cmd.Flags()
	f.StringVar(&opt.User, "user", "", "`NAME` of the admin")
	f.StringVar(&opt.Key, "ssh-key", "", "the admin's public `KEY`, or the file with it")
	f.StringVar(&opt.Container, "container", "", "`NAME` of the container")
	f.StringVar(&opt.Image, "image", "", "`REFERENCE` of the container's image")
	f.BoolVar(&opt.Privileged, "privileged", false, "run the container as root, on the host's network")
	f.StringArrayVar(&opt.Publish, "publish", nil, "`HOSTPORT:PORT` of the container; may be repeated")
	f.StringVar(&opt.LAN, "lan", "", "the device's `ADDRESS/PREFIX` on the LAN")
	f.StringVar(&opt.Start, "dhcp-start", "", "first `ADDRESS` for clients on the LAN")
	f.StringVar(&opt.End, "dhcp-end", "", "last `ADDRESS` for clients on the LAN")
	f.StringVar(&opt.Update, "update-url", "", "https `URL` of the update server")
	f.StringVarP(&opt.output, "output", "o", "", "`FILE` to write (default: standard output)")
	f.BoolVar(&opt.force, "force", false, "replace the file if it exists")
	return cmd
}

func runSeedNew(ctx context.Context, opt seedNewOptions, u *ui) error {
	if opt.output != "" {
		if err := hostfile.CheckOutput(opt.output); err != nil {
			return err
		}
		if _, err := os.Stat(opt.output); err == nil && !opt.force {
			return fault.New(fault.Usage, "%s exists: choose another name, or replace it with --force", opt.output)
		}
	} else if opt.force {
		return fault.New(fault.Usage, "--force has no effect on standard output: name the file to write with -o")
	}
	if err := seedfile.CheckAnswers(&opt.Answers); err != nil {
		return err
	}
	if err := seedfile.Ask(ctx, &opt.Answers, u.Answer, func(err error) { u.Infof("%s", fault.Plain(err)) }); err != nil {
		return err
	}
	text, faults := seed.New(opt.Answers)
	if err := seedfile.Faulty("seed", faults, u.Warn); err != nil {
		return err
	}
	if opt.output == "" {
		return u.Write(text)
	}
	if err := pending.WritePrivate(opt.output, text); err != nil {
		return err
	}
	if u.JSON {
		return u.Print(map[string]any{"path": opt.output, "size": len(text)})
	}
	u.Infof("%s: admin %s, container %s with %s; imgtool flash --seed %s puts it on a disk", opt.output, opt.User, opt.Container, opt.Image, opt.output)
	return nil
}

func newSeedBundleCommand(u *ui) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "bundle DIR -o FILE",
		Short: "Pack config.toml and files/ into a bundle",
		Long: `Pack config.toml and files/ of a directory into a bundle for the device's web interface. The
name of the bundle selects the compression: .tar.zst or .tar.gz. Links and special files are
refused; files that macOS adds to directories are left out. Times come from SOURCE_DATE_EPOCH.`,
		Example:    `  imgtool seed bundle ./site -o config.tar.zst`,
		SuggestFor: []string{"pack", "tar", "zip"},
		Args:       usage.Operands("directory"),
		RunE:       func(cmd *cobra.Command, args []string) error { return runSeedBundle(args[0], output, u) },
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "bundle `FILE` to write, NAME.tar.zst or NAME.tar.gz")
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
	when, _, err := job.SourceDate()
	if err != nil {
		return err
	}
	root, err := hostfile.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var b bytes.Buffer
	faults, err := bundle.Write(&b, output, root.FS(), time.Unix(when, 0))
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if err := seedfile.Faulty(filepath.Join(dir, "config.toml"), faults, u.Warn); err != nil {
		return err
	}
	if err := pending.WritePrivate(output, b.Bytes()); err != nil {
		return err
	}
	if u.JSON {
		return u.Print(map[string]any{"bundle": output, "bytes": b.Len()})
	}
	u.Infof("%s: %s", output, image.FormatSize(int64(b.Len())))
	return nil
}
