package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"imgtool/image/build"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/sanitize"
	"imgtool/image/seed"
)

func newSeedCommand(u *ui) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "seed",
		Short: "Check and make seed configurations of AtomixOS, and put them into images",
		Long: `Check and make seed configurations of AtomixOS, and put them into images: config.toml, alone or in a bundle
with the files that its containers use. A device looks at the seed it is flashed with
once only.`,
		Example: `  imgtool seed new > config.toml
  imgtool seed check config.toml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSeedCheckCommand(u), newSeedRenderCommand(u), newSeedSchemaCommand(u), newSeedNewCommand(u), newSeedBundleCommand(u),
		newSeedPutCommand(u), newSeedGetCommand(u), newSeedRmCommand(u), newSeedStickCommand(u))
	return cmd
}

func newSeedCheckCommand(u *ui) *cobra.Command {
	var opt seedOptions
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Say all that is wrong with a seed, a bundle or a template",
		Long: `Check a config.toml, or a bundle (.tar.zst, .tar.gz), as the device does, and print
all that is wrong with it, each with its line. Of a bundle nothing is unpacked. FILE may
be - for standard input. Exit status 3 if the device would refuse it, 6 if a bundle is
damaged.

With --values FILE is a template, and what it makes of each unit is checked, or of one
with --unit. Lines are those of the template; values are not printed.`,
		Example: `  imgtool seed check config.toml
  imgtool seed check --json config.tar.zst
  imgtool seed check --values units.csv seed.toml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if opt.file = args[0]; opt.values != "" && opt.unit == "" {
				return runSeedCheckAll(opt, u)
			}
			return runSeedCheck(opt, u)
		},
	}
	opt.addFlags(cmd)
	return cmd
}

// open judges a seed, or what a template makes of a unit, and returns its name for
// messages.
func (o seedOptions) open(u *ui) (*seed.Bundle, []seed.Fault, string, error) {
	if o.values == "" && o.unit == "" {
		return openSeed(o.file, u)
	}
	s, err := o.read()
	if err != nil {
		return nil, nil, "", err
	}
	text, config, faults := seed.CheckFilled(s.Text, s.Columns)
	return &seed.Bundle{Format: "toml", Members: 1, Size: int64(len(text)), Config: config}, faults, s.Name, nil
}

// openSeed judges a seed, and returns its name for messages.
func openSeed(file string, u *ui) (*seed.Bundle, []seed.Fault, string, error) {
	name, in := file, u.in
	if file == "-" {
		name = ""
	} else {
		f, err := hostfile.OpenStream(file)
		if kind, ok := errors.AsType[*hostfile.KindError](err); ok && kind.Kind == "a directory" {
			err = fmt.Errorf("%s is a folder; pack it with imgtool seed bundle", file)
		}
		if err != nil {
			return nil, nil, "", err
		}
		defer f.Close()
		in = f
	}
	b, faults, err := seed.CheckBundle(filepath.Base(name), in)
	if file == "-" {
		name = "standard input"
	}
	if err != nil {
		return nil, nil, name, fmt.Errorf("%s: %w", name, err)
	}
	if b.Format != "toml" {
		name += ":config.toml"
	}
	return b, faults, name, nil
}

// verdict is what the device would say of a seed.
type verdict struct {
	OK bool `json:"ok"`
	*seed.Bundle
	Unit     string       `json:"unit,omitempty"`
	Line     int          `json:"line,omitempty"` // of the unit's values
	Faults   []seed.Fault `json:"faults"`
	Warnings []seed.Fault `json:"warnings"`
}

func judge(faults []seed.Fault) verdict {
	v := verdict{Faults: []seed.Fault{}, Warnings: []seed.Fault{}}
	for _, f := range faults {
		if f.Warning {
			v.Warnings = append(v.Warnings, f)
		} else {
			v.Faults = append(v.Faults, f)
		}
	}
	v.OK = len(v.Faults) == 0
	return v
}

func runSeedCheck(opt seedOptions, u *ui) error {
	b, faults, name, err := opt.open(u)
	if err != nil {
		return err
	}
	faulty := refusal(name, faults)
	if u.json {
		result := judge(faults)
		result.Bundle = b
		return errors.Join(u.print(result), faulty)
	}
	for _, f := range faults {
		if !f.Warning {
			u.printf("%s:%v\n", name, f)
		}
	}
	seedWarnings(name, faults, u)
	if faulty == nil {
		u.say("%s: the device takes it", name)
	}
	return faulty
}

// runSeedCheckAll checks what a template makes of each unit. What is wrong for all of
// them is said once.
func runSeedCheckAll(opt seedOptions, u *ui) error {
	template, t, err := opt.table()
	if err != nil {
		return err
	}
	var all []verdict
	of, last := map[seed.Fault]int{}, map[seed.Fault]int{} // how many units have it, and the last that has
	bad, faults := 0, 0
	for i, row := range t.rows {
		s := t.seed(row, opt.file, template)
		_, _, found := seed.CheckFilled(s.Text, s.Columns)
		v := judge(found)
		v.Unit, v.Line = row.unit, row.line
		all = append(all, v)
		for _, f := range found {
			if last[f] != i+1 {
				last[f] = i + 1
				of[f]++
			}
		}
		if faults += len(v.Faults); !v.OK {
			bad++
		}
	}
	var faulty error
	if bad > 0 {
		faulty = fmt.Errorf("%s: the device would refuse it for %d of %d units: %d faults", opt.file, bad, len(all), faults)
	}
	if u.json {
		return errors.Join(u.print(map[string]any{"ok": bad == 0, "units": all}), faulty)
	}
	for i, v := range all {
		for _, f := range slices.Concat(v.Faults, v.Warnings) {
			line := fmt.Sprintf("%s:%d: %s: %s:%v", t.file, v.Line, v.Unit, opt.file, f)
			if of[f] == len(all) && len(all) > 1 {
				if line = fmt.Sprintf("%s:%v", opt.file, f); i > 0 {
					continue
				}
			}
			if f.Warning {
				u.warn(line)
			} else {
				u.printf("%s\n", line)
			}
		}
	}
	if faulty == nil {
		u.say("%s: the device takes it for each of %d units", opt.file, len(all))
	}
	return faulty
}

// refusal counts the faults.
func refusal(name string, faults []seed.Fault) error {
	n := 0
	for _, f := range faults {
		if !f.Warning {
			n++
		}
	}
	switch n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%s: the device would refuse it: 1 fault", name)
	}
	return fmt.Errorf("%s: the device would refuse it: %d faults", name, n)
}

func seedWarnings(name string, faults []seed.Fault, u *ui) {
	for _, f := range faults {
		if f.Warning {
			u.warn(fmt.Sprintf("%s:%v", name, f))
		}
	}
}

// allFaults is the faults as an error, a line each.
func allFaults(name string, faults []seed.Fault) error {
	var errs []error
	for _, f := range faults {
		if !f.Warning {
			errs = append(errs, fmt.Errorf("%s:%v", name, f))
		}
	}
	return errors.Join(errs...)
}

func newSeedRenderCommand(u *ui) *cobra.Command {
	var opt seedOptions
	cmd := &cobra.Command{
		Use:   "render FILE",
		Short: "Show the files a device makes of a seed",
		Long: `Show the files that a device writes under /data/config when it takes a config.toml or
a bundle, byte for byte; the bundle's own files are left out.

With --values and --unit FILE is a template; the unit's values are in what is shown.`,
		Example: `  imgtool seed render config.toml
  imgtool seed render --values units.csv --unit W123 seed.toml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.file = args[0]
			return runSeedRender(opt, u)
		},
	}
	opt.addFlags(cmd)
	return cmd
}

func runSeedRender(opt seedOptions, u *ui) error {
	b, faults, name, err := opt.open(u)
	if err != nil {
		return err
	}
	if b.Config == nil {
		return allFaults(name, faults)
	}
	seedWarnings(name, faults, u)
	files := b.Config.Render()
	if u.json {
		return u.print(files)
	}
	for i, f := range files {
		if i > 0 {
			u.printf("\n")
		}
		text := f.Text
		if !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		if err := u.text(fmt.Sprintf("==> /data/config/%s <==\n%s", sanitize.Line(f.Path), text)); err != nil {
			return err
		}
	}
	return nil
}

func newSeedSchemaCommand(u *ui) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print a JSON Schema of config.toml, for editors",
		Long: `Print a JSON Schema (draft 2020-12) of config.toml, for editors that complete and
check TOML by one. It knows less than imgtool seed check.`,
		Example: `  imgtool seed schema > atomixos.schema.json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return u.write(seed.Schema())
		},
	}
}

type seedNewOptions struct {
	seed.Answers
	output string
}

func newSeedNewCommand(u *ui) *cobra.Command {
	var opt seedNewOptions
	cmd := &cobra.Command{
		Use:   "new",
		Short: "Write a seed from a few answers",
		Long: `Write a config.toml with one admin and one container, from flags or, for what they
leave out and must be there, from questions.`,
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
	f.BoolVar(&opt.Privileged, "privileged", false, "run the container by root, on the host's network")
	f.StringArrayVar(&opt.Publish, "publish", nil, "HOSTPORT:PORT of the container; may be repeated")
	f.StringVar(&opt.LAN, "lan", "", "the device's address on the LAN, with prefix")
	f.StringVar(&opt.Start, "dhcp-start", "", "first address for clients on the LAN")
	f.StringVar(&opt.End, "dhcp-end", "", "last address for clients on the LAN")
	f.StringVar(&opt.Update, "update-url", "", "https address of the server of updates")
	f.StringVarP(&opt.output, "output", "o", "", "file to write (default: standard output)")
	return cmd
}

func runSeedNew(ctx context.Context, opt seedNewOptions, u *ui) error {
	if opt.output != "" {
		if err := hostfile.CheckOutput(opt.output); err != nil {
			return err
		}
	}
	const without = "pass --user, --ssh-key, --container and --image"
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
		line, err := u.answer(ctx, question, without)
		if err != nil {
			return err
		}
		if line == "" {
			line = q.fallback
		}
		*q.answer = line
	}
	if !strings.Contains(opt.Key, " ") && opt.Key != "" {
		key, err := readKey(opt.Key)
		if err != nil {
			return err
		}
		opt.Key = key
	}
	text, faults := seed.New(opt.Answers)
	if err := allFaults("seed", faults); err != nil {
		return err
	}
	seedWarnings("seed", faults, u)
	if opt.output == "" {
		return u.write(text)
	}
	return writeNew(opt.output, text, 0o600)
}

// readKey reads the one line of a public key file.
func readKey(file string) (string, error) {
	// A key of the largest kind in use, RSA of 16384 bits, has 3 KiB.
	b, err := hostfile.ReadStream(file, 64<<10)
	if err != nil {
		return "", err
	}
	key := strings.TrimSpace(string(b))
	if strings.Contains(key, "PRIVATE KEY") {
		return "", fmt.Errorf("%s is a private key; pass the public one, %s.pub", file, file)
	}
	if strings.ContainsAny(key, "\r\n") {
		return "", fmt.Errorf("%s has more than one line; it must be one public key", file)
	}
	return key, nil
}

// writeNew writes a file whole or not at all. Nothing but a regular file is replaced.
func writeNew(path string, data []byte, mode fs.FileMode) error {
	if err := hostfile.CheckOutput(path); err != nil {
		return err
	}
	path, err := hostfile.Target(path)
	if err != nil {
		return err
	}
	return renameio.WriteFile(path, data, mode, renameio.WithTempDir(filepath.Dir(path)))
}

func newSeedBundleCommand(u *ui) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "bundle DIR -o FILE",
		Short: "Pack config.toml and files/ into a bundle",
		Long: `Pack config.toml and files/ of a folder into a bundle that the device's web interface
takes. The name of the bundle says how: .tar.zst or .tar.gz. Links and special files are
refused; what macOS leaves in folders is left out. Times come from SOURCE_DATE_EPOCH.`,
		Example: `  imgtool seed bundle ./site -o config.tar.zst`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return runSeedBundle(args[0], output, u) },
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "bundle to write, NAME.tar.zst or NAME.tar.gz")
	return cmd
}

func runSeedBundle(dir, output string, u *ui) error {
	if output == "" {
		return fault.New(fault.Usage, "say what to write: -o config.tar.zst")
	}
	if !seed.IsBundleName(output) {
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
	faults, err := seed.WriteBundle(&b, output, root.FS(), time.Unix(when, 0))
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	name := filepath.Join(dir, "config.toml")
	if err := allFaults(name, faults); err != nil {
		return err
	}
	seedWarnings(name, faults, u)
	if err := writeNew(output, b.Bytes(), 0o600); err != nil {
		return err
	}
	if u.json {
		return u.print(map[string]any{"bundle": output, "bytes": b.Len()})
	}
	u.say("%s: %s", output, human(int64(b.Len())))
	return nil
}
