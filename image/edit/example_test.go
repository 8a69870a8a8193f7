package edit_test

import (
	"fmt"
	"log"
	"strings"

	"imgtool/image/edit"
	"imgtool/image/edit/edittest"
	"imgtool/image/tree"
)

func ExampleApply() {
	t := tree.New(0)
	conf := &tree.Inode{Mode: tree.Regular | 0o644, Content: strings.NewReader("Port 22\n")}
	if err := t.Put("etc/ssh/sshd_config", conf); err != nil {
		log.Fatal(err)
	}

	edits, err := edit.Parse("ssh.toml", []byte(`
[[edit]]
do = "append-line"
path = "/etc/ssh/sshd_config"
line = "ListenAddress @ADDRESS@"
`))
	if err != nil {
		log.Fatal(err)
	}
	edited, err := edit.Apply(t, edits, map[string]string{"ADDRESS": "127.0.0.1"}, 0, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(edittest.Text(edited, "/etc/ssh/sshd_config"))
	// Output:
	// Port 22
	// ListenAddress 127.0.0.1
}
