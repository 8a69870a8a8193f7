// Package seedfile reads seeds from files: a document, a bundle, or a template with a row of
// a table of per-unit values. It checks them as the device does.
package seedfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"imgtool/image/hostfile"
	"imgtool/image/seed"
	"imgtool/image/seed/bundle"
)

// Seed is a seed configuration. With Columns it is a template and the values of a unit.
type Seed struct {
	Name    string // for messages
	Text    []byte
	Columns map[string]string // values by column; nil: Text is complete

	Unit string // name of the unit, if there are Columns
	Line int    // of the unit in its table
}

// Read reads a document that goes into an image or onto a stick. Bundles are an error: a
// device takes them through its web interface only.
func Read(path string) (*Seed, error) {
	text, err := readDocument(path)
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	return &Seed{Name: path, Text: text}, nil
}

// ReadUnit reads a template and the values of a unit.
func ReadUnit(template, values, unit string) (*Seed, error) {
	text, t, err := readTemplate(template, values)
	if err != nil {
		return nil, err
	}
	row, err := t.find(unit)
	if err != nil {
		return nil, err
	}
	return t.seed(row, template, text), nil
}

// ReadUnits reads a template and the values of all units, in the order of the table.
func ReadUnits(template, values string) ([]*Seed, error) {
	text, t, err := readTemplate(template, values)
	if err != nil {
		return nil, err
	}
	var all []*Seed
	for _, row := range t.rows {
		all = append(all, t.seed(row, template, text))
	}
	return all, nil
}

func readTemplate(template, values string) ([]byte, *table, error) {
	text, err := readDocument(template)
	if err != nil {
		return nil, nil, fmt.Errorf("seed: %w", err)
	}
	t, err := readTable(values)
	if err != nil {
		return nil, nil, err
	}
	if !bytes.Contains(text, []byte("@{")) {
		return nil, nil, fmt.Errorf("%s contains no @{COLUMN}, so all units would get the same seed: leave out --values", template)
	}
	return text, t, nil
}

func readDocument(path string) ([]byte, error) {
	f, err := hostfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case bundle.IsName(path):
		return nil, fmt.Errorf("%s is a bundle: a device takes bundles through its web interface only; give a plain config.toml here", path)
	case info.Size() > seed.MaxUpload:
		return nil, fmt.Errorf("%s has %d bytes; the device takes up to %d", path, info.Size(), seed.MaxUpload)
	}
	return io.ReadAll(io.LimitReader(f, seed.MaxUpload))
}

// Check returns the document that the device gets. The error has a line for each fault that
// would make the device refuse it; warnings go to warn. format is the format of a boards.Seed.
// No error or warning contains a value of a unit.
func (s *Seed) Check(format string, warn func(string)) ([]byte, error) {
	text := s.Text
	var faults []seed.Fault
	switch atomixos := format == "atomixos"; {
	case s.Columns == nil && atomixos:
		_, faults = seed.Check(text)
	case s.Columns != nil && atomixos:
		text, _, faults = seed.CheckFilled(text, s.Columns)
	case s.Columns != nil:
		text, faults = seed.Fill(text, s.Columns)
	}
	v := newVerdict(s.Name, faults)
	v.Warn(warn)
	if err := v.Faulty(); err != nil || format == "atomixos" {
		return text, err
	}
	var any map[string]any
	if err := toml.Unmarshal(text, &any); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, _ := at.Position()
			return nil, fmt.Errorf("%s:%d: the seed is not TOML: %s", s.Name, line, strings.TrimPrefix(at.Error(), "toml: "))
		}
		return nil, fmt.Errorf("%s: the seed is not TOML: %w", s.Name, err)
	}
	return text, nil
}

// Verdict returns the device's verdict on the seed.
func (s *Seed) Verdict() *Verdict {
	text, config, faults := seed.CheckFilled(s.Text, s.Columns)
	v := newVerdict(s.Name, faults)
	v.Info = &bundle.Info{Format: "toml", Members: 1, Size: int64(len(text)), Config: config}
	v.Unit, v.Line, v.Body, v.Columns = s.Unit, s.Line, text, s.Columns
	return v
}

// ReadVerdict reads a document or a bundle and returns the device's verdict on it. The file
// - is stdin.
func ReadVerdict(file string, stdin io.Reader) (*Verdict, error) {
	in, name := stdin, "standard input"
	if file != "-" {
		f, err := hostfile.OpenStream(file)
		if kind, ok := errors.AsType[*hostfile.KindError](err); ok && kind.Kind == "a directory" {
			err = fmt.Errorf("%s is a directory; pack it with imgtool seed bundle", file)
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in, name = f, file
	}
	body, err := io.ReadAll(io.LimitReader(in, seed.MaxUpload+1))
	if err != nil {
		return nil, err
	}
	info, faults, err := bundle.Check(filepath.Base(file), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if info.Format != "toml" {
		name += ":config.toml"
	}
	v := newVerdict(name, faults)
	v.Info, v.Body = info, body
	return v, nil
}

// ReadPublicKey reads the one line of an SSH public key file.
func ReadPublicKey(file string) (string, error) {
	if rest, ok := strings.CutPrefix(file, "~/"); ok { // from an answer, which no shell has read
		if home, err := os.UserHomeDir(); err == nil {
			file = filepath.Join(home, rest)
		}
	}
	// The largest keys in use, RSA with 16,384 bits, have 3 KiB.
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
