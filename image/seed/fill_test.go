package seed_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"imgtool/image/seed"
)

var (
	inQuotes = regexp.MustCompile(`((?:= ?|\[|, ?)"+)([^"\\\n@]+)`)
	bare     = regexp.MustCompile(`(?m)(= ?\[?)(true|false|0|-?[1-9][0-9]{0,17})\b`)
)

// templateOf replaces all values of a document by columns, and returns their values.
func templateOf(doc string) (string, map[string]string) {
	columns := map[string]string{}
	for _, value := range []*regexp.Regexp{inQuotes, bare} {
		doc = value.ReplaceAllStringFunc(doc, func(s string) string {
			m := value.FindStringSubmatch(s)
			name := fmt.Sprintf("c%d", len(columns))
			columns[name] = m[2]
			return m[1] + "@{" + name + "}"
		})
	}
	return doc, columns
}

// A filled template has the same faults as the equal document, in the same places, and their
// texts contain no per-unit values.
func TestFilledTemplateHasFaultsOfDocument(t *testing.T) {
	filled, masked := 0, 0
	docs := vectors(t)
	for _, more := range []string{
		`Network = "bridge"`, `Network = ["bridge", "other"]`, `PublishPort = ["0.0.0.0:8081:81", "8080"]`,
		"[network.dnsmasq]\ngateway_cidr = \"10.1.1.1/31\"", "[network.dnsmasq]\ngateway_cidr = \"10.1.1.1/24\"\ndhcp_start = \"10.1.1.9\"",
		"[network.dnsmasq]\ndhcp_start = \"172.20.30.99\"\ndhcp_end = \"172.20.30.9\"", "[network.dnsmasq]\ndhcp_end = \"172.20.30.9\"",
		"[network.dnsmasq]\ngateway_cidr = \"172.20.30.20/24\"", "[network.dnsmasq]\ngateway_cidr = \"172.20.30.1/25\"\n[network.interfaces.eth1]\nmode = \"static\"\naddress = \"172.20.30.2/24\"",
		"[os_upgrade]\nserver_url = \"HTTPS://updates.example\"", "[network.firewall.inbound.wan]\ntcp = [\n99999]",
	} {
		docs = append(docs, vector{ID: more, TOML: minimal + more + "\n"})
	}
	for _, v := range docs {
		template, columns := templateOf(v.TOML)
		if len(columns) == 0 || strings.Contains(v.TOML, "\r") {
			continue
		}
		text, _, faults := seed.CheckFilled([]byte(template), columns)
		_, plain := seed.Check([]byte(v.TOML))
		if text == nil {
			// A syntax error does not depend on values.
			if len(wrong(plain)) == 0 {
				t.Errorf("%s: %v", v.ID, faults)
			}
			continue
		}
		filled++
		if string(text) != v.TOML {
			t.Errorf("%s: %q", v.ID, text)
		}
		where := func(faults []seed.Fault) (list []string) {
			for _, f := range faults {
				list = append(list, fmt.Sprint(f.Line, f.Key, f.Warning))
			}
			return list
		}
		if got, want := fmt.Sprint(where(faults)), fmt.Sprint(where(plain)); got != want {
			t.Errorf("%s: %s, want %s", v.ID, got, want)
			continue
		}
		for i, f := range faults {
			if f.Text != plain[i].Text {
				masked++
			}
			for _, value := range columns {
				// Texts of the rules themselves can be equal to values.
				if len(value) > 3 && strings.Contains(f.Text, value) && !strings.Contains(rules, value) && !strings.Contains(template, value) {
					t.Errorf("%s: %q is in %q", v.ID, value, f.Text)
				}
			}
		}
	}
	if filled < 150 || masked < 45 {
		t.Errorf("%d documents, %d faults with columns", filled, masked)
	}
}

// rules are texts that faults contain for any document.
const rules = "rollback host pasta node-{mac} true 8080 eth1 bash zsh static dhcp ssh-rsa ssh-ed25519 172.20.30.1/24 127.0.0.1"

func TestFill(t *testing.T) {
	columns := map[string]string{"serial": "W123", "n": "42", "yes": "true", "none": "", "nasty": "\"\nadmin = true\n# \\ \"\"\"", "IP address": "192.0.2.5/24", "sp": "  x"}
	for name, row := range map[string]struct{ template, want string }{
		"a string":                              {`a = "@{serial}"`, `a = "W123"`},
		"a part of a string":                    {`a = "x-@{serial}.@{n}"`, `a = "x-W123.42"`},
		"a name with a space":                   {`a = "@{IP address}"`, `a = "192.0.2.5/24"`},
		"a value with quotes":                   {`a = "@{nasty}"`, `a = "\"\u000Aadmin = true\u000A# \\ \"\"\""`},
		"a long string":                         {"a = \"\"\"\n@{nasty}\"\"\"", "a = \"\"\"\n\\\"\\u000Aadmin = true\\u000A# \\\\ \\\"\\\"\\\"\"\"\""},
		"white space after a line continuation": {"a = \"\"\"\\\n  @{sp}\"\"\"", "a = \"\"\"\\\n  \\u0020\\u0020x\"\"\""},
		"an integer":                            {`a = @{n}`, `a = 42`},
		"a list":                                {`a = [@{n}, @{yes}, "@{n}"]`, `a = [42, true, "42"]`},
		"a token of the device":                 {`a = "${FILES_DIR}/@{serial}"`, `a = "${FILES_DIR}/W123"`},
		"a comment":                             {"# @{serial} @{what}\na = 1", "# @{serial} @{what}\na = 1"},
		"an escape":                             {`a = "\u0040{serial}"`, `a = "\u0040{serial}"`},
		"other uses of @":                       {`a = "ops@bench @ {serial}"`, `a = "ops@bench @ {serial}"`},
		"CRLF line ends":                        {"a = \"@{n}\"\r\nb = 1\r\n", "a = \"42\"\nb = 1\n"},
		"a bare text":                           {"\na = @{serial}", `!2: @{serial} is neither an integer nor true or false; a string must be in quotes, as in "@{serial}"`},
		"an unknown column":                     {"\n\na = \"x\n\"\nb = \"@{lan}\"", "!3: the string that begins with \" does not end in its line\n5: @{lan} is not a column; the columns are IP address, n, nasty, none, serial, sp, yes"},
		"an empty one":                          {`a = "@{none}"`, "!1: @{none} is empty; each unit must have a value"},
		"an empty bare one":                     {`a = @{none}`, "!1: @{none} is empty; each unit must have a value"},
		"single quotes":                         {`a = '@{serial}'`, "!1: @{serial} is in single quotes, where characters cannot be escaped: use double quotes"},
		"three single quotes":                   {"a = '''\n\n@{serial}'''", "!3: @{serial} is in single quotes, where characters cannot be escaped: use double quotes"},
		"a key":                                 {`"@{serial}" = 1`, "!1: @{serial} is in a key: only a value can differ between units"},
		"a header":                              {`[users."@{serial}"]`, "!1: @{serial} is in a key: only a value can differ between units"},
		"a bare key":                            {`@{serial} = 1`, "!1: '@' is unexpected; a key is letters, digits, _ and -, or in quotes"},
		"an inline key":                         {`a = {"@{n}" = 1}`, "!1: @{n} is in a key: only a value can differ between units"},
		"a column without a name":               {`a = "@{}"`, `!1: @{ is not followed by the name of a column and a }; for the text itself write \u0040{`},
		"an unterminated column":                {`a = "@{serial"`, `!1: @{ is not followed by the name of a column and a }; for the text itself write \u0040{`},
		"a number that is made":                 {`a = 1@{n}`, "!1: '@' is unexpected; a line ends after its value"},
		"a number that goes on":                 {`a = @{n}_000`, "!1: '_' is unexpected; a line ends after its value"},
		"a value in the next line":              {"a = \"\"\"\n\n@{lan}\"\"\"", "!3: @{lan} is not a column; the columns are IP address, n, nasty, none, serial, sp, yes"},
	} {
		t.Run(name, func(t *testing.T) {
			text, faults := seed.Fill([]byte(row.template), columns)
			got := string(text)
			if text == nil {
				got = "!" + strings.Join(wrong(faults), "\n")
			}
			if got != row.want {
				t.Errorf("%s\nwant %s", got, row.want)
			}
			if what, _ := seed.SameWhenRead(t, []byte(row.template), columns); what != "" {
				t.Error(what)
			}
		})
	}
}

// Without values, columns are ordinary text, with a warning.
func TestColumnsWithoutValues(t *testing.T) {
	c, faults := seed.Check([]byte(minimal + "Exec = \"@{serial} @{ @{}\"\nUser = '@'\n"))
	if c == nil || len(faults) != 1 || faults[0].String() != "11: @{serial} is kept as it is: no values were given" || !faults[0].Warning {
		t.Error(faults)
	}
}

// No value can add a line, a key or another value.
func FuzzFill(f *testing.F) {
	f.Add(minimal+"Exec = \"@{a} @{b}\"\n", "x", "\"\n")
	f.Add("a = \"\"\"\\\n @{a}\"\"\"\nb = [@{b}]", "  ", "12")
	f.Add("a = '@{a}'", "'", "")
	f.Add("\"@{a}\" = {b = \"@{b}\"}", "\\", "\\u0041")
	f.Fuzz(func(t *testing.T, template, a, b string) {
		columns := map[string]string{"a": strings.ToValidUTF8(a, ""), "b": strings.ToValidUTF8(b, "")}
		text, _, faults := seed.CheckFilled([]byte(template), columns)
		what, ok := seed.SameWhenRead(t, []byte(template), columns)
		if what != "" {
			t.Error(what)
		}
		if ok != (text != nil) || text == nil && len(wrong(faults)) == 0 {
			t.Errorf("filled in: %v and %v: %v", ok, text != nil, faults)
		}
	})
}
