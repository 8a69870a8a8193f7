package seedfile

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"imgtool/image/hostfile"
)

// table holds the per-unit values of a template: a column for each value, and a row for each
// unit with its name in the first column. No message contains a value.
type table struct {
	file    string
	columns []string
	rows    []row
}

type row struct {
	line   int
	unit   string
	values []string
}

// maxTable is the largest table in bytes, enough for a million units.
const maxTable = 256 << 20

// readTable reads a table as spreadsheets write it: CSV in UTF-8, with or without
// a byte order mark. White space around values is removed.
func readTable(file string) (*table, error) {
	text, err := hostfile.ReadFile(file, maxTable)
	if err != nil {
		return nil, fmt.Errorf("values: %w", err)
	}
	return parseTable(file, text)
}

func parseTable(file string, text []byte) (*table, error) {
	bad := func(line int, format string, args ...any) error {
		return fmt.Errorf("%s:%d: %s", file, line, fmt.Sprintf(format, args...))
	}
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return nil, bad(1, "it is UTF-16: save it as CSV in UTF-8")
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	r := csv.NewReader(bytes.NewReader(text))
	t := &table{file: file}
	units := map[string]int{}
	for {
		fields, err := r.Read()
		if err == io.EOF {
			break
		}
		var at *csv.ParseError
		if errors.As(err, &at) && at.Err != csv.ErrFieldCount {
			return nil, bad(at.StartLine, "a value that contains a \" must be in quotes, with the \" doubled")
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
				return nil, bad(line, "its columns are not separated by commas: save it as CSV with commas")
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
			return nil, bad(line, "the row has %d values, but there are %d columns", len(fields), len(t.columns))
		case unit == "":
			return nil, bad(line, "%s is empty: the first column is the unit's name", t.columns[0])
		case strings.ContainsFunc(unit, unicode.IsControl):
			return nil, bad(line, "%s contains a control character: the first column is the unit's name", t.columns[0])
		case first > 0:
			return nil, bad(line, "unit %s is already in line %d", unit, first)
		}
		units[unit] = line
		t.rows = append(t.rows, row{line, unit, fields})
	}
	if len(t.rows) == 0 {
		return nil, fmt.Errorf("%s: there are no units: a table has a line with the column names and a line for each unit", file)
	}
	return t, nil
}

// checkColumn checks a column name, which must be valid in @{}.
func checkColumn(i int, name string, before []string) error {
	switch {
	case name == "":
		return fmt.Errorf("column %d has no name", i+1)
	case strings.ContainsAny(name, `@{}"\`) || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("column %d has a name that contains @ { } \" \\ or a control character", i+1)
	}
	if j := slices.Index(before, name); j >= 0 {
		return fmt.Errorf("columns %d and %d are both named %s", j+1, i+1, name)
	}
	return nil
}

func (t *table) find(unit string) (row, error) {
	for _, row := range t.rows {
		if row.unit == unit {
			return row, nil
		}
	}
	return row{}, fmt.Errorf("%s: unknown unit %q: the column %s has %d units, but not this one", t.file, unit, t.columns[0], len(t.rows))
}

// seed returns a template with the values of a row. name is the template's.
func (t *table) seed(r row, name string, text []byte) *Seed {
	columns := map[string]string{}
	for i, value := range r.values {
		columns[t.columns[i]] = value
	}
	return &Seed{Name: fmt.Sprintf("%s:%d: %s: %s", t.file, r.line, r.unit, name), Text: text, Columns: columns, Unit: r.unit, Line: r.line}
}

// Units returns the names of the units in a table of values.
func Units(values string) (names []string, err error) {
	t, err := readTable(values)
	if err != nil {
		return nil, err
	}
	for _, row := range t.rows {
		names = append(names, row.unit)
	}
	return names, nil
}
