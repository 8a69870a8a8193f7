package boards

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"imgtool/image/hostfile"
	"imgtool/image/sign"
	"imgtool/layouts"
)

// Trust is whose signatures images must have to be written.
type Trust struct {
	Required       bool   `toml:"required"`        // images without such a signature are refused
	AllowedSigners any    `toml:"allowed-signers"` // a file in the directory of the definition, or a list of its lines
	Revoked        string `toml:"revoked"`         // a file with keys that are not accepted; empty: none

	Signers     *sign.Signers     `toml:"-" json:"-"` // nil: none
	RevokedKeys *sign.RevokedKeys `toml:"-" json:"-"` // nil: none
}

// LoadTrust reads a file that has the keys of [trust] only.
func LoadTrust(file string) (*Trust, error) {
	text, err := hostfile.ReadStream(file, hostfile.Text)
	if err != nil {
		return nil, err
	}
	t := &Trust{}
	if err := layouts.Decode(file, text, t); err != nil {
		return nil, err
	}
	if err := t.load(file, hostfile.DirFS(filepath.Dir(file))); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if t.Signers == nil {
		return nil, fmt.Errorf("%s: it has no allowed-signers, which say whose signatures are accepted: remove the file if none are required", file)
	}
	return t, nil
}

// load reads the signers. Files are read from beside; file is where the keys are from.
func (t *Trust) load(file string, beside fs.FS) error {
	name, text := file, ""
	switch v := t.AllowedSigners.(type) {
	case nil:
	case string:
		data, err := readBeside(beside, v)
		if err != nil {
			return fmt.Errorf("allowed-signers: %w", err)
		}
		name, text = filepath.Join(filepath.Dir(file), v), string(data)
	case []any:
		for _, line := range v {
			s, ok := line.(string)
			if !ok || strings.ContainsAny(s, "\r\n") {
				return fmt.Errorf("allowed-signers: %v is not a line of an allowed_signers file", line)
			}
			text += s + "\n"
		}
	default:
		return fmt.Errorf("allowed-signers is %v; it must be the name of a file, or a list of lines", v)
	}
	if t.AllowedSigners != nil {
		signers, faults := sign.ParseSigners(name, []byte(text))
		if err := errors.Join(faults...); err != nil {
			return fmt.Errorf("allowed-signers: %w", err)
		}
		if signers.Empty() {
			return fmt.Errorf("allowed-signers: %s has no signer", name)
		}
		t.Signers = signers
	}
	if t.Required && t.Signers == nil {
		return errors.New("required is true, so allowed-signers must say whose signatures are accepted")
	}
	if t.Revoked == "" {
		return nil
	}
	if t.Signers == nil {
		return errors.New("revoked has no effect without allowed-signers")
	}
	data, err := readBeside(beside, t.Revoked)
	if err != nil {
		return fmt.Errorf("revoked: %w", err)
	}
	t.RevokedKeys, err = sign.ParseRevoked(filepath.Join(filepath.Dir(file), t.Revoked), data)
	return err
}

func readBeside(beside fs.FS, name string) ([]byte, error) {
	if beside == nil {
		return nil, fmt.Errorf("no file %q: a built-in definition has none", name)
	}
	if !fs.ValidPath(name) || name == "." {
		return nil, fmt.Errorf("%q must be the name of a file in the directory of the definition", name)
	}
	data, err := fs.ReadFile(beside, name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no file %q in the directory of the definition", name)
	}
	return data, err
}
