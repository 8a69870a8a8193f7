package rauc

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"imgtool/image/verity"
)

// Formats of bundles.
const (
	Plain  = "plain"  // the signature is of the whole payload
	Verity = "verity" // the signature is of the manifest, which has the root of a hash tree of the payload
	Crypt  = "crypt"  // as Verity, and payload and signature are encrypted
)

// BlockHashIndex is the method of adaptive updates with which a device fetches only blocks
// that it does not have.
const BlockHashIndex = "block-hash-index"

// ManifestName is the name of the manifest in the payload.
const ManifestName = "manifest.raucm"

// Manifest says what is in a bundle, and for which devices it is. The JSON of imgtool
// inspect has it.
type Manifest struct {
	Compatible  string   `json:"compatible"`
	Version     string   `json:"version,omitempty"`
	Description string   `json:"description,omitempty"`
	Build       string   `json:"build,omitempty"`
	MinVersion  string   `json:"min_rauc_version,omitempty"`
	Format      string   `json:"format"`
	Handler     string   `json:"handler,omitempty"`   // file of a handler that replaces RAUC's
	HookFile    string   `json:"hook_file,omitempty"` // in the bundle
	Hooks       []string `json:"hooks,omitempty"`     // of the whole bundle
	Images      []Image  `json:"images"`

	Root   *verity.Hash `json:"-"` // of the hash tree
	Salt   []byte       `json:"-"`
	Hashes int64        `json:"-"` // size of the hash tree in bytes

	extra   keyFile // [meta.*] and others
	unknown error   // a group or key that no RAUC knows
}

// Image is a file of a bundle that is written to a slot.
type Image struct {
	Class    string   `json:"slot_class"`
	Variant  string   `json:"variant,omitempty"`
	File     string   `json:"file,omitempty"` // empty: the hook needs none
	Type     string   `json:"type,omitempty"` // empty: by the name of the file
	Size     int64    `json:"size"`
	SHA256   string   `json:"sha256,omitempty"`
	Hooks    []string `json:"hooks,omitempty"`
	Adaptive []string `json:"adaptive,omitempty"`
}

// Name returns the name of the image's group in the manifest, without "image.".
func (i Image) Name() string {
	if i.Variant == "" {
		return i.Class
	}
	return i.Class + "." + i.Variant
}

// Casync reports whether the file is an index of casync. Size and hash are then of the image, whose
// content is in a store beside the bundle.
func (i Image) Casync() bool {
	return strings.HasSuffix(i.File, ".caibx") || strings.HasSuffix(i.File, ".caidx")
}

// Index returns the name of the file with the hashes of the image's blocks, or "".
func (i Image) Index() string {
	if i.File == "" || !slices.Contains(i.Adaptive, BlockHashIndex) {
		return ""
	}
	return i.File + "." + BlockHashIndex
}

// The hooks that RAUC knows, of a bundle and of an image.
var (
	BundleHooks = []string{"install-check"}
	ImageHooks  = []string{"pre-install", "install", "post-install"}
)

var (
	className = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)
	fileName  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._+-]*$`)
	sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// suffixes are the ends of names from which every version of RAUC knows the type of an
// image. The key type of manifests exists only since RAUC 1.15, and older versions refuse
// manifests with it.
var suffixes = []string{".ext4", ".vfat", ".img", ".squashfs", ".ubifs", ".tar", ".tar.gz", ".tar.xz", ".tar.zst"}

// Check reports what RAUC would refuse in a manifest for a new bundle.
func (m *Manifest) Check() error {
	if m.Compatible == "" {
		return errors.New("compatible is missing: the string by which a device knows its bundles, as in its system.conf")
	}
	for key, text := range map[string]string{"compatible": m.Compatible, "version": m.Version, "description": m.Description} {
		if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			return fmt.Errorf("%s is %q: it must be one line of UTF-8 without control characters", key, text)
		}
	}
	if len(m.Images) == 0 {
		return errors.New("there is no image")
	}
	if err := known("hook", m.Hooks, BundleHooks); err != nil {
		return err
	}
	hooks := len(m.Hooks)
	seen := map[string]bool{}
	for _, i := range m.Images {
		switch {
		case !className.MatchString(i.Class):
			return fmt.Errorf("%q is not the class of a slot, such as rootfs", i.Class)
		case seen[i.Class]:
			return fmt.Errorf("two images are for the slots %s", i.Class)
		case !fileName.MatchString(i.File) || i.File == ManifestName || seen[i.File]:
			return fmt.Errorf("the image for the slots %s cannot have the file name %q", i.Class, i.File)
		case !slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(i.File, s) }):
			return fmt.Errorf("%s: RAUC knows the type of an image by the end of its name, which must be %s", i.File, strings.Join(suffixes, " or "))
		}
		seen[i.Class], seen[i.File], seen[i.Index()] = true, true, true
		if err := known("hook", i.Hooks, ImageHooks); err != nil {
			return fmt.Errorf("slots %s: %w", i.Class, err)
		}
		if err := known("adaptive method", i.Adaptive, []string{BlockHashIndex}); err != nil {
			return fmt.Errorf("slots %s: %w", i.Class, err)
		}
		if slices.Contains(i.Hooks, "install") && len(i.Hooks) > 1 {
			return fmt.Errorf("slots %s: the hook install replaces the others: leave them out", i.Class)
		}
		hooks += len(i.Hooks)
	}
	switch {
	case hooks > 0 && m.HookFile == "":
		return errors.New("there are hooks, but no file with them")
	case hooks == 0 && m.HookFile != "":
		return fmt.Errorf("no hook is named that RAUC would run %s for", m.HookFile)
	case m.HookFile != "" && (!fileName.MatchString(m.HookFile) || m.HookFile == ManifestName || seen[m.HookFile]):
		return fmt.Errorf("the file with the hooks cannot have the name %q", m.HookFile)
	}
	return nil
}

func known(what string, list, names []string) error {
	for _, name := range list {
		if !slices.Contains(names, name) {
			return fmt.Errorf("RAUC has no %s %q (it has %s)", what, name, strings.Join(names, ", "))
		}
	}
	return nil
}

// Encode returns the text of the manifest.
func (m *Manifest) Encode() []byte {
	var f keyFile
	g := f.group("update")
	g.set("compatible", m.Compatible)
	g.set("version", m.Version)
	g.set("description", m.Description)
	g.set("build", m.Build)
	g.set("min-rauc-version", m.MinVersion)
	g = f.group("bundle")
	g.set("format", m.Format)
	if m.Root != nil {
		g.set("verity-hash", hex.EncodeToString(m.Root[:]))
		g.set("verity-salt", hex.EncodeToString(m.Salt))
		g.set("verity-size", strconv.FormatInt(m.Hashes, 10))
	}
	f.group("handler").set("filename", m.Handler)
	g = f.group("hooks")
	g.set("filename", m.HookFile)
	g.setList("hooks", m.Hooks)
	for _, i := range m.Images {
		g = f.group("image." + i.Name())
		g.set("sha256", i.SHA256)
		g.set("size", strconv.FormatInt(i.Size, 10))
		g.set("filename", i.File)
		g.set("type", i.Type)
		g.setList("hooks", i.Hooks)
		g.setList("adaptive", i.Adaptive)
	}
	return append(f, m.extra...).encode()
}

// ParseManifest reads a manifest. Keys and groups that no RAUC knows are no error;
// [Manifest.Refused] reports them.
func ParseManifest(text []byte) (*Manifest, error) {
	f, err := parseKeyFile(string(text))
	if err != nil {
		return nil, err
	}
	m := &Manifest{Format: Plain, Images: []Image{}, unknown: f.unknown()}
	for i := range f {
		g := &f[i]
		switch g.name {
		case "update":
			m.Compatible, m.Version, m.Description = g.text("compatible"), g.text("version"), g.text("description")
			m.Build, m.MinVersion = g.text("build"), g.text("min-rauc-version")
		case "bundle":
			err = m.parseBundle(g)
		case "handler":
			m.Handler = g.text("filename")
		case "hooks":
			m.HookFile, m.Hooks = g.text("filename"), g.list("hooks")
		default:
			if name, ok := strings.CutPrefix(g.name, "image."); ok {
				err = m.parseImage(name, g)
			} else {
				m.extra = append(m.extra, *g)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("[%s]: %w", g.name, err)
		}
	}
	if m.Compatible == "" {
		return nil, errors.New("[update] has no compatible")
	}
	return m, nil
}

func (m *Manifest) parseBundle(g *group) error {
	if _, ok := g.get("format"); ok {
		m.Format = g.text("format")
	}
	if !slices.Contains([]string{Plain, Verity, Crypt}, m.Format) {
		return fmt.Errorf("the format is %q; only %s, %s and %s are known", m.Format, Plain, Verity, Crypt)
	}
	text, ok := g.get("verity-hash")
	if !ok {
		return nil
	}
	root, err := hex.DecodeString(text)
	if err != nil || len(root) != len(verity.Hash{}) {
		return fmt.Errorf("verity-hash is %q: it must be a SHA-256", text)
	}
	m.Root = (*verity.Hash)(root)
	if m.Salt, err = hex.DecodeString(g.text("verity-salt")); err != nil || len(m.Salt) != 32 {
		return fmt.Errorf("verity-salt is %q: it must be 32 bytes in hexadecimal", g.text("verity-salt"))
	}
	m.Hashes, err = strconv.ParseInt(g.text("verity-size"), 10, 64)
	if err != nil || m.Hashes <= 0 || m.Hashes%verity.BlockSize != 0 {
		return fmt.Errorf("verity-size is %q: it must be a multiple of %d", g.text("verity-size"), verity.BlockSize)
	}
	return nil
}

func (m *Manifest) parseImage(name string, g *group) error {
	i := Image{File: g.text("filename"), Type: g.text("type"), SHA256: g.text("sha256"), Hooks: g.list("hooks"), Adaptive: g.list("adaptive")}
	i.Class, i.Variant, _ = strings.Cut(name, ".")
	if size, ok := g.get("size"); ok {
		var err error
		if i.Size, err = strconv.ParseInt(size, 10, 64); err != nil || i.Size < 0 {
			return fmt.Errorf("size is %q: it must be a number of bytes", size)
		}
	}
	switch {
	case strings.ContainsAny(i.File, "/\x00"):
		return fmt.Errorf("filename is %q: it must have no slash", i.File)
	case i.File != "" && !sha256Hex.MatchString(strings.ToLower(i.SHA256)):
		return fmt.Errorf("sha256 is %q: it must have 64 hexadecimal digits", i.SHA256)
	}
	m.Images = append(m.Images, i)
	return nil
}
