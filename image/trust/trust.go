// Package trust signs images, and checks their signatures against policies.
//
// A policy never comes from an image: whoever altered an image could alter the policy in it, or
// the name of its board, too. It comes from the command line, from the definition of the board
// that the user names, and from a file of this computer. An image must pass all of them.
package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"imgtool/boards"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/sign"
	"imgtool/image/volume"
)

// ComputerFile is the file with the policy for all images on this computer. The variable
// [FileVariable] names another.
const (
	ComputerFile = "/etc/imgtool/trust.toml"
	FileVariable = "IMGTOOL_TRUST"
)

// Options are what the user asks for.
type Options struct {
	Signers   []string // files with allowed signers; a signature by any of these signers is required
	Revoked   string   // file with keys that are not accepted; empty: none
	Principal string   // that must have signed; empty: any
	Time      string   // at which keys must be valid, see [sign.ParseTime]; empty: now
	Require   bool     // require a signature, even if the policies of board and computer do not
	Signature string   // a file with more signatures; empty: none

	Warn func(text string)
}

// Policy is whose signatures are accepted, all of the ways it was found.
type Policy struct {
	opt      Options
	required []sign.Policy
	offered  []sign.Policy // apply if the user requires a signature
	more     []byte        // signatures that the user gave
}

// NewPolicy returns the policy of the user, of a board, which may be nil, and of this computer.
func NewPolicy(opt Options, board *boards.Board) (*Policy, error) {
	p := &Policy{opt: opt}
	if len(opt.Signers) > 0 {
		own, err := opt.own()
		if err != nil {
			return nil, err
		}
		p.required = append(p.required, sign.Policy{Signers: own})
	}
	if board != nil {
		p.add(&board.Trust)
	}
	if err := p.addComputer(); err != nil {
		return nil, err
	}
	if opt.Require {
		if p.required = append(p.required, p.offered...); len(p.required) == 0 {
			return nil, fault.New(fault.Usage, "--require-signature: it is not known whose signatures are accepted: pass --allowed-signers FILE, or --board FILE with allowed-signers in its [trust]")
		}
	}
	if len(p.required) == 0 {
		return p, opt.useless()
	}
	if opt.Signature != "" {
		var err error
		if p.more, err = hostfile.ReadStream(opt.Signature, sign.MaxFile); err != nil {
			return nil, err
		}
	}
	return p, p.apply()
}

// useless refuses options that have no effect if no signature is required.
func (opt *Options) useless() error {
	for _, o := range []struct {
		flag string
		set  bool
	}{{"signature", opt.Signature != ""}, {"revoked", opt.Revoked != ""}, {"principal", opt.Principal != ""}, {"verify-time", opt.Time != ""}} {
		if o.set {
			return fault.New(fault.Usage, "--%s has no effect without --allowed-signers or --require-signature", o.flag)
		}
	}
	return nil
}

// own returns the signers that the user allows.
func (opt *Options) own() (*sign.Signers, error) {
	var text []byte
	for _, file := range opt.Signers {
		data, err := hostfile.ReadStream(file, hostfile.Text)
		if err != nil {
			return nil, err
		}
		s, faults := sign.ParseSigners(file, data)
		for _, err := range faults {
			opt.Warn(err.Error() + "; the line is ignored")
		}
		if s.Empty() {
			return nil, fmt.Errorf("%s has no allowed signer: a line is PRINCIPAL TYPE KEY, as in allowed_signers of ssh-keygen, or a public key of minisign", file)
		}
		text = append(append(text, data...), '\n')
	}
	all, _ := sign.ParseSigners(strings.Join(opt.Signers, " and "), text)
	return all, nil
}

// add adds the policy of a board or of this computer.
func (p *Policy) add(t *boards.Trust) {
	if t.Signers == nil {
		return
	}
	s := sign.Policy{Signers: t.Signers}
	if t.RevokedKeys != nil {
		s.Revoked = append(s.Revoked, t.RevokedKeys)
	}
	if t.Required {
		p.required = append(p.required, s)
	} else {
		p.offered = append(p.offered, s)
	}
}

func (p *Policy) addComputer() error {
	file, named := os.LookupEnv(FileVariable)
	if !named {
		file = ComputerFile
	}
	if file == "" {
		return nil
	}
	t, err := loadComputer(file, named)
	if err != nil {
		return fmt.Errorf("the policy of this computer: %w", err)
	}
	if t != nil {
		p.add(t)
	}
	return nil
}

// loadComputer loads the policy of this computer. One that is not named may be missing; a
// symbolic link to a missing file is an error.
func loadComputer(file string, named bool) (*boards.Trust, error) {
	if _, err := os.Lstat(file); !named && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return boards.LoadTrust(file)
}

// apply adds to all policies what the user asks for in addition.
func (p *Policy) apply() error {
	when := time.Now()
	if p.opt.Time != "" {
		var err error
		if when, err = sign.ParseTime(p.opt.Time); err != nil {
			return fault.New(fault.Usage, "--verify-time: %w", err)
		}
	}
	var revoked []*sign.RevokedKeys
	if p.opt.Revoked != "" {
		data, err := hostfile.ReadStream(p.opt.Revoked, maxRevoked)
		if err != nil {
			return err
		}
		r, err := sign.ParseRevoked(p.opt.Revoked, data)
		if err != nil {
			return err
		}
		revoked = append(revoked, r)
	}
	for i := range p.required {
		r := &p.required[i]
		r.Time, r.Principal, r.Revoked = when, p.opt.Principal, append(r.Revoked, revoked...)
	}
	return nil
}

// maxRevoked is the size of the largest list of revoked keys that is read, in bytes.
const maxRevoked = 64 << 20

// Required reports whether images must be signed.
func (p *Policy) Required() bool { return p != nil && len(p.required) > 0 }

// Check checks the signatures of an image, if the policy requires one, and returns them. Nothing
// but the manifest is read. An image that is not accepted is an error with a *[sign.Error].
func (p *Policy) Check(src *volume.Source) ([]sign.Checked, error) {
	if !p.Required() {
		return nil, nil
	}
	manifest, signatures, err := src.Signed()
	if err != nil {
		return nil, err
	}
	if manifest == nil {
		return nil, src.Wrap(unpacked(src, reasoned(&sign.Error{Reason: sign.NoManifest, Text: "it has no manifest, which is what a signature signs: use an image of imgtool build, with its manifest"})))
	}
	signatures = append(signatures, p.more...)
	var all []sign.Checked
	for _, policy := range p.required {
		checked, err := policy.Verify(manifest, signatures)
		if err != nil {
			return nil, src.Wrap(p.explain(src, err))
		}
		if all == nil {
			all = checked
		}
	}
	return all, nil
}

// explain adds a hint to the error of an image that is not signed.
func (p *Policy) explain(src *volume.Source, err error) error {
	refused, ok := errors.AsType[*sign.Error](err)
	err = reasoned(err)
	if !ok || refused.Reason != sign.Unsigned {
		return err
	}
	if src.Archive {
		return unpacked(src, err)
	}
	if volume.IsRemote(src.Name) {
		return fault.WithHint(err, "sign the file with imgtool sign --key KEY before it is published, or give the signature with --signature")
	}
	return fault.WithHint(err, "sign it with imgtool sign --key KEY %s, or give the signature with --signature", src.Name)
}

// unpacked adds a hint to an error about an image in a zip archive, where no file is beside it.
func unpacked(src *volume.Source, err error) error {
	if !src.Archive {
		return err
	}
	return fault.WithHint(err, "unpack it with unzip, and name the image: its manifest and signature are read if they are beside it")
}

// reasoned adds the reason of a *[sign.Error] to it.
func reasoned(err error) error {
	if refused, ok := errors.AsType[*sign.Error](err); ok {
		return fault.WithReason(refused.Reason, err)
	}
	return err
}

// Names describes who made the signatures that were accepted.
func Names(all []sign.Checked) (names []string) {
	for _, c := range all {
		if c.Reason != "" {
			continue
		}
		name := fmt.Sprintf("the %s key %s", c.KeyType, c.Fingerprint)
		if c.Format == sign.Minisign {
			name = "the minisign key " + c.Fingerprint
		}
		if c.Authority != "" {
			name += ", certified by " + c.Authority
		}
		if c.Principal != "" {
			name = c.Principal + " (" + name + ")"
		}
		names = append(names, name)
	}
	return names
}
