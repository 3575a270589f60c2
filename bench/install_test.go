package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// apt-get of a test: it installs once its lists are there, unless nothing can
// be had.
const aptGetScript = `#!/bin/sh
dir=$(/usr/bin/dirname "$0")
echo "$*" >> "$dir/log"
case "$1 $(/bin/cat "$dir/state")" in
"update fresh") echo listed > "$dir/state" ;;
"install listed") printf '#!/bin/sh\n' > "$dir/haproxy"; /bin/chmod 755 "$dir/haproxy" ;;
*) echo "E: Unable to locate package haproxy"; exit 100 ;;
esac
`

func TestHAProxyIsInstalledWhereItIsMissing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root installs")
	}
	install, update := "install -y -q haproxy\n", "update -q\n"
	for state, want := range map[string]struct {
		calls string
		found bool
	}{
		"listed":  {install, true},
		"fresh":   {install + update + install, true},
		"offline": {install + update, false},
	} {
		t.Run(state, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("PATH", dir)
			for name, text := range map[string]string{"apt-get": aptGetScript, "state": state} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			var said strings.Builder
			installHAProxy(progress{out: &said})
			calls, err := os.ReadFile(filepath.Join(dir, "log"))
			if err != nil || string(calls) != want.calls {
				t.Errorf("apt-get was called with %q, %v, want %q", calls, err, want.calls)
			}
			if got := hasCommand("haproxy"); got != want.found {
				t.Errorf("haproxy is there: %v, want %v", got, want.found)
			}
			if failed := strings.Contains(said.String(), "could not be installed"); failed == want.found {
				t.Errorf("it said:\n%s", said.String())
			}
			installHAProxy(progress{out: &said})
			if again, _ := os.ReadFile(filepath.Join(dir, "log")); want.found && len(again) != len(calls) {
				t.Errorf("installed already, apt-get was called again: %q", again)
			}
		})
	}
}
