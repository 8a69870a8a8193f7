package terminal

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"imgtool/image/fault"
)

// The document of a command is one object or list, with the error if it failed.
func TestDocument(t *testing.T) {
	bad := fault.WithReason("expired", fault.WithHint(fault.New(fault.WrongBoard, "no \u202e"), "try"))
	const failure = `"status": 10,
  "kind": "wrong_board",
  "reason": "expired",
  "error": "no \u202e",
  "hint": "try"
}
`
	print := func(v any) func(*UI) { return func(u *UI) { u.Print(v) } }
	write := func(text string) func(*UI) { return func(u *UI) { u.Write([]byte(text)) } }
	long := strings.Repeat("x", maxText)
	for _, c := range []struct {
		name   string
		do     func(*UI)
		err    error
		status int
		want   string
	}{
		{"nothing", func(*UI) {}, nil, 0, "{\n  \"status\": 0\n}\n"},
		{"failure", func(*UI) {}, bad, 10, "{\n  " + failure},
		{"result", print(map[string]any{"a": "<&>"}), nil, 0, "{\n  \"a\": \"<&>\"\n}\n"},
		{"result and failure", print(map[string]any{"a": 1, "error": "x"}), bad, 10, "{\n  \"a\": 1,\n  \"error\": \"no \\u202e\",\n  \"status\": 10,\n  \"kind\": \"wrong_board\",\n  \"reason\": \"expired\",\n  \"hint\": \"try\"\n}\n"},
		{"differs", print(map[string]any{"same": false}), nil, 1, "{\n  \"same\": false,\n  \"status\": 1\n}\n"},
		{"list", print([]int{1}), nil, 0, "[\n  1\n]\n"},
		{"list and failure", print([]int{}), bad, 10, "{\n  \"result\": [],\n  " + failure},
		{"text", write("a\x00b\n"), nil, 0, "{\n  \"text\": \"a\\u0000b\\n\",\n  \"size\": 4\n}\n"},
		{"text and failure", write("a"), bad, 10, "{\n  \"text\": \"a\",\n  \"size\": 1,\n  " + failure},
		{"no UTF-8", write("a\xff"), nil, 0, "{\n  \"base64\": \"Yf8=\",\n  \"size\": 2\n}\n"},
		{"much", func(u *UI) { write(long)(u); write("yz")(u) }, nil, 0, "{\n  \"base64\": \"" + strings.Repeat("eHh4", maxText/3) + "eHl6\",\n  \"size\": 1048578\n}\n"},
		{"much and failure", func(u *UI) { write(long)(u); write("yz")(u) }, bad, 10, "{\n  \"base64\": \"" + strings.Repeat("eHh4", maxText/3) + "eHl6\",\n  \"size\": 1048578,\n  " + failure},
		{"elements", func(u *UI) { l := u.List(); l.Add(1); l.Add("<"); l.Close() }, nil, 0, "[\n1,\n\"<\"\n]\n"},
		{"no elements", func(u *UI) { u.List().Close() }, nil, 0, "[\n]\n"},
		{"elements and failure", func(u *UI) { l := u.List(); l.Add(1); l.Close() }, bad, 10, "[\n1\n]\n"},
	} {
		var stdout bytes.Buffer
		u := New(nil, &stdout, io.Discard)
		u.JSON = true
		c.do(u)
		if err := u.Conclude(c.err, c.status); err != nil || u.Conclude(bad, 10) != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := stdout.String(); got != c.want {
			t.Errorf("%s: %.600q, want %.600q", c.name, got, c.want)
		}
		if !json.Valid(stdout.Bytes()) {
			t.Errorf("%s: it is not JSON", c.name)
		}
	}
}

// When a program must end, it does not wait for a reader that takes nothing, and finishes a list
// that is being read.
func TestAbort(t *testing.T) {
	r, w := io.Pipe()
	u := New(nil, w, io.Discard)
	u.JSON = true
	begin := time.Now()
	if status := u.Abort(errors.New("interrupted"), 130); status != 130 || time.Since(begin) > time.Minute {
		t.Errorf("status %d after %s", status, time.Since(begin))
	}
	r.Close()

	r, w = io.Pipe()
	u = New(nil, w, io.Discard)
	u.JSON = true
	go func() {
		l := u.List()
		for i := range 20_000 {
			l.Add(i)
		}
		l.Close()
	}()
	read, begun := make(chan []byte), make(chan bool)
	go func() {
		var all []byte
		for b := make([]byte, 1<<12); ; time.Sleep(20 * time.Millisecond) {
			n, err := r.Read(b)
			if len(all) == 0 {
				close(begun)
			}
			if all = append(all, b[:n]...); err != nil {
				break
			}
		}
		read <- all
	}()
	<-begun
	u.Abort(errors.New("interrupted"), 130)
	w.Close()
	var list []int
	if text := <-read; json.Unmarshal(text, &list) != nil || len(list) != 20_000 {
		t.Errorf("%d elements, and the end is %.30q", len(list), text[max(0, len(text)-30):])
	}
}
