package factory

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"time"

	"imgtool/flash/deploy"
	"imgtool/image/boardinfo"
)

// Receipt is the result of provisioning a unit. In JSON the values of its variables are
// among the fields, with _ for -.
type Receipt struct {
	Board   string
	BuildID string
	Values  map[string]string // of the unit's variables
	Media   []MediumReceipt   // in the order they were written
	Missing []string          // media that were left out
	Seconds float64
	Status  int // exit status
	Error   string

	variables []boardinfo.Variable
}

// MediumReceipt is the receipt of one medium.
type MediumReceipt struct {
	Medium string   `json:"medium"`
	Files  []string `json:"unit_files,omitempty"` // names of the per-unit files
	deploy.Receipt
}

// MarshalJSON returns the receipt, with the present time, as a JSON object.
func (r *Receipt) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	var err error
	add := func(name string, v any) {
		text, e := json.Marshal(v)
		if err == nil {
			err = e
		}
		b.WriteString(`,"` + name + `":`)
		b.Write(text)
	}
	add("time", deploy.Now())
	add("board", r.Board)
	add("build_id", r.BuildID)
	for _, v := range r.variables {
		if r.Values[v.Name] != "" {
			add(strings.ReplaceAll(v.Name, "-", "_"), r.Values[v.Name])
		}
	}
	add("media", r.Media)
	if len(r.Missing) > 0 {
		add("media_left_out", r.Missing)
	}
	add("seconds", r.Seconds)
	add("status", r.Status)
	if r.Error != "" {
		add("error", r.Error)
	}
	return append(append([]byte("{"), b.Bytes()[1:]...), '}'), err
}

// conclude completes the receipt, adds it to the log and, if all went well, hands it over.
func (f *Factory) conclude(ctx context.Context, failed error) error {
	r := &f.receipt
	r.Seconds = time.Since(f.begin).Seconds()
	if failed != nil {
		r.Status, r.Error = f.opt.ExitStatus(ctx, failed), failed.Error()
	}
	f.opt.Monitor.EndPhase()
	err := f.opt.Log.Add("", r)
	if failed == nil {
		if doneErr := f.opt.DoneUnit(r); err == nil {
			err = doneErr
		}
		return err
	}
	if err != nil {
		f.opt.Monitor.Warnf("%v", err)
	}
	return failed
}
