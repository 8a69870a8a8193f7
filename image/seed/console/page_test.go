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

	"github.com/chromedp/chromedp"

	"imgtool/image/imagetest"
	"imgtool/image/seed/console/consoletest"
)

// In a real browser, a configuration is pasted or uploaded, and its job followed to its end.
func TestPageInABrowser(t *testing.T) {
	imagetest.Long(t)
	chromium := imagetest.Need(t, "chromium")
	key := filepath.Join(t.TempDir(), "key")
	imagetest.Run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`version = 1
[users.ops]
isAdmin = true
ssh_key = %q
[activation]
required = ["web"]
[containers.container.web]
privileged = false
[containers.container.web.Container]
Image = "registry.example/web:1"
`, strings.TrimSpace(string(public)))
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(t.TempDir(), "config.tar.gz")
	if out, err := exec.Command(imagetest.Need(t, "tar"), "-C", filepath.Dir(file), "-czf", bundle, "config.toml").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.WSURLReadTimeout(time.Minute))
	browser, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	defer cancel()
	browser, cancel = chromedp.NewContext(browser)
	defer cancel()
	browser, cancel = context.WithTimeout(browser, 2*time.Minute)
	defer cancel()

	const area, choice = `textarea[name=config]`, `input[name=config_file]`
	for _, c := range []struct {
		name  string
		fill  chromedp.Action[chromedp.Void]
		fail  string
		class string
		words string
	}{
		{"pasted", chromedp.SetValue(area, config), "", "good", "The device has its configuration."},
		{"a file", chromedp.SetUploadFiles(choice, []string{file}), "", "good", "The device has its configuration."},
		{"a bundle", chromedp.SetUploadFiles(choice, []string{bundle}), "", "good", "The device has its configuration."},
		{"bad", chromedp.SetValue(area, "version = 2"), "", "bad", "It failed: 1: version: is 2; it must be 1"},
		{"failing", chromedp.SetValue(area, config), "activate", "bad", "It failed: <b>no & network</b>"},
	} {
		d := &consoletest.Device{Fail: c.fail, Error: "<b>no & network</b>"}
		d.Start(t, nil)
		if err := chromedp.Do(browser, chromedp.Navigate(d.URL()), chromedp.WaitVisible(area), c.fill, chromedp.Click("button"),
			chromedp.WaitVisible("#state."+c.class)); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		words, err := chromedp.Run(browser, chromedp.Text("#state"))
		if err != nil {
			t.Fatal(err)
		}
		steps, err := chromedp.Run(browser, chromedp.Text("#steps"))
		if err != nil {
			t.Fatal(err)
		}
		if words != c.words || !strings.Contains(steps, "prepare\nvalidate") || strings.Count(steps, "validate") != 1 {
			t.Errorf("%s: it shows %q and the steps\n%s", c.name, words, steps)
		}
		if now, _ := d.Config(); (now != nil) != (c.class == "good") {
			t.Errorf("%s: the device has %q", c.name, now)
		}
	}
}
