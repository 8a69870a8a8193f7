package sanitize_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"imgtool/image/sanitize"
)

func TestLinesAndTexts(t *testing.T) {
	for in, want := range map[string][2]string{
		"":                         {"", ""},
		"plain ä 日本 \\x1b":         {"plain ä 日本 \\x1b", "plain ä 日本 \\x1b"},
		"\x1b]0;x\x07\x1b[2K":      {`\x1b]0;x\x07\x1b[2K`, `\x1b]0;x\x07\x1b[2K`},
		"a\nb\tc\r\n":              {`a\nb\tc\r\n`, "a\nb\tc\\r\n"},
		"\x00\x7f\u009b31m\x9b31m": {`\x00\x7f\u009b31m\x9b31m`, `\x00\x7f\u009b31m\x9b31m`},
		"a\u202eb\u2066c\u200bd\ufeffe\u00adf\u2028g\u2029": {`a\u202eb\u2066c\u200bd\ufeffe\u00adf\u2028g\u2029`, `a\u202eb\u2066c\u200bd\ufeffe\u00adf\u2028g\u2029`},
		"\U000e0041\u00a0\ufffd\xff":                        {`\U000e0041\u00a0` + "\ufffd" + `\xff`, `\U000e0041\u00a0` + "\ufffd" + `\xff`},
	} {
		if line, text := sanitize.Line(in), sanitize.Text(in); line != want[0] || text != want[1] {
			t.Errorf("%q: %q and %q, not %q", in, line, text, want)
		}
	}
	// Every character, and every byte.
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if s := sanitize.Line(string(r)); !safe(s) || unicode.IsPrint(r) && s != string(r) {
			t.Fatalf("%U is %q", r, s)
		}
	}
	for b := range 256 {
		if s := sanitize.Line("a" + string([]byte{byte(b)}) + "b"); !safe(s) {
			t.Fatalf("byte %02x is %q", b, s)
		}
	}
}

// safe is text that has no effect on a terminal but to be shown.
func safe(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return unicode.In(r, unicode.C, unicode.Zl, unicode.Zp) }) < 0
}

type named string

func (n named) String() string { return "named " + string(n) }

func TestArgumentsAreSanitizedAndFormatsAreNot(t *testing.T) {
	bad := "x\x1b[2K\ny"
	for _, test := range []struct{ got, want string }{
		{sanitize.Sprintf("\n%s|\n", bad), "\n" + `x\x1b[2K\ny|` + "\n"},
		{sanitize.Sprintf("%v", errors.New(bad)), `x\x1b[2K\ny`},
		{sanitize.Sprintf("%s", named(bad)), `named x\x1b[2K\ny`},
		{sanitize.Sprintf("%v", []string{bad}), `[x\x1b[2K\ny]`},
		{sanitize.Sprintf("%s", []byte(bad)), `x\x1b[2K\ny`},
		{sanitize.Sprintf("%q", bad), fmt.Sprintf("%q", bad)},
		{sanitize.Sprintf("%q", "\u202e"), `"\u202e"`},
		{sanitize.Sprintf("%#q", "\u202e"), "`" + `\u202e` + "`"},
		{sanitize.Sprintf("%-4s|%4d|%*s|%.1f|%t|%x", "a", 3, 5, "b", 1.25, true, "\x1b"), "a   |   3|    b|1.2|true|1b"},
	} {
		if test.got != test.want {
			t.Errorf("%q, not %q", test.got, test.want)
		}
	}
}

func TestJSONHasTheSameValue(t *testing.T) {
	in := map[string]string{"k\u202e": "a\x1b\x7f\u009b\u202e\u2028\U000e0041 ä日本\U0001F600\n"}
	b, err := json.MarshalIndent(in, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	b = sanitize.JSON(b)
	var out map[string]string
	if err := json.Unmarshal(b, &out); err != nil || out["k\u202e"] != in["k\u202e"] {
		t.Errorf("%s: %q %v", b, out, err)
	}
	if !safe(strings.ReplaceAll(string(b), "\n", "")) || !strings.Contains(string(b), "ä日本\U0001F600") {
		t.Errorf("%q", b)
	}
}

func TestIsLine(t *testing.T) {
	for _, s := range []string{"", "plain text", `C:\path "quoted"`, "Größe 日本語"} {
		if !sanitize.IsLine(s) {
			t.Errorf("%q is a line", s)
		}
	}
	for _, s := range []string{"a\nb", "a\tb", "\x1b[31m", "\u202e", "\u0085", "\xff", "\x00"} {
		if sanitize.IsLine(s) {
			t.Errorf("%q is no line", s)
		}
	}
}

// However text comes in pieces, it is the same.
func TestWriter(t *testing.T) {
	in := "a\u202e\x1b[2K日本\r\nb\r\xff\u009b\n\t\U000e0041\xe6\x97"
	want := `a\u202e\x1b[2K日本` + "\n" + `b\r\xff\u009b` + "\n\t" + `\U000e0041\xe6\x97`
	for size := 1; size <= len(in); size++ {
		var b strings.Builder
		w := sanitize.NewWriter(&b)
		for rest := in; rest != ""; rest = rest[min(size, len(rest)):] {
			if n, err := w.Write([]byte(rest[:min(size, len(rest))])); n != min(size, len(rest)) || err != nil {
				t.Fatal(n, err)
			}
		}
		if err := w.Close(); err != nil || b.String() != want {
			t.Fatalf("pieces of %d: %q, not %q", size, b.String(), want)
		}
	}
}
