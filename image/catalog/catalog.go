// Package catalog lists images for the programs that offer them to users: rpi-imager, which
// reads version 4 of its os_list as a .json or .rpi-imager-manifest, and bb-imager. Both read
// the same document; each ignores the fields of the other.
package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"

	"imgtool/image/fault"
	"imgtool/image/hostfile"
)

// Catalog is the document.
type Catalog struct {
	Imager Imager  `json:"imager"`
	Images []Entry `json:"os_list"`
}

// Imager has the devices from which a user chooses first.
type Imager struct {
	Devices []Device `json:"devices"`
}

// Device is a kind of board. An image is offered for it if one tag of the device is in the devices of the image.
type Device struct {
	Name         string   `json:"name"`
	Description  string   `json:"description"`
	Tags         []string `json:"tags"`
	Matching     string   `json:"matching_type"` // exclusive: images without devices are not offered
	Architecture string   `json:"architecture,omitempty"`
	Flasher      string   `json:"flasher"` // of bb-imager: how its images are written
}

// Entry is an image. SizeOfFile and SHA256OfFile are of the file that is downloaded.
type Entry struct {
	Name         string   `json:"name"`
	Description  string   `json:"description"`
	Icon         string   `json:"icon"`
	URL          string   `json:"url"`
	Size         int64    `json:"extract_size"`
	SHA256       string   `json:"extract_sha256"`
	SizeOfFile   int64    `json:"image_download_size"`
	SHA256OfFile string   `json:"image_download_sha256"`
	ReleaseDate  string   `json:"release_date"` // YYYY-MM-DD
	Devices      []string `json:"devices"`
	Init         string   `json:"init_format,omitempty"` // how the program can configure the image
	Architecture string   `json:"architecture,omitempty"`
	Website      string   `json:"website,omitempty"`
	BmapURL      string   `json:"bmap_url,omitempty"`  // of rpi-imager
	Bmap         string   `json:"bmap,omitempty"`      // the same, of bb-imager
	Info         string   `json:"info_text,omitempty"` // of bb-imager: what to do after writing
}

// architectures has rpi-imager's names of Debian's architectures.
var architectures = map[string]string{"arm64": "armv8", "armhf": "armhf", "armel": "armel"}

// noIcon is the icon without another one: bb-imager leaves out an entry whose icon is no URL.
const noIcon = "data:image/svg+xml,%3Csvg%20xmlns='http://www.w3.org/2000/svg'/%3E"

// Encode returns the document.
func (c *Catalog) Encode() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(c); err != nil {
		panic("catalog: internal error: " + err.Error())
	}
	return b.Bytes()
}

// maxSize is the size of the largest catalog that is replaced.
const maxSize = 64 << 20

// CheckOutput checks the path of a catalog before the images are read. A file that exists must
// be a catalog: manifests and other files beside images also end in .json.
func CheckOutput(path string) error {
	if !strings.HasSuffix(path, ".json") && !strings.HasSuffix(path, ".rpi-imager-manifest") {
		return fault.New(fault.Usage, "-o %s: rpi-imager opens only names that end in .json or .rpi-imager-manifest", path)
	}
	if err := hostfile.CheckOutput(path); err != nil {
		return err
	}
	text, err := hostfile.ReadFile(path, maxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var old struct {
		Images []json.RawMessage `json:"os_list"`
	}
	if err := json.Unmarshal(text, &old); err != nil || old.Images == nil {
		return fault.New(fault.Usage, "-o %s: the file exists, and is no catalog: choose another name", path)
	}
	return nil
}
