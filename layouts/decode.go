package layouts

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"imgtool/image/suggest"
)

// Decode reads TOML into v, a pointer to a struct. Unknown keys are errors. Errors have the
// file and the line, and for an unknown key the known ones.
func Decode(file string, text []byte, v any) error {
	d := toml.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	var missing *toml.StrictMissingError
	if errors.As(err, &missing) {
		var errs []error
		for _, e := range missing.Errors {
			line, _ := e.Position()
			key := e.Key()
			known := keysAt(reflect.TypeOf(v), key[:len(key)-1])
			errs = append(errs, fmt.Errorf("%s:%d: unknown key %q%s (known: %s)", file, line,
				strings.Join(key, "."), suggest.DidYouMean(key[len(key)-1], known), strings.Join(known, ", ")))
		}
		return errors.Join(errs...)
	}
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) {
		line, _ := wrong.Position()
		return fmt.Errorf("%s:%d: %s", file, line, strings.TrimPrefix(wrong.Error(), "toml: "))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// keysAt returns the keys of the table at path in a struct type, without former names.
func keysAt(t reflect.Type, path []string) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for f := range t.Fields() {
		key, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		if key == "" || key == "-" || f.Tag.Get("former") != "" {
			continue
		}
		if len(path) > 0 && key == path[0] {
			return keysAt(f.Type, path[1:])
		}
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// Bytes is a size in bytes. Its text is "512", "32KiB", "128MiB", "1GiB" or, in sectors of
// 512 bytes, "40s".
type Bytes int64

const (
	KiB = 1 << 10
	MiB = 1 << 20
	GiB = 1 << 30
)

// UnmarshalText parses a size.
func (b *Bytes) UnmarshalText(text []byte) error {
	s := string(text)
	unit := int64(1)
	for suffix, n := range map[string]int64{"KiB": KiB, "MiB": MiB, "GiB": GiB, "s": 512} {
		if number, ok := strings.CutSuffix(s, suffix); ok {
			s, unit = number, n
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return fmt.Errorf(`invalid size %q: write it as "512", "32KiB", "128MiB", "1GiB" or, in sectors, "40s"`, text)
	}
	*b = Bytes(n * unit)
	return nil
}

// String returns the size in the largest unit that divides it.
func (b Bytes) String() string {
	for _, u := range []struct {
		n    int64
		name string
	}{{GiB, " GiB"}, {MiB, " MiB"}, {KiB, " KiB"}} {
		if b != 0 && int64(b)%u.n == 0 {
			return strconv.FormatInt(int64(b)/u.n, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + " bytes"
}
