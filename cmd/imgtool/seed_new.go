package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/image/hostfile"
	"imgtool/image/seed"
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
		Long: `Write a config.toml with one admin and one container. Required values that are not given by
flags are asked for.`,
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
		answer         *string
		text, fallback string
	}{
		{&opt.User, "Name of the admin", "ops"},
		{&opt.Key, "The admin's SSH public key, or the file with it", ""},
		{&opt.Container, "Name of the container", "app"},
		{&opt.Image, "Reference of its image", ""},
	} {
		if *q.answer != "" {
			continue
		}
		question := q.text + ": "
		if q.fallback != "" {
			question = fmt.Sprintf("%s [%s]: ", q.text, q.fallback)
		}
		line, err := u.answer(ctx, question, "pass --user, --ssh-key, --container and --image")
		if err != nil {
			return err
		}
		if line == "" {
			line = q.fallback
		}
		*q.answer = line
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
