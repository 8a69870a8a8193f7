package shconf_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image/shconf"
)

func TestAssignments(t *testing.T) {
	src := `#!/bin/bash -e
## what a factory sets
STATE=/etc/waggle/state
CORE="1"
EMPTY=
DISK=/dev/nvme0n1
PART="${DISK}p1"
SAME=$DISK
LIT='$DISK "x"'
MIX=a"b c"'d'\ e   # a note
ESC="a\"b\$c\\d\e"
NONE=()
ONE=(127.0.0.1)
TWO=($DISK "$PART" 'x y'
  z)
A=1 B=2; C=3
CORE=2
LONG="a\
b"
`
	want := map[string]shconf.Value{
		"STATE": {Text: "/etc/waggle/state"}, "CORE": {Text: "2"}, "EMPTY": {}, "DISK": {Text: "/dev/nvme0n1"},
		"PART": {Text: "/dev/nvme0n1p1"}, "SAME": {Text: "/dev/nvme0n1"}, "LIT": {Text: `$DISK "x"`},
		"MIX": {Text: "ab cd e"}, "ESC": {Text: `a"b$c\d\e`}, "NONE": {List: []string{}},
		"ONE": {List: []string{"127.0.0.1"}}, "TWO": {List: []string{"/dev/nvme0n1", "/dev/nvme0n1p1", "x y", "z"}},
		"A": {Text: "1"}, "B": {Text: "2"}, "C": {Text: "3"}, "LONG": {Text: "ab"},
	}
	got, err := shconf.Parse("f.conf", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestErrorsHaveLines(t *testing.T) {
	for src, want := range map[string]string{
		"A=1\nrm -rf /":                   "f.conf:2: only assignments can be read, and nothing is run",
		"A=$(id)":                         "f.conf:1: only text, quotes and variables can be read, and nothing is run",
		"A=\"`id`\"":                      "f.conf:1: only text and variables can be read in quotes, and nothing is run",
		"A=$((1+1))":                      "f.conf:1: only text, quotes",
		"A=(<(id))":                       "f.conf:1: only text, quotes",
		"A=1 env":                         "f.conf:1: only assignments",
		"\n\nif true; then A=1; fi":       "f.conf:3: only assignments",
		"f() { A=1; }":                    "f.conf:1: only assignments",
		"export A=1":                      "f.conf:1: only assignments",
		". other":                         "f.conf:1: only assignments",
		"A=1 &":                           "f.conf:1: only assignments",
		"! A=1":                           "f.conf:1: only assignments",
		"A=1 >f":                          "f.conf:1: only assignments can be read, without redirection",
		"A=1 | B=2":                       "f.conf:1: only assignments",
		"A=$B":                            "f.conf:1: $B is not set above",
		"A=$HOME":                         "f.conf:1: $HOME is not set above",
		"A=1\nB=${A:-2}":                  "f.conf:2: of variables only $NAME and ${NAME} can be read",
		"A=1\nB=${#A}":                    "f.conf:2: of variables only",
		"A=1\nB=${!A}":                    "f.conf:2: of variables only",
		"A=$1":                            "f.conf:1: of variables only",
		"A=(1)\nB=$A":                     "f.conf:2: $A is a list",
		"A=(1)\nB=(\"${A[@]}\")":          "f.conf:2: of variables only",
		"A=(1)\nA+=(2)":                   "f.conf:2: A: only NAME=text and NAME=(text …) can be read",
		"A[1]=2":                          "f.conf:1: A: only NAME=text",
		"A=([2]=x)":                       "f.conf:1: A: a list has no indices here",
		"A=~/x":                           "f.conf:1: ~ is not expanded",
		"A=(*.c)":                         "f.conf:1: *.c would be expanded: quote it",
		"A=({a,b})":                       "f.conf:1: {a,b} would be expanded: quote it",
		"A='x y'\nB=($A)":                 `f.conf:2: $A is "x y", which would be split or expanded: quote it`,
		"A=\nB=($A)":                      `f.conf:2: $A is ""`,
		"A=$'x'":                          "f.conf:1: $'…' is not read",
		"A=$\"x\"":                        `f.conf:1: $"…" is not read`,
		"A=1\nB=\"x":                      "f.conf:2: ",
		"A=(1":                            "f.conf:1: ",
		"A=" + strings.Repeat("x", 1<<17): "f.conf:1: the text has more than 65536 bytes",
		strings.Repeat("#", 1<<20+1):      "f.conf: 1048577 bytes; configuration has at most 1048576",
	} {
		got, err := shconf.Parse("f.conf", []byte(src))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.40q: %v, %v\nwant %s", src, got, err, want)
		}
	}
}

// A few lines must not become more than memory holds.
func TestDoublingIsBounded(t *testing.T) {
	for _, line := range []string{"A=$A$A$A$A\n", "A=\"" + strings.Repeat("$A", 1<<12) + "\"\n"} {
		_, err := shconf.Parse("f.conf", []byte("A=xxxxxxxx\n"+strings.Repeat(line, 40)))
		if err == nil || !strings.Contains(err.Error(), "the text has more than") {
			t.Error(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("A=1\nB=\"${A}x\" # c\nC=(a $A 'b c')\n"))
	f.Add([]byte("A=$(x)\nB=`x`\nfunction f { :; }"))
	f.Fuzz(func(t *testing.T, src []byte) {
		vars, err := shconf.Parse("f", src)
		if err != nil && !strings.HasPrefix(err.Error(), "f:") {
			t.Errorf("%v names no file", err)
		}
		for name, v := range vars {
			if name == "" || v.List != nil && v.Text != "" {
				t.Errorf("%q is %q", name, v)
			}
		}
	})
}
