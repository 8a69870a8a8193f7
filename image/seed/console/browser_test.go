package console_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"imgtool/image/imagetest"
	"imgtool/image/seed/console/consoletest"
	"imgtool/image/seed/seedtest"
)

// browser is a tab of Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context
}

// newBrowser starts Chromium. Errors of scripts and violations of the Content-Security-Policy fail
// the test.
func newBrowser(t *testing.T) *browser {
	imagetest.Long(t)
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(imagetest.Need(t, "chromium")), chromedp.NoSandbox, chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.WSURLReadTimeout(5*time.Minute))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 15*time.Minute)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil { // starts it
		t.Fatal(err)
	}
	b := &browser{t, ctx}
	b.do(chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, cdplog.Enable, cdp.Empty{})
		return err
	}))
	err := chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			t.Errorf("a script failed: %s %v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception)
		case *cdplog.EventEntryAdded:
			if e.Entry.Level == "error" && e.Entry.Source != "network" {
				t.Errorf("the browser reports: %s", e.Entry.Text)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	for i, step := range steps {
		ctx, cancel := context.WithTimeout(b.ctx, 5*time.Minute)
		err := chromedp.Do(ctx, step)
		cancel()
		if err != nil {
			page, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.title + '\\n' + document.body.innerText"))
			b.t.Fatalf("step %d: %v\n%s", i, err, page)
		}
	}
}

// eval returns the value of an expression of JavaScript, which can be a promise.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%.200s: %v", expression, err)
	}
	return v
}

// text returns the visible text of an element.
func (b *browser) text(selector string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf("(document.querySelector(%q) || {innerText: 'there is no '+%[1]q}).innerText", selector))
}

// wants checks that the visible text of an element contains parts.
func (b *browser) wants(selector string, parts ...string) {
	b.t.Helper()
	text := b.text(selector)
	for _, part := range parts {
		if !strings.Contains(text, part) {
			b.t.Errorf("%s has no %q:\n%s", selector, part, text)
		}
	}
}

// scripts turns the scripts of pages on or off.
func (b *browser) scripts(on bool) {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on})
		return err
	}))
}

// sample returns a valid configuration.
func sample(t *testing.T) string {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	imagetest.Run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key)
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Replace(seedtest.Minimal, seedtest.Key, strings.TrimSpace(string(public)), 1)
}

// Elements of the page.
const (
	area   = `textarea[name=config]`
	choice = `input[name=config_file]`
	check  = `button[formaction="/check"]`
	apply  = `button[formaction="/apply"]`
)

// In a real browser, a configuration is pasted or uploaded, and its job followed to its end.
func TestPageInABrowser(t *testing.T) {
	b := newBrowser(t)
	config := sample(t)
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(t.TempDir(), "config.tar.gz")
	if out, err := exec.Command(imagetest.Need(t, "tar"), "-C", filepath.Dir(file), "-czf", bundle, "config.toml").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, c := range []struct {
		name string
		fill chromedp.Action[chromedp.Void]
		fail string
		end  string // class of the box at the end
		want string
	}{
		{"pasted", chromedp.SetValue(area, config), "", "good", "The configuration was applied"},
		{"a file", chromedp.SetUploadFiles(choice, []string{file}), "", "good", "ops (admin)"},
		{"a bundle", chromedp.SetUploadFiles(choice, []string{bundle}), "", "good", "web.service: running"},
		{"bad", chromedp.SetValue(area, "version = 2"), "", "bad", "is 2; it must be 1"},
		{"failing", chromedp.SetValue(area, config), "activate", "bad", "<b>no & network</b>"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &browser{t, b.ctx}
			d := &consoletest.Device{Fail: c.fail, Error: "<b>no & network</b>"}
			d.Start(t, nil)
			b.do(chromedp.Navigate(d.URL()), chromedp.WaitVisible(area), c.fill, chromedp.Click(apply), chromedp.WaitVisible("#state .box."+c.end))
			b.wants("#state", c.want)
			if steps := eval[string](b, "(document.getElementById('steps') || {}).textContent || ''"); c.name != "bad" && strings.Count(steps, "Checking the configuration") != 1 {
				t.Errorf("the steps are %q", steps)
			}
			if now, _ := d.Config(); (now != nil) != (c.end == "good") {
				t.Errorf("the device has %q", now)
			}
			// After a failure the text is still there.
			kept := eval[string](b, "(document.getElementById('config') || {}).value || ''")
			if c.end == "bad" && strings.TrimSpace(kept) == "" {
				t.Error("the text is lost")
			}
			if eval[bool](b, "!document.getElementById('input').hidden") != (c.end == "bad") {
				t.Error("the form is visible after success, or hidden after a failure")
			}
		})
	}
}

// A check shows the faults, keeps the text and the file, and changes nothing.
func TestCheckInABrowser(t *testing.T) {
	b := newBrowser(t)
	d := &consoletest.Device{}
	d.Start(t, nil)
	config := sample(t)
	bad := strings.NewReplacer("isAdmin = true", "isAdmin = \"yes\"", `["web"]`, `["shop"]`).Replace(config)
	b.do(chromedp.Navigate(d.URL()), chromedp.WaitVisible(area), chromedp.SetValue(area, bad), chromedp.Click(check), chromedp.WaitVisible("#state .box.bad"))
	b.wants("#state .box.bad", "2 faults in the configuration", "Line 3", `isAdmin = "yes"`, "Nothing was changed")
	if title := eval[string](b, "document.title"); title != "2 faults: Set up this device" {
		t.Errorf("the title is %q", title)
	}
	if focus := eval[string](b, "document.activeElement.className"); focus != "box bad" {
		t.Errorf("the focus is on %q", focus)
	}
	// The link of a fault selects its line.
	b.do(chromedp.Click(`#state a[data-line="3"]`))
	if line := eval[string](b, "(a => a.value.slice(a.selectionStart, a.selectionEnd) + ' in ' + document.activeElement.id)(document.getElementById('config'))"); line != `isAdmin = "yes" in config` {
		t.Errorf("selected is %s", line)
	}
	b.do(chromedp.SetValue(area, config), chromedp.Click(check), chromedp.WaitVisible("#state .box.good"))
	b.wants("#state", "The configuration is valid")

	// A file with faults can be corrected in the text field.
	file := filepath.Join(t.TempDir(), "site.toml")
	if err := os.WriteFile(file, []byte(bad), 0o644); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.SetUploadFiles(choice, []string{file}), chromedp.Click(check), chromedp.WaitVisible("#state .box.bad"))
	b.wants("#state", "2 faults in site.toml")
	if kept := eval[string](b, "document.getElementById('config').value + document.getElementById('config_file').value"); kept != bad {
		t.Errorf("the form has %q", kept)
	}

	// The example lacks the key.
	b.do(chromedp.Navigate(d.URL()), chromedp.Click("summary"), chromedp.Click("#insert"), chromedp.Click(check), chromedp.WaitVisible("#state .box.bad"))
	b.wants("#state", "PUT-YOUR-PUBLIC-KEY-HERE")

	// A device that is gone keeps the text, too.
	d.Down()
	b.do(chromedp.Click(check), chromedp.PollFunction[chromedp.Void]("() => document.getElementById('busy').textContent.includes('does not answer')"))
	if now, _ := d.Config(); now != nil {
		t.Errorf("the device has %q", now)
	}
}

// The page works without scripts.
func TestPageWithoutScripts(t *testing.T) {
	b := newBrowser(t)
	b.scripts(false)
	d := &consoletest.Device{Hold: make(chan struct{})}
	d.Start(t, nil)
	config := sample(t)
	focused := func(want string) {
		t.Helper()
		var got string
		for range 9000 { // the browser sets it some time after the page is there
			if got = eval[string](b, "document.activeElement.tagName + '.' + document.activeElement.className"); got == want {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("the focus is on %s, wanted %s", got, want)
	}
	b.do(chromedp.Navigate(d.URL()), chromedp.SetValue(area, strings.Replace(config, "version = 1", "version = 2", 1)), chromedp.Click(check), chromedp.WaitVisible("#state .box.bad"))
	b.wants("#state", "1 fault in the configuration", "version is 2; it must be 1")
	focused("DIV.box bad")
	if kept := eval[string](b, "document.getElementById('config').value"); !strings.Contains(kept, "version = 2\n[users.ops]") {
		t.Errorf("the text is now %q", kept)
	}
	b.do(chromedp.SetValue(area, config), chromedp.Click(check), chromedp.WaitVisible("#state .box.good"))
	focused("DIV.box good")
	b.do(chromedp.Click(apply), chromedp.WaitVisible("#now"))
	focused("H1.")
	b.wants("#state", "Setting up the device", "Show the current state")
	close(d.Hold)
	for range 1000 {
		b.do(chromedp.Click("noscript a"), chromedp.WaitVisible("#state"))
		if strings.Contains(b.text("#state"), "was applied") {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.wants("#state", "This device is set up", "ops (admin)", "What next")
	b.do(chromedp.Navigate(d.URL()))
	b.wants("#state", "This device is set up", "imgtool provision status 127.0.0.1")
	b.do(chromedp.Navigate(d.URL()+"/nothing"), chromedp.WaitVisible("#state"))
	b.wants("#state", "There is no such page")
}
