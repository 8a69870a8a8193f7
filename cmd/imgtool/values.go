package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"imgtool/image/build"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/seed"
)

// seedOptions say which seed is meant: a file, or a template and a unit's row in a
// table of values.
type seedOptions struct {
	file, values, unit string
}

func (o *seedOptions) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.values, "values", "", "CSV with the values of each unit; the seed is a template with @{COLUMN}")
	cmd.Flags().StringVar(&o.unit, "unit", "", "the unit, by the first column of --values")
}

// given says whether there is a seed, or something that needs one.
func (o seedOptions) given() bool { return o != seedOptions{} }

// read reads the seed. What is in it is not looked at.
func (o seedOptions) read() (*build.Seed, error) {
	switch {
	case o.file == "":
		return nil, fault.New(fault.Usage, "--values and --unit fill in a template: pass it with --seed")
	case o.unit != "" && o.values == "":
		return nil, fault.New(fault.Usage, "--unit is a row of a table: pass that with --values")
	case o.values != "" && o.unit == "":
		return nil, fault.New(fault.Usage, "say which unit of %s: --unit NAME", o.values)
	}
	if o.values == "" {
		text, err := readSeed(o.file)
		if err != nil {
			return nil, fmt.Errorf("seed: %w", err)
		}
		return &build.Seed{Name: o.file, Text: text}, nil
	}
	template, t, err := o.table()
	if err != nil {
		return nil, err
	}
	row, err := t.find(o.unit)
	if err != nil {
		return nil, err
	}
	return t.seed(row, o.file, template), nil
}

// table reads the template and the values.
func (o seedOptions) table() ([]byte, *valueTable, error) {
	template, err := readSeed(o.file)
	if err != nil {
		return nil, nil, fmt.Errorf("seed: %w", err)
	}
	t, err := readValues(o.values)
	if err != nil {
		return nil, nil, err
	}
	if !bytes.Contains(template, []byte("@{")) {
		return nil, nil, fmt.Errorf("%s: there is no @{COLUMN} in it, so all units would get the same: leave out --values", o.file)
	}
	return template, t, nil
}

func readSeed(path string) ([]byte, error) {
	if path == "-" {
		return nil, fault.New(fault.Usage, "the seed comes from a file, not from a pipe")
	}
	f, err := hostfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case seed.IsBundleName(path):
		return nil, fmt.Errorf("%s is a bundle: a device takes one through its web interface only, and here a plain config.toml", path)
	case info.Size() > seed.MaxUpload:
		return nil, fmt.Errorf("%s has %d bytes; the device takes up to %d", path, info.Size(), seed.MaxUpload)
	}
	return io.ReadAll(io.LimitReader(f, seed.MaxUpload))
}

// valueTable is what units have of their own: a column for each place in a
// template, a row for each unit, whose name is in the first column. No message has
// a value in it.
type valueTable struct {
	file    string
	columns []string
	rows    []valueRow
}

type valueRow struct {
	line   int
	unit   string
	values []string
}

// maxValues is room for a million units.
const maxValues = 256 << 20

// readValues reads a table as spreadsheets write it: CSV in UTF-8, with or without
// a byte order mark. White space around a value does not count.
func readValues(file string) (*valueTable, error) {
	text, err := hostfile.ReadFile(file, maxValues)
	if err != nil {
		return nil, fmt.Errorf("values: %w", err)
	}
	return parseValues(file, text)
}

func parseValues(file string, text []byte) (*valueTable, error) {
	bad := func(line int, format string, args ...any) error {
		return fmt.Errorf("%s:%d: %s", file, line, fmt.Sprintf(format, args...))
	}
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return nil, bad(1, "it is UTF-16: save it as CSV in UTF-8")
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	r := csv.NewReader(bytes.NewReader(text))
	t := &valueTable{file: file}
	units := map[string]int{}
	for {
		fields, err := r.Read()
		if err == io.EOF {
			break
		}
		var at *csv.ParseError
		if errors.As(err, &at) && at.Err != csv.ErrFieldCount {
			return nil, bad(at.StartLine, "a value with a \" in it stands in quotes, and the \" there twice")
		}
		line, _ := r.FieldPos(0)
		for i, f := range fields {
			if at, _ := r.FieldPos(i); !utf8.ValidString(f) {
				return nil, bad(at, "it is not UTF-8: save it as CSV in UTF-8")
			}
			fields[i] = strings.TrimSpace(f)
		}
		if t.columns == nil {
			if len(fields) == 1 && strings.ContainsAny(fields[0], ";\t") {
				return nil, bad(line, "its columns are not parted by commas: save it as CSV with commas")
			}
			for i, name := range fields {
				if err := checkColumn(i, name, fields[:i]); err != nil {
					return nil, bad(line, "%v", err)
				}
			}
			t.columns = fields
			continue
		}
		unit := fields[0]
		switch first := units[unit]; {
		case len(fields) != len(t.columns):
			return nil, bad(line, "the row has %d values, and there are %d columns", len(fields), len(t.columns))
		case unit == "":
			return nil, bad(line, "%s is empty: the first column is the unit's name", t.columns[0])
		case strings.ContainsFunc(unit, unicode.IsControl):
			return nil, bad(line, "%s has a control character in it: the first column is the unit's name", t.columns[0])
		case first > 0:
			return nil, bad(line, "unit %s is in line %d already", unit, first)
		}
		units[unit] = line
		t.rows = append(t.rows, valueRow{line, unit, fields})
	}
	if len(t.rows) == 0 {
		return nil, fmt.Errorf("%s: there are no units: a table has a line with the names of its columns, and one for each unit", file)
	}
	return t, nil
}

// checkColumn refuses a name that cannot be in @{}.
func checkColumn(i int, name string, before []string) error {
	switch {
	case name == "":
		return fmt.Errorf("column %d has no name", i+1)
	case strings.ContainsAny(name, `@{}"\`) || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("column %d has a name with one of @ { } \" \\ or a control character in it", i+1)
	}
	for j, other := range before {
		if other == name {
			return fmt.Errorf("columns %d and %d are both called %s", j+1, i+1, name)
		}
	}
	return nil
}

func (t *valueTable) find(unit string) (valueRow, error) {
	for _, row := range t.rows {
		if row.unit == unit {
			return row, nil
		}
	}
	return valueRow{}, fmt.Errorf("%s: there is no unit %q in the column %s, which has %d", t.file, unit, t.columns[0], len(t.rows))
}

// seed is a template with the values of a row.
func (t *valueTable) seed(row valueRow, name string, text []byte) *build.Seed {
	columns := map[string]string{}
	for i, value := range row.values {
		columns[t.columns[i]] = value
	}
	return &build.Seed{Name: fmt.Sprintf("%s:%d: %s: %s", t.file, row.line, row.unit, name), Text: text, Columns: columns}
}
