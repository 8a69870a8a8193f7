package console_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"imgtool/image/imagetest"
	"imgtool/image/seed/api"
	"imgtool/image/seed/console"
	"imgtool/image/seed/console/consoletest"
)

// axe returns the source of axe-core, which .ci/deps installs.
func axe(t *testing.T) string {
	t.Helper()
	root := strings.TrimSpace(imagetest.Run(t, "npm", "root", "--global"))
	text, err := os.ReadFile(filepath.Join(root, "axe-core/axe.min.js"))
	if err != nil {
		imagetest.Skip(t, "axe-core is not installed: run .ci/deps test")
	}
	return string(text)
}

// runAxe returns the violations of the rules of WCAG 2.2 AA, and of those that axe recommends.
const runAxe = `axe.run(document, {
	runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
	rules: {"target-size": {enabled: true}},
}).then(r => [...r.violations, ...r.incomplete.filter(i => i.id == "color-contrast")].flatMap(v =>
	v.nodes.map(n => v.id + ": " + n.html.slice(0, 200) + " " + n.failureSummary)))`

// measure returns the targets that are smaller than 44 by 44 pixels, and what is wider than the
// window.
const measure = `(() => {
	const shown = e => e.checkVisibility() && e.type != "hidden"
	const small = [...document.querySelectorAll("a, button, input, textarea, select, summary")].filter(shown).map(e => [e, e.getBoundingClientRect()])
		.filter(([e, r]) => r.width < 44 || r.height < 44).map(([e, r]) => "a target of " + r.width + " by " + r.height + ": " + e.outerHTML.slice(0, 100))
	const wide = [...document.querySelectorAll("body *")].filter(shown).filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)
		.map(e => "wider than the window: " + e.outerHTML.slice(0, 100))
	if (document.scrollingElement.scrollWidth > innerWidth) wide.push("the page scrolls sideways")
	return [...small, ...wide]
})()`

// look sets the color scheme and the size of the window.
func (b *browser) look(scheme string, width, height int64) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(width, height), chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
		return err
	}))
}

// judged checks the current page in light and dark, on a phone and on a desktop. With SCREENSHOTS
// set to a directory, it keeps a picture of each.
func (b *browser) judged(axe, name string) {
	b.t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{320, 1280} {
			b.look(scheme, width, 800)
			if dir := os.Getenv("SCREENSHOTS"); dir != "" {
				picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%s-%d.png", name, scheme, width)), picture, 0o644)
				}
				if err != nil {
					b.t.Fatal(err)
				}
			}
			if eval[string](b, "typeof axe") == "undefined" {
				b.do(chromedp.Evaluate[chromedp.Void](axe))
			}
			for _, fault := range append(eval[[]string](b, runAxe), eval[[]string](b, measure)...) {
				b.t.Errorf("%s, %s, %d pixels wide: %s", name, scheme, width, fault)
			}
		}
	}
}

// Every state of the page meets WCAG 2.2 AA by the rules of axe-core, in light and dark, and fits
// in 320 pixels, which is 1280 at 400 % zoom. Every target is at least 44 by 44 pixels.
func TestAccessibility(t *testing.T) {
	b := newBrowser(t)
	axe := axe(t)
	config := sample(t)
	unit := console.Unit{Name: "rock64", Board: "Pine64 Rock64", MAC: "02:ba:91:4c:11:07"}
	long := strings.Repeat("a", 300)
	faulty := strings.NewReplacer("isAdmin = true", `isAdmin = "`+long+`"`, `["web"]`, `["`+long+`"]`).Replace(config)
	warned := config + "PublishPort = [\"0.0.0.0:8081:80\"]\nNetwork = \"host\"\n"

	start := func(d *consoletest.Device) *consoletest.Device {
		d.Unit = unit
		d.Start(t, nil)
		return d
	}
	open := func(d *consoletest.Device, path string) {
		t.Helper()
		b.do(chromedp.Navigate(d.URL()+path), chromedp.WaitVisible("#state"))
	}
	send := func(d *consoletest.Device, text, button, wait string) {
		t.Helper()
		open(d, "/")
		if text != "" {
			b.do(chromedp.SetValue(area, text))
		}
		b.do(chromedp.Click(button), chromedp.WaitVisible(wait))
	}
	d := start(&consoletest.Device{})
	open(d, "/")
	b.judged(axe, "empty")
	open(d, "/?example")
	b.do(chromedp.Click("summary"))
	b.judged(axe, "example")
	open(d, "/nothing")
	b.judged(axe, "nothing")
	open(start(&consoletest.Device{Reason: "the seed of the stick SEED is not taken: config.toml:3: users.ops.ssh_key: " + long}), "/")
	b.judged(axe, "skipped")
	for _, c := range []struct{ name, text, button, wait string }{
		{"faults", faulty, check, ".box.bad"},
		{"warnings", warned, check, ".box.good"},
		{"valid", config, check, ".box.good"},
		{"nothing-given", "", check, ".box.bad"},
		{"done", warned, apply, ".box.good"},
	} {
		send(d, c.text, c.button, c.wait)
		b.judged(axe, c.name)
	}
	open(d, "/")
	b.judged(axe, "owned")
	send(start(&consoletest.Device{Forwarding: "http://172.20.30.1:8080"}), config, apply, ".box.good")
	b.judged(axe, "done-moved")
	send(start(&consoletest.Device{Fail: "activate", Error: "firewall: " + long}), config, apply, ".box.bad")
	b.judged(axe, "failed")

	holding := start(&consoletest.Device{Hold: make(chan struct{})})
	defer close(holding.Hold)
	send(holding, config, apply, "#now")
	b.do(chromedp.PollFunction[chromedp.Void](`() => document.getElementById("steps").textContent.includes("Preparing")`))
	b.judged(axe, "running")
	b.scripts(false)
	open(holding, "/")
	b.do(chromedp.SetValue(area, config), chromedp.Click(check), chromedp.WaitVisible(".box.bad"))
	b.scripts(true)
	b.judged(axe, "busy-without-scripts")

	waiting := make(chan struct{})
	booting := console.New(t.Context(), &stub{}, console.Options{ID: consoletest.ID, Unit: func() console.Unit { return unit }})
	booting.Boot(func(context.Context, func(api.Event)) (api.Result, string, error) {
		<-waiting
		return api.Result{}, "", nil
	})
	unready := console.New(t.Context(), &stub{unready: errors.New("the data partition is not mounted")}, console.Options{ID: consoletest.ID})
	for name, handler := range map[string]http.Handler{"starting": booting, "unready": unready} {
		server := httptest.NewServer(handler)
		defer server.Close()
		b.do(chromedp.Navigate(server.URL), chromedp.WaitVisible("#state"))
		b.judged(axe, name)
	}
	// The page of a device that has started changes by itself.
	b.do(chromedp.Navigate("about:blank"))
	close(waiting)
}
