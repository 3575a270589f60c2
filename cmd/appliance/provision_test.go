package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestProvisioningFromAMedium(t *testing.T) {
	data, medium := t.TempDir(), t.TempDir()
	file, keys := filepath.Join(data, "appliance.yaml"), filepath.Join(data, "authorized_keys")
	run := func() (string, int) {
		var out, errs bytes.Buffer
		code := execute(t.Context(), []string{"appliance", "provision", "-c", file, "--keys", keys, "--state-dir", filepath.Join(data, "state"), medium}, &out, &errs)
		return out.String() + errs.String(), code
	}
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(medium, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("lastack.yaml", "interfaces: {lan0: {adresses: [10.0.0.1/24]}}\n")
	put("authorized_keys", "# nobody\n")
	out, code := run()
	contains(t, "a wrong medium", out, "IS NOT TAKEN", "did you mean addresses?", "there is no key in it")
	if code != exitUsage {
		t.Errorf("got exit status %d, want %d", code, exitUsage)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a wrong configuration was taken")
	}
	const good = "interfaces: {lan0: {addresses: [10.0.0.1/24]}}\n"
	put("lastack.yaml", good)
	put("authorized_keys", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHiaDBTzwYmPMsmbJQOkUPMRkcZhQhJ8+ZDVnfA6JpYl me\n")
	if out, code = run(); code != exitOK {
		t.Errorf("got exit status %d, want 0:\n%s", code, out)
	}
	contains(t, "a good medium", out, "lastack.yaml is taken", "authorized_keys is taken")
	if got, err := os.ReadFile(file); err != nil || string(got) != good {
		t.Errorf("got %q and error %v, want the medium's configuration", got, err)
	}
	out, _ = run()
	contains(t, "the same again", out, "was taken before and is left alone")
}
