package seedfile

import (
	"fmt"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	for name, row := range map[string]struct{ text, want string }{
		"a table":                       {"unit,lan\nW1,10.0.0.1\nW2,10.0.0.2\n", "2:W1[W1 10.0.0.1] 3:W2[W2 10.0.0.2]"},
		"no final newline":              {"unit,lan\nW1,10.0.0.1", "2:W1[W1 10.0.0.1]"},
		"a byte order mark":             {"\ufeffunit\nW1\n", "2:W1[W1]"},
		"CRLF line ends":                {"unit,lan\r\nW1,x\r\n", "2:W1[W1 x]"},
		"white space":                   {" unit , lan \n W1 , x y \n", "2:W1[W1 x y]"},
		"an empty value":                {"unit,lan\nW1,\n", "2:W1[W1 ]"},
		"an empty line":                 {"unit,lan\n\nW1,x\n", "3:W1[W1 x]"},
		"a value of two lines":          {"unit,key,n\nW1,\"a\nb\",1\nW2,c,2\n", "2:W1[W1 a\nb 1] 4:W2[W2 c 2]"},
		"quotes":                        {"unit,say\nW1,\"a \"\"b\"\", c\"\n", `2:W1[W1 a "b", c]`},
		"an empty table":                {"", "!t.csv: there are no units: a table has a line with the column names and a line for each unit"},
		"no units":                      {"unit,lan\n", "!t.csv: there are no units: a table has a line with the column names and a line for each unit"},
		"UTF-16":                        {"\xff\xfeu\x00n\x00", "!t.csv:1: it is UTF-16: save it as CSV in UTF-8"},
		"Latin-1":                       {"unit,who\nW1,secret\nW2,J\xf6rg\n", "!t.csv:3: it is not UTF-8: save it as CSV in UTF-8"},
		"semicolons":                    {"unit;lan\nW1;x\n", "!t.csv:1: its columns are not separated by commas: save it as CSV with commas"},
		"tabs":                          {"unit\tlan\nW1\tx\n", "!t.csv:1: its columns are not separated by commas: save it as CSV with commas"},
		"a short row":                   {"unit,lan,key\nW1,a,secret\nW2,secret\n", "!t.csv:3: the row has 2 values, but there are 3 columns"},
		"a long row":                    {"unit,lan\nW1,secret,secret\n", "!t.csv:2: the row has 3 values, but there are 2 columns"},
		"a unit without a name":         {"unit,lan\n,secret\n", "!t.csv:2: unit is empty: the first column is the unit's name"},
		"a duplicate unit":              {"unit,lan\nW1,a\nW2,a\nW1,secret\n", "!t.csv:4: unit W1 is already in line 2"},
		"a control character in a name": {"unit,lan\n\"W\x1b1\",a\n", "!t.csv:2: unit contains a control character: the first column is the unit's name"},
		"a column without a name":       {"unit,,lan\nW1,a,b\n", "!t.csv:1: column 2 has no name"},
		"a duplicate column":            {"unit,lan,lan\nW1,a,b\n", "!t.csv:1: columns 2 and 3 are both named lan"},
		"a column with a brace":         {"unit,{lan}\nW1,a\n", `!t.csv:1: column 2 has a name that contains @ { } " \ or a control character`},
		"a quote in a value":            {"unit,lan\nW1,a\"secret\n", `!t.csv:2: a value that contains a " must be in quotes, with the " doubled`},
		"an unterminated quote":         {"unit,lan\nW1,\"secret\n", `!t.csv:2: a value that contains a " must be in quotes, with the " doubled`},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			table, err := parseTable("t.csv", []byte(row.text))
			if err != nil {
				got = "!" + err.Error()
			} else {
				var rows []string
				for _, r := range table.rows {
					rows = append(rows, fmt.Sprintf("%d:%s%v", r.line, r.unit, r.values))
				}
				got = strings.Join(rows, " ")
			}
			if got != row.want {
				t.Errorf("%s\nwant %s", got, row.want)
			}
		})
	}
}
