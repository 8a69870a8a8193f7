package rpmdb

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// sqliteDB is a database file of SQLite. Only tables are read, from front to back.
// https://www.sqlite.org/fileformat2.html
type sqliteDB struct {
	*file
	page   int64 // size of a page
	usable int64 // of it, without the reserved end
	left   int64 // pages that may still be read: one that is read twice is damaged
}

// sqlite calls blob for every row of the table Packages, whose second column is a header.
func sqlite(f *file, head []byte, blob func([]byte) error) error {
	if len(head) < 100 {
		return errors.New("damaged: cut short")
	}
	db := &sqliteDB{file: f, page: int64(binary.BigEndian.Uint16(head[16:]))}
	if db.page == 1 {
		db.page = 65536
	}
	if db.usable = db.page - int64(head[20]); db.page < 512 || db.usable < 480 {
		return fmt.Errorf("damaged: pages of %d bytes", db.page)
	}
	db.left = f.size/db.page + 1
	root := int64(0)
	// The table sqlite_schema begins on the first page: type, name, tbl_name, rootpage, sql.
	err := db.rows(1, 0, func(columns []column) error {
		if len(columns) >= 4 && string(columns[0].data) == "table" && string(columns[1].data) == "Packages" {
			root = columns[3].number
		}
		return nil
	})
	if err == nil && root == 0 {
		err = errors.New("it has no table Packages")
	}
	if err != nil {
		return err
	}
	return db.rows(root, 0, func(columns []column) error {
		if len(columns) < 2 {
			return errors.New("damaged: a row of Packages has no header")
		}
		return blob(columns[1].data)
	})
}

// column is a value: bytes or a number.
type column struct {
	data   []byte
	number int64
}

// maxDepth is the depth of the deepest tree of pages, as in SQLite.
const maxDepth = 20

// rows calls row for each row in the tree of pages below number.
func (db *sqliteDB) rows(number int64, depth int, row func([]column) error) error {
	if db.left--; db.left < 0 || depth > maxDepth {
		return fmt.Errorf("damaged: page %d is in a circle", number)
	}
	b, err := db.at((number-1)*db.page, db.page)
	if err != nil {
		return err
	}
	h := int64(0)
	if number == 1 {
		h = 100 // after the header of the file
	}
	kind, cells := b[h], int64(binary.BigEndian.Uint16(b[h+3:]))
	start := map[byte]int64{5: h + 12, 13: h + 8}[kind] // inner page and leaf of a table
	if start == 0 || start+2*cells > db.page {
		return fmt.Errorf("damaged: page %d has type %d and %d cells", number, kind, cells)
	}
	for i := range cells {
		at := int64(binary.BigEndian.Uint16(b[start+2*i:]))
		if at+4 > db.usable {
			return fmt.Errorf("damaged: page %d has a cell at byte %d", number, at)
		}
		if kind == 5 {
			if err := db.rows(int64(binary.BigEndian.Uint32(b[at:])), depth+1, row); err != nil {
				return err
			}
			continue
		}
		record, err := db.record(b[at:db.usable])
		if err != nil {
			return fmt.Errorf("page %d: %w", number, err)
		}
		columns, err := splitRecord(record)
		if err == nil {
			err = row(columns)
		}
		if err != nil {
			return fmt.Errorf("page %d: %w", number, err)
		}
	}
	if kind == 5 {
		return db.rows(int64(binary.BigEndian.Uint32(b[h+8:])), depth+1, row)
	}
	return nil
}

// record returns the content of a cell of a leaf: its size, the row's number, and the content, of
// which the end may be on overflow pages.
func (db *sqliteDB) record(cell []byte) ([]byte, error) {
	size, n := varint(cell)
	_, m := varint(cell[n:])
	cell = cell[n+m:]
	if size < 0 || size > db.size {
		return nil, fmt.Errorf("damaged: a row of %d bytes", size)
	}
	local := size
	if most := db.usable - 35; size > most {
		least := (db.usable-12)*32/255 - 23
		if local = least + (size-least)%(db.usable-4); local > most {
			local = least
		}
	}
	if local > int64(len(cell)) || local < size && local+4 > int64(len(cell)) {
		return nil, errors.New("damaged: a row reaches out of its page")
	}
	record := append(make([]byte, 0, size), cell[:local]...)
	if local == size {
		return record, nil
	}
	for next := int64(binary.BigEndian.Uint32(cell[local:])); int64(len(record)) < size; {
		b, err := db.at((next-1)*db.page, db.page)
		if err != nil {
			return nil, err
		}
		record = append(record, b[4:4+min(db.usable-4, size-int64(len(record)))]...)
		next = int64(binary.BigEndian.Uint32(b))
	}
	return record, nil
}

// splitRecord returns the columns of a record: the size of its header, the type of each column,
// and their values.
func splitRecord(b []byte) (columns []column, err error) {
	length, n := varint(b)
	if length < int64(n) || length > int64(len(b)) {
		return nil, fmt.Errorf("damaged: a row of %d bytes has a header of %d", len(b), length)
	}
	types, values := b[n:length], b[length:]
	for len(types) > 0 {
		kind, n := varint(types)
		types = types[n:]
		size := int64(0)
		switch {
		case kind >= 12:
			size = (kind - 12) / 2
		case kind >= 1 && kind <= 6:
			size = []int64{0, 1, 2, 3, 4, 6, 8}[kind]
		case kind == 7:
			size = 8
		}
		if size < 0 || size > int64(len(values)) {
			return nil, fmt.Errorf("damaged: a column of %d bytes in a row of %d", size, len(b))
		}
		c := column{data: values[:size]}
		if kind == 9 {
			c.number = 1
		}
		if kind >= 1 && kind <= 6 {
			for _, d := range c.data {
				c.number = c.number<<8 | int64(d)
			}
		}
		columns, values = append(columns, c), values[size:]
	}
	return columns, nil
}

// varint returns a number of 1 to 9 bytes, of which the high bit says that another one follows,
// and how many bytes it has.
func varint(b []byte) (v int64, n int) {
	for n < min(8, len(b)) {
		v = v<<7 | int64(b[n]&0x7f)
		if n++; b[n-1] < 0x80 {
			return v, n
		}
	}
	if n < len(b) {
		return v<<8 | int64(b[n]), n + 1
	}
	return v, n
}
